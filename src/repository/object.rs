//! Defines the kinds of objects in a repository, and where each object is stored below the root. Must not read or write
//! them.

use std::fmt;

use super::Id;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Version and ID of the repository; exactly one exists.
    Config,
    /// The master key, encrypted with a password.
    Key,
    /// A process that uses the repository.
    Lock,
    /// A restore point.
    Snapshot,
    /// A list of packs and the blobs in them.
    Index,
    /// Blobs, one after another.
    Pack,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 6] = [Kind::Config, Kind::Key, Kind::Lock, Kind::Snapshot, Kind::Index, Kind::Pack];

    /// Directory below the root; empty for the config.
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Config => "",
            Kind::Key => "keys",
            Kind::Lock => "locks",
            Kind::Snapshot => "snapshots",
            Kind::Index => "index",
            Kind::Pack => "data",
        }
    }

    /// Name in messages.
    fn name(self) -> &'static str {
        match self {
            Kind::Config => "config",
            Kind::Key => "key",
            Kind::Lock => "lock",
            Kind::Snapshot => "snapshot",
            Kind::Index => "index",
            Kind::Pack => "pack",
        }
    }
}

/// An object of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Object {
    /// Kind of the object.
    pub kind: Kind,
    /// SHA-256 of its bytes; meaningless for the config.
    pub id: Id,
}

impl Object {
    /// The only config.
    pub const CONFIG: Object = Object { kind: Kind::Config, id: Id::from_zeros() };

    /// The object of this kind with this ID.
    pub fn new(kind: Kind, id: Id) -> Object {
        Object { kind, id }
    }

    /// Directory below the root; packs are spread over 256 directories.
    pub fn folder(&self) -> String {
        match self.kind {
            Kind::Pack => format!("data/{:02x}", self.id.as_bytes()[0]),
            kind => kind.folder().to_owned(),
        }
    }

    /// Name in that directory.
    pub fn file_name(&self) -> String {
        match self.kind {
            Kind::Config => "config".to_owned(),
            _ => self.id.to_string(),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Config => f.write_str("config"),
            kind => write!(f, "{} {}", kind.name(), self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_paths_match_those_of_restic() {
        let id = Id::of(b"hi");
        let place = |object: Object| format!("{}/{}", object.folder(), object.file_name());
        assert_eq!(place(Object::CONFIG), "/config");
        assert_eq!(place(Object::new(Kind::Pack, id)), format!("data/8f/{id}"));
        assert_eq!(place(Object::new(Kind::Lock, id)), format!("locks/{id}"));
        assert_eq!(Object::new(Kind::Index, id).to_string(), format!("index {id}"));
    }
}
