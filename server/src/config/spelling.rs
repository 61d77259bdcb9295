//! Go's spellings of durations and booleans, which etcd's flags use.

use std::time::Duration;

/// The units of a Go duration and their length in nanoseconds, the longest first.
const UNITS: [(&str, u64); 8] = [
    ("h", 3_600_000_000_000),
    ("ms", 1_000_000),
    ("m", 60_000_000_000),
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("s", 1_000_000_000),
];

/// Reads a Go duration such as `1h30m`, `100ms`, `1.5s` or `0`.
///
/// # Errors
/// A phrase that says what is wrong. Negative durations are refused: no setting has use for them.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const SHAPE: &str = "expected a duration such as 300ms, 10m or 1h30m";
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if unsigned.starts_with('-') {
        return Err("a duration cannot be negative".to_owned());
    }
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(SHAPE.to_owned());
    }
    let mut rest = unsigned;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        if tail.is_empty() && !number.is_empty() {
            return Err(format!("missing unit; {SHAPE}"));
        }
        let unit = UNITS.iter().find(|(unit, _)| tail.starts_with(unit));
        let (unit, nanos) = unit.ok_or_else(|| SHAPE.to_owned())?;
        let part = scaled(number, *nanos).ok_or_else(|| SHAPE.to_owned())?;
        total = total
            .checked_add(part)
            .ok_or_else(|| "the duration is too long".to_owned())?;
        rest = &tail[unit.len()..];
    }
    if total > i64::MAX as u64 {
        return Err("the duration is too long".to_owned());
    }
    Ok(Duration::from_nanos(total))
}

/// A decimal number times a unit, cut to whole nanoseconds.
fn scaled(number: &str, nanos: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut total = u128::from(whole) * u128::from(nanos);
    let mut place = u128::from(nanos);
    for digit in fraction.chars() {
        place /= 10;
        total += u128::from(digit.to_digit(10)?) * place;
    }
    u64::try_from(total).ok()
}

/// Writes a duration as Go does: `1h30m0s`, `10m0s`, `100ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return format!("{}\u{b5}s", decimal(nanos, 1_000));
    }
    if nanos < 1_000_000_000 {
        return format!("{}ms", decimal(nanos, 1_000_000));
    }
    let (minutes, below) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
    let seconds = decimal(below, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` with its fraction and no trailing zeros.
fn decimal(value: u128, unit: u128) -> String {
    let digits = unit.ilog10() as usize;
    let text = format!("{}.{:0digits$}", value / unit, value % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Reads a Go boolean.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("100ms", 100_000_000),
            ("1h30m", 5_400_000_000_000),
            ("2h", 7_200_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5m", 30_000_000_000),
            ("1h0m0.25s", 3_600_250_000_000),
            ("600000000000ns", 600_000_000_000),
            ("3us", 3_000),
            ("3\u{b5}s", 3_000),
            ("+1s", 1_000_000_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_nanos(nanos)),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "-1s",
            "s",
            "1x",
            "1h30",
            ".s",
            "1..2s",
            "999999999h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanos, text) in [
            (0, "0s"),
            (15, "15ns"),
            (1_500, "1.5\u{b5}s"),
            (100_000_000, "100ms"),
            (5_000_000_000, "5s"),
            (600_000_000_000, "10m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (3_600_250_000_000, "1h0m0.25s"),
        ] {
            assert_eq!(format_duration(Duration::from_nanos(nanos)), text);
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)));
        }
    }
}
