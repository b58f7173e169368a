//! Owns: reading YAML into a tree of bounded size that keeps line numbers. Must not: know any key of ours.
//!
//! Keys and values stay as they are written: a domain may be called `007` or `on`. Of the types of YAML 1.2 only null and whole
//! numbers matter, since every key knows the kind of its value.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use super::error::Problem;

/// Levels of nesting; the schema needs five.
const DEPTH_LIMIT: usize = 32;
/// Nodes of the tree after aliases are resolved.
const NODE_LIMIT: usize = 100_000;

/// A value and its line.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Line of the file, from 1.
    pub(super) line: usize,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// A word or number, without quotes, and whether it is written without them.
    Scalar(String, bool),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(text, true) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// A whole number that is not negative. `007` is none: octal in YAML 1.1, decimal in some readers of YAML 1.2.
    pub(super) fn number(&self) -> Option<u32> {
        let Kind::Scalar(text, true) = &self.kind else { return None };
        let text = text.strip_prefix('+').unwrap_or(text);
        let (digits, radix) = match text.split_at_checked(2) {
            Some(("0x", digits)) => (digits, 16),
            Some(("0o", digits)) => (digits, 8),
            Some(("0b", digits)) => (digits, 2),
            Some((first, _)) if first.starts_with('0') => return None,
            _ => (text, 10),
        };
        u32::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'))
    }
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// As written, without quotes.
    pub(super) key: String,
    /// Line of the key.
    pub(super) line: usize,
    pub(super) value: Node,
}

/// Reads one YAML document; an empty text is an empty mapping.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| at(error.marker().line(), error.info()))?;
        builder.take(event, span)?;
    }
    Ok(builder.root.unwrap_or(Node { line: 1, kind: Kind::Map(Vec::new()) }))
}

/// A node with the cost of a copy.
#[derive(Debug, Clone)]
struct Anchored {
    node: Node,
    nodes: usize,
    height: usize,
}

/// A list or mapping whose end was not reached yet.
struct Open {
    line: usize,
    anchor: usize,
    kind: OpenKind,
    nodes: usize,
    height: usize,
}

enum OpenKind {
    List(Vec<Node>),
    /// The entries, and the key that still waits for its value.
    Map(Vec<Entry>, Option<(String, usize)>),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let line = span.start.line();
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag) | Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
                (*anchor, tag)
            }
            _ => (0, &None),
        };
        if tag.is_some() {
            return Err(at(line, "YAML tags (`!…`) are not supported"));
        }
        match event {
            Event::DocumentStart(_) if self.root.is_some() => Err(at(line, "a second YAML document begins here")),
            Event::Scalar(text, style, ..) => {
                let node = Node { line, kind: Kind::Scalar(text.into_owned(), style == ScalarStyle::Plain) };
                self.close(Anchored { node, nodes: 1, height: 0 }, anchor)
            }
            Event::SequenceStart(..) => self.open(line, anchor, OpenKind::List(Vec::new())),
            Event::MappingStart(..) => self.open(line, anchor, OpenKind::Map(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let kind = match open.kind {
                        OpenKind::List(items) => Kind::List(items),
                        OpenKind::Map(entries, _) => Kind::Map(merged(entries)),
                    };
                    let node = Node { line: open.line, kind };
                    self.close(Anchored { node, nodes: open.nodes, height: open.height }, open.anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                // The size is known beforehand, so a bomb of aliases is refused before it is expanded.
                Some(anchored) if self.nodes + anchored.nodes <= NODE_LIMIT => {
                    let copy = anchored.clone();
                    self.nodes += copy.nodes;
                    self.close(copy, 0)
                }
                Some(_) => Err(too_big(line)),
                None => Err(at(line, "an alias refers to a value that contains it")),
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, line: usize, anchor: usize, kind: OpenKind) -> Result<(), Problem> {
        if self.open.len() >= DEPTH_LIMIT {
            return Err(too_deep(line));
        }
        self.open.push(Open { line, anchor, kind, nodes: 1, height: 0 });
        Ok(())
    }

    /// Adds a complete node to its list or mapping.
    fn close(&mut self, done: Anchored, anchor: usize) -> Result<(), Problem> {
        let line = done.node.line;
        self.nodes += 1;
        if self.nodes > NODE_LIMIT {
            return Err(too_big(line));
        }
        if self.open.len() + done.height > DEPTH_LIMIT {
            return Err(too_deep(line));
        }
        if anchor != 0 {
            self.nodes += done.nodes;
            self.anchors.insert(anchor, done.clone());
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(done.node);
            return Ok(());
        };
        parent.nodes += done.nodes;
        parent.height = parent.height.max(done.height + 1);
        match &mut parent.kind {
            OpenKind::List(items) => items.push(done.node),
            OpenKind::Map(entries, waiting) => match waiting.take() {
                Some((key, line)) => entries.push(Entry { key, line, value: done.node }),
                None => match done.node.kind {
                    Kind::Scalar(text, _) => *waiting = Some((text, line)),
                    _ => return Err(at(line, "a key must be a word, not a list or mapping")),
                },
            },
        }
        Ok(())
    }
}

/// Resolves merge keys (`<<: *anchor`): the mapping's own keys win over merged ones, and earlier merges over later ones.
fn merged(entries: Vec<Entry>) -> Vec<Entry> {
    let (merges, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.key == "<<");
    if merges.is_empty() {
        return own;
    }
    let mut known: HashSet<String> = own.iter().map(|entry| entry.key.clone()).collect();
    for merge in merges {
        let maps = match merge.value.kind {
            Kind::List(maps) => maps,
            _ => vec![merge.value],
        };
        for map in maps {
            let Kind::Map(from) = map.kind else {
                own.push(Entry { key: merge.key.clone(), line: merge.line, value: map });
                continue;
            };
            for entry in from {
                if known.insert(entry.key.clone()) {
                    own.push(entry);
                }
            }
        }
    }
    own
}

fn at(line: usize, message: &str) -> Problem {
    Problem::of_file(Some(line.max(1)), format!("not valid YAML: {message}"))
}

fn too_deep(line: usize) -> Problem {
    at(line, "nested too deeply")
}

fn too_big(line: usize) -> Problem {
    at(line, "too many values")
}
