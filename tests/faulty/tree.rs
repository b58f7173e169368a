//! Files and directories in memory, and the changes that create them. Applying all changes in order gives the tree.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A number that identifies a file under all of its names.
pub type Ino = u64;

/// The root directory.
pub const ROOT: Ino = 1;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates a file or directory under its first name.
    Make {
        dir: Ino,
        name: String,
        ino: Ino,
        kind: Kind,
        mode: u32,
    },
    /// Removes a name.
    Remove {
        dir: Ino,
        name: String,
    },
    /// Renames a file, and replaces an existing file of the new name.
    Rename {
        dir: Ino,
        name: String,
        ino: Ino,
        to: (Ino, String),
    },
    Write {
        ino: Ino,
        offset: u64,
        bytes: Vec<u8>,
    },
    Resize {
        ino: Ino,
        length: u64,
    },
    Mode {
        ino: Ino,
        mode: u32,
    },
    /// All changes of a file, or of the names in a directory, are on disk.
    Sync {
        ino: Ino,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Socket,
}

/// A file or directory.
#[derive(Debug, Clone)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub bytes: Vec<u8>,
    /// Entries of a directory.
    pub names: BTreeMap<String, Ino>,
    /// The last modification, counted in changes since the beginning.
    pub changed: u64,
}

#[derive(Debug, Clone)]
pub struct Tree {
    pub nodes: HashMap<Ino, Node>,
    changes: u64,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree { nodes: HashMap::from([(ROOT, Node::new(Kind::Folder, 0o755))]), changes: 0 }
    }
}

impl Node {
    fn new(kind: Kind, mode: u32) -> Node {
        Node { kind, mode, bytes: Vec::new(), names: BTreeMap::new(), changed: 0 }
    }
}

impl Tree {
    /// An unused number.
    pub fn unused(&self) -> Ino {
        self.nodes.keys().max().unwrap_or(&ROOT) + 1
    }

    pub fn find(&self, dir: Ino, name: &str) -> Option<Ino> {
        self.nodes.get(&dir)?.names.get(name).copied()
    }

    /// Applies a change. A file without a name stays, because it may be open.
    pub fn apply(&mut self, op: &Op) {
        self.changes += 1;
        match op {
            Op::Make { dir, name, ino, kind, mode } => {
                self.nodes.entry(*ino).or_insert_with(|| Node::new(*kind, *mode));
                self.names(*dir).insert(name.clone(), *ino);
            }
            Op::Remove { dir, name } => drop(self.names(*dir).remove(name)),
            Op::Rename { dir, name, ino, to: (to, new) } => {
                if self.find(*dir, name) == Some(*ino) {
                    self.names(*dir).remove(name);
                }
                self.names(*to).insert(new.clone(), *ino);
            }
            Op::Write { ino, offset, bytes } => {
                let (start, node) = (*offset as usize, self.node(*ino));
                let end = start + bytes.len();
                node.bytes.resize(node.bytes.len().max(end), 0);
                node.bytes[start..end].copy_from_slice(bytes);
            }
            Op::Resize { ino, length } => self.node(*ino).bytes.resize(*length as usize, 0),
            Op::Mode { ino, mode } => self.node(*ino).mode = *mode,
            Op::Sync { .. } => {}
        }
    }

    fn node(&mut self, ino: Ino) -> &mut Node {
        let changed = self.changes;
        let node = self.nodes.entry(ino).or_insert_with(|| Node::new(Kind::File, 0o600));
        node.changed = changed;
        node
    }

    fn names(&mut self, dir: Ino) -> &mut BTreeMap<String, Ino> {
        &mut self.node(dir).names
    }

    /// Every reachable file and directory, by its path from the root.
    pub fn paths(&self) -> BTreeMap<PathBuf, &Node> {
        let mut found = BTreeMap::new();
        self.walk(ROOT, Path::new(""), &mut found);
        found
    }

    fn walk<'a>(&'a self, ino: Ino, path: &Path, found: &mut BTreeMap<PathBuf, &'a Node>) {
        let Some(node) = self.nodes.get(&ino) else { return };
        found.insert(path.to_owned(), node);
        for (name, ino) in &node.names {
            self.walk(*ino, &path.join(name), found);
        }
    }
}
