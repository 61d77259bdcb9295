//! How results reach a person or a program.
//!
//! ```text
//!   document    the JSON document of `run` and `compare`: all that was measured, and on what
//!   figures     which figures are compared, and the ratios over the rounds
//!   text        a document as fio would print it
//!   html        documents as one page that needs no network; charts draws its pictures
//!   terminal    aligned tables, numbers, progress lines
//! ```

mod charts;
mod document;
mod figures;
mod html;
mod terminal;
mod text;

#[cfg(test)]
mod report_tests;

pub use document::{
    CloneRound, Contender, DiskProbe, Document, JobResult, Round, ServerUse, StepRound,
};
pub use html::page;
pub use terminal::{
    PROGRESS_INTERVAL, Table, fail_on_errors, number, print_json, progress, spinner,
    spread as ratio_spread,
};
pub use text::{spec_text, text};
