//! The settings with their defaults as a text to read, which is a profile as well.
//!
//! `tuning/DEFAULTS.toml` is this text, and `keelson config defaults` prints it: whoever writes a
//! profile begins with a copy. A test compares file and code.

use std::fmt::Write as _;

use crate::settings::SETTINGS;

const HEAD: &str = "\
# Every setting that a profile can hold, at its default. Written from the code:
#   keelson config defaults > tuning/DEFAULTS.toml
# A profile holds the settings that differ; flags, environment and config file come before it.

# Cores to run on: \"auto\" (half of them), \"all\", a count such as 2, or a list such as \"0,2-3\"
# whose first core is the engine's.
cores = \"auto\"
";

/// The width of a line of comment, `# ` included.
const WIDTH: usize = 100;

/// The text.
#[must_use]
pub fn defaults_document() -> String {
    let mut out = HEAD.to_owned();
    for rows in SETTINGS {
        let section = rows.first().expect("a section has settings").section;
        let _infallible = write!(out, "\n[{section}]\n");
        for row in *rows {
            comment(&mut out, row.help);
            let _infallible = writeln!(
                out,
                "# From {} to {}.\n{} = {}",
                row.min, row.max, row.key, row.default
            );
        }
    }
    out
}

/// Writes a text as lines of comment.
fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Profile, ProfileKey, Tuning};

    #[test]
    fn the_file_is_what_the_code_says() {
        assert!(
            include_str!("../DEFAULTS.toml") == defaults_document(),
            "run: cargo run -- config defaults > tuning/DEFAULTS.toml"
        );
    }

    #[test]
    fn it_is_a_profile_with_every_setting_at_its_default() {
        let profile = Profile::parse("DEFAULTS.toml", &defaults_document()).unwrap();
        let settings = SETTINGS.iter().copied().flatten().count();
        assert_eq!(
            profile.values.len(),
            settings + 1,
            "all settings and the cores"
        );
        for value in &profile.values {
            if let ProfileKey::Setting(setting, number) = value.key {
                assert_eq!(number, setting.default, "{}", setting.name());
            }
        }
        let mut tuning = Tuning::default();
        profile.apply(&mut tuning);
        assert_eq!(tuning, Tuning::default());
        assert!(defaults_document().lines().all(|line| line.len() <= WIDTH));
    }
}
