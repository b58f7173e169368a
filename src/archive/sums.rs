//! Writes and parses `SHA256SUMS` in the format of `sha256sum` (GNU coreutils 9). Must not read members.

use std::collections::{BTreeMap, HashSet};

use super::Error;
use crate::model::Digest;

/// Digests by member name.
pub type Sums = BTreeMap<String, Digest>;

/// One line of `SHA256SUMS`. A name with a backslash or a line break is escaped, which a backslash before the digest
/// marks.
pub(super) fn line(name: &str, digest: &Digest) -> String {
    if name.contains(['\\', '\n', '\r']) {
        let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
        format!("\\{digest}  {escaped}\n")
    } else {
        format!("{digest}  {name}\n")
    }
}

/// Parses a whole `SHA256SUMS`; a duplicate name is an error.
pub(super) fn parse(text: &[u8]) -> Result<Sums, Error> {
    let mut sums = Sums::new();
    let mut rest = text;
    let mut number = 0;
    while !rest.is_empty() {
        number += 1;
        let damaged = || Error::Sums { line: number };
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or_else(damaged)?;
        let (name, digest) = std::str::from_utf8(&rest[..end]).ok().and_then(parse_line).ok_or_else(damaged)?;
        if sums.insert(name, digest).is_some() {
            return Err(damaged());
        }
        rest = &rest[end + 1..];
    }
    Ok(sums)
}

/// The names in a whole `SHA256SUMS`, in the order of its lines, which is that of the members.
pub(super) fn order(text: &[u8]) -> Option<Vec<String>> {
    parse(text).ok()?;
    let names = std::str::from_utf8(text).ok()?.lines().map(|line| parse_line(line).map(|(name, _)| name));
    names.collect()
}

/// The readable lines of a damaged `SHA256SUMS`; contradicting lines about one member are both dropped.
pub(super) fn salvage(text: &[u8]) -> Sums {
    let lines =
        text.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok().and_then(parse_line));
    let mut sums = Sums::new();
    let mut twice = HashSet::new();
    for (name, digest) in lines {
        if sums.insert(name.clone(), digest).is_some_and(|other| other != digest) {
            twice.insert(name);
        }
    }
    sums.retain(|name, _| !twice.contains(name));
    sums
}

/// A trailing carriage return comes from an editor, because one in a name is escaped.
fn parse_line(line: &str) -> Option<(String, Digest)> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let (escaped, line) = line.strip_prefix('\\').map_or((false, line), |line| (true, line));
    let (digest, name) = line.split_once("  ")?;
    let name = if escaped { unescape(name)? } else { name.to_owned() };
    Some((name, digest.parse().ok()?))
}

fn unescape(text: &str) -> Option<String> {
    let mut name = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        name.push(match char {
            '\\' => match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            other => other,
        });
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Hasher;

    fn digest(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    #[test]
    fn lines_are_the_same_as_those_of_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["plain", "two  blanks", "back\\slash", "line\nbreak", "cr\rx", "Ü*"];
        let mut ours = String::new();
        for name in names {
            std::fs::write(dir.path().join(name), name).unwrap();
            ours += &line(name, &digest(name.as_bytes()));
        }
        let theirs = std::process::Command::new("sha256sum").args(names).current_dir(dir.path()).output().unwrap();
        assert_eq!(ours, String::from_utf8(theirs.stdout).unwrap());
        let parsed = parse(ours.as_bytes()).unwrap();
        assert_eq!(parsed.len(), names.len());
        assert!(parsed == parse(ours.replace('\n', "\r\n").as_bytes()).unwrap());
        for name in names {
            assert_eq!(parsed[name], digest(name.as_bytes()));
        }
    }

    #[test]
    fn damage_is_reported_with_its_line() {
        let good = line("a", &digest(b"a"));
        for bad in [
            "x",
            "zz  a\n",
            "\n",
            &format!("{good}{good}"),
            &good[1..],
            &good[..good.len() - 1],
            &format!("\\{}", &good.replace("  a", "  \\x")),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let lines = format!("{good}{}x\n", line("b", &digest(b"b")));
        assert!(matches!(parse(lines.as_bytes()), Err(Error::Sums { line: 3 })));
        assert_eq!(format!("{:?}", digest(b"a")), good[..64]);
    }

    #[test]
    fn contradicting_lines_are_both_dropped() {
        let [a, b, other] = [line("a", &digest(b"a")), line("b", &digest(b"b")), line("a", &digest(b"x"))];
        let names = |text: String| salvage(text.as_bytes()).into_keys().collect::<Vec<_>>();
        assert_eq!(names(format!("{a}{b}{a}")), ["a", "b"]);
        assert_eq!(names(format!("{a}x\n{b}{other}")), ["b"]);
    }
}
