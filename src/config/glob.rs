//! Owns: patterns of names: `*`, `?`, `[a-z]`, `[!a-z]`. Must not: know what is named.

/// Whether a pattern can match anything but itself.
pub fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

/// Whether `name` matches `pattern`; however many stars it has, no more than the last is tried again.
///
/// `*` stands for any characters, `?` for one, `[…]` for one of a set with ranges, `[!…]` or `[^…]` for one outside it. A
/// `[` without its `]` stands for itself. Case matters, as it does in libvirt's names.
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go on when a match fails: behind the last star, which then takes one character more.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            p += 1;
            retry = Some((p, n));
        } else if let Some(length) = one(pattern.get(p..).unwrap_or_default(), name[n]) {
            p += length;
            n += 1;
        } else if let Some((star, taken)) = retry {
            retry = Some((star, taken + 1));
            (p, n) = (star, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// How many characters of the pattern match `c`, or `None`.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['[', rest @ ..] => match set(rest) {
            Some((set, length)) => contains(set, c).then_some(length + 1),
            None => (c == '[').then_some(1),
        },
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}

/// The inside of a set whose `[` is already read, and the length including its `]`. A `]` at the start belongs to the set.
fn set(pattern: &[char]) -> Option<(&[char], usize)> {
    let negated = usize::from(matches!(pattern.first(), Some('!' | '^')));
    let end = pattern.iter().skip(negated + 1).position(|c| *c == ']')? + negated + 1;
    Some((&pattern[..end], end + 1))
}

fn contains(set: &[char], c: char) -> bool {
    let (negated, mut set) = match set {
        ['!' | '^', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    let mut found = false;
    while let [first, rest @ ..] = set {
        (found, set) = match rest {
            ['-', last, rest @ ..] => (found || (*first..=*last).contains(&c), rest),
            _ => (found || *first == c, rest),
        };
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_the_shell_does() {
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
        ];
        for (pattern, name) in yes {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in no {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_cost_no_exponential_time() {
        assert!(!matches(&format!("{}b", "*a".repeat(100)), &"a".repeat(1000)));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_a_name_matches_itself(pattern in "[a\\[\\]!^*?-]{0,8}", name in "[a\\[\\]-]{0,8}") {
            matches(&pattern, &name);
            proptest::prop_assert!(is_glob(&name) || matches(&name, &name));
        }
    }
}
