//! The progress bar of everything that goes through a file.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of bytes on standard error; silent if that is no terminal.
pub(crate) fn bytes_bar(what: &'static str, bytes: u64) -> ProgressBar {
    let template = "{msg} [{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    let bar = ProgressBar::new(bytes).with_style(style.progress_chars("=> "));
    bar.set_message(what);
    bar
}
