//! The process log: one line an event, in etcd's keys, on standard error.
//!
//! A line in JSON holds `level`, `ts`, `caller` (file and line), `msg`, and then the event's own
//! fields, so that what reads etcd's log reads this one. For people there is `--log-format
//! console`. The lines come from `tracing` events; [`init`] is called once, before the first.

use std::fmt;
use std::fmt::Write as _;
use std::io;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogConfig, LogFormat, LogLevel, LogOutput, Notice, NoticeLevel};

/// Logged once clients are served; supervisors and tests wait for it, as they do with etcd.
pub const READY: &str = "ready to serve client requests";

/// The log was set up before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process log is already set up")]
pub struct AlreadySetUp;

/// Sets up the process log.
///
/// # Errors
/// When it is set up already, by this function or by another subscriber.
pub fn init(config: &LogConfig) -> Result<(), AlreadySetUp> {
    let output = config.output;
    let writer = move || -> Box<dyn io::Write> {
        match output {
            LogOutput::Stderr => Box::new(io::stderr()),
            LogOutput::Stdout => Box::new(io::stdout()),
        }
    };
    let subscriber = subscriber(config.level, config.format, writer);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| AlreadySetUp)
}

/// Logs what the configuration had to say.
pub fn notices(notices: &[Notice]) {
    for notice in notices {
        match notice.level {
            NoticeLevel::Info => tracing::info!("{}", notice.text),
            NoticeLevel::Warn => tracing::warn!("{}", notice.text),
        }
    }
}

fn subscriber<W>(level: LogLevel, format: LogFormat, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_max_level(filter(level))
        .event_format(Line { format })
        .with_writer(writer)
        .finish()
}

/// Lines of panics and exits are no events, so the two highest levels let no event through.
fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Panic | LogLevel::Fatal => LevelFilter::OFF,
    }
}

/// Writes an event as one line.
struct Line {
    format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        match self.format {
            LogFormat::Json => write_json(&mut writer, metadata, &time, &fields),
            LogFormat::Console => write_console(&mut writer, metadata, &time, &fields),
        }
    }
}

fn write_json(
    writer: &mut Writer<'_>,
    metadata: &Metadata<'_>,
    time: &str,
    fields: &Fields,
) -> fmt::Result {
    write!(
        writer,
        "{{\"level\":\"{}\",\"ts\":\"{time}\",\"caller\":{},\"msg\":{}",
        level_word(*metadata.level()),
        Value::from(caller(metadata)),
        Value::from(fields.message.as_str()),
    )?;
    for (name, value) in &fields.others {
        write!(writer, ",{}:{value}", Value::from(name.as_str()))?;
    }
    writer.write_str("}\n")
}

fn write_console(
    writer: &mut Writer<'_>,
    metadata: &Metadata<'_>,
    time: &str,
    fields: &Fields,
) -> fmt::Result {
    let level = level_word(*metadata.level());
    write!(
        writer,
        "{time}\t{level}\t{}\t{}",
        caller(metadata),
        one_line(&fields.message)
    )?;
    if !fields.others.is_empty() {
        let others = Value::Object(fields.others.clone());
        write!(writer, "\t{others}")?;
    }
    writer.write_char('\n')
}

/// File and line as etcd shows them: the last two parts of the path.
fn caller(metadata: &Metadata<'_>) -> String {
    let (Some(file), Some(line)) = (metadata.file(), metadata.line()) else {
        return metadata.target().to_owned();
    };
    let mut parts = file.rsplitn(3, '/');
    let name = parts.next().unwrap_or(file);
    match parts.next() {
        Some(folder) => format!("{folder}/{name}:{line}"),
        None => format!("{name}:{line}"),
    }
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// Keeps a message on its line.
fn one_line(text: &str) -> String {
    text.replace('\n', "\\n")
}

/// An event's fields, sorted out.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        // A field may not take the place of one of the line's own keys.
        let name = match field.name() {
            name @ ("level" | "ts" | "caller" | "msg") => format!("{name}_"),
            name => name.to_owned(),
        };
        self.others.insert(name, value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _infallible = write!(self.message, "{value:?}");
        } else {
            self.put(field, Value::from(format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.put(field, Value::from(value));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, Value::from(value.to_string()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, format: LogFormat, body: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        tracing::subscriber::with_default(subscriber(level, format, move || writer.clone()), body);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_etcds_keys_and_the_events_fields() {
        let text = logged(LogLevel::Info, LogFormat::Json, || {
            tracing::info!(address = %"127.0.0.1:2379", count = 3u64, ts = true, "{READY}");
        });
        let line: Value = serde_json::from_str(text.trim_end()).unwrap();
        assert!(text.starts_with("{\"level\":\"info\",\"ts\":\"2"), "{text}");
        assert_eq!(line["msg"], READY);
        assert_eq!(line["address"], "127.0.0.1:2379");
        assert_eq!(line["count"], 3);
        assert_eq!(line["ts_"], true);
        assert!(line["ts"].as_str().unwrap().ends_with('Z'));
        assert!(
            line["caller"]
                .as_str()
                .unwrap()
                .starts_with("observe/log.rs:")
        );
    }

    #[test]
    fn levels_hold_lines_back() {
        for (level, lines) in [
            (LogLevel::Debug, 4),
            (LogLevel::Info, 3),
            (LogLevel::Warn, 2),
            (LogLevel::Error, 1),
            (LogLevel::Panic, 0),
            (LogLevel::Fatal, 0),
        ] {
            let text = logged(level, LogFormat::Console, || {
                tracing::error!("a");
                tracing::warn!("b");
                tracing::info!("c\nd");
                tracing::debug!(x = 1, "e");
            });
            assert_eq!(text.lines().count(), lines, "{level:?}: {text}");
        }
    }
}
