//! What the demo writes: headings, commands as typed, and what they print.

use std::io::{self, IsTerminal as _, Write as _};

/// The terminal, or whatever standard output is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    terminal: bool,
}

impl Screen {
    /// Standard output.
    pub(crate) fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
        }
    }

    /// Whether lines can be redrawn.
    pub(crate) fn is_terminal(self) -> bool {
        self.terminal
    }

    /// The beginning of a part of the story.
    pub(crate) fn heading(self, text: &str) {
        self.line("");
        self.line(&self.bold(&format!("# {text}")));
    }

    /// A command as a user types it.
    pub(crate) fn typed(self, command: &str) {
        self.line("");
        self.line(&self.bold(&format!("$ {command}")));
    }

    /// A line. Nothing happens when nobody reads it any more: a demo piped into `head` still ends
    /// in order.
    #[expect(
        clippy::unused_self,
        reason = "callers write to a screen, whatever that is"
    )]
    pub(crate) fn line(self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }

    fn bold(self, text: &str) -> String {
        if self.terminal {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
