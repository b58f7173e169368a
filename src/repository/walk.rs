//! Finds the files of a restore point in its trees. Must not trust their names, or read files.

use std::collections::BTreeMap;

use super::fetch::Fetcher;
use super::tree::{MAX_NODES, Node, NodeKind};
use super::{Error, Id, Kind, Object, Snapshot};

/// Maximum depth of nested directories.
const MAX_DEPTH: usize = 8;

/// The files and directories of a restore point.
#[derive(Debug, Default)]
pub struct Files {
    /// Files by their path below the domain's directory: components joined by `/`.
    pub files: BTreeMap<String, Node>,
    /// Directories by their path; that of the domain's own directory is empty.
    pub dirs: BTreeMap<String, Node>,
    /// All trees, the root first.
    pub trees: Vec<Id>,
}

/// Reads the trees of a restore point.
///
/// # Errors
/// Damage; [`Error::Suspect`] for contents that this program does not write.
pub fn walk(fetcher: &Fetcher, id: Id, snapshot: &Snapshot) -> Result<Files, Error> {
    let mut damages = Vec::new();
    let found = walk_damaged(fetcher, id, snapshot, &mut damages)?;
    damages.pop().map_or(Ok(found), Err)
}

/// As [`walk`], but directories that are damaged are only missing, and in `damages`. The top one must be readable.
pub fn walk_damaged(fetcher: &Fetcher, id: Id, snapshot: &Snapshot, damages: &mut Vec<Error>) -> Result<Files, Error> {
    let suspect = |what: String| suspect(fetcher, id, what);
    let root = domain_dir(fetcher, id, snapshot)?;
    let mut found = Files { trees: vec![snapshot.tree], ..Files::default() };
    let mut next = vec![(String::new(), root, 0)];
    while let Some((path, node, depth)) = next.pop() {
        let subtree = node.subtree.ok_or_else(|| suspect(format!("its directory {path:?} has no tree")))?;
        found.dirs.insert(path.clone(), node);
        found.trees.push(subtree);
        let nodes = match fetcher.tree(subtree) {
            Ok(tree) => tree.nodes,
            Err(error) if error.is_damage() => {
                damages.push(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        for node in nodes {
            let below = if path.is_empty() { node.name.clone() } else { format!("{path}/{}", node.name) };
            match node.kind {
                NodeKind::File => drop(found.files.insert(below, node)),
                NodeKind::Dir if depth < MAX_DEPTH => next.push((below, node, depth + 1)),
                NodeKind::Dir => return Err(suspect("its directories are nested too deeply".to_owned())),
                NodeKind::Other => return Err(suspect(format!("{below:?} is neither a file nor a directory"))),
            }
            if found.files.len() + found.dirs.len() + next.len() > MAX_NODES {
                return Err(suspect(format!("it has more than {MAX_NODES} files and directories")));
            }
        }
    }
    Ok(found)
}

/// A file directly in the domain's directory. Reads only two trees, so this is fast even if the point has large disks.
///
/// # Errors
/// As for [`walk`]; [`Error::Suspect`] without such a file.
pub fn top_file(fetcher: &Fetcher, id: Id, snapshot: &Snapshot, name: &str) -> Result<Node, Error> {
    let dir = domain_dir(fetcher, id, snapshot)?;
    let nodes = match dir.subtree {
        Some(subtree) => fetcher.tree(subtree)?.nodes,
        None => Vec::new(),
    };
    let file = nodes.into_iter().find(|node| node.name == name && node.kind == NodeKind::File);
    file.ok_or_else(|| suspect(fetcher, id, format!("it has no file {name:?}")))
}

/// The domain's directory, which is the only one in the root.
fn domain_dir(fetcher: &Fetcher, id: Id, snapshot: &Snapshot) -> Result<Node, Error> {
    let name = match snapshot.paths.as_slice() {
        [path] => path.strip_prefix('/').filter(|name| super::tree::is_component(name)),
        _ => None,
    };
    let name = name.ok_or_else(|| suspect(fetcher, id, "its path does not have the form /NAME".to_owned()))?;
    let mut root = fetcher.tree(snapshot.tree)?.nodes;
    root.retain(|node| node.name == name && node.kind == NodeKind::Dir);
    root.pop().ok_or_else(|| suspect(fetcher, id, format!("it has no directory {name:?}")))
}

/// The error for contents that this program does not write.
pub fn suspect(fetcher: &Fetcher, id: Id, what: String) -> Error {
    Error::Suspect { place: fetcher.repository().location(), object: Object::new(Kind::Snapshot, id), what }
}
