//! Owns: laying out lines: width, colour, sections. Must not: know what a report is.

use unicode_width::UnicodeWidthStr;

use super::alike::{self, Cause};
use crate::model::Failure;
use crate::model::command::{typed, unbroken};
use crate::report::table::printable;

/// Columns of a line without a terminal.
pub const WIDTH: usize = 100;

/// Where a page is shown, which decides how a [`Paint`] is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A file, a pipe, a mail: not at all.
    Plain,
    /// A terminal: as a colour.
    Colour,
    /// The journal: as the priority of the line, sd-daemon(3).
    Journal,
}

/// How much attention text needs.
#[derive(Clone, Copy)]
pub enum Paint {
    Plain,
    Good,
    Warn,
    Bad,
}

/// The text so far. Every line passes through here, so that all of them are safe for a terminal.
pub struct Page {
    out: String,
    style: Style,
    width: usize,
    /// That of lines without their own.
    paint: Paint,
}

impl Page {
    pub fn new(style: Style, width: usize) -> Page {
        Page { out: String::new(), style, width, paint: Paint::Plain }
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn finish(self) -> String {
        self.out
    }

    /// A line that is known to fit.
    pub fn line(&mut self, line: &str) {
        self.begin(self.paint);
        self.out.push_str(line);
        self.out.push('\n');
    }

    /// Writes the priority of a line that begins.
    fn begin(&mut self, paint: Paint) {
        if self.style == Style::Journal && (self.out.is_empty() || self.out.ends_with('\n')) {
            self.out.push_str(match paint {
                Paint::Plain | Paint::Good => "<6>",
                Paint::Warn => "<4>",
                Paint::Bad => "<3>",
            });
        }
    }

    /// An empty line, or the end of a started one.
    pub fn blank(&mut self) {
        self.out.push('\n');
    }

    pub fn painted(&mut self, paint: Paint, line: &str) {
        self.start(paint, line);
        self.blank();
    }

    /// Coloured text that starts a line.
    pub fn start(&mut self, paint: Paint, text: &str) {
        let code = match paint {
            Paint::Plain => "1",
            Paint::Good => "32",
            Paint::Warn => "33",
            Paint::Bad => "1;31",
        };
        self.begin(paint);
        match self.style == Style::Colour {
            true => self.out.push_str(&format!("\x1b[{code}m{text}\x1b[0m")),
            false => self.out.push_str(text),
        }
    }

    /// A title and its entries, each a name and a failure with its hint; nothing without entries.
    pub fn section(&mut self, title: &str, paint: Paint, entries: impl Iterator<Item = (String, Failure)>) {
        let causes = alike::causes(entries);
        if causes.is_empty() {
            return;
        }
        self.blank();
        self.painted(paint, title);
        self.paint = paint;
        for cause in causes {
            match cause {
                Cause::One(who, failure) => self.failure(&who, &failure),
                Cause::Shared(names, failure) => {
                    self.failure("", &failure);
                    self.wrapped("    ", "    ", &format!("these {}: {}", names.len(), names.join(", ")));
                }
            }
        }
        self.paint = Paint::Plain;
    }

    fn failure(&mut self, who: &str, failure: &Failure) {
        let who = if who.is_empty() || names(&failure.message, who) { String::new() } else { format!("{who}: ") };
        self.wrapped("  ", "    ", &format!("{who}{}", failure.message));
        if let Some(hint) = &failure.hint {
            self.wrapped("    hint: ", "    ", hint);
        }
    }

    /// A title and a list of words; nothing without words.
    pub fn list<'a>(&mut self, title: &str, words: impl Iterator<Item = &'a str>) {
        let words: Vec<&str> = words.collect();
        if !words.is_empty() {
            self.wrapped("", "  ", &format!("{title}: {}", words.join(", ")));
        }
    }

    /// Breaks a line between words so that it fits; a word or command that is too long for a line stays whole, so
    /// that it can be copied.
    fn wrapped(&mut self, first: &str, next: &str, text: &str) {
        let mut line = first.to_owned();
        let mut is_empty = true;
        for word in unbroken(&typed(&printable(text))) {
            if !is_empty && line.width() + 1 + word.width() > self.width {
                self.line(&line);
                line = next.to_owned();
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
        self.line(&line);
    }
}

/// Whether a message names its domain itself, as most errors do: `web: …`, `domain web: …`, `` `web` ``. A name that only occurs in
/// the text by chance (`a`, `disk`) does not count.
fn names(message: &str, who: &str) -> bool {
    let start = format!("{who}: ");
    message.starts_with(&start) || [format!(" {start}"), format!("`{who}`")].iter().any(|form| message.contains(form))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_with_its_domain_once() {
        let told = |who: &str, message: &str| {
            let mut page = Page::new(Style::Plain, WIDTH);
            let failure = Failure { message: message.to_owned(), hint: None };
            page.section("T", Paint::Plain, std::iter::once((who.to_owned(), failure)));
            page.finish().lines().last().unwrap_or_default().trim().to_owned()
        };
        assert_eq!(told("a", "disk vda: read failed"), "a: disk vda: read failed");
        assert_eq!(told("web", "web: cannot freeze"), "web: cannot freeze");
        assert_eq!(told("web", "web-1: cannot freeze"), "web: web-1: cannot freeze");
        assert_eq!(told("web", "no disk of domain `web` can be saved"), "no disk of domain `web` can be saved");
        assert_eq!(told("web", "domain web: no free name"), "domain web: no free name");
        assert_eq!(told("", "m"), "m");
    }
}
