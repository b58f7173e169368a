//! Parses one reply of a mail server (RFC 5321, 4.2). It must not know the command.

use std::io::{self, BufRead, Read as _};

use super::{SmtpStage, Trouble};

/// Bytes of the longest line, and lines of the longest reply: far more than RFC 5321 allows (4.5.3.1.5).
const LONGEST_LINE: u64 = 1000;
const MOST_LINES: usize = 100;
/// Maximum length of a kept rejection text.
const LONGEST_TEXT: usize = 500;

/// A reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub code: u16,
    /// Its lines without codes.
    pub lines: Vec<String>,
}

impl Reply {
    /// Reads one reply and not a byte more.
    pub fn read(from: &mut impl BufRead) -> Result<Reply, Trouble> {
        let mut lines = Vec::new();
        let mut first = None;
        while lines.len() < MOST_LINES {
            let mut line = Vec::new();
            from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.strip_suffix('\n').ok_or(Trouble::Garbage)?;
            let (code, is_last, text) = parse(line.strip_suffix('\r').unwrap_or(line)).ok_or(Trouble::Garbage)?;
            lines.push(text.to_owned());
            if *first.get_or_insert(code) != code {
                return Err(Trouble::Garbage);
            }
            if is_last {
                return Ok(Reply { code, lines });
            }
        }
        Err(Trouble::Garbage)
    }

    /// The reply if its code begins with this digit, or else an error.
    pub fn expect(self, digit: u16, stage: SmtpStage) -> Result<Reply, Trouble> {
        match self.code / 100 {
            found if found == digit => Ok(self),
            4 | 5 => {
                let text = self.lines.join(" ");
                let shown = text.chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect();
                Err(Trouble::Refused { stage, code: self.code, text: shown })
            }
            _ => Err(Trouble::Garbage),
        }
    }
}

/// Code, whether it is the last line, and the text: `250-first`, `250 last`, `250`.
fn parse(line: &str) -> Option<(u16, bool, &str)> {
    let code = line.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()))?;
    let code = code.parse().ok().filter(|code| (200..600).contains(code))?;
    let rest = &line[3..];
    match rest.chars().next() {
        None => Some((code, true, "")),
        Some(' ') => Some((code, true, &rest[1..])),
        Some('-') => Some((code, false, &rest[1..])),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Result<Reply, Trouble>, String) {
        let mut bytes = text.as_bytes();
        let reply = Reply::read(&mut bytes);
        (reply, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn replies_are_read_to_their_end_and_no_further() {
        for (text, code, lines, rest) in [
            ("220 go\r\n250 next\r\n", 220, &["go"][..], "250 next\r\n"),
            ("250-a\r\n250-b c\r\n250 d\r\nx", 250, &["a", "b c", "d"], "x"),
            ("354\r\n", 354, &[""], ""),
            ("250-\n250 \n", 250, &["", ""], ""),
        ] {
            let (reply, left) = read(text);
            assert_eq!(
                (reply.unwrap(), left.as_str()),
                (Reply { code, lines: lines.iter().map(|l| (*l).to_owned()).collect() }, rest)
            );
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let long = format!("250 {}\r\n", "a".repeat(1000));
        let many = "250-a\r\n".repeat(200);
        for text in [
            "hello\r\n",
            "25 x\r\n",
            "250x\r\n",
            "150 a\r\n",
            "600 a\r\n",
            "250-a\r\n251 b\r\n",
            "25é\r\n",
            &long,
            &many,
        ] {
            assert!(matches!(read(text).0, Err(Trouble::Garbage)), "{text:.20}");
        }
        for text in ["", "250-a\r\n"] {
            assert!(matches!(read(text).0, Err(Trouble::Network(_))), "{text}");
        }
        assert!(matches!(read("250 cut").0, Err(Trouble::Garbage)));
    }

    #[test]
    fn a_refusal_is_told_in_few_words() {
        let reply = Reply { code: 554, lines: vec!["no\u{1b}[2J".to_owned(), "x".repeat(9000)] };
        let Err(Trouble::Refused { code: 554, text, .. }) = reply.expect(2, SmtpStage::Mail) else { panic!() };
        assert!(text.starts_with("no[2J xxx") && text.len() == LONGEST_TEXT);
        let reply = Reply { code: 250, lines: vec![String::new()] };
        assert!(matches!(reply.expect(3, SmtpStage::Mail), Err(Trouble::Garbage)), "250 is not a reply to DATA");
    }
}
