//! The values of keys: how each kind is written in a job file, and what it becomes in a spec.

use std::fmt;
use std::time::Duration;

use parse_size::Config;
use serde_json::{Value, json};

use super::spec::{MixPart, Op};

/// Operations that a mixed job may hold.
const MIX_OPS: [Op; 5] = [Op::Put, Op::TxnUpdate, Op::Range, Op::List, Op::Delete];
const CPU_MAX: u32 = 1_023;

/// How the value of a key is written.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A number of things; `k`, `m`, `g` are powers of 1,000.
    Count { min: u64, max: u64 },
    /// A number of bytes; `k`, `m`, `g` are powers of 1,024, as in fio.
    Bytes { min: u64, max: u64 },
    /// Several of them.
    CountList { min: u64, max: u64 },
    /// Several numbers of bytes, each a multiple of the unit.
    BlockList { unit: u64, max: u64 },
    /// A number with `ms`, `s`, `m` or `h`; seconds if it has none, as in fio.
    Time { min_ms: u64, max_ms: u64 },
    /// 0 or 1; a key without a value is 1, as in fio.
    Flag,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A word that stands for a path of writing: `1` direct, `0` buffered, `both`.
    Direct,
    /// The name of an operation.
    Op,
    /// `op:weight` pairs.
    Mix,
    /// CPU numbers and ranges of them.
    Cpus,
    /// `host:port` pairs.
    Endpoints,
    /// A folder.
    Path,
}

impl Kind {
    /// The value in a spec's JSON, or nothing if the text is not of this kind.
    pub fn parse(self, text: &str) -> Option<Value> {
        let in_range = |value: u64, min, max| (min..=max).contains(&value).then_some(value);
        match self {
            Self::Count { min, max } => Some(json!(in_range(count(text)?, min, max)?)),
            Self::Bytes { min, max } => Some(json!(in_range(bytes(text)?, min, max)?)),
            Self::CountList { min, max } => list(text, |part| in_range(count(part)?, min, max)),
            Self::BlockList { unit, max } => list(text, |part| {
                in_range(bytes(part)?, unit, max).filter(|bytes| bytes.is_multiple_of(unit))
            }),
            Self::Time { min_ms, max_ms } => {
                Some(json!(in_range(milliseconds(text)?, min_ms, max_ms)?))
            }
            Self::Flag => match text {
                "1" => Some(json!(true)),
                "0" => Some(json!(false)),
                _ => None,
            },
            Self::Word(words) => words.contains(&text).then(|| json!(text)),
            Self::Direct => match text {
                "1" => Some(json!("direct")),
                "0" => Some(json!("buffered")),
                "both" => Some(json!("both")),
                _ => None,
            },
            Self::Op => Op::named(text).map(|op| json!(op)),
            Self::Mix => list(text, mix_part),
            Self::Cpus => Some(json!(cpus(text)?)),
            Self::Endpoints => list(text, endpoint),
            Self::Path => (!text.is_empty()).then(|| json!(text)),
        }
    }

    /// A value of a spec's JSON as it would be written; None if there is none.
    pub fn show(self, value: &Value) -> Option<String> {
        let shown = match self {
            Self::Count { .. } | Self::CountList { .. } => {
                join(value, |part| Some(short(part.as_u64()?)))
            }
            Self::Bytes { .. } | Self::BlockList { .. } => {
                join(value, |part| Some(short_binary(part.as_u64()?)))
            }
            Self::Time { .. } => {
                let duration = Duration::from_millis(value.as_u64()?);
                Some(
                    humantime::format_duration(duration)
                        .to_string()
                        .replace(' ', ""),
                )
            }
            Self::Flag => value.as_bool().map(|flag| u8::from(flag).to_string()),
            Self::Direct => match value.as_str()? {
                "direct" => Some("1".to_owned()),
                "buffered" => Some("0".to_owned()),
                word => Some(word.to_owned()),
            },
            Self::Mix => join(value, |part| {
                Some(format!("{}:{}", part["op"].as_str()?, part["weight"]))
            }),
            Self::Cpus => join(value, |part| Some(part.as_u64()?.to_string())),
            Self::Word(_) | Self::Op | Self::Endpoints | Self::Path => {
                join(value, |part| part.as_str().map(str::to_owned))
            }
        };
        shown.filter(|text| !text.is_empty())
    }

    /// The word for the value on a command line.
    pub fn value_word(self) -> &'static str {
        match self {
            Self::Count { .. } => "COUNT",
            Self::Bytes { .. } => "BYTES",
            Self::CountList { .. } | Self::BlockList { .. } => "LIST",
            Self::Time { .. } => "TIME",
            Self::Flag => "0|1",
            Self::Word(_) | Self::Direct => "WORD",
            Self::Op => "OP",
            Self::Mix => "OP:WEIGHT,...",
            Self::Cpus => "CPUS",
            Self::Endpoints => "HOST:PORT,...",
            Self::Path => "FOLDER",
        }
    }
}

/// What is allowed, in words.
impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Count { min, max } => write!(out, "{} to {}", short(min), short(max)),
            Self::Bytes { min, max } => {
                write!(out, "{} to {} bytes", short_binary(min), short_binary(max))
            }
            Self::CountList { min, max } => write!(
                out,
                "numbers from {} to {}, with commas",
                short(min),
                short(max)
            ),
            Self::BlockList { unit, max } => write!(
                out,
                "multiples of {} up to {}, with commas",
                short_binary(unit),
                short_binary(max)
            ),
            Self::Time { min_ms, max_ms } => {
                let time = |ms| humantime::format_duration(Duration::from_millis(ms));
                write!(out, "{} to {}", time(min_ms), time(max_ms))
            }
            Self::Flag => out.write_str("0 or 1"),
            Self::Word(words) => out.write_str(&words.join(", ")),
            Self::Direct => out.write_str("1 (direct), 0 (buffered) or both"),
            Self::Op => out.write_str(&Op::ALL.map(Op::name).join(", ")),
            Self::Mix => {
                let ops = MIX_OPS.map(Op::name).join(", ");
                write!(out, "op:weight with commas, of the ops {ops}")
            }
            Self::Cpus => out.write_str("CPU numbers, such as 0,2-3"),
            Self::Endpoints => out.write_str("host:port with commas, without TLS"),
            Self::Path => out.write_str("a folder"),
        }
    }
}

fn count(text: &str) -> Option<u64> {
    Config::new().with_decimal().parse_size(text).ok()
}

/// A number of bytes; suffixes are powers of 1,024.
pub fn bytes(text: &str) -> Option<u64> {
    Config::new().with_binary().parse_size(text).ok()
}

/// A time with its unit, or in seconds.
pub fn milliseconds(text: &str) -> Option<u64> {
    let duration = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text).ok()?,
    };
    u64::try_from(duration.as_millis()).ok()
}

fn list<T: serde::Serialize>(text: &str, part: impl Fn(&str) -> Option<T>) -> Option<Value> {
    let parts: Option<Vec<T>> = text.split(',').map(|text| part(text.trim())).collect();
    Some(json!(parts?))
}

fn mix_part(text: &str) -> Option<MixPart> {
    let (op, weight) = text.split_once(':')?;
    let op = Op::named(op).filter(|op| MIX_OPS.contains(op))?;
    let weight = weight.parse().ok().filter(|&weight| weight > 0)?;
    Some(MixPart { op, weight })
}

/// Sorted, each once. Nothing stands for any CPU.
fn cpus(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > CPU_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

fn endpoint(text: &str) -> Option<String> {
    let address = text.strip_prefix("http://").unwrap_or(text);
    let (host, port) = address.trim_end_matches('/').rsplit_once(':')?;
    let is_named = !host.is_empty() && !host.contains('/');
    (is_named && port.parse::<u16>().is_ok_and(|port| port > 0)).then(|| format!("{host}:{port}"))
}

/// A value, or the values of a list with commas.
fn join(value: &Value, show: impl Fn(&Value) -> Option<String>) -> Option<String> {
    match value {
        Value::Array(parts) => {
            let parts: Option<Vec<String>> = parts.iter().map(show).collect();
            Some(parts?.join(","))
        }
        one => show(one),
    }
}

/// A number as it would be written with a suffix, if that loses nothing.
fn short(value: u64) -> String {
    with_suffix(value, 1_000)
}

fn short_binary(value: u64) -> String {
    with_suffix(value, 1_024)
}

fn with_suffix(mut value: u64, base: u64) -> String {
    let mut suffixes = ["", "k", "m", "g", "t"].into_iter();
    let mut suffix = suffixes.next().unwrap_or_default();
    while value > 0 && value.is_multiple_of(base) {
        let Some(next) = suffixes.next() else { break };
        (value, suffix) = (value / base, next);
    }
    format!("{value}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: Kind = Kind::Count {
        min: 1,
        max: 1_000_000,
    };
    const BYTES: Kind = Kind::Bytes {
        min: 0,
        max: 1 << 20,
    };
    const BLOCKS: Kind = Kind::BlockList {
        unit: 4 << 10,
        max: 1 << 20,
    };
    const TIME: Kind = Kind::Time {
        min_ms: 0,
        max_ms: 3_600_000,
    };

    #[test]
    fn values_of_each_kind_are_read_and_shown() {
        let good = [
            (COUNT, "100k", json!(100_000)),
            (BYTES, "4k", json!(4_096)),
            (BYTES, "0", json!(0)),
            (TIME, "10", json!(10_000)),
            (TIME, "1500ms", json!(1_500)),
            (TIME, "5m", json!(300_000)),
            (Kind::Flag, "1", json!(true)),
            (Kind::Direct, "0", json!("buffered")),
            (Kind::Op, "kube-1k-nodes", json!("kube-1k-nodes")),
            (
                Kind::Mix,
                "range:3, put:1",
                json!([{"op": "range", "weight": 3}, {"op": "put", "weight": 1}]),
            ),
            (Kind::Cpus, "2-3,0,3", json!([0, 2, 3])),
            (Kind::Cpus, "", json!([])),
            (
                Kind::Endpoints,
                "http://a:1/,[::1]:2379",
                json!(["a:1", "[::1]:2379"]),
            ),
            (BLOCKS, "4k,1m", json!([4_096, 1 << 20])),
        ];
        for (kind, text, value) in good {
            assert_eq!(kind.parse(text), Some(value.clone()), "{text}");
            let again = kind.show(&value).and_then(|shown| kind.parse(&shown));
            assert!(
                again == Some(value) || text.is_empty(),
                "{text} is shown as {again:?}"
            );
        }
        assert_eq!(COUNT.show(&json!(100_000)).as_deref(), Some("100k"));
        assert_eq!(COUNT.show(&Value::Null), None);
    }

    #[test]
    fn values_of_another_kind_or_size_are_none() {
        let bad = [
            (BLOCKS, "4k,5000"),
            (BLOCKS, "2m"),
            (COUNT, "0"),
            (COUNT, "2m"),
            (COUNT, "ten"),
            (COUNT, "-1"),
            (BYTES, "2m"),
            (TIME, "2h"),
            (TIME, "5 parsecs"),
            (Kind::Flag, "yes"),
            (Kind::Mix, "range"),
            (Kind::Mix, "watch:1"),
            (Kind::Mix, "put:0"),
            (Kind::Cpus, "3-1"),
            (Kind::Cpus, "5000"),
            (Kind::Endpoints, "https://a:1"),
            (Kind::Endpoints, "localhost"),
            (Kind::Path, ""),
        ];
        for (kind, text) in bad {
            assert_eq!(kind.parse(text), None, "{text}");
        }
    }

    #[test]
    fn limits_are_told_as_one_would_write_them() {
        let bytes = Kind::Bytes {
            min: 512,
            max: 1 << 20,
        };
        assert_eq!(bytes.to_string(), "512 to 1m bytes");
        let count = Kind::Count {
            min: 1,
            max: 1_000_000_000,
        };
        assert_eq!(count.to_string(), "1 to 1g");
        let time = Kind::Time {
            min_ms: 0,
            max_ms: 3_600_000,
        };
        assert_eq!(time.to_string(), "0s to 1h");
    }
}
