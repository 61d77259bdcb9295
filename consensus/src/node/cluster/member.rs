//! One member: a node, its disk and its state, put together as an engine does it.

use std::collections::{BTreeMap, VecDeque};

use keelson_storage::ids::{MemberId, RaftIndex};
use keelson_storage::wal::RecordKind;

use super::Rng;
use super::disk::Disk;
use super::machine::{Command, File, Machine};
use super::truth::Truth;
use crate::durable::{Outgoing, ReadyNumber, Replay, ReplayError};
use crate::node::{
    Body, LogKeep, Mark, Membership, Message, Node, NodeConfig, ReadId, Restored, Role,
    SnapshotMark,
};

#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: MemberId,
    /// As its flags say; nobody for one that joins.
    founders: Membership,
    pub(super) node: Option<Node>,
    pub(super) machine: Machine,
    pub(super) disk: Disk,
    writes: VecDeque<Write>,
    /// Entries that are durable, with their records' numbers.
    logged: VecDeque<(RaftIndex, usize)>,
    covered: usize,
    /// A snapshot file that is being written, and the record of the last entry in it.
    checkpoint: Option<(File, usize)>,
    /// Files that arrived, by what they reach.
    pub(super) arrived: BTreeMap<Mark, File>,
    pub(super) reads: BTreeMap<ReadId, RaftIndex>,
    starts: u64,
    pub(super) is_broken: bool,
    /// It was removed, and everybody knows.
    pub(super) is_stopped: bool,
    pub(super) counts: Counts,
}

/// Rare events.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) replaced: u64,
    pub(super) installed: u64,
    pub(super) install_crashes: u64,
    pub(super) applied_unpersisted: u64,
}

/// Records on their way to the disk.
#[derive(Debug)]
struct Write {
    end: usize,
    number: ReadyNumber,
    entries: Vec<(RaftIndex, usize)>,
    step: Step,
    install: Option<File>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Records,
    File,
    Report,
}

pub(super) const KEEP: LogKeep = LogKeep {
    entries: 6,
    bytes: 4096,
};

impl Member {
    pub(super) fn new(id: MemberId, founders: Membership) -> Self {
        Self {
            id,
            founders,
            node: None,
            machine: Machine::default(),
            disk: Disk::default(),
            writes: VecDeque::new(),
            logged: VecDeque::new(),
            covered: 0,
            checkpoint: None,
            arrived: BTreeMap::new(),
            reads: BTreeMap::new(),
            starts: 0,
            is_broken: false,
            is_stopped: false,
            counts: Counts::default(),
        }
    }

    /// Who belongs to the group as of what this member has applied.
    pub(super) fn membership(&self) -> &Membership {
        self.machine.membership.as_ref().unwrap_or(&self.founders)
    }

    /// Whether it has applied its own removal.
    pub(super) fn is_removed(&self) -> bool {
        self.machine.removed.contains(&self.id)
    }

    pub(super) fn start(&mut self, seed: u64, truth: &mut Truth) -> Result<(), String> {
        self.starts += 1;
        let (mut replay, machine) = match &self.disk.file {
            None => (Replay::default(), Machine::default()),
            Some(file) => (
                Replay::after_snapshot(file.hard_state, file.at()),
                file.machine.clone(),
            ),
        };
        replay = replay.keeping(KEEP);
        self.machine = machine;
        self.logged.clear();
        self.covered = 0;
        let records: Vec<_> = self.disk.records().collect();
        for (number, record) in records {
            if matches!(record.kind, RecordKind::Entry | RecordKind::Membership) {
                self.logged.push_back((record.index, number));
            }
            replay
                .on_record(record)
                .map_err(|error| self.describe_start(&error))?;
            self.replay_committed(&mut replay, truth)?;
            self.cover();
        }
        let log = replay
            .finish()
            .map_err(|error| self.describe_start(&error))?;
        let config = NodeConfig {
            election_ticks: 6,
            heartbeat_ticks: 1,
            append_bytes_max: 60,
            appends_in_flight_max: 4,
            keep: KEEP,
            ..NodeConfig::new(self.id, seed ^ (self.starts << 32))
        };
        let mut node = Node::restore(
            config,
            Restored {
                hard_state: log.hard_state,
                start: log.start,
                entries: log.entries,
                applied: log.applied,
                membership: self.membership().clone(),
                snapshot: self.disk.file.as_ref().map(snapshot_mark),
            },
        );
        node.break_gate(self.is_broken);
        if self.membership().is_sole_voter(self.id) {
            node.campaign();
        }
        truth.trace(|| format!("{} starts: {node:?}", self.id));
        self.node = Some(node);
        Ok(())
    }

    fn describe_start(&self, error: &ReplayError) -> String {
        let records = self.disk.records().map(|(number, record)| {
            format!(
                " {number}:{:?} {}/{}",
                record.kind, record.term, record.index
            )
        });
        format!(
            "member {} cannot start from {:?}: {error}:{}",
            self.id,
            self.disk.file.as_ref().map(File::at),
            records.collect::<String>()
        )
    }

    fn replay_committed(&mut self, replay: &mut Replay, truth: &mut Truth) -> Result<(), String> {
        loop {
            while let Some(entry) = replay.take_committed() {
                self.machine.apply(&entry);
                truth.on_applied(self.id, &entry, &self.machine)?;
            }
            let alone = self.membership().is_sole_voter(self.id);
            if !alone || !replay.commit_as_sole_voter() {
                return Ok(());
            }
        }
    }

    pub(super) fn crash(&mut self, rng: &mut Rng) {
        let installs = self.writes.iter().any(|write| write.install.is_some());
        self.counts.install_crashes += u64::from(installs);
        self.stop();
        self.disk.crash(rng);
    }

    pub(super) fn stop(&mut self) {
        self.node = None;
        self.writes.clear();
        self.checkpoint = None;
        self.arrived.clear();
        self.reads.clear();
    }

    /// Hands what there is to write to the disk; what may leave.
    pub(super) fn turn(&mut self, truth: &mut Truth) -> Result<Vec<Outgoing>, String> {
        let Some(node) = &mut self.node else {
            return Ok(Vec::new());
        };
        while let Some(ready) = node.take_ready() {
            truth.trace(|| format!("{} writes {ready:?}", self.id));
            let install = ready.snapshot.map(|snapshot| {
                // An older file must not come after this one.
                self.checkpoint = None;
                self.disk.append_log_start(snapshot.at);
                self.arrived[&snapshot.at].clone()
            });
            if let Some(state) = ready.hard_state {
                self.disk.append_hard_state(state);
            }
            let mut entries = Vec::new();
            if let Some(first) = ready.entries.first() {
                // A leader's own are looked at when it sends them: what it loses before, nobody has seen.
                if node.role() != Role::Leader {
                    let before = node.log().term_at(RaftIndex(first.index.0 - 1));
                    truth.on_appended(self.id, before, &ready.entries)?;
                }
                self.counts.replaced += u64::from(self.disk.last() >= first.index);
            }
            for entry in &ready.entries {
                entries.push((entry.index, self.disk.end()));
                self.disk.append_entry(entry);
            }
            self.writes.push_back(Write {
                end: self.disk.end(),
                number: ready.number,
                entries,
                step: Step::Records,
                install,
            });
        }
        self.apply(truth)?;
        self.check_reads(truth)?;
        let node = self.node.as_mut().expect("it was there above");
        let messages = node.take_messages();
        truth.on_role(node)?;
        for (to, message) in &messages {
            truth.on_sending(self, *to, message)?;
        }
        Ok(messages)
    }

    fn apply(&mut self, truth: &mut Truth) -> Result<(), String> {
        let node = self.node.as_mut().expect("only a running member applies");
        while let Some(entry) = node.take_committed() {
            let command = self.machine.apply(&entry);
            truth.on_applied(self.id, &entry, &self.machine)?;
            self.counts.applied_unpersisted += u64::from(node.persisted() < entry.index);
            let applied = match command {
                Some(Command::Found(members)) => node.found(&members),
                Some(Command::Change(change)) => node.apply_membership(change),
                Some(Command::Put(_)) | None => Ok(node.membership()),
            };
            let applied = applied.map_err(|error| format!("{}: {error}", self.id))?;
            let expected = self.machine.membership.as_ref().unwrap_or(&self.founders);
            if applied != *expected {
                return Err(format!(
                    "{}: raft has {applied:?}, not {expected:?}",
                    self.id
                ));
            }
            node.on_applied(entry.index);
        }
        self.cover();
        Ok(())
    }

    /// Finds the record of the last entry that is applied.
    fn cover(&mut self) {
        while let Some((index, number)) = self.logged.front().copied()
            && index <= self.machine.applied.index
        {
            self.covered = number;
            self.logged.pop_front();
        }
    }

    fn check_reads(&mut self, truth: &mut Truth) -> Result<(), String> {
        let node = self.node.as_mut().expect("only a running member reads");
        while let Some(state) = node.take_read_state() {
            let Some(acknowledged) = self.reads.remove(&state.id) else {
                continue;
            };
            if state.index < acknowledged {
                return Err(format!(
                    "{}: a read is told {}, but {acknowledged} was acknowledged before it began",
                    self.id, state.index
                ));
            }
            truth.reads += 1;
        }
        Ok(())
    }

    /// The disk does the next thing it was told, if there is any.
    pub(super) fn disk_step(&mut self) {
        let Some(write) = self.writes.front_mut() else {
            return;
        };
        match write.step {
            Step::Records => {
                self.disk.flush(write.end);
                write.step = if write.install.is_some() {
                    Step::File
                } else {
                    Step::Report
                };
            }
            Step::File => {
                let file = write.install.clone().expect("only an install has a file");
                self.disk.finish_file(file, true);
                write.step = Step::Report;
            }
            Step::Report => {
                let write = self.writes.pop_front().expect("it was there above");
                self.report(write);
            }
        }
    }

    fn report(&mut self, write: Write) {
        let node = self.node.as_mut().expect("a crash forgets its writes");
        if let Some(file) = write.install {
            self.counts.installed += 1;
            self.logged.clear();
            // The start of the log and all behind it stay.
            self.covered = self.covered.max(write.end - 2);
            node.on_snapshot_file(snapshot_mark(&file));
            self.arrived.retain(|at, _| at.index > file.at().index);
            self.machine = file.machine;
        }
        self.logged.extend(write.entries);
        node.on_persisted(write.number);
    }

    /// Begins or finishes a snapshot file.
    pub(super) fn checkpoint(&mut self, rng: &mut Rng) {
        let Some(node) = &mut self.node else {
            return;
        };
        match self.checkpoint.take() {
            Some((file, covered)) => {
                node.on_snapshot_file(snapshot_mark(&file));
                self.disk.finish_file(file, false);
                self.disk.trim(covered, rng);
            }
            None if node.persisted() >= self.machine.applied.index
                && self.machine.membership.is_some()
                && self.writes.iter().all(|write| write.install.is_none()) =>
            {
                let file = File {
                    machine: self.machine.clone(),
                    hard_state: node.hard_state(),
                };
                self.checkpoint = Some((file, self.covered));
            }
            None => {}
        }
    }

    /// Takes a message. One that announces a snapshot comes with its file.
    pub(super) fn receive(&mut self, from: MemberId, message: Message, file: Option<File>) {
        let Some(node) = &mut self.node else {
            return;
        };
        if let Body::Snapshot { at, .. } = &message.body {
            let file = file.expect("the announcement comes with the file");
            assert_eq!(file.at(), *at);
            self.arrived.insert(*at, file);
        }
        node.on_message(from, message)
            .expect("members of a test are sound");
    }
}

fn snapshot_mark(file: &File) -> SnapshotMark {
    SnapshotMark {
        at: file.at(),
        membership: file
            .machine
            .membership
            .clone()
            .expect("a file is made of a founded cluster"),
    }
}
