//! Owns: what a key is, and reading a mapping by a table of its keys. Must not: know any key of ours.

use super::error::{Problem, Problems, nearest};
use super::place::Place;

/// A level of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Defaults,
    Host,
    Domain,
}

impl Level {
    pub(super) const ALL: &[Level] = &[Level::Defaults, Level::Host, Level::Domain];

    fn name(self) -> &'static str {
        match self {
            Level::Defaults => "`defaults`",
            Level::Host => "a host section",
            Level::Domain => "a domain",
        }
    }
}

/// Reads the value of a key into `T`, which already has what an outer level or the program itself sets.
type Read<T> = fn(&mut T, &Place<'_>, &mut Problems);

/// Everything that depends on the name of a key.
pub(super) struct Key<T> {
    pub(super) name: &'static str,
    /// Where it is allowed.
    pub(super) levels: &'static [Level],
    read: Read<T>,
}

impl<T> Key<T> {
    /// A key that is allowed at these levels.
    pub(super) const fn at(levels: &'static [Level], name: &'static str, read: Read<T>) -> Key<T> {
        Key { name, levels, read }
    }

    /// A key inside the value of another one.
    pub(super) const fn new(name: &'static str, read: Read<T>) -> Key<T> {
        Key { name, levels: Level::ALL, read }
    }
}

/// Sets a field unless there was a problem with its value.
pub(super) fn put<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Reads the value of a key that depends on its neighbors later, when these are known.
pub(super) fn later<T>(_: &mut T, _: &Place<'_>, _: &mut Problems) {}

/// Reads the keys of one level.
pub(super) fn level<T>(
    into: &mut T,
    entries: &[Place<'_>],
    level: Level,
    keys: &'static [Key<T>],
    problems: &mut Problems,
) {
    for entry in entries {
        match keys.iter().find(|key| key.name == entry.name) {
            Some(key) if key.levels.contains(&level) => (key.read)(into, entry, problems),
            Some(key) => {
                let right: Vec<_> = key.levels.iter().map(|level| level.name()).collect();
                problems.add(entry.problem(format!(
                    "is not allowed in {}, only in {}",
                    level.name(),
                    right.join(" or ")
                )));
            }
            None => {
                let names = names(keys, level);
                let nearest = nearest(entry.name, names.iter().copied());
                problems.add(Problem { nearest, ..entry.wrong("unknown key", names.join(", ")) });
            }
        }
    }
}

/// Reads the keys inside the value of a key, and returns them.
pub(super) fn inside<'a, T>(
    place: &Place<'a>,
    into: &mut T,
    keys: &'static [Key<T>],
    problems: &mut Problems,
) -> Vec<Place<'a>> {
    let entries = place.entries(problems);
    level(into, &entries, Level::Host, keys, problems);
    entries
}

/// The names of the keys that are allowed at a level.
pub(super) fn names<T>(keys: &'static [Key<T>], level: Level) -> Vec<&'static str> {
    keys.iter().filter(|key| key.levels.contains(&level)).map(|key| key.name).collect()
}

/// The entry of a key.
pub(super) fn find<'p, 'a>(entries: &'p [Place<'a>], name: &str) -> Option<&'p Place<'a>> {
    entries.iter().find(|entry| entry.name == name)
}

/// Reports that a key is missing.
pub(super) fn require(
    place: &Place<'_>,
    entries: &[Place<'_>],
    name: &str,
    valid: Option<&str>,
    problems: &mut Problems,
) {
    if find(entries, name).is_none() && place.is_mapping() {
        let valid = valid.map(str::to_owned);
        problems.add(Problem { valid, ..place.problem(format!("`{name}` is missing")) });
    }
}

/// Reports that more than one of these keys is given.
pub(super) fn exclude(entries: &[Place<'_>], names: &[&str], problems: &mut Problems) {
    let mut given = entries.iter().filter(|entry| names.contains(&entry.name));
    if let (Some(first), Some(second)) = (given.next(), given.next()) {
        let message = format!("cannot be combined with `{}` on line {}", first.name, first.line);
        problems.add(second.wrong(message, format!("one of {}", names.join(", "))));
    }
}
