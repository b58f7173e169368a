//! Owns: YAML text to a tree of nodes that know their lines, within bounds whatever the text holds. Must not: know any
//! key of ours.
//!
//! Keys stay as they are written (a domain may be called `007` or `on`); values get their YAML type.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use serde_yaml::Value;

use super::error::Problem;

/// Levels of nesting; the schema needs five.
const DEPTH_LIMIT: usize = 32;
/// Nodes of the tree after aliases are resolved.
const NODE_LIMIT: usize = 100_000;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Line of the file, from 1.
    pub(super) line: usize,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// A word or number: the text as written, and what YAML takes it for (null, bool, number or string).
    Scalar(String, Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
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

/// A node with what its copies cost.
#[derive(Debug, Clone)]
struct Anchored {
    node: Node,
    nodes: usize,
    height: usize,
}

/// A list or mapping that is not at its end yet.
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
                let value = scalar(&text, style);
                let node = Node { line, kind: Kind::Scalar(text.into_owned(), value) };
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
                // The size is known beforehand, so a bomb of aliases is refused before it is unfolded.
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

    /// Puts a finished node into the list or mapping it belongs to.
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

/// What YAML takes a scalar for. Only plain ones can be anything but a string.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    /// Longer than any number; spares the reader of values what cannot be one.
    const LONGEST_NUMBER: usize = 64;
    if style != ScalarStyle::Plain || text.len() > LONGEST_NUMBER {
        return Value::String(text.to_owned());
    }
    match serde_yaml::from_str(text) {
        Ok(value @ (Value::Null | Value::Bool(_) | Value::Number(_))) => value,
        _ => Value::String(text.to_owned()),
    }
}

/// Resolves merge keys (`<<: *anchor`): what is merged in gives way to what stands there, and to what was merged before.
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
