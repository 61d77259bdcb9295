//! How results reach a person: aligned tables, JSON, and a progress line on a terminal.

use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::stats::{Errors, Spread};

/// How often a progress line is brought up to date.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A progress line on stderr, silent if that is no terminal.
pub fn progress(length: u64, template: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    ProgressBar::new(length).with_style(style)
}

/// A line on stderr for work of unknown length: what it is, and for how long it has gone on.
pub fn spinner(what: String) -> ProgressBar {
    let bar = progress(0, "{msg} {spinner} {elapsed}");
    bar.set_message(what);
    bar.enable_steady_tick(PROGRESS_INTERVAL);
    bar
}

/// Prints a result as JSON.
pub fn print_json(result: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(result)?);
    Ok(())
}

/// Rows of text in columns: the first to the left, the others to the right.
#[derive(Default)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }

    /// The table, one line a row.
    pub fn render(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| {
                    if column == 0 {
                        format!("{cell:<width$}")
                    } else {
                        format!("  {cell:>width$}")
                    }
                });
            format!("{}\n", cells.collect::<String>().trim_end())
        };
        self.0.iter().map(line).collect()
    }
}

/// A number with about four significant digits, thousands set apart.
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 1_000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 1.0 || size == 0.0 => 2,
        _ => 4,
    };
    grouped(&format!("{value:.decimals$}"))
}

/// A number of things, thousands set apart.
pub fn count(value: u64) -> String {
    grouped(&value.to_string())
}

fn grouped(text: &str) -> String {
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut out = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// Words in lines of a length, those after the first indented.
pub fn wrapped(text: &str, chars_max: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        if used > 0 && used + 1 + word.len() > chars_max {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            used = indent;
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += word.len();
    }
    out
}

/// `median (min .. max)` of ratios, a dash if there is none.
pub fn spread(spread: Option<Spread>) -> String {
    match spread {
        Some(Spread { median, min, max }) => {
            format!("{} ({} .. {})", ratio(median), ratio(min), ratio(max))
        }
        None => "-".to_owned(),
    }
}

/// A ratio with three significant digits.
pub fn ratio(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.1 => 3,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// Fails if there were errors, telling each by its code.
pub fn fail_on_errors(who: &str, errors: &Errors, first: Option<&str>) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let counts: Vec<String> = errors
        .iter()
        .map(|(code, count)| format!("{count} {code}"))
        .collect();
    bail!(
        "{who}: errors: {} (first: {})",
        counts.join(", "),
        first.unwrap_or("unknown")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_grouped() {
        let cases = [
            (0.0, "0.00"),
            (0.01234, "0.0123"),
            (7.456, "7.46"),
            (123.44, "123.4"),
            (1234.5, "1,234"),
            (-1_234_567.0, "-1,234,567"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!([7, 1_234_567].map(count), ["7", "1,234,567"]);
    }

    #[test]
    fn ratios_have_three_digits() {
        let texts = [0.0, 0.0123, 0.648_3, 1.651, 12.34, 123.4].map(ratio);
        assert_eq!(texts, ["0", "0.0123", "0.648", "1.65", "12.3", "123"]);
    }

    #[test]
    fn tables_line_up() {
        let mut table = Table::default();
        table.row(["".into(), "a".into(), "long".into()]);
        table.row(["name".into(), "123".into()]);
        assert_eq!(table.render(), "        a  long\nname  123\n");
    }

    #[test]
    fn long_lines_are_broken_between_words() {
        assert_eq!(wrapped("ab cd ef g", 6, 2), "ab cd\n  ef g");
        assert_eq!(wrapped("abcdefgh i", 6, 2), "abcdefgh\n  i");
    }

    #[test]
    fn errors_fail_a_run() {
        assert!(fail_on_errors("etcd", &Errors::new(), None).is_ok());
        let errors = Errors::from([("Unavailable".to_owned(), 2)]);
        let failure = fail_on_errors("etcd", &errors, Some("gone")).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "etcd: errors: 2 Unavailable (first: gone)"
        );
    }
}
