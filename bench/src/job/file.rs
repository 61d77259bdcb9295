//! Job files: INI in fio's manner, read into sections of settings that know their line.
//!
//! `[global]` may come several times; a section inherits what stands in those above it. Nothing is
//! judged here but the form and the words; [`super::resolve`] judges values, for whose kind the
//! section's operation must be known.

use std::fmt;

use ini_roundtrip::{Item, Parser};

use super::keys::Key;

const GLOBAL: &str = "global";
/// A job file is written by hand.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// The sections of one file, in its order.
#[derive(Debug)]
pub struct JobFile {
    /// As it was named.
    pub name: String,
    pub sections: Vec<Section>,
    /// What `[global]` set, all of it.
    pub globals: Vec<Setting>,
}

/// One job as it is written.
#[derive(Debug)]
pub struct Section {
    pub name: String,
    pub line: u32,
    /// How many of the file's globals stand above it.
    pub globals_count: usize,
    pub settings: Vec<Setting>,
}

/// One `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub word: String,
    pub value: String,
    /// In the file; None on the command line.
    pub line: Option<u32>,
}

/// What is wrong with a job, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A file, or the command line.
    pub place: String,
    pub line: Option<u32>,
    pub text: String,
}

/// All that is wrong with the jobs of one call, a line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl JobFile {
    /// Reads the text of a file.
    pub fn read(name: &str, text: &str) -> Result<Self, Problems> {
        let mut reader = Reader {
            file: Self {
                name: name.to_owned(),
                sections: Vec::new(),
                globals: Vec::new(),
            },
            place: Place::Nowhere,
            problems: Vec::new(),
        };
        // The parser counts a line at its end, so the last one needs one too.
        let text = format!("{text}\n");
        let mut parser = Parser::new(&text);
        while let Some(item) = parser.next() {
            reader.take(parser.line(), &item);
        }
        reader.finish()
    }
}

/// Where the next setting belongs.
enum Place {
    Nowhere,
    Global,
    Section,
}

struct Reader {
    file: JobFile,
    place: Place,
    problems: Vec<Problem>,
}

impl Reader {
    fn take(&mut self, line: u32, item: &Item<'_>) {
        match *item {
            Item::Error(text) => self.complain(line, format!("{text:?} is no [section]")),
            Item::Section { name, .. } => self.begin_section(line, name),
            // A comment that is indented.
            Item::Property { key, .. } if key.starts_with([';', '#']) => {}
            Item::Property { key, val, .. } => self.set(line, key, val),
            Item::SectionEnd | Item::Comment { .. } | Item::Blank { .. } => {}
        }
    }

    fn begin_section(&mut self, line: u32, name: &str) {
        if name == GLOBAL {
            self.place = Place::Global;
            return;
        }
        self.place = Place::Section;
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if name.is_empty() || !name.chars().all(is_plain) {
            self.complain(
                line,
                format!("[{name}] is no name of a job: letters, digits, -, _ and . are allowed"),
            );
        }
        let earlier = self
            .file
            .sections
            .iter()
            .find(|section| section.name == name);
        if let Some(first) = earlier.map(|section| section.line) {
            self.complain(line, format!("[{name}] is there already, in line {first}"));
        }
        self.file.sections.push(Section {
            name: name.to_owned(),
            line,
            globals_count: self.file.globals.len(),
            settings: Vec::new(),
        });
    }

    fn set(&mut self, line: u32, word: &str, value: Option<&str>) {
        if Key::find_any(word).is_none() {
            return self.complain(line, unknown_key(word));
        }
        let setting = Setting {
            word: word.to_owned(),
            // As in fio, a key alone is a flag that is set.
            value: value.unwrap_or("1").to_owned(),
            line: Some(line),
        };
        let settings = match self.place {
            Place::Nowhere => {
                return self.complain(
                    line,
                    format!("{word} stands above the first section: put it under [global]"),
                );
            }
            Place::Global => &mut self.file.globals,
            Place::Section => {
                let section = self.file.sections.last_mut();
                &mut section
                    .expect("the place says that a section began")
                    .settings
            }
        };
        // Globals may change between two sections, and each line counts for those below it.
        let is_twice = !matches!(self.place, Place::Global)
            && settings.iter().any(|earlier| earlier.word == word);
        settings.push(setting);
        if is_twice {
            self.complain(line, format!("{word} is set twice in this section"));
        }
    }

    fn complain(&mut self, line: u32, text: String) {
        self.problems.push(Problem {
            place: self.file.name.clone(),
            line: Some(line),
            text,
        });
    }

    fn finish(mut self) -> Result<JobFile, Problems> {
        if self.problems.is_empty() && self.file.sections.is_empty() {
            let text = "holds no job: a job is a [section] with at least op=...".to_owned();
            self.problems.push(Problem {
                place: self.file.name.clone(),
                line: None,
                text,
            });
        }
        if self.problems.is_empty() {
            Ok(self.file)
        } else {
            Err(Problems(self.problems))
        }
    }
}

/// What to say of a word that is no key.
fn unknown_key(word: &str) -> String {
    match Key::nearest(word) {
        Some(nearest) => format!("unknown key {word}: did you mean {nearest}?"),
        None => format!("unknown key {word}: `keelson-bench jobs --keys` lists all"),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(out, "{}:{line}: {}", self.place, self.text),
            None => write!(out, "{}: {}", self.place, self.text),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        out.write_str(&lines.join("\n"))
    }
}
