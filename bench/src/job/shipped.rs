//! Which jobs a call means: shipped ones by name, or those of a file; and the shipped ones' text.

use std::fs;
use std::path::Path;

use super::file::{FILE_BYTES_MAX, JobFile, Problem, Problems, Setting};
use super::resolve::Resolver;
use super::spec::JobSpec;

const EXTENSION: &str = ".fio";

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        /// Name and text of each job file that the tool carries.
        pub const SHIPPED: &[(&str, &str)] = &[
            $(($name, include_str!(concat!("../../jobs/", $name, ".fio"))),)+
        ];
    };
}

shipped!(
    "put-seq",
    "put-rand",
    "put-rand-1",
    "put-rand-long",
    "txn-update",
    "range-point",
    "range-list",
    "watch-fanout",
    "watch-latency",
    "lease-keepalive",
    "mixed",
    "kube-node-leases",
    "kube-pod-churn",
    "kube-1k-nodes",
    "disk",
);

/// The specs of all jobs that the arguments name, overrides applied.
pub fn jobs(arguments: &[String], overrides: &[Setting]) -> Result<Vec<JobSpec>, Problems> {
    let mut resolver = Resolver::new(overrides);
    let mut specs = Vec::new();
    for argument in arguments {
        let (file, section) = find(argument)?;
        if let Some(name) = &section
            && !file.sections.iter().any(|section| section.name == *name)
        {
            let names: Vec<&str> = file
                .sections
                .iter()
                .map(|section| section.name.as_str())
                .collect();
            return Err(complaint(
                &file.name,
                format!("has no [{name}], but {}", names.join(", ")),
            ));
        }
        let is_wanted = |name: &str| section.as_ref().is_none_or(|wanted| wanted == name);
        specs.extend(resolver.take(&file, |section| is_wanted(&section.name)));
    }
    resolver.finish(specs)
}

/// The shipped file of that name.
pub fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED
        .iter()
        .find(|(shipped, _)| *shipped == name)
        .map(|(_, text)| *text)
}

/// What a shipped file says it is: its first line.
pub fn summary(text: &str) -> &str {
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches(['#', ';', ' '])
}

/// The file that an argument means, and the one section of it that is wanted, if it says so.
fn find(argument: &str) -> Result<(JobFile, Option<String>), Problems> {
    let (name, section) = match argument.rsplit_once(':') {
        Some((name, section)) if !section.contains('/') => (name, Some(section.to_owned())),
        _ => (argument, None),
    };
    if let Some(text) = shipped(name) {
        return Ok((JobFile::read(&format!("{name}{EXTENSION}"), text)?, section));
    }
    if !Path::new(name).is_file() {
        return Err(complaint(name, not_found(name)));
    }
    let length = fs::metadata(name).map_or(0, |meta| meta.len());
    if length > FILE_BYTES_MAX {
        return Err(complaint(
            name,
            format!("is {length} bytes long: no job file"),
        ));
    }
    match fs::read_to_string(name) {
        Ok(text) => Ok((JobFile::read(name, &text)?, section)),
        Err(error) => Err(complaint(name, format!("cannot be read: {error}"))),
    }
}

fn not_found(name: &str) -> String {
    if name.contains('/') || name.ends_with(EXTENSION) {
        return "there is no such file".to_owned();
    }
    let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
    format!(
        "neither a job file nor one of the shipped jobs: {}",
        names.join(", ")
    )
}

fn complaint(place: &str, text: String) -> Problems {
    Problems(vec![Problem {
        place: place.to_owned(),
        line: None,
        text,
    }])
}
