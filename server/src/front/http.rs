//! What the member answers over plain HTTP: health, version and metrics, as etcd words them.
//!
//! Pure: the listener says what was asked and hands in the facts, this file says what to send. Some
//! answers depend on a read, which only the listener can make, so it asks [`needs`] first, makes
//! the reads that are named there, and then asks for the [`answer`]:
//!
//! ```text
//! request -> needs -> reads (serializable, linearizable) -> answer -> record, send
//! ```
//!
//! | path | on client URLs | on metrics URLs |
//! |---|---|---|
//! | `/health` | yes | yes |
//! | `/livez`, `/readyz`, `/livez/NAME`, `/readyz/NAME` | yes | yes |
//! | `/metrics` | yes | yes |
//! | `/version` | yes | no |
//!
//! On the client URLs every answer allows every origin, as etcd's default for `--cors` does.

use crate::config::version;
use crate::observe::{CheckKind, CoreMetrics, HEALTH_CHECK_NAMES, METRICS_CONTENT_TYPE};

const CONTENT_TYPE: &str = "content-type";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What `--cors '*'`, the default, puts on every answer on the client URLs.
const ANY_ORIGIN: [(&str, &str); 3] = [
    ("access-control-allow-origin", "*"),
    (
        "access-control-allow-methods",
        "POST, GET, OPTIONS, PUT, DELETE",
    ),
    (
        "access-control-allow-headers",
        "accept, content-type, authorization",
    ),
];

/// The numbers of the checks in [`HEALTH_CHECK_NAMES`].
const DATA_CORRUPTION: usize = 0;
const SERIALIZABLE_READ: usize = 1;
const LINEARIZABLE_READ: usize = 2;
const NON_LEARNER: usize = 3;

/// The checks of `/livez`.
const LIVEZ: &[usize] = &[SERIALIZABLE_READ];
/// The checks of `/readyz`.
const READYZ: &[usize] = &[
    DATA_CORRUPTION,
    SERIALIZABLE_READ,
    LINEARIZABLE_READ,
    NON_LEARNER,
];

/// Which kind of listener a request came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// One of `--listen-client-urls`.
    Client,
    /// One of `--listen-metrics-urls`.
    Metrics,
}

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// Where it came in.
    pub listener: Listener,
    /// The method, in capitals.
    pub method: &'a str,
    /// The path, without the query.
    pub path: &'a str,
    /// What follows the question mark, still encoded; empty when there is none.
    pub query: &'a str,
}

/// The reads that an answer depends on: a range over the whole key space for keys only, limit 1,
/// with the rights of root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// From this member's own state.
    pub serializable: bool,
    /// Confirmed by the cluster.
    pub linearizable: bool,
}

/// An alarm as health checks see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthAlarm {
    /// The quota is used up.
    NoSpace,
    /// Members differ.
    Corrupt,
    /// Any other.
    Other,
}

/// What the answer is made from. A read that [`needs`] did not ask for is not looked at.
#[derive(Clone, Debug)]
pub struct HttpFacts<'a> {
    /// Active alarms of all members.
    pub alarms: &'a [HealthAlarm],
    /// Whether a leader is known.
    pub has_leader: bool,
    /// Whether this member is a learner.
    pub is_learner: bool,
    /// How the serializable read went; the text of its error.
    pub serializable: Result<(), String>,
    /// How the linearizable read went; the text of its error.
    pub linearizable: Result<(), String>,
}

impl HttpFacts<'_> {
    /// Everything is well.
    pub fn healthy() -> Self {
        Self {
            alarms: &[],
            has_leader: true,
            is_learner: false,
            serializable: Ok(()),
            linearizable: Ok(()),
        }
    }

    fn read(&self, serializable: bool) -> &Result<(), String> {
        if serializable {
            &self.serializable
        } else {
            &self.linearizable
        }
    }
}

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// Headers; names in lower case. The sender adds `date` and `content-length`.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The body; a sender that answers `HEAD` leaves it out.
    pub body: String,
    /// What to count.
    pub verdict: Verdict,
}

/// What a health request found out, to be counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The result of `/health`.
    health: Option<bool>,
    /// The results of the checks of `/livez` or `/readyz`.
    checks: Vec<(CheckKind, usize, bool)>,
}

impl Verdict {
    /// Counts it on the core that answers; `unix_ms` is the time now.
    pub fn record(&self, metrics: &CoreMetrics, unix_ms: u64) {
        match self.health {
            Some(true) => metrics.health.success.increment(),
            Some(false) => metrics.health.failures.increment(),
            None => {}
        }
        for (kind, index, success) in &self.checks {
            metrics.health.checked(*kind, *index, *success, unix_ms);
        }
    }
}

/// Which reads must be made before [`answer`].
pub fn needs(request: &HttpRequest<'_>) -> Needs {
    if request.method != "GET" {
        return Needs::default();
    }
    match Route::of(request) {
        Route::Health => {
            let serializable = wants_serializable(request.query);
            Needs {
                serializable,
                linearizable: !serializable,
            }
        }
        Route::Checks(_, checks) => Needs {
            serializable: checks.contains(&SERIALIZABLE_READ),
            linearizable: checks.contains(&LINEARIZABLE_READ),
        },
        Route::Version | Route::Metrics | Route::Nothing => Needs::default(),
    }
}

/// The answer; `metrics` writes the metrics page, which is done only if that was asked for.
pub fn answer(
    request: &HttpRequest<'_>,
    facts: &HttpFacts<'_>,
    metrics: impl FnOnce() -> String,
) -> HttpAnswer {
    let mut answer = if request.listener == Listener::Client && request.method == "OPTIONS" {
        plain(200, TEXT, String::new())
    } else {
        routed(request, facts, metrics)
    };
    if request.listener == Listener::Client {
        answer.headers.extend(ANY_ORIGIN);
    }
    answer
}

fn routed(
    request: &HttpRequest<'_>,
    facts: &HttpFacts<'_>,
    metrics: impl FnOnce() -> String,
) -> HttpAnswer {
    let route = Route::of(request);
    let get_only = !matches!(route, Route::Metrics | Route::Nothing);
    if get_only && request.method != "GET" {
        let mut answer = error(405, "Method Not Allowed");
        answer.headers.push(("allow", "GET"));
        return answer;
    }
    match route {
        Route::Health => health(request.query, facts),
        Route::Checks(kind, checks) => run_checks(kind, &checks, request.query, facts),
        Route::Version => plain(200, JSON, version_body()),
        Route::Metrics => plain(200, METRICS_CONTENT_TYPE, metrics()),
        Route::Nothing => error(404, "404 page not found"),
    }
}

/// Where a path leads.
enum Route {
    Health,
    /// The checks to run, those that the query excludes left out.
    Checks(CheckKind, Vec<usize>),
    Version,
    Metrics,
    Nothing,
}

impl Route {
    fn of(request: &HttpRequest<'_>) -> Self {
        match request.path {
            "/health" => Self::Health,
            "/metrics" => Self::Metrics,
            "/version" if request.listener == Listener::Client => Self::Version,
            path => path
                .strip_prefix("/livez")
                .map(|rest| (CheckKind::Livez, LIVEZ, rest))
                .or_else(|| {
                    let rest = path.strip_prefix("/readyz")?;
                    Some((CheckKind::Readyz, READYZ, rest))
                })
                .and_then(|(kind, checks, rest)| Self::checks(kind, checks, rest, request.query))
                .unwrap_or(Self::Nothing),
        }
    }

    /// The checks behind `/readyz` + `rest`: all but the excluded ones, or the one that is named.
    fn checks(kind: CheckKind, all: &[usize], rest: &str, query: &str) -> Option<Self> {
        if rest.is_empty() {
            let excluded = query_values(query, "exclude");
            let kept = all.iter().copied();
            let kept = kept.filter(|check| {
                !excluded
                    .iter()
                    .any(|name| *name == HEALTH_CHECK_NAMES[*check])
            });
            return Some(Self::Checks(kind, kept.collect()));
        }
        let name = rest.strip_prefix('/')?;
        let check = all
            .iter()
            .copied()
            .find(|check| HEALTH_CHECK_NAMES[*check] == name)?;
        Some(Self::Checks(kind, vec![check]))
    }
}

/// `/health`: alarms first, then the leader, then a read.
fn health(query: &str, facts: &HttpFacts<'_>) -> HttpAnswer {
    let reason = health_reason(query, facts);
    let healthy = reason.is_empty();
    let body =
        serde_json::json!({ "health": if healthy { "true" } else { "false" }, "reason": reason });
    let body = body.to_string();
    let mut answer = if healthy {
        plain(200, TEXT, body)
    } else {
        error(503, &body)
    };
    answer.verdict.health = Some(healthy);
    answer
}

fn health_reason(query: &str, facts: &HttpFacts<'_>) -> String {
    let excluded = query_values(query, "exclude");
    for alarm in facts.alarms {
        let (name, reason) = match alarm {
            HealthAlarm::NoSpace => ("NOSPACE", "ALARM NOSPACE"),
            HealthAlarm::Corrupt => ("CORRUPT", "ALARM CORRUPT"),
            HealthAlarm::Other => ("", "ALARM UNKNOWN"),
        };
        if !excluded.iter().any(|excluded| excluded == name) {
            return reason.to_owned();
        }
    }
    let serializable = wants_serializable(query);
    if !serializable && !facts.has_leader {
        return "RAFT NO LEADER".to_owned();
    }
    match facts.read(serializable) {
        Ok(()) => String::new(),
        Err(why) => format!("RANGE ERROR:{why}"),
    }
}

/// `/livez` and `/readyz`.
fn run_checks(kind: CheckKind, checks: &[usize], query: &str, facts: &HttpFacts<'_>) -> HttpAnswer {
    let mut verdict = Verdict::default();
    let mut report = String::new();
    for check in checks {
        let name = HEALTH_CHECK_NAMES[*check];
        let outcome = run_check(*check, facts);
        verdict.checks.push((kind, *check, outcome.is_ok()));
        match outcome {
            Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
            Err(why) => report.push_str(&format!("[-]{name} failed: {why}\n")),
        }
    }
    let good = verdict.checks.iter().all(|(_, _, success)| *success);
    let mut answer = if good {
        let report = if query_has(query, "verbose") {
            report
        } else {
            String::new()
        };
        let mut answer = plain(200, TEXT, report + "ok\n");
        answer.headers.push(NO_SNIFF);
        answer
    } else {
        error(503, &report)
    };
    answer.verdict = verdict;
    answer
}

fn run_check(check: usize, facts: &HttpFacts<'_>) -> Result<(), String> {
    match check {
        DATA_CORRUPTION if facts.alarms.contains(&HealthAlarm::Corrupt) => {
            Err("alarm activated: CORRUPT".to_owned())
        }
        SERIALIZABLE_READ => facts.serializable.clone(),
        LINEARIZABLE_READ => facts.linearizable.clone(),
        NON_LEARNER if facts.is_learner => Err("not supported for learner".to_owned()),
        _ => Ok(()),
    }
}

pub(crate) fn version_body() -> String {
    format!(
        "{{\"etcdserver\":\"{}\",\"etcdcluster\":\"{}\",\"storage\":\"{}\"}}",
        version::API,
        version::CLUSTER,
        version::STORAGE
    )
}

const NO_SNIFF: (&str, &str) = ("x-content-type-options", "nosniff");

fn plain(status: u16, content_type: &'static str, body: String) -> HttpAnswer {
    let headers = vec![(CONTENT_TYPE, content_type)];
    HttpAnswer {
        status,
        headers,
        body,
        verdict: Verdict::default(),
    }
}

/// An error as Go's HTTP server words it: the text and a line end.
fn error(status: u16, text: &str) -> HttpAnswer {
    let mut answer = plain(status, TEXT, format!("{text}\n"));
    answer.headers.push(NO_SNIFF);
    answer
}

fn wants_serializable(query: &str) -> bool {
    query_pairs(query)
        .find(|(key, _)| key == "serializable")
        .is_some_and(|(_, value)| value == "true")
}

fn query_has(query: &str, name: &str) -> bool {
    query_pairs(query).any(|(key, _)| key == name)
}

fn query_values(query: &str, name: &str) -> Vec<String> {
    let pairs = query_pairs(query).filter(|(key, value)| key == name && !value.is_empty());
    pairs.map(|(_, value)| value).collect()
}

/// The pairs of a query, decoded. Pairs that cannot be decoded, or hold a semicolon, are dropped,
/// as Go does.
fn query_pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(key)?, decoded(value)?))
        })
}

/// Undoes percent encoding and `+` for a space; `None` when it is malformed.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                (high * 16 + low) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
