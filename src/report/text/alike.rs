//! Owns: grouping the entries of a section by cause, so that a shared cause is printed once. Pure. Must not: lay out lines.

use crate::model::Failure;

/// The smallest number of entries that are printed as a group.
const ALIKE: usize = 3;
/// The placeholder for the names in a shared cause.
const NAME: &str = "NAME";

/// A cause, for one domain or for several.
#[derive(Debug, PartialEq, Eq)]
pub enum Cause {
    /// The name and its failure.
    One(String, Failure),
    /// The names and their common failure, with `NAME` for the name.
    Shared(Vec<String>, Failure),
}

/// The causes of these entries, each a name and a failure, in the order of the first entry.
pub fn causes(entries: impl Iterator<Item = (String, Failure)>) -> Vec<Cause> {
    let mut groups: Vec<(Failure, Vec<(String, Failure)>)> = Vec::new();
    for (who, failure) in entries {
        let shared = without(&failure, &who);
        match groups.iter_mut().find(|(other, _)| *other == shared) {
            Some((_, members)) if !who.is_empty() => members.push((who, failure)),
            _ => groups.push((shared, vec![(who, failure)])),
        }
    }
    let told = |(shared, members): (Failure, Vec<(String, Failure)>)| match members.len() < ALIKE {
        true => members.into_iter().map(|(who, failure)| Cause::One(who, failure)).collect(),
        false => vec![Cause::Shared(members.into_iter().map(|(who, _)| who).collect(), shared)],
    };
    groups.into_iter().flat_map(told).collect()
}

/// The failure without the name of its domain.
fn without(failure: &Failure, who: &str) -> Failure {
    let message = replaced(&failure.message, who);
    let starts = [format!("{NAME}: "), format!("domain {NAME}: ")];
    let message = starts.iter().find_map(|start| message.strip_prefix(start.as_str())).unwrap_or(&message).to_owned();
    Failure { message, hint: failure.hint.as_deref().map(|hint| replaced(hint, who)) }
}

/// The text with `NAME` for each name that is a word of its own, as `web` in `/images/web.qcow2` but not in `web-1`.
fn replaced(text: &str, name: &str) -> String {
    if name.is_empty() {
        return text.to_owned();
    }
    let belongs = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(name) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let last = before.chars().next_back().or_else(|| out.chars().next_back());
        let is_alone = !last.is_some_and(belongs) && !after.chars().next().is_some_and(belongs);
        out.push_str(before);
        out.push_str(if is_alone { NAME } else { name });
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(message: &str) -> Failure {
        Failure { message: message.to_owned(), hint: Some(format!("see {message}")) }
    }

    #[test]
    fn one_cause_is_told_once_and_names_are_no_difference() {
        let entry = |name: &str| (name.to_owned(), failure(&format!("{name}: cannot open /images/{name}.qcow2")));
        let other = ("x".to_owned(), failure("x: no agent"));
        let entries = [entry("a"), entry("web"), other.clone(), entry("web-1")];
        let shared = Failure {
            message: "cannot open /images/NAME.qcow2".to_owned(),
            hint: Some("see NAME: cannot open /images/NAME.qcow2".to_owned()),
        };
        let names = ["a", "web", "web-1"].map(str::to_owned).to_vec();
        assert_eq!(causes(entries.into_iter()), [Cause::Shared(names, shared), Cause::One(other.0, other.1)]);
    }

    #[test]
    fn two_of_a_kind_and_what_is_about_nobody_stay_whole() {
        let entries = [("a", "a: broken"), ("b", "b: broken"), ("", "broken"), ("", "broken"), ("", "broken")];
        let entries = entries.map(|(who, message)| (who.to_owned(), failure(message)));
        let told = causes(entries.clone().into_iter());
        assert_eq!(told, entries.map(|(who, failure)| Cause::One(who, failure)));
    }

    #[test]
    fn a_name_within_another_word_is_not_taken_out() {
        assert_eq!(replaced("a cannot say: a-1, a.b, `a`", "a"), "NAME cannot say: a-1, NAME.b, `NAME`");
        assert_eq!(replaced("", "a"), "");
    }
}
