//! A progress bar, where somebody looks: on a terminal, on standard error.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of bytes; a spinner while the total is not known.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(what: &'static str, total: Option<u64>) -> Self {
        let bar = ProgressBar::no_length();
        bar.set_message(what);
        let bar = Self(bar);
        bar.total(total);
        bar
    }

    pub(super) fn total(&self, total: Option<u64>) {
        if self.0.length() == total && self.0.position() > 0 {
            return;
        }
        let template = match total {
            Some(_) => {
                "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}"
            }
            None => "{msg} {spinner} {decimal_bytes} {decimal_bytes_per_sec}",
        };
        // The templates above are good; a bar that is not would be drawn in indicatif's own way.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
        match total {
            Some(total) => self.0.set_length(total),
            None => self.0.unset_length(),
        }
    }

    pub(super) fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    pub(super) fn message(&self, what: &'static str) {
        self.0.set_message(what);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
