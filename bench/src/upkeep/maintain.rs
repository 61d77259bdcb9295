//! `maintain`: puts while a compaction and defrags run, on Keelson and on etcd in turns.
//!
//! ```text
//!   fill, rest | quiet puts | puts + compaction | puts + defrag | puts + defrag ...
//! ```
//!
//! Every round has a fresh server on a fresh directory, and every second round swaps the order. What
//! is compacted is the history of some keys, of which each put made one revision. Defragment makes
//! Keelson write a checkpoint; etcd it makes write its database anew while everybody waits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::filling::{PutsInTurn, put_in_turn};
use super::member::{Member, compact, contents, defragment};
use super::puts::{Beside, Puts, STRETCH_FIGURES, Stretch};
use crate::cli::MaintainOptions;
use crate::disk;
use crate::interrupt::Interrupt;
use crate::job::JobSpec;
use crate::machine::Machine;
use crate::outcome::{Ending, deliver};
use crate::report::Document;
use crate::server::Launch;
use crate::stats::Spread;

/// Puts in flight while filling.
const FILL_IN_FLIGHT: u64 = 512;
/// The stretch without other work, and all stretches with some together.
pub const QUIET: &str = "quiet";
pub const DURING: &str = "during";

/// What the command measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MaintainResult {
    /// Revisions of history that were written to be compacted.
    pub revisions: u64,
    /// Defrags of each round.
    pub defrags: u32,
    /// Whether compaction and defrags ran at the same time.
    pub at_once: bool,
    /// The puts.
    pub spec: JobSpec,
    /// Keelson first.
    pub servers: Vec<Maintained>,
}

/// One server and what its rounds brought.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Maintained {
    pub name: String,
    pub version: String,
    /// Over the rounds, of all stretches with work together over the quiet one: `p99_ratio` and more.
    pub ratios: BTreeMap<String, Spread>,
    pub rounds: Vec<MaintainRound>,
}

/// One server's round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MaintainRound {
    pub fill_seconds: f64,
    /// Versions that the compaction removed.
    pub versions_compacted: i64,
    /// Length of all files before the first stretch and after the last.
    pub data_bytes_before: u64,
    pub data_bytes_after: u64,
    /// How long the compaction took, and each defrag.
    pub compaction_seconds: f64,
    pub defrag_seconds: Vec<f64>,
    /// The quiet one, those with work, and these together.
    pub stretches: Vec<Stretch>,
}

impl MaintainResult {
    /// Those of all rounds, each answer in one of them.
    pub fn stretches(&self) -> impl Iterator<Item = (&str, &Stretch)> {
        self.servers.iter().flat_map(Maintained::stretches)
    }
}

impl MaintainRound {
    /// The stretch of that name.
    pub fn stretch(&self, name: &str) -> Option<&Stretch> {
        self.stretches.iter().find(|stretch| stretch.name == name)
    }
}

/// What every round does.
struct Rounds<'a> {
    options: &'a MaintainOptions,
    parent: &'a Path,
    filling: JobSpec,
    puts: Puts,
}

/// Runs the command.
pub async fn run(options: &MaintainOptions, interrupt: &Interrupt) -> Result<Ending> {
    let parent = options.start.data_parent()?;
    let launches = options.start.launches(options.against)?;
    let puts = Puts::new(options.overrides.settings())?;
    let filling = PutsInTurn {
        puts: options.revisions + puts.spec().key_count,
        key_count: puts.spec().key_count,
        value_bytes: puts.spec().value_bytes,
        in_flight: FILL_IN_FLIGHT,
    };
    let rounds = Rounds {
        options,
        parent: &parent,
        filling: filling.job()?,
        puts,
    };
    let mut document = Document::new("maintain", Machine::facts(&parent), 1, options.rounds);
    disk::quote(&mut document, &parent, interrupt).await;
    let mut servers: Vec<Maintained> = launches.iter().map(Maintained::new).collect();
    let outcome = interrupt.or(rounds.all(&launches, &mut servers)).await;
    servers.retain(|server| !server.rounds.is_empty());
    servers.iter_mut().for_each(Maintained::summarize);
    if !servers.is_empty() {
        document.maintain.push(MaintainResult {
            revisions: options.revisions,
            defrags: options.defrags,
            at_once: options.at_once,
            spec: rounds.puts.spec().clone(),
            servers,
        });
    }
    deliver(
        document,
        &options.output,
        outcome.unwrap_or(Ok(())),
        interrupt,
    )
}

impl Rounds<'_> {
    async fn all(&self, launches: &[Launch], servers: &mut [Maintained]) -> Result<()> {
        for round in 0..self.options.rounds {
            let mut order: Vec<usize> = (0..launches.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let (launch, server) = (&launches[index], &mut servers[index]);
                let who = format!("{} {}/{}", launch.name, round + 1, self.options.rounds);
                let measured = self.one(launch, &who, server).await;
                let measured = measured.with_context(|| format!("maintain on {}", launch.name))?;
                server.rounds.push(measured);
            }
        }
        Ok(())
    }

    async fn one(
        &self,
        launch: &Launch,
        who: &str,
        server: &mut Maintained,
    ) -> Result<MaintainRound> {
        let mut member = Member::start(launch, self.parent).await?;
        member.version().clone_into(&mut server.version);
        let address = member.address();
        let fill_seconds = put_in_turn(who, address, &self.filling).await?;
        member.settle().await?;
        let data_bytes_before = member.data_bytes()?;

        let quiet = self.puts.quiet(address, who).await?;
        let (key_count, revision) = contents(address).await?;
        // The first revision has no version; every key keeps its newest.
        let versions_compacted = revision - 1 - key_count;
        let all_revisions = i64::try_from(self.options.revisions).unwrap_or(i64::MAX);
        ensure!(
            versions_compacted >= all_revisions,
            "{who} holds {versions_compacted} old versions instead of {all_revisions}"
        );
        let pieces = self.pieces(address, revision, who).await?;
        member.settle().await?;
        let round = MaintainRound {
            fill_seconds,
            versions_compacted,
            data_bytes_before,
            data_bytes_after: member.data_bytes()?,
            compaction_seconds: times(&pieces, Took::of_compaction).iter().sum(),
            defrag_seconds: times(&pieces, Took::of_defrag),
            stretches: stretches(&quiet, &pieces)?,
        };
        member.stop().await?;
        Ok(round)
    }

    /// The work, with puts beside each piece.
    async fn pieces(&self, address: SocketAddr, revision: i64, who: &str) -> Result<Vec<Piece>> {
        let count = self.options.defrags;
        if self.options.at_once {
            let what = format!("{who}: puts, compaction and defrags");
            let work = all_at_once(address, revision, count);
            let piece = self.puts.beside(address, what, work).await?;
            return Ok(vec![("at once", piece)]);
        }
        let what = format!("{who}: puts and a compaction");
        let work = compaction(address, revision);
        let mut pieces = vec![("compaction", self.puts.beside(address, what, work).await?)];
        for at in 1..=count {
            let what = format!("{who}: puts and defrag {at}");
            let work = defrags(address, 1);
            pieces.push(("defrag", self.puts.beside(address, what, work).await?));
        }
        Ok(pieces)
    }
}

/// Seconds that something took.
#[derive(Clone, Copy)]
enum Took {
    Compaction(f64),
    Defrag(f64),
}

impl Took {
    fn of_compaction(self) -> Option<f64> {
        match self {
            Self::Compaction(seconds) => Some(seconds),
            Self::Defrag(_) => None,
        }
    }

    fn of_defrag(self) -> Option<f64> {
        match self {
            Self::Defrag(seconds) => Some(seconds),
            Self::Compaction(_) => None,
        }
    }
}

/// Work beside puts, by the name of its stretch.
type Piece = (&'static str, Beside<Vec<Took>>);

async fn compaction(address: SocketAddr, revision: i64) -> Result<Vec<Took>> {
    Ok(vec![Took::Compaction(compact(address, revision).await?)])
}

async fn defrags(address: SocketAddr, count: u32) -> Result<Vec<Took>> {
    let mut took = Vec::new();
    for _ in 0..count {
        took.push(Took::Defrag(defragment(address).await?));
    }
    Ok(took)
}

async fn all_at_once(address: SocketAddr, revision: i64, count: u32) -> Result<Vec<Took>> {
    let works = (compaction(address, revision), defrags(address, count));
    let (one, many) = tokio::try_join!(works.0, works.1)?;
    Ok([one, many].concat())
}

fn times(pieces: &[Piece], of: impl Fn(Took) -> Option<f64>) -> Vec<f64> {
    let took = pieces.iter().flat_map(|(_, beside)| &beside.outcome);
    took.filter_map(|&took| of(took)).collect()
}

/// The quiet stretch, one for each kind of work, and one for all work.
fn stretches(quiet: &Beside<()>, pieces: &[Piece]) -> Result<Vec<Stretch>> {
    let mut stretches = vec![Stretch::new(QUIET, [(quiet.seconds, &quiet.tally)])?];
    let mut names: Vec<&str> = pieces.iter().map(|(name, _)| *name).collect();
    names.dedup();
    let of = |wanted: Option<&str>| {
        let pieces = pieces
            .iter()
            .filter(move |(name, _)| wanted.is_none_or(|wanted| wanted == *name));
        pieces
            .map(|(_, beside)| (beside.seconds, &beside.tally))
            .collect::<Vec<_>>()
    };
    for name in names {
        stretches.push(Stretch::new(name, of(Some(name)))?);
    }
    stretches.push(Stretch::new(DURING, of(None))?);
    Ok(stretches)
}

impl Maintained {
    fn stretches(&self) -> impl Iterator<Item = (&str, &Stretch)> {
        let stretches = self.rounds.iter().flat_map(|round| &round.stretches);
        let counted = stretches.filter(|stretch| stretch.name != DURING);
        counted.map(|stretch| (self.name.as_str(), stretch))
    }

    fn new(launch: &Launch) -> Self {
        Self {
            name: launch.name.clone(),
            version: String::new(),
            ratios: BTreeMap::new(),
            rounds: Vec::new(),
        }
    }

    fn summarize(&mut self) {
        for (_, name, of) in STRETCH_FIGURES {
            let ratios = self
                .rounds
                .iter()
                .filter_map(|round| Some(of(round.stretch(DURING)?) / of(round.stretch(QUIET)?)));
            if let Some(spread) = Spread::over(ratios) {
                self.ratios.insert(name.to_owned(), spread);
            }
        }
    }
}
