//! Matches names with patterns: `*`, `?`, `[a-z]`, `[!a-z]`. Must not know what the names are.

use glob::{Pattern, PatternError};

/// Whether a pattern can match anything except itself.
pub fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

/// Whether `name` matches `pattern`.
///
/// `*` matches any characters, `?` matches one, `[…]` matches one of a set with ranges, and `[!…]` or `[^…]` matches
/// one outside of it. A `[` without a `]` matches itself. Matching is case-sensitive, like libvirt's names.
pub fn matches(pattern: &str, name: &str) -> bool {
    // The crate supports only `!` for a negated set, and interprets `**` as directories of a path.
    let mut pattern = pattern.replace("[^", "[!");
    while pattern.contains("**") {
        pattern = pattern.replace("**", "*");
    }
    let compiled = Pattern::new(&pattern).or_else(|PatternError { pos, .. }| {
        // If one set is not closed, later ones are not closed either.
        let at = pattern.char_indices().nth(pos).map_or(0, |(at, _)| at);
        Pattern::new(&format!("{}{}", &pattern[..at], pattern[at..].replace('[', "[[]")))
    });
    compiled.is_ok_and(|compiled| compiled.matches(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        let yes = [
            ("web-*", "web-1"),
            ("web-*", "web-"),
            ("*", ""),
            ("a?c", "aßc"),
            ("db[0-3]", "db2"),
            ("db[!0-3]", "db7"),
            ("[]x]", "]"),
            ("[a-]", "-"),
            ("a[b", "a[b"),
            ("*a*b*", "xxaxxbxx"),
            ("plain", "plain"),
            ("db[^0-3]", "db7"),
            ("a[*", "a[b"),
            ("**", "a/b"),
            ("web***1", "web-1"),
            ("{a,b}", "{a,b}"),
            ("a\\*", "a\\b"),
            (".*", ".a"),
            ("*", ".a"),
        ];
        let no = [
            ("web-*", "web"),
            ("?", ""),
            ("db[0-3]", "db4"),
            ("db[!0-3]", "db1"),
            ("Web*", "web1"),
            ("a*b", "abc"),
            ("a[b", "ab"),
            ("", "a"),
            ("db[^0-3]", "db1"),
            ("{a,b}", "a"),
        ];
        for (pattern, name) in yes {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in no {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_need_no_exponential_time() {
        assert!(!matches(&format!("{}b", "*a".repeat(100)), &"a".repeat(1000)));
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_panics_and_a_name_matches_itself(pattern in "[a\\[\\]!^*?-]{0,8}", name in "[a\\[\\]-]{0,8}") {
            matches(&pattern, &name);
            proptest::prop_assert!(is_glob(&name) || matches(&name, &name));
        }
    }
}
