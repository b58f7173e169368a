//! Owns: what a hook says: the newest part of it, and whether it said READY. Must not: read from a process.

use super::MAX_OUTPUT;

/// The line by which a session says that it holds.
pub(super) const READY: &[u8] = b"READY";
/// Bytes of a line that are logged at once; a longer one is logged in parts.
const MAX_LINE: usize = 4 << 10;

/// What a hook has said so far, in bounded memory.
#[derive(Debug, Default)]
pub(super) struct Output {
    kept: Vec<u8>,
    /// Something before `kept` was dropped.
    cut: bool,
    line: Vec<u8>,
    /// `line` continues one whose beginning was logged.
    in_parts: bool,
    ready: bool,
}

impl Output {
    /// Takes what it said next.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        // Twice the size, so that bytes are not moved at every push.
        if self.kept.len() > 2 * MAX_OUTPUT {
            self.kept.drain(..self.kept.len() - MAX_OUTPUT);
            self.cut = true;
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(MAX_LINE) {
                self.push_line(part);
            }
        }
    }

    /// Whether a whole line was READY.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// The newest part of it all.
    pub(super) fn into_text(mut self) -> String {
        self.end_line();
        if self.kept.len() > MAX_OUTPUT {
            self.kept.drain(..self.kept.len() - MAX_OUTPUT);
            self.cut = true;
        }
        text(&self.kept, self.cut)
    }

    /// `part` is at most one line, and ends with its line feed if it has come.
    fn push_line(&mut self, part: &[u8]) {
        let (part, ends) = part.strip_suffix(b"\n").map_or((part, false), |part| (part, true));
        if self.line.len() + part.len() > MAX_LINE {
            self.log();
            self.in_parts = true;
        }
        self.line.extend_from_slice(part);
        if ends {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        self.ready |= !self.in_parts && self.line.strip_suffix(b"\r").unwrap_or(&self.line) == READY;
        self.log();
        self.in_parts = false;
    }

    fn log(&mut self) {
        if !self.line.is_empty() {
            tracing::debug!("hook says: {}", text(&self.line, false));
            self.line.clear();
        }
    }
}

/// Bytes of a hook as text that a terminal can show unharmed. Where the beginning is missing, the rest of its line goes too.
pub(super) fn text(bytes: &[u8], cut: bool) -> String {
    let from = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) if cut && end + 1 < bytes.len() => end + 1,
        _ => 0,
    };
    let harmless = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    String::from_utf8_lossy(&bytes[from..]).replace("\r\n", "\n").chars().map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::{MAX_LINE, MAX_OUTPUT, Output, text};

    #[test]
    fn the_newest_lines_are_kept() {
        let mut output = Output::default();
        for line in 0..100_000 {
            output.push(format!("line {line}\n").as_bytes());
            assert!(output.kept.len() <= 2 * MAX_OUTPUT);
        }
        let text = output.into_text();
        assert!(text.len() <= MAX_OUTPUT && text.len() > MAX_OUTPUT - 20);
        assert!(text.starts_with("line ") && text.ends_with("\nline 99999\n"));
    }

    #[test]
    fn one_endless_line_is_kept_in_part() {
        let mut output = Output::default();
        output.push(&vec![b'x'; 10 * MAX_OUTPUT]);
        assert!(output.line.len() < 2 * MAX_LINE);
        assert_eq!(output.into_text(), "x".repeat(MAX_OUTPUT));
    }

    #[test]
    fn what_fits_is_kept_whole_and_not_moved_at_every_push() {
        let fits = format!("first\n{}", "x".repeat(MAX_OUTPUT - 6));
        let mut output = Output::default();
        output.push(fits.as_bytes());
        assert_eq!(output.into_text(), fits);
        let mut output = Output::default();
        output.push(&vec![b'x'; 2 * MAX_OUTPUT]);
        assert_eq!(output.kept.len(), 2 * MAX_OUTPUT);
        output.push(b"x");
        assert_eq!(output.kept.len(), MAX_OUTPUT);
    }

    #[test]
    fn a_long_line_is_logged_in_parts_of_bounded_size() {
        let mut output = Output::default();
        for length in 1..=3 * MAX_LINE {
            output.push(b"x");
            assert_eq!(output.line.len(), (length - 1) % MAX_LINE + 1);
        }
    }

    #[test]
    fn the_rest_of_a_cut_line_goes_unless_nothing_else_is_left() {
        assert_eq!(text(b"half\nwhole\n", true), "whole\n");
        assert_eq!(text(b"half\nwhole\n", false), "half\nwhole\n");
        assert_eq!(text(b"only\n", true), "only\n");
        assert_eq!(text(b"only", true), "only");
    }

    #[test]
    fn ready_is_a_line_of_its_own() {
        let says = |pieces: &[&str]| {
            let mut output = Output::default();
            pieces.iter().for_each(|piece| output.push(piece.as_bytes()));
            output.is_ready()
        };
        assert!(says(&["READY\n"]) && says(&["READY\r", "\n"]));
        assert!(says(&["connecting\nRE", "AD", "Y", "\nmore"]));
        for not in ["READY", "NOT READY\n", "READY to go\n", " READY\n", "ready\n"] {
            assert!(!says(&[not]), "{not:?}");
        }
        assert!(!says(&[&"x".repeat(MAX_LINE), "READY\n"]));
    }

    #[test]
    fn a_terminal_is_not_harmed() {
        assert_eq!(text(b"\x1b[2Ja\tb\r\nc\xff\x07", false), "\u{fffd}[2Ja\tb\nc\u{fffd}\u{fffd}");
    }
}
