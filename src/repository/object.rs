//! Owns: what kinds of objects a repository has, and where each is below its root. Must not: read or write one.

use std::fmt;

use super::Id;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// What the repository says about itself; there is one.
    Config,
    /// The master key, encrypted with a password.
    Key,
    /// A process that works on the repository.
    Lock,
    /// A restore point.
    Snapshot,
    /// Which blobs are in which packs.
    Index,
    /// Blobs, one after another.
    Pack,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] = [Kind::Config, Kind::Key, Kind::Lock, Kind::Snapshot, Kind::Index, Kind::Pack];

    /// Its folder below the root; the config has none.
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

    /// How messages call it.
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
    /// Its kind.
    pub kind: Kind,
    /// The SHA-256 of its bytes. It means nothing for the config.
    pub id: Id,
}

impl Object {
    /// The one config.
    pub const CONFIG: Object = Object { kind: Kind::Config, id: Id::from_zeros() };

    /// The object of a kind with this id.
    pub fn new(kind: Kind, id: Id) -> Object {
        Object { kind, id }
    }

    /// Its folder below the root: packs are in 256 folders.
    pub fn folder(&self) -> String {
        match self.kind {
            Kind::Pack => format!("data/{:02x}", self.id.as_bytes()[0]),
            kind => kind.folder().to_owned(),
        }
    }

    /// Its name in that folder.
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
    fn objects_are_where_restic_expects_them() {
        let id = Id::of(b"hi");
        let place = |object: Object| format!("{}/{}", object.folder(), object.file_name());
        assert_eq!(place(Object::CONFIG), "/config");
        assert_eq!(place(Object::new(Kind::Pack, id)), format!("data/8f/{id}"));
        assert_eq!(place(Object::new(Kind::Lock, id)), format!("locks/{id}"));
        assert_eq!(Object::new(Kind::Index, id).to_string(), format!("index {id}"));
    }
}
