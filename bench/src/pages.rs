//! `jobs` and `report`: commands that only show what is there.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::cli::{JobsOptions, ReportOptions};
use crate::job::{SHIPPED, listing, markdown, shipped, summary};
use crate::report::{Document, page};

/// Lists jobs or keys, or prints a job.
pub fn jobs(options: &JobsOptions) -> Result<()> {
    if options.markdown {
        print!("{}", markdown());
    } else if options.keys {
        print!("{}", listing());
    } else if let Some(name) = &options.job {
        let Some(text) = shipped(name) else {
            bail!("there is no job {name}: `keelson-bench jobs` lists all");
        };
        print!("{text}");
    } else {
        let width = SHIPPED
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or(0);
        for (name, text) in SHIPPED {
            println!("{name:width$}  {}", summary(text));
        }
    }
    Ok(())
}

/// Makes the page of some results.
pub fn report(options: &ReportOptions) -> Result<()> {
    let mut results = Vec::new();
    for path in &options.results {
        let read = || -> Result<Document> { Document::from_json(&fs::read_to_string(path)?) };
        let name = path.display().to_string();
        results.push((
            name.clone(),
            read().with_context(|| format!("cannot use {name}"))?,
        ));
    }
    let path = &options.output;
    fs::write(path, page(&results)?).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}
