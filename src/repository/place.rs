//! Defines what a repository requires of the place that stores its objects. Must not know the contents of an object.
//!
//! A directory is one kind of place ([`local`](super::local)). Every kind must pass the tests in `place/contract.rs`.

use std::fmt::Debug;
use std::io;
use std::ops::Range;

use super::Id;
use super::object::{Kind, Object};

#[cfg(test)]
pub mod contract;

/// A place that stores objects. No call blocks forever: a hung place is an error.
pub trait Place: Debug + Send + Sync {
    /// Location for messages and for `restic -r`.
    fn location(&self) -> String;

    /// Stores an object; replaces an existing object of this name. The object is durable when this returns. Until then,
    /// readers see none of it.
    fn put(&self, object: Object, bytes: Vec<u8>) -> io::Result<()>;

    /// Exactly this range of an object.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`]; [`io::ErrorKind::UnexpectedEof`] if the object is shorter.
    fn read(&self, object: Object, range: Range<u64>) -> io::Result<Vec<u8>>;

    /// Length of an object in bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`].
    fn size(&self, object: Object) -> io::Result<u64>;

    /// All objects of a kind with their lengths in bytes, in any order. Names that are not IDs are ignored.
    fn list(&self, kind: Kind) -> io::Result<Vec<(Id, u64)>>;

    /// Removes an object durably; a missing one is not an error.
    fn remove(&self, object: Object) -> io::Result<()>;

    /// The whole object.
    ///
    /// # Errors
    /// Those of [`Place::read`]; [`io::ErrorKind::FileTooLarge`] for more than `limit` bytes.
    fn read_all(&self, object: Object, limit: u64) -> io::Result<Vec<u8>> {
        let size = self.size(object)?;
        if size > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { self.read(object, 0..size) }
    }
}
