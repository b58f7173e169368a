//! Writes text into JSON as Go does, so that a tree has the same bytes, and so the same ID, regardless of the program
//! that writes it. Must not know the meaning of the text.

use std::io::{self, Write};

use serde_json::ser::Formatter;

/// Compact JSON in which `<`, `>`, `&` and the line separators of Unicode are escaped.
#[derive(Debug, Clone, Copy)]
pub struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        let escaped = |c: char| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        while let Some(at) = rest.find(escaped) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let c = rest[at..].chars().next().unwrap_or_default();
            write!(writer, "\\u{:04x}", u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Quotes a name like Go's `strconv.Quote`, without the quotation marks.
pub fn quote(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '\\' | '"' => quoted.extend(['\\', c]),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            '\0'..='\x1f' | '\x7f' => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)))
            }
            c => quoted.push(c),
        }
    }
    quoted
}

/// Decodes the result of [`quote`] or of Go; `None` if it is malformed or not UTF-8.
pub fn unquote(quoted: &str) -> Option<String> {
    let mut name = Vec::with_capacity(quoted.len());
    let mut rest = quoted.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            name.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let digits = match rest.next()? {
            'a' => b'\x07'.into(),
            'b' => b'\x08'.into(),
            'f' => b'\x0c'.into(),
            'n' => b'\n'.into(),
            'r' => b'\r'.into(),
            't' => b'\t'.into(),
            'v' => b'\x0b'.into(),
            c @ ('\\' | '"' | '\'') => u32::from(c),
            'x' => {
                name.push(u8::try_from(number(&mut rest, 2)?).ok()?);
                continue;
            }
            'u' => number(&mut rest, 4)?,
            'U' => number(&mut rest, 8)?,
            _ => return None,
        };
        name.extend_from_slice(char::from_u32(digits)?.encode_utf8(&mut [0; 4]).as_bytes());
    }
    String::from_utf8(name).ok()
}

fn number(text: &mut std::str::Chars<'_>, digits: u32) -> Option<u32> {
    (0..digits).try_fold(0_u32, |number, _| Some(number << 4 | text.next()?.to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_in_go_and_round_trip() {
        for (name, quoted) in [
            ("vda.raw", "vda.raw"),
            ("q\"u<o>t&\\e\tt", "q\\\"u<o>t&\\\\e\\tt"),
            ("\x07\x08\x0c\n\r\x0b\x01\x7f", "\\a\\b\\f\\n\\r\\v\\x01\\x7f"),
            ("übung 日本 é", "übung 日本 é"),
            ("a\u{a0}b\u{85}\u{2028}", "a\\u00a0b\\u0085\\u2028"),
        ] {
            assert_eq!(quote(name), quoted);
            assert_eq!(unquote(quoted).as_deref(), Some(name));
        }
        assert_eq!(unquote("\\U0001f600\\xc3\\xbc").as_deref(), Some("😀ü"));
        for wrong in ["\\", "\\x1", "\\u12", "\\ud800", "\\xff", "\\q", "\\U11000000"] {
            assert_eq!(unquote(wrong), None, "{wrong}");
        }
    }
}
