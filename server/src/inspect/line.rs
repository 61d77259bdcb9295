//! A line of output: a word for what it is about, and named values; as text or as JSON.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Stdout, Write};

use serde_json::{Map, Value};

use super::DumpOutput;

/// Something to print.
#[derive(Debug)]
pub(super) struct Line {
    what: &'static str,
    fields: Vec<(&'static str, Value)>,
    /// Lines that belong to this one, under a name.
    parts: Option<(&'static str, Vec<Line>)>,
}

impl Line {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            fields: Vec::new(),
            parts: None,
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// Bytes, as text in which what is not visible ASCII is escaped.
    pub(super) fn with_bytes(self, name: &'static str, bytes: &[u8]) -> Self {
        self.with(name, bytes.escape_ascii().to_string())
    }

    pub(super) fn with_parts(mut self, name: &'static str, parts: Vec<Line>) -> Self {
        self.parts = Some((name, parts));
        self
    }

    fn put_text(&self, indent: usize, out: &mut String) {
        let _infallible = write!(out, "{:indent$}{}", "", self.what);
        for (name, value) in &self.fields {
            let _infallible = match value {
                // Already escaped.
                Value::String(text) => write!(out, " {name}=\"{text}\""),
                other => write!(out, " {name}={other}"),
            };
        }
        out.push('\n');
        for part in self.parts.iter().flat_map(|(_, parts)| parts) {
            part.put_text(indent + 2, out);
        }
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("what".to_owned(), self.what.into());
        for (name, value) in &self.fields {
            object.insert((*name).to_owned(), value.clone());
        }
        if let Some((name, parts)) = &self.parts {
            let parts = parts.iter().map(Line::json).collect();
            object.insert((*name).to_owned(), Value::Array(parts));
        }
        Value::Object(object)
    }
}

/// Standard output.
#[derive(Debug)]
pub(super) struct Printer {
    out: BufWriter<Stdout>,
    output: DumpOutput,
    text: String,
}

impl Printer {
    pub(super) fn new(output: DumpOutput) -> Self {
        Self {
            out: BufWriter::new(io::stdout()),
            output,
            text: String::new(),
        }
    }

    pub(super) fn print(&mut self, line: &Line) -> io::Result<()> {
        self.text.clear();
        match self.output {
            DumpOutput::Simple => line.put_text(0, &mut self.text),
            DumpOutput::Json => {
                let _infallible = writeln!(self.text, "{}", line.json());
            }
        }
        self.out.write_all(self.text.as_bytes())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_text_or_json() {
        let line = Line::new("entry").with("index", 7).with_parts(
            "commands",
            vec![
                Line::new("put").with_bytes("key", b"a\x00\"b"),
                Line::new("tick"),
            ],
        );
        let mut text = String::new();
        line.put_text(0, &mut text);
        assert_eq!(text, "entry index=7\n  put key=\"a\\x00\\\"b\"\n  tick\n");
        let json = line.json();
        assert_eq!(json["what"], "entry");
        assert_eq!(json["index"], 7);
        assert_eq!(json["commands"][0]["key"], "a\\x00\\\"b");
        assert_eq!(json["commands"][1]["what"], "tick");
    }
}
