//! Keeps the newest output of a process and recognizes one awaited line. Must not read from a process.

/// Limit for one line in the log, in bytes; a longer line is logged in parts.
const MAX_LINE: usize = 4 << 10;

/// The output of a process in bounded memory.
#[derive(Debug)]
pub struct BoundedOutput {
    /// For the log.
    name: String,
    limit: usize,
    awaited: Option<&'static [u8]>,
    /// Texts that are neither logged nor returned.
    hidden: Vec<String>,
    kept: Vec<u8>,
    /// Output before `kept` was dropped.
    cut: bool,
    line: Vec<u8>,
    /// The start of the line in `line` is already logged.
    in_parts: bool,
    found: bool,
}

impl BoundedOutput {
    /// Keeps the newest `limit` bytes. `name` is for the log.
    pub fn new(name: &str, limit: usize) -> BoundedOutput {
        let (kept, line) = (Vec::new(), Vec::new());
        let name = name.to_owned();
        let hidden = Vec::new();
        BoundedOutput { name, limit, awaited: None, hidden, kept, cut: false, line, in_parts: false, found: false }
    }

    /// Also waits for a line with exactly this text.
    #[must_use]
    pub fn awaiting(self, line: &'static [u8]) -> BoundedOutput {
        BoundedOutput { awaited: Some(line), ..self }
    }

    /// Shows `***` instead of these texts.
    #[must_use]
    pub fn hiding(self, hidden: Vec<String>) -> BoundedOutput {
        BoundedOutput { hidden, ..self }
    }

    /// Appends output.
    pub fn push(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        // Cut only at twice the limit, so that not every call moves the bytes.
        if self.kept.len() > 2 * self.limit {
            self.cut();
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(MAX_LINE) {
                self.push_line(part);
            }
        }
    }

    /// Whether the awaited line was written.
    pub fn has_awaited(&self) -> bool {
        self.found
    }

    /// The newest part of the output, starting at the beginning of a line if possible. Replaces control characters except tab
    /// and line feed.
    pub fn take_text(&mut self) -> String {
        self.end_line();
        if self.kept.len() > self.limit {
            self.cut();
        }
        let kept = text(&std::mem::take(&mut self.kept), self.cut);
        self.shown(kept)
    }

    fn shown(&self, text: String) -> String {
        self.hidden.iter().fold(text, |text, hidden| text.replace(hidden, "***"))
    }

    fn cut(&mut self) {
        self.kept.drain(..self.kept.len() - self.limit);
        self.cut = true;
    }

    /// `part` is at most one line, with its line feed if the line is complete.
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
        self.found |= !self.in_parts && self.awaited == Some(self.line.strip_suffix(b"\r").unwrap_or(&self.line));
        self.log();
        self.in_parts = false;
    }

    fn log(&mut self) {
        if !self.line.is_empty() {
            tracing::debug!("{}: {}", self.name, self.shown(text(&self.line, false)));
            self.line.clear();
        }
    }
}

/// Converts bytes to text that is safe for a terminal. If the start is cut, drops the rest of the first line.
fn text(bytes: &[u8], cut: bool) -> String {
    let from = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) if cut && end + 1 < bytes.len() => end + 1,
        _ => 0,
    };
    let harmless = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    String::from_utf8_lossy(&bytes[from..]).replace("\r\n", "\n").chars().map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::{BoundedOutput, MAX_LINE, text};

    const LIMIT: usize = 64 << 10;

    #[test]
    fn the_newest_lines_are_kept() {
        let mut output = BoundedOutput::new("test", LIMIT);
        for line in 0..100_000 {
            output.push(format!("line {line}\n").as_bytes());
            assert!(output.kept.len() <= 2 * LIMIT);
        }
        let text = output.take_text();
        assert!(text.len() <= LIMIT && text.len() > LIMIT - 20);
        assert!(text.starts_with("line ") && text.ends_with("\nline 99999\n"));
    }

    #[test]
    fn the_end_of_an_endless_line_is_kept() {
        let mut output = BoundedOutput::new("test", LIMIT);
        output.push(&vec![b'x'; 10 * LIMIT]);
        assert!(output.line.len() < 2 * MAX_LINE);
        assert_eq!(output.take_text(), "x".repeat(LIMIT));
    }

    #[test]
    fn output_within_the_limit_is_kept_and_not_moved_by_every_push() {
        let fits = format!("first\n{}", "x".repeat(LIMIT - 6));
        let mut output = BoundedOutput::new("test", LIMIT);
        output.push(fits.as_bytes());
        assert_eq!(output.take_text(), fits);
        let mut output = BoundedOutput::new("test", LIMIT);
        output.push(&vec![b'x'; 2 * LIMIT]);
        assert_eq!(output.kept.len(), 2 * LIMIT);
        output.push(b"x");
        assert_eq!(output.kept.len(), LIMIT);
    }

    #[test]
    fn a_long_line_is_logged_in_parts_of_bounded_size() {
        let mut output = BoundedOutput::new("test", LIMIT);
        for length in 1..=3 * MAX_LINE {
            output.push(b"x");
            assert_eq!(output.line.len(), (length - 1) % MAX_LINE + 1);
        }
    }

    #[test]
    fn the_rest_of_a_cut_line_is_dropped_unless_it_is_the_only_line() {
        assert_eq!(text(b"half\nwhole\n", true), "whole\n");
        assert_eq!(text(b"half\nwhole\n", false), "half\nwhole\n");
        assert_eq!(text(b"only\n", true), "only\n");
        assert_eq!(text(b"only", true), "only");
    }

    #[test]
    fn the_awaited_line_must_match_exactly() {
        let says = |pieces: &[&str]| {
            let mut output = BoundedOutput::new("test", LIMIT).awaiting(b"READY");
            pieces.iter().for_each(|piece| output.push(piece.as_bytes()));
            output.has_awaited()
        };
        assert!(says(&["READY\n"]) && says(&["READY\r", "\n"]));
        assert!(says(&["connecting\nRE", "AD", "Y", "\nmore"]));
        for not in ["READY", "NOT READY\n", "READY to go\n", " READY\n", "ready\n"] {
            assert!(!says(&[not]), "{not:?}");
        }
        assert!(!says(&[&"x".repeat(MAX_LINE), "READY\n"]));
    }

    #[test]
    fn hidden_texts_are_not_returned() {
        let mut output = BoundedOutput::new("test", LIMIT).hiding(vec!["s/c".to_owned(), "s%2Fc".to_owned()]);
        output.push(b"http://u:s%2Fc@h, or s");
        output.push(b"/c\n");
        assert_eq!(output.take_text(), "http://u:***@h, or ***\n");
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(text(b"\x1b[2Ja\tb\r\nc\xff\x07", false), "\u{fffd}[2Ja\tb\nc\u{fffd}\u{fffd}");
    }
}
