//! Owns: which characters of foreign text mislead its reader. Must not: replace them.

/// Whether a character ends a line, acts on a terminal, or changes the direction in which text is written: Unicode's control
/// characters, line and paragraph separators, and the bidirectional controls of UAX #9.
pub fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
