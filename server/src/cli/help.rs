//! The text of `--help`, written from the flag table.

use std::fmt::Write as _;

use crate::config::{Flag, GROUPS, Standing, all_flags};

const USAGE: &str = "\
Usage:

  keelson [flags]
    Start a member.

  keelson config show [flags] [--output text|json|yaml]
    Show every setting with the value that a member with these flags would use, and where it comes
    from. The YAML is a config file.

  keelson config profiles | keelson config profile NAME
    List the profiles, or show one.

  keelson config defaults
    Show what a profile may hold, with defaults and limits, in the form of one.

  keelson doctor [flags] [--output text|json]
    Look at this machine: whether a member with these flags can start, and what would help it. Exits
    with 0 if it can, with 1 if it cannot, with 2 if the flags make no sense.

  keelson snapshot save FILE [--endpoints HOST:PORT]
  keelson snapshot status FILE [-w simple|json|table]
  keelson snapshot restore FILE --data-dir DIR [--bump-revision N --mark-compacted] [...]
    Take a backup of a running member, look at one, make the data directory of a new cluster of one.
    keelson snapshot restore --help shows all flags.

  keelson snapshot import SOURCE --data-dir DIR [--without-auth] [--skip-hash-check] [...]
  keelson snapshot export FILE --from BACKUP|--data-dir DIR [--shard NAME]
    Take over what an etcd held, from its snapshot or stopped data directory; make a snapshot of
    etcd's for etcdutl.

  keelson inspect verify|dump-wal|dump-snapshot|hash --data-dir DIR [-w simple|json]
    Look into the data directory of a stopped member, and change nothing there. The last two look at
    one shard: main, or --shard NAME.

  keelson --version | keelson version
    Show the versions: Keelson's own and that of the etcd API it serves.

  keelson --help | keelson help
    Show this text.

Every flag can also be given as an environment variable, --name as ETCD_NAME and Keelson's own
--cores as KEELSON_CORES, and as a key of the YAML file named by --config-file. Flags come before
variables, and both before a profile; with a config file, other flags and variables are left aside,
--profile too: the file names its own.
";

/// The whole text.
pub(super) fn text() -> String {
    let mut out = USAGE.to_owned();
    for group in GROUPS {
        let described = |flag: &&Flag| flag.group == group && !flag.help.is_empty();
        let mut flags = all_flags().iter().filter(described).peekable();
        if flags.peek().is_some() {
            let _infallible = write!(out, "\n{}:\n", group.heading());
        }
        for flag in flags {
            let _infallible = write!(
                out,
                "  --{} '{}'\n{}",
                flag.name,
                flag.default,
                wrapped(flag.help)
            );
        }
    }
    out.push_str("\nFlags of etcd that are accepted and change nothing:\n");
    out.push_str(&names(|flag| matches!(flag.standing, Standing::Idle(_))));
    out.push_str("\nFlags of etcd that are not supported yet; only their defaults are accepted:\n");
    out.push_str(&names(|flag| matches!(flag.standing, Standing::Later(_))));
    out
}

fn names(wanted: impl Fn(&Flag) -> bool) -> String {
    let names: Vec<&str> = all_flags()
        .iter()
        .filter(|flag| wanted(flag))
        .map(|flag| flag.name)
        .collect();
    filled(&names.join(", "), "  ")
}

fn wrapped(help: &str) -> String {
    filled(help, "    ")
}

/// Breaks a text into indented lines.
fn filled(text: &str, indent: &str) -> String {
    const WIDTH: usize = 100;
    let mut out = String::new();
    let mut line = indent.to_owned();
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH && line.len() > indent.len() {
            out.push_str(&line);
            out.push('\n');
            line = indent.to_owned();
        }
        if line.len() > indent.len() {
            line.push(' ');
        }
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_grouped_and_names_every_used_flag() {
        let text = text();
        for heading in [
            "\nMember:\n",
            "\nClustering:\n",
            "\nLogging:\n",
            "\nKeelson:\n",
        ] {
            assert!(text.contains(heading), "{heading}");
        }
        for flag in all_flags() {
            if matches!(flag.standing, Standing::Used | Standing::Tuning(_)) {
                assert!(
                    text.contains(&format!("\n  --{} '", flag.name)),
                    "{}",
                    flag.name
                );
                assert!(!flag.help.is_empty(), "{}", flag.name);
            }
        }
        assert!(text.lines().all(|line| line.len() <= 100));
        assert!(text.contains("  --name 'default'\n    Name of this member.\n"));
    }
}
