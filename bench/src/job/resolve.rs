//! From settings to specs: defaults, then `[global]`, then the section, then the command line.
//!
//! 1. A key of a section must apply to the section's operation. A key of `[global]` or of the
//!    command line goes to the sections it applies to, of which there must be one.
//! 2. The spec says what will run: what the rules between keys change is changed here.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::file::{JobFile, Problem, Problems, Section, Setting};
use super::keys::{KEYS, Key};
use super::spec::{JobSpec, Op};
use super::value::Kind;

/// The place of a setting that has no line.
const COMMAND_LINE: &str = "command line";

/// The specs of some sections of one file.
pub struct Resolver<'a> {
    overrides: &'a [Setting],
    problems: Vec<Problem>,
    /// Overrides that some job took.
    used_overrides: BTreeSet<usize>,
}

/// Where a setting comes from, which decides whether it may go unused.
#[derive(Clone, Copy, PartialEq)]
enum Origin {
    Global,
    Section,
    Override(usize),
}

impl<'a> Resolver<'a> {
    /// A resolver for the jobs of one call.
    pub fn new(overrides: &'a [Setting]) -> Self {
        Self {
            overrides,
            problems: Vec::new(),
            used_overrides: BTreeSet::new(),
        }
    }

    /// The specs of the sections that are wanted, in the file's order.
    pub fn take(&mut self, file: &JobFile, is_wanted: impl Fn(&Section) -> bool) -> Vec<JobSpec> {
        let wanted = file.sections.iter().filter(|section| is_wanted(section));
        let specs: Vec<JobSpec> = wanted
            .filter_map(|section| self.job(file, section))
            .collect();
        self.check_globals(file);
        specs
    }

    /// Ends the resolving: all specs are good, or these are the problems.
    pub fn finish(mut self, specs: Vec<JobSpec>) -> Result<Vec<JobSpec>, Problems> {
        if self.problems.is_empty() {
            for (index, setting) in self.overrides.iter().enumerate() {
                if !self.used_overrides.contains(&index) {
                    let text = format!("--{} applies to none of the jobs", setting.word);
                    self.problems
                        .push(problem(COMMAND_LINE, setting.line, text));
                }
            }
        }
        if self.problems.is_empty() {
            Ok(specs)
        } else {
            self.problems.dedup();
            Err(Problems(self.problems))
        }
    }

    fn job(&mut self, file: &JobFile, section: &Section) -> Option<JobSpec> {
        let problems_before = self.problems.len();
        let globals = file.globals[..section.globals_count].iter();
        let settings: Vec<(Origin, &Setting)> = globals
            .map(|setting| (Origin::Global, setting))
            .chain(
                section
                    .settings
                    .iter()
                    .map(|setting| (Origin::Section, setting)),
            )
            .chain(
                self.overrides
                    .iter()
                    .enumerate()
                    .map(|(index, setting)| (Origin::Override(index), setting)),
            )
            .collect();
        let op = self.op(file, section, &settings)?;
        let mut fields = defaults(op);
        fields.insert("name".to_owned(), json!(section.name));
        let mut in_flight: Option<(u64, &Setting)> = None;
        for (origin, setting) in settings {
            let Some(key) = self.key(file, op, origin, setting) else {
                continue;
            };
            let Some(value) = self.value(file, key, setting) else {
                continue;
            };
            match key.field {
                [] => in_flight = value.as_u64().map(|total| (total, setting)),
                // Of two words for one thing the later counts.
                ["iodepth"] => {
                    in_flight = None;
                    put(&mut fields, key.field, value);
                }
                _ => put(&mut fields, key.field, value),
            }
        }
        if self.problems.len() > problems_before {
            return None;
        }
        let spec = serde_json::from_value(Value::Object(fields));
        let mut spec: JobSpec = spec.expect("each field has a key, and each kind fits its field");
        if let Some((total, setting)) = in_flight {
            self.share_in_flight(file, &mut spec, total, setting);
        }
        self.settle(file, section, &mut spec);
        (self.problems.len() == problems_before).then_some(spec)
    }

    fn op(
        &mut self,
        file: &JobFile,
        section: &Section,
        settings: &[(Origin, &Setting)],
    ) -> Option<Op> {
        let last = settings
            .iter()
            .rev()
            .find(|(_, setting)| setting.word == "op");
        let Some((_, setting)) = last else {
            let text = format!("[{}] has no op: {}", section.name, op_key().kind);
            self.problems
                .push(problem(&file.name, Some(section.line), text));
            return None;
        };
        // `key` and `value` judge it again with all others, and complain there.
        Op::named(&setting.value).or_else(|| {
            self.value(file, op_key(), setting);
            None
        })
    }

    /// The key that a setting means, or nothing if the job does not look at it.
    fn key(
        &mut self,
        file: &JobFile,
        op: Op,
        origin: Origin,
        setting: &Setting,
    ) -> Option<&'static Key> {
        let found = Key::find(&setting.word, op);
        match origin {
            Origin::Override(index) if found.is_some() => {
                self.used_overrides.insert(index);
            }
            Origin::Section if found.is_none() => {
                let other = Key::find_any(&setting.word).expect("the reader let only keys pass");
                let text = format!(
                    "{} does not apply to op={op}, but to {}",
                    setting.word,
                    other.applies_to()
                );
                self.problems.push(problem(&file.name, setting.line, text));
            }
            _ => {}
        }
        found
    }

    fn value(&mut self, file: &JobFile, key: &Key, setting: &Setting) -> Option<Value> {
        // A key without a default may be set back to that.
        if setting.value.is_empty() && key.default.is_empty() && key.name != "op" {
            return Some(empty(key));
        }
        let value = key.kind.parse(&setting.value);
        if value.is_none() {
            let text = format!(
                "{}={}: allowed is {}",
                setting.word, setting.value, key.kind
            );
            self.problems.push(self.at(file, setting, text));
        }
        value
    }

    fn share_in_flight(
        &mut self,
        file: &JobFile,
        spec: &mut JobSpec,
        total: u64,
        setting: &Setting,
    ) {
        let clones = u64::from(spec.numjobs);
        if !total.is_multiple_of(clones) {
            let text = format!(
                "{}={total} is not shared out evenly by numjobs={clones}: give a multiple of it",
                setting.word
            );
            self.problems.push(self.at(file, setting, text));
        }
        spec.iodepth = u32::try_from(total / clones).unwrap_or(u32::MAX);
    }

    /// Rules between keys.
    fn settle(&mut self, file: &JobFile, section: &Section, spec: &mut JobSpec) {
        if spec.runtime_ms == 0 && (spec.size.is_none() || spec.op == Op::Disk) {
            let text = format!(
                "[{}] would never end: runtime is 0{}",
                section.name,
                match spec.op {
                    Op::Disk => "",
                    _ => " and size is not given",
                }
            );
            self.problems
                .push(problem(&file.name, Some(section.line), text));
        }
        if spec.settle && spec.ramp_time_ms > 0 {
            let text = format!(
                "[{}] would count what its ramp wrote: settle=1 wants ramp_time=0",
                section.name
            );
            self.problems
                .push(problem(&file.name, Some(section.line), text));
        }
        let is_closed = spec.rate.is_none()
            && Key::find("iodepth", spec.op).is_some_and(|key| key.name == "iodepth");
        // Watchers have streams on the connections too.
        if is_closed && spec.op != Op::Watch {
            let in_flight = u32::try_from(spec.in_flight()).unwrap_or(u32::MAX);
            spec.connections = spec.connections.min(in_flight);
        }
        spec.connections = spec.connections.max(spec.numjobs);
    }

    /// A key under `[global]` that no section of the file could take is a mistake.
    fn check_globals(&mut self, file: &JobFile) {
        for (index, setting) in file.globals.iter().enumerate() {
            let below = file
                .sections
                .iter()
                .filter(|section| section.globals_count > index);
            let ops: Vec<Op> = below
                .filter_map(|section| op_in_file(file, section))
                .collect();
            if !ops.is_empty() && ops.iter().all(|&op| Key::find(&setting.word, op).is_none()) {
                let text = format!("{} applies to none of the jobs below it", setting.word);
                self.problems.push(problem(&file.name, setting.line, text));
            }
        }
    }

    fn at(&self, file: &JobFile, setting: &Setting, text: String) -> Problem {
        match setting.line {
            Some(_) => problem(&file.name, setting.line, text),
            None => problem(COMMAND_LINE, None, format!("--{text}")),
        }
    }
}

/// What a job is, as one would write it: every key that its operation looks at.
pub fn summary(spec: &JobSpec) -> String {
    let fields = serde_json::to_value(spec).expect("a spec is plain data");
    let shown = KEYS
        .iter()
        .filter(|key| key.ops.contains(&spec.op) && !key.field.is_empty());
    let parts = shown.filter_map(|key| {
        let value = key.field.iter().fold(&fields, |value, name| &value[*name]);
        Some(format!("{}={}", key.name, key.kind.show(value)?))
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn problem(place: &str, line: Option<u32>, text: String) -> Problem {
    Problem {
        place: place.to_owned(),
        line,
        text,
    }
}

fn op_key() -> &'static Key {
    Key::find_any("op").expect("the table holds it")
}

/// The operation that the file itself gives a section.
fn op_in_file(file: &JobFile, section: &Section) -> Option<Op> {
    let globals = &file.globals[..section.globals_count];
    let settings = section.settings.iter().rev().chain(globals.iter().rev());
    settings
        .into_iter()
        .find(|setting| setting.word == "op")
        .and_then(|setting| Op::named(&setting.value))
}

/// A spec's JSON of defaults; what the operation does not look at has the first default there is.
fn defaults(op: Op) -> Map<String, Value> {
    let mut fields = Map::new();
    let (own, others): (Vec<&Key>, Vec<&Key>) = KEYS.iter().partition(|key| key.ops.contains(&op));
    for key in others.into_iter().rev().chain(own) {
        let value = match key.default {
            "" => empty(key),
            text => key.kind.parse(text).expect("defaults are of their kind"),
        };
        if !key.field.is_empty() {
            put(&mut fields, key.field, value);
        }
    }
    fields
}

/// The value of a key that has none.
fn empty(key: &Key) -> Value {
    match key.kind {
        Kind::Cpus | Kind::Endpoints => json!([]),
        _ => Value::Null,
    }
}

fn put(fields: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => unreachable!("keys without a field are not put"),
        [name] => {
            fields.insert((*name).to_owned(), value);
        }
        [name, rest @ ..] => {
            let inner = fields.entry(*name).or_insert_with(|| json!({}));
            let inner = inner
                .as_object_mut()
                .expect("a field holds either fields or a value");
            put(inner, rest, value);
        }
    }
}
