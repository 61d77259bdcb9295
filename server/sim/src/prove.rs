//! `sim --prove`: every deliberate bug is run until it is found.
//!
//! Each runs in a process of its own, because a broken assertion ends the process in a release build.

use std::process::{Command, ExitCode};

use keelson_storage::bugs::Bug;
use sim::run::seeds_to_find;

/// The bug of that name.
pub fn bug_of(name: &str) -> Bug {
    let mut all = Bug::ALL.into_iter();
    let found = all.find(|bug| format!("{bug:?}") == name);
    found.unwrap_or_else(|| {
        panic!(
            "no deliberate bug is called {name}; there are {:?}",
            Bug::ALL
        )
    })
}

/// Runs all of them and prints the table.
pub fn prove() -> ExitCode {
    let myself = std::env::current_exe().expect("this program has a file");
    let mut missed = 0;
    println!(
        "{:<34} {:>6} {:>8}  found as",
        "deliberate bug", "seeds", "at most"
    );
    for bug in Bug::ALL {
        let name = format!("{bug:?}");
        let at_most = seeds_to_find(bug);
        let output = Command::new(&myself)
            .args(["--bug", &name, "--seeds", &at_most.to_string(), "--first"])
            .output()
            .expect("this program runs once more");
        let output = String::from_utf8_lossy(&output.stdout);
        let finding = output
            .lines()
            .find_map(|line| line.strip_prefix("seed ")?.split_once(" violates "));
        match finding {
            Some((seed, what)) => {
                let what: String = what.chars().take(70).collect();
                println!("{name:<34} {seed:>6} {at_most:>8}  {what}");
            }
            None => {
                missed += 1;
                println!("{name:<34} {:>6} {at_most:>8}  NOT FOUND", "-");
            }
        }
    }
    match missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
