//! Clients that watch: streams with a few watches each, resumed elsewhere when their member is gone.

use keelson_proto::etcdserverpb::WatchResponse;
use keelson_proto::mvccpb::Event;
use keelson_proto::mvccpb::event::EventType;
use keelson_server::engine::message::StreamKey;
use keelson_server::fanout::WatchSpec;
use keelson_storage::ids::MemberId;
use prost::Message;

use crate::check::{Seen, Watch, WatchEvent, WatchWanted};
use crate::dice::Dice;
use crate::member::{CORES, Member};
use crate::options::Options;
use crate::trace::Trace;

/// gRPC's prefix of a message: compression flag and length.
const PREFIX_BYTES: usize = 5;

/// A client with one stream.
#[derive(Debug)]
pub struct Watcher {
    number: u32,
    /// Whether it reads now and then only.
    is_slow: bool,
    /// When it next reads, if it is slow, or does something.
    pub next_us: u64,
    courses: Vec<Course>,
    open: Option<Open>,
}

/// What one of its watches wants, over all members that it was on.
#[derive(Debug)]
struct Course {
    wanted: WatchWanted,
    wants_progress: bool,
    /// From where it goes on; 0: it has seen nothing yet.
    resume: i64,
}

#[derive(Debug)]
struct Open {
    member: MemberId,
    start: u64,
    port: usize,
    stream: StreamKey,
    /// Created in this order: each watch's place in the history, and its id when it is known.
    watches: Vec<(usize, Option<i64>)>,
}

impl Watcher {
    /// A client that watches nothing yet.
    #[must_use]
    pub fn new(number: u32, options: &Options, dice: &mut Dice) -> Self {
        let count = dice.between(1, 3);
        let courses: Vec<_> = (0..count).map(|_| draw_course(options, dice)).collect();
        Self {
            number,
            is_slow: dice.chance(300),
            next_us: 0,
            courses,
            open: None,
        }
    }

    /// From now on it reads what there is.
    pub fn hurry(&mut self) {
        self.is_slow = false;
    }

    /// The member that it is on.
    #[must_use]
    pub fn member(&self) -> Option<MemberId> {
        self.open.as_ref().map(|open| open.member)
    }

    /// Something it does of its own: opens its stream, asks for progress, gives up, reads if it is slow.
    pub fn act(
        &mut self,
        now_us: u64,
        members: &mut [Member],
        watches: &mut Vec<Watch>,
        trace: &mut Trace,
        dice: &mut Dice,
    ) {
        self.next_us = now_us + dice.between(10_000, 400_000);
        let Some(open) = &self.open else {
            return self.begin(now_us, members, watches, dice);
        };
        let (id, start, port, stream) = (open.member, open.start, open.port, open.stream);
        let member = members.iter_mut().find(|member| member.id == id);
        let Some(member) = member.filter(|member| member.starts == start) else {
            self.open = None;
            return;
        };
        let Some(running) = &mut member.running else {
            self.open = None;
            return;
        };
        match dice.below(10) {
            0 => {
                running.cores[port].fanout.close_stream(stream);
                self.open = None;
            }
            1..4 => running.cores[port].fanout.request_progress(stream),
            _ => {}
        }
        running.pass_questions(port);
        running.wake_us = running.wake_us.min(now_us);
        if self.is_slow {
            self.read(now_us, member, watches, trace, usize::MAX);
        }
    }

    fn begin(
        &mut self,
        now_us: u64,
        members: &mut [Member],
        watches: &mut Vec<Watch>,
        dice: &mut Dice,
    ) {
        let member = dice.index(members.len());
        let member = &mut members[member];
        let Some(running) = &mut member.running else {
            return;
        };
        let port = dice.index(CORES);
        let fanout = &mut running.cores[port].fanout;
        let stream = fanout.open_stream();
        let mut opened = Vec::new();
        for course in &self.courses {
            let wanted = WatchWanted {
                start_revision: course.resume,
                ..course.wanted.clone()
            };
            fanout.request_create(stream, spec(&wanted, course.wants_progress));
            opened.push((watches.len(), None));
            watches.push(Watch {
                client: self.number,
                member: member.id.0,
                wanted,
                seen: Vec::new(),
                is_complete: false,
            });
        }
        self.open = Some(Open {
            member: member.id,
            start: member.starts,
            port,
            stream,
            watches: opened,
        });
        running.pass_questions(port);
        running.wake_us = running.wake_us.min(now_us);
    }

    /// Reads what its member has for it, if it is not slow.
    pub fn read_soon(
        &mut self,
        now_us: u64,
        member: &mut Member,
        watches: &mut [Watch],
        trace: &mut Trace,
    ) {
        if !self.is_slow {
            self.read(now_us, member, watches, trace, usize::MAX);
        }
    }

    fn read(
        &mut self,
        now_us: u64,
        member: &mut Member,
        watches: &mut [Watch],
        trace: &mut Trace,
        count: usize,
    ) {
        let Some(open) = &mut self.open else {
            return;
        };
        if open.member != member.id || open.start != member.starts {
            return;
        }
        let Some(running) = &mut member.running else {
            return;
        };
        let mut has_ended = false;
        for _ in 0..count {
            let fanout = &mut running.cores[open.port].fanout;
            let Some(framed) = fanout.take_response(open.stream) else {
                break;
            };
            let response = WatchResponse::decode(&framed[PREFIX_BYTES..]);
            let response = response.expect("a member sends well-formed responses");
            trace.number(u64::from(mix(&framed)));
            has_ended = open.on_response(now_us, response, &mut self.courses, watches, trace);
            if has_ended {
                break;
            }
        }
        if has_ended {
            running.cores[open.port].fanout.close_stream(open.stream);
            self.open = None;
        }
    }

    /// What it has seen on its present member has to be all there is.
    pub fn demand_all(&self, watches: &mut [Watch]) {
        for (index, id) in self.open.iter().flat_map(|open| &open.watches) {
            watches[*index].is_complete = id.is_some();
        }
    }
}

impl Open {
    /// Records a response; whether a watch of the stream has ended.
    fn on_response(
        &mut self,
        now_us: u64,
        response: WatchResponse,
        courses: &mut [Course],
        watches: &mut [Watch],
        trace: &mut Trace,
    ) -> bool {
        let revision = response.header.map_or(0, |header| header.revision);
        let id = response.watch_id;
        if response.created {
            let place = self.watches.iter().position(|(_, id)| id.is_none());
            let place = place.expect("a watch is created for each that was asked for");
            self.watches[place].1 = Some(id);
            let watch = &mut watches[self.watches[place].0];
            watch.seen.push((now_us, Seen::Created { revision }));
            if courses[place].resume == 0 {
                courses[place].resume = revision + 1;
            }
            return false;
        }
        let mut ended = false;
        let speaks_for = |known: &Option<i64>| known.is_some() && (id == -1 || *known == Some(id));
        for (place, (index, known)) in self.watches.iter().enumerate() {
            if !speaks_for(known) {
                continue;
            }
            let seen = if response.canceled {
                trace.count("watch cancelled by compaction");
                ended = true;
                courses[place].resume = response.compact_revision;
                Seen::Canceled {
                    compact_revision: response.compact_revision,
                }
            } else if response.events.is_empty() {
                trace.count("watch progress");
                Seen::Progress { revision }
            } else {
                let events: Vec<_> = response.events.iter().map(event).collect();
                let last = events.last().map_or(0, |event| event.mod_revision);
                courses[place].resume = last + i64::from(!response.fragment);
                if response.fragment {
                    trace.count("watch response in fragments");
                }
                Seen::Events {
                    revision,
                    fragment: response.fragment,
                    events,
                }
            };
            watches[*index].seen.push((now_us, seen));
        }
        ended
    }
}

fn draw_course(options: &Options, dice: &mut Dice) -> Course {
    let key = format!("k{:02}", dice.below(options.keys));
    let (key, range_end) = match dice.below(4) {
        0 => (key.into_bytes(), Vec::new()),
        1 => (key.into_bytes(), b"k05".to_vec()),
        _ => (b"\0".to_vec(), b"\0".to_vec()),
    };
    let is_empty = !range_end.is_empty() && range_end != b"\0" && key >= range_end;
    Course {
        wanted: WatchWanted {
            key: key.into(),
            range_end: if is_empty { Vec::new() } else { range_end }.into(),
            start_revision: 0,
            prev_kv: dice.chance(500),
            no_put: dice.chance(100),
            no_delete: dice.chance(100),
            fragment: dice.chance(300),
        },
        wants_progress: dice.chance(500),
        // Some begin with the history.
        resume: i64::from(dice.chance(300)),
    }
}

fn spec(wanted: &WatchWanted, progress_notify: bool) -> WatchSpec {
    WatchSpec {
        key: wanted.key.clone(),
        range_end: wanted.range_end.clone(),
        no_put: wanted.no_put,
        no_delete: wanted.no_delete,
        prev_kv: wanted.prev_kv,
        progress_notify,
        fragment: wanted.fragment,
        start_revision: wanted.start_revision,
        watch_id: 0,
    }
}

fn event(event: &Event) -> WatchEvent {
    let kv = event.kv.clone().unwrap_or_default();
    let prev = event.prev_kv.as_ref();
    WatchEvent {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
        is_delete: event.r#type == EventType::Delete as i32,
        prev: prev.map(|prev| (prev.value.clone(), prev.mod_revision)),
    }
}

/// A number for the digest.
fn mix(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |sum: u32, byte| sum.rotate_left(5) ^ u32::from(*byte))
}
