//! Makes text from outside safe to print, and decides which names from outside may become file names. Must not lay it
//! out.

/// Whether a character ends a line, controls a terminal, or changes the direction of text: Unicode's control
/// characters, line and paragraph separators, and the bidirectional controls of UAX #9.
pub fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Maximum length of a file name in bytes: a temporary name, which is longer, must fit in 255.
const MAX: usize = 200;

/// Whether a name is one harmless component of a path.
pub fn is_plain(name: &str) -> bool {
    let length = 1..=MAX;
    length.contains(&name.len()) && !name.starts_with('.') && !name.contains(|c| c == '/' || misleads(c))
}

/// Makes text from outside safe for a terminal and for one line: line breaks and tabs become spaces. Other control
/// characters, and those that change the direction of text, become a replacement character.
pub fn printable(text: &str) -> String {
    let safe = |c: char| match c {
        '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
        c if misleads(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_name_is_one_safe_path_component() {
        let long = "x".repeat(201);
        for bad in ["", ".", "..", ".bashrc", "a/b", "a\0", "a\nb", "a\u{1b}[2J", "a\u{202e}b", "a\u{2028}b", &long] {
            assert!(!is_plain(bad), "{bad:?}");
        }
        for good in ["vda", "dä ta.img", "a..b", "x'&<"] {
            assert!(is_plain(good), "{good:?}");
        }
    }

    #[test]
    fn escapes_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J\u{9b}b\u{202e}c\td"), "a\u{fffd}[2J\u{fffd}b\u{fffd}c d");
    }
}
