//! Owns: a value together with the path of its key, so that every problem names both. Must not: know any key of ours.

use std::collections::HashMap;

use super::error::{Problem, Problems};
use super::node::{Kind, Node};

/// A value and the path to it.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    /// The last part of the path; empty at the root.
    pub(super) name: &'a str,
    /// The whole path, as it is printed.
    pub(super) path: String,
    /// Line of the key, from 1; of the value for the root and in lists.
    pub(super) line: usize,
    pub(super) node: &'a Node,
}

impl<'a> Place<'a> {
    /// The whole document.
    pub(super) fn root(node: &'a Node) -> Place<'a> {
        Place { name: "", path: String::new(), line: node.line, node }
    }

    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { key: self.path.clone(), ..Problem::of_file(Some(self.line), message) }
    }

    /// A problem with what would be valid.
    pub(super) fn wrong(&self, message: impl Into<String>, valid: impl Into<String>) -> Problem {
        Problem { valid: Some(valid.into()), ..self.problem(message) }
    }

    /// Whether the key has no value.
    pub(super) fn is_null(&self) -> bool {
        self.node.is_null()
    }

    /// Whether it is a mapping, possibly an empty one.
    pub(super) fn is_mapping(&self) -> bool {
        self.is_null() || matches!(self.node.kind, Kind::Map(_))
    }

    /// The entries of a mapping; none if the key has no value. A duplicate key is a problem.
    pub(super) fn entries(&self, problems: &mut Problems) -> Vec<Place<'a>> {
        let entries = match &self.node.kind {
            Kind::Map(entries) => entries.as_slice(),
            _ if self.is_null() => &[],
            _ => {
                problems.add(self.problem("must be a mapping (`key: value` lines below it)"));
                &[]
            }
        };
        let mut first_lines = HashMap::new();
        let mut places = Vec::with_capacity(entries.len());
        for entry in entries {
            let place =
                Place { name: &entry.key, path: self.path_of(&entry.key), line: entry.line, node: &entry.value };
            match first_lines.get(place.name) {
                Some(line) => problems.add(place.problem(format!("is given twice; first on line {line}"))),
                None => {
                    first_lines.insert(place.name, place.line);
                    places.push(place);
                }
            }
        }
        places
    }

    /// The items of a list; a single word is a list of one.
    pub(super) fn items(&self) -> Vec<Place<'a>> {
        match &self.node.kind {
            Kind::List(items) => items
                .iter()
                .map(|node| Place { line: node.line, node, name: self.name, path: self.path.clone() })
                .collect(),
            _ => vec![self.clone()],
        }
    }

    fn path_of(&self, key: &str) -> String {
        let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "-_*?[]!^".contains(c));
        let key = if plain { key.to_owned() } else { format!("{key:?}") };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }
}
