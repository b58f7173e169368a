//! Encodes and parses trees, the directories of a restore point: JSON with exactly the bytes that restic writes.
//! Must not join a name from a tree to a path.

use std::io::{self, BufWriter, Read, Write};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::{Corruption, Id, text};

/// Limit of a decompressed tree in bytes, enough for 4.7 million blobs in one file.
pub const MAX_BYTES: u64 = 320 << 20;

/// Maximum number of blobs in one file; its tree must stay below [`MAX_BYTES`].
pub const MAX_BLOBS: usize = 4 << 20;

/// Maximum number of files and directories of a restore point.
pub const MAX_NODES: usize = 100_000;

/// Limit of a quoted name in bytes. Linux limits names to 255 bytes, and a quoted byte has at most four.
const MAX_NAME: usize = 1024;

/// Go's mode bit for a directory.
const DIR_BIT: u32 = 1 << 31;

/// Kind of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A file.
    File,
    /// A directory.
    Dir,
    /// Anything else, which our restore points do not contain.
    #[serde(other)]
    Other,
}

/// An entry of a directory. Times are kept as text, as they were written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Name; not trusted before [`Tree::check`].
    #[serde(serialize_with = "quoted", deserialize_with = "unquoted")]
    pub name: String,
    /// Kind of the entry.
    #[serde(rename = "type")]
    pub kind: NodeKind,
    /// Permissions, with Go's bit for a directory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: u32,
    /// Time of the last change of its contents.
    pub mtime: String,
    /// The same time in our restore points.
    pub atime: String,
    /// The same time in our restore points.
    pub ctime: String,
    /// User ID; 0 in our restore points.
    #[serde(default)]
    pub uid: u32,
    /// Group ID; 0 in our restore points.
    #[serde(default)]
    pub gid: u32,
    /// Name of the user.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user: String,
    /// Name of the group.
    #[serde(default, skip_serializing_if = "is_default")]
    pub group: String,
    /// Inode, for files that restic saved.
    #[serde(default, skip_serializing_if = "is_default")]
    pub inode: u64,
    /// ID of the file system, for files that restic saved.
    #[serde(default, skip_serializing_if = "is_default")]
    pub device_id: u64,
    /// Size in bytes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: u64,
    /// Number of hard links, for files that restic saved.
    #[serde(default, skip_serializing_if = "is_default")]
    pub links: u64,
    /// Target of a symbolic link that restic saved.
    #[serde(default, skip_serializing_if = "is_default")]
    pub linktarget: String,
    /// Blobs of a file.
    #[serde(default)]
    pub content: Option<Vec<Id>>,
    /// Tree of a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtree: Option<Id>,
}

/// The entries of a directory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tree {
    /// Sorted by name.
    #[serde(deserialize_with = "bounded")]
    pub nodes: Vec<Node>,
}

impl Node {
    /// A file that only root can access.
    pub fn file(name: &str, time: &str, size: u64, content: Vec<Id>) -> Node {
        Node { size, content: Some(content), ..Node::new(name, NodeKind::File, 0o600, time) }
    }

    /// A directory that only root can access.
    pub fn dir(name: &str, time: &str, subtree: Id) -> Node {
        Node { subtree: Some(subtree), ..Node::new(name, NodeKind::Dir, DIR_BIT | 0o700, time) }
    }

    fn new(name: &str, kind: NodeKind, mode: u32, time: &str) -> Node {
        let [mtime, atime, ctime] = [time; 3].map(str::to_owned);
        let [user, group] = ["root"; 2].map(str::to_owned);
        let (name, linktarget) = (name.to_owned(), String::new());
        let (uid, gid, inode, device_id, size, links) = (0, 0, 0, 0, 0, 0);
        let (content, subtree) = (None, None);
        Node {
            name,
            kind,
            mode,
            mtime,
            atime,
            ctime,
            uid,
            gid,
            user,
            group,
            inode,
            device_id,
            size,
            links,
            linktarget,
            content,
            subtree,
        }
    }
}

impl Tree {
    /// Writes the JSON to `out`; returns its ID and its length in bytes.
    pub fn write(&self, out: impl Write) -> io::Result<(Id, u64)> {
        let hashing = Hashing { inner: out, hasher: Sha256::new(), count: 0 };
        let mut out = BufWriter::with_capacity(64 << 10, hashing);
        self.serialize(&mut serde_json::Serializer::with_formatter(&mut out, text::GoFormatter))?;
        out.write_all(b"\n")?;
        let hashing = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((Id::from_bytes(hashing.hasher.finalize().into()), hashing.count))
    }

    /// Reads and checks the JSON of the tree with this ID.
    pub fn read(input: impl Read, id: Id) -> Result<Tree, Corruption> {
        Tree::read_within(input, id, MAX_BYTES)
    }

    fn read_within(input: impl Read, id: Id, limit: u64) -> Result<Tree, Corruption> {
        let hashing = Hashing { inner: input.take(limit + 1), hasher: Sha256::new(), count: 0 };
        let mut input = io::BufReader::with_capacity(64 << 10, hashing);
        let read = serde_json::from_reader(&mut input);
        let hashing = input.into_inner();
        if hashing.count > limit {
            return Err(Corruption::TooLarge { limit });
        }
        let tree: Tree = read.map_err(Corruption::Json)?;
        if Id::from_bytes(hashing.hasher.finalize().into()) != id {
            return Err(Corruption::Hash);
        }
        tree.check().map(|()| tree)
    }

    /// Fails unless every name is unique and a single path component.
    fn check(&self) -> Result<(), Corruption> {
        let is_ascending = self.nodes.windows(2).all(|pair| pair[0].name < pair[1].name);
        if !is_ascending {
            return Err(Corruption::Malformed("its names are not sorted or not unique"));
        }
        if !self.nodes.iter().all(|node| is_component(&node.name)) {
            return Err(Corruption::Malformed("it contains a name that is not a valid file name"));
        }
        Ok(())
    }
}

/// Whether a name is a single path component that stays in its directory.
pub fn is_component(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Hashes and counts the bytes that pass through.
struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    count: u64,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        self.hasher.update(&out[..count]);
        self.count += count as u64;
        Ok(count)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn quoted<S: Serializer>(name: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text::quote(name))
}

/// Up to [`MAX_NODES`] nodes. Short nodes need much more memory than their JSON.
fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Node>, D::Error> {
    struct Visitor;
    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Vec<Node>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "at most {MAX_NODES} entries of a directory")
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<Node>, A::Error> {
            let mut nodes = Vec::new();
            while let Some(node) = sequence.next_element()? {
                if nodes.len() == MAX_NODES {
                    return Err(serde::de::Error::invalid_length(MAX_NODES + 1, &self));
                }
                nodes.push(node);
            }
            Ok(nodes)
        }
    }
    deserializer.deserialize_seq(Visitor)
}

fn unquoted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let quoted = String::deserialize(deserializer)?;
    if quoted.len() > MAX_NAME {
        return Err(serde::de::Error::custom("a name is too long"));
    }
    text::unquote(&quoted).ok_or_else(|| serde::de::Error::custom("a name is not UTF-8 text in Go's quoting"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(tree: &Tree) -> (String, Id) {
        let mut out = Vec::new();
        let (id, length) = tree.write(&mut out).unwrap();
        assert_eq!((id, length), (Id::of(&out), out.len() as u64));
        (String::from_utf8(out).unwrap(), id)
    }

    /// Two trees written by restic 0.14.
    const OF_RESTIC: [&str; 2] = [
        concat!(
            r#"{"nodes":[{"name":"a","type":"file","mode":420,"mtime":"2026-11-30T15:19:48.565703562Z","atime":"2026-11-30T15:19:48.565703562Z","ctime":"2026-11-30T15:19:48.565703562Z","uid":0,"gid":0,"user":"root","group":"root","inode":10224211,"device_id":65024,"size":2,"links":1,"content":["8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"]},"#,
            r#"{"name":"empty","type":"file","mode":420,"mtime":"2026-11-30T15:19:48.565703562Z","atime":"2026-11-30T15:19:48.565703562Z","ctime":"2026-11-30T15:19:48.565703562Z","uid":0,"gid":0,"user":"root","group":"root","inode":10224212,"device_id":65024,"links":1,"content":[]},"#,
            r#"{"name":"q\\\"u\u003co\u003et\u0026\\\\e\\tt","type":"file","mode":420,"mtime":"2026-11-30T15:19:48.565703562Z","atime":"2026-11-30T15:19:48.565703562Z","ctime":"2026-11-30T15:19:48.565703562Z","uid":0,"gid":0,"user":"root","group":"root","inode":10224213,"device_id":65024,"size":1,"links":1,"content":["2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"]}]}"#,
            "\n"
        ),
        concat!(
            r#"{"nodes":[{"name":"src","type":"dir","mode":2147484141,"mtime":"2026-11-30T15:19:48.565703562Z","atime":"2026-11-30T15:19:48.565703562Z","ctime":"2026-11-30T15:19:48.565703562Z","uid":0,"gid":0,"user":"root","group":"root","inode":10223946,"device_id":65024,"content":null,"subtree":"212da194083744f53fcc58f06e5f148a5b9ec5db6418e7d09d0da7603f2f263d"}]}"#,
            "\n"
        ),
    ];

    #[test]
    fn trees_of_restic_round_trip_byte_for_byte() {
        for of_restic in OF_RESTIC {
            let tree = Tree::read(of_restic.as_bytes(), Id::of(of_restic.as_bytes())).unwrap();
            assert_eq!(json(&tree).0, of_restic);
        }
    }

    #[test]
    fn names_that_leave_their_directory_and_other_forgeries_are_refused() {
        let named =
            |names: &[&str]| Tree { nodes: names.iter().map(|name| Node::file(name, "t", 0, Vec::new())).collect() };
        let read = |tree: &Tree| {
            let (json, id) = json(tree);
            Tree::read(json.as_bytes(), id)
        };
        assert_eq!(read(&named(&["a", "b c", "ü"])).unwrap().nodes.len(), 3);
        for names in [&["../a"][..], &[".."], &["."], &[""], &["a/b"], &["a\0"], &["/"], &["b", "a"], &["a", "a"]] {
            assert!(read(&named(names)).is_err(), "{names:?}");
        }
        let (json, id) = json(&named(&["a"]));
        assert!(matches!(Tree::read(json.as_bytes(), Id::of(b"other")), Err(Corruption::Hash)));
        assert!(Tree::read(&json.as_bytes()[..50], id).is_err());
        assert!(Tree::read_within(io::repeat(b'['), id, 1 << 20).is_err(), "endless nesting");
        let endless = Tree::read_within(io::repeat(b' '), id, 1 << 20);
        assert!(matches!(endless, Err(Corruption::TooLarge { limit: 1_048_576 })));
    }
}
