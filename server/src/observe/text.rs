//! The Prometheus text format, version 0.0.4.
//!
//! Numbers are written as the Go client library writes them, shortest digits and an exponent from
//! six digits on, so that bucket labels such as `le="1.048576e+06"` are the ones that dashboards
//! and recording rules already know.

use std::fmt::Write as _;

use super::cells::{Histogram, Shape};

/// The power of ten from which Go writes an exponent.
const EXPONENT_FROM: i32 = 6;

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a family's samples are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FamilyKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl FamilyKind {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Labels of one sample: names with values.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A metrics page being written.
#[derive(Debug, Default)]
pub(super) struct Text {
    out: String,
}

impl Text {
    /// Room for a page of about the given size.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self {
            out: String::with_capacity(bytes),
        }
    }

    /// The finished page.
    pub(super) fn finish(self) -> String {
        self.out
    }

    /// Begins a family.
    pub(super) fn family(&mut self, name: &str, kind: FamilyKind, help: &str) {
        debug_assert!(
            !help.contains(['\n', '\\']),
            "help texts are one plain line: {name}"
        );
        self.out.push_str("# HELP ");
        self.out.push_str(name);
        self.out.push(' ');
        self.out.push_str(help);
        self.out.push_str("\n# TYPE ");
        self.out.push_str(name);
        self.out.push(' ');
        self.out.push_str(kind.word());
        self.out.push('\n');
    }

    /// Writes one sample.
    pub(super) fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.line(name, "", labels, None, value);
    }

    /// Writes the samples of one histogram: cumulated buckets, sum, count.
    pub(super) fn histogram(&mut self, name: &str, labels: Labels<'_>, sums: &HistogramSums) {
        let mut cumulated = 0;
        for (index, bound) in sums.shape.bounds().enumerate() {
            cumulated += sums.buckets[index];
            self.line(
                name,
                "_bucket",
                labels,
                Some(&go_float(bound)),
                cumulated as f64,
            );
        }
        let count: u64 = sums.buckets.iter().sum();
        self.line(name, "_bucket", labels, Some("+Inf"), count as f64);
        self.line(name, "_sum", labels, None, sums.shape.shown(sums.sum_raw));
        self.line(name, "_count", labels, None, count as f64);
    }

    fn line(&mut self, name: &str, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: f64) {
        self.out.push_str(name);
        self.out.push_str(suffix);
        let pairs = labels.iter().copied().chain(le.map(|bound| ("le", bound)));
        let mut separator = '{';
        for (label, text) in pairs {
            self.out.push(separator);
            separator = ',';
            let _infallible = write!(self.out, "{label}=\"{}\"", escaped(text));
        }
        if separator == ',' {
            self.out.push('}');
        }
        self.out.push(' ');
        self.out.push_str(&go_float(value));
        self.out.push('\n');
    }
}

/// One histogram summed over the cores.
#[derive(Debug)]
pub(super) struct HistogramSums {
    /// The buckets' bounds.
    pub(super) shape: Shape,
    /// Observations in each bucket, the infinite one last.
    pub(super) buckets: Vec<u64>,
    /// Sum of the observations in raw units.
    pub(super) sum_raw: u64,
}

impl HistogramSums {
    /// Of one histogram alone.
    pub(super) fn of(histogram: &Histogram) -> Self {
        Self {
            shape: *histogram.shape(),
            buckets: histogram.bucket_counts().collect(),
            sum_raw: histogram.sum_raw(),
        }
    }
}

/// Escapes a label value.
fn escaped(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains(['\\', '"', '\n']) {
        text.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
            .into()
    } else {
        text.into()
    }
}

/// Writes a number as Go's `strconv.FormatFloat(value, 'g', -1, 64)` does.
fn go_float(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific
        .split_once('e')
        .expect("Rust writes an exponent for every finite float");
    let exponent: i32 = exponent.parse().expect("the exponent is a small integer");
    if (-4..EXPONENT_FROM).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_like_those_of_the_go_library() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (0.001, "0.001"),
            (8.192, "8.192"),
            (0.0001, "0.0001"),
            (0.000016, "1.6e-05"),
            (123_456.0, "123456"),
            (1_048_576.0, "1.048576e+06"),
            (8_388_608.0, "8.388608e+06"),
            (2_147_483_648.0, "2.147483648e+09"),
            (1e6, "1e+06"),
            (1e21, "1e+21"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(go_float(value), text);
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let mut text = Text::default();
        text.sample("m", &[("a", "x\"y\\z\n"), ("b", "")], 2.5);
        assert_eq!(text.finish(), "m{a=\"x\\\"y\\\\z\\n\",b=\"\"} 2.5\n");
    }

    #[test]
    fn buckets_are_cumulated() {
        let mut text = Text::default();
        text.family("h", FamilyKind::Histogram, "Some times.");
        let sums = HistogramSums {
            shape: Shape::seconds(std::time::Duration::from_millis(1), 2),
            buckets: vec![1, 0, 2],
            sum_raw: 7_500_000,
        };
        text.histogram("h", &[("op", "Put")], &sums);
        assert_eq!(
            text.finish(),
            "# HELP h Some times.\n# TYPE h histogram\n\
             h_bucket{op=\"Put\",le=\"0.001\"} 1\nh_bucket{op=\"Put\",le=\"0.002\"} 1\n\
             h_bucket{op=\"Put\",le=\"+Inf\"} 3\nh_sum{op=\"Put\"} 0.0075\nh_count{op=\"Put\"} 3\n"
        );
    }
}
