//! Computes what a power cut may leave of recorded changes, given only what POSIX guarantees.
//!
//! Synced data is on disk: the bytes of a file after a sync of the file, the names in a directory after a sync of the
//! directory. Any other change of a name may or may not be on disk, regardless of the changes before it. Any other file
//! has its old bytes, its new ones, or zeros in the new length, as on file systems that write sizes before data.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tree::{Ino, Kind, Node, Op, ROOT, Tree};

/// Entries of a directory, by name.
type Folders = HashMap<Ino, BTreeMap<String, Ino>>;
type Contents = HashMap<Ino, Arc<Vec<u8>>>;

/// Contents of the disk after the cut: directories, and files with their bytes.
pub type Image = BTreeMap<PathBuf, Option<Arc<Vec<u8>>>>;

/// Limit of the images that are checked for one moment. If there are more, a random sample is checked.
const MOST: u64 = 200;

/// A disk with unsynced changes.
struct Disk {
    /// The state that programs see.
    seen: Tree,
    kinds: HashMap<Ino, Kind>,
    /// The bytes of every file, as last synced and as they are now.
    synced: HashMap<Ino, Arc<Vec<u8>>>,
    latest: HashMap<Ino, Arc<Vec<u8>>>,
    /// The names in every directory, as last synced, and their changes since then.
    names: HashMap<Ino, BTreeMap<String, Ino>>,
    pending: Vec<Op>,
}

/// Calls `visit` for each possible result of a cut: after no change, after the first, and so on to all of them. Its
/// argument is the number of changes made. The initial tree is fully on disk.
pub fn every_cut(start: &Tree, log: &[Op], mut visit: impl FnMut(usize, &Image)) {
    let mut disk = Disk::new(start);
    let mut draw = Draw(0x9e37_79b9_7f4a_7c15);
    for made in 0..=log.len() {
        if made > 0 {
            disk.apply(&log[made - 1]);
        }
        disk.images(&mut draw, &mut |image| visit(made, image));
    }
}

/// A tree with this on its disk. Its inodes are numbered from `first`, because the kernel remembers the types of
/// earlier ones.
pub fn restored(image: &Image, first: Ino) -> Tree {
    let mut tree = Tree::default();
    let mut inos = first..;
    let mut inodes = HashMap::from([(PathBuf::new(), ROOT)]);
    for (path, bytes) in image.iter().filter(|(path, _)| **path != Path::new("")) {
        let (dir, ino) = (inodes[path.parent().unwrap()], inos.next().unwrap());
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let (kind, mode) = if bytes.is_some() { (Kind::File, 0o600) } else { (Kind::Folder, 0o700) };
        tree.apply(&Op::Make { dir, name, ino, kind, mode });
        if let Some(bytes) = bytes {
            tree.apply(&Op::Write { ino, offset: 0, bytes: bytes.to_vec() });
        }
        inodes.insert(path.clone(), ino);
    }
    tree
}

/// A disk on which everything in a tree is synced.
pub fn synced(tree: &Tree) -> Image {
    let bytes = |node: &Node| match node.kind {
        Kind::Folder => None,
        _ => Some(Arc::new(node.bytes.clone())),
    };
    tree.paths().into_iter().map(|(path, node)| (path, bytes(node))).collect()
}

impl Disk {
    fn new(start: &Tree) -> Disk {
        let bytes = |node: &Node| Arc::new(node.bytes.clone());
        let synced: HashMap<_, _> = start.nodes.iter().map(|(ino, node)| (*ino, bytes(node))).collect();
        Disk {
            kinds: start.nodes.iter().map(|(ino, node)| (*ino, node.kind)).collect(),
            latest: synced.clone(),
            synced,
            names: start.nodes.iter().map(|(ino, node)| (*ino, node.names.clone())).collect(),
            pending: Vec::new(),
            seen: start.clone(),
        }
    }

    fn apply(&mut self, op: &Op) {
        self.seen.apply(op);
        match op {
            Op::Make { ino, kind, .. } => {
                self.kinds.insert(*ino, *kind);
                self.latest.insert(*ino, Arc::default());
                self.synced.insert(*ino, Arc::default());
                self.names.insert(*ino, BTreeMap::new());
                self.pending.push(op.clone());
            }
            Op::Remove { .. } => self.pending.push(op.clone()),
            Op::Rename { dir, to, .. } => {
                assert_eq!(*dir, to.0, "a file that moves between directories is in both or in neither");
                self.pending.push(op.clone());
            }
            Op::Write { ino, .. } | Op::Resize { ino, .. } => {
                let bytes = self.seen.nodes[ino].bytes.clone();
                self.latest.insert(*ino, Arc::new(bytes));
            }
            Op::Mode { .. } => {}
            Op::Sync { ino } => {
                self.synced.insert(*ino, self.latest[ino].clone());
                self.names.insert(*ino, self.seen.nodes[ino].names.clone());
                self.pending.retain(|op| folder(op) != *ino);
            }
        }
    }

    fn images(&self, draw: &mut Draw, visit: &mut dyn FnMut(&Image)) {
        let mut unsynced: Vec<Ino> = self.latest.keys().copied().collect();
        unsynced.retain(|ino| !Arc::ptr_eq(&self.latest[ino], &self.synced[ino]));
        unsynced.sort_unstable();
        let subsets = 1_u64 << self.pending.len().min(40);
        let all = subsets.saturating_mul(3_u64.saturating_pow(unsynced.len() as u32));
        for number in 0..all.min(MOST) {
            // Always include both extremes: none of the changes and all of them.
            let chosen = match number {
                _ if all <= MOST || number == 0 => number,
                1 => all - 1,
                _ => draw.below(all),
            };
            visit(&self.image(chosen % subsets, chosen / subsets, &unsynced));
        }
    }

    /// The bits of `names` select the name changes that are on disk; the base-3 digits of `bytes` select the contents
    /// of each file.
    fn image(&self, names: u64, mut bytes: u64, unsynced: &[Ino]) -> Image {
        let mut contents = self.synced.clone();
        for ino in unsynced {
            let latest = &self.latest[ino];
            match bytes % 3 {
                0 => None,
                1 => contents.insert(*ino, Arc::new(vec![0; latest.len()])),
                _ => contents.insert(*ino, latest.clone()),
            };
            bytes /= 3;
        }
        let mut folders = self.names.clone();
        for (_, op) in self.pending.iter().enumerate().filter(|(at, _)| names >> at & 1 == 1) {
            let names = folders.get_mut(&folder(op)).expect("the directory is known");
            match op {
                Op::Make { name, ino, .. } => drop(names.insert(name.clone(), *ino)),
                Op::Remove { name, .. } => drop(names.remove(name)),
                Op::Rename { name, ino, to, .. } => {
                    names.retain(|own, has| !(own == name && has == ino));
                    names.insert(to.1.clone(), *ino);
                }
                _ => {}
            }
        }
        let mut image = Image::new();
        self.fill(ROOT, Path::new(""), (&folders, &contents), &mut image);
        image
    }

    fn fill(&self, ino: Ino, path: &Path, (folders, contents): (&Folders, &Contents), image: &mut Image) {
        match self.kinds[&ino] {
            // Sockets have no listener after the cut.
            Kind::Socket => {}
            Kind::File => drop(image.insert(path.to_owned(), Some(contents[&ino].clone()))),
            Kind::Folder => {
                image.insert(path.to_owned(), None);
                for (name, ino) in &folders[&ino] {
                    self.fill(*ino, &path.join(name), (folders, contents), image);
                }
            }
        }
    }
}

/// The directory whose names a change affects.
fn folder(op: &Op) -> Ino {
    match op {
        Op::Make { dir, .. } | Op::Remove { dir, .. } | Op::Rename { dir, .. } => *dir,
        _ => 0,
    }
}

/// Pseudo-random numbers that are the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
