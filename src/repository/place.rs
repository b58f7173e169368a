//! Owns: what a repository asks of the place that holds its objects. Must not: know what is in an object.
//!
//! A folder is one kind of place ([`local`](super::local)). Any kind must pass `place/contract.rs`.

use std::fmt::Debug;
use std::io;
use std::ops::Range;

use super::Id;
use super::object::{Kind, Object};

#[cfg(test)]
pub mod contract;

/// A place that holds objects. No call waits forever: a place that hangs is an error.
pub trait Place: Debug + Send + Sync {
    /// What the operator calls it, and `restic -r` too.
    fn location(&self) -> String;

    /// Stores an object. When this returns, it is durable; before, no reader sees any of it. An object of this name is replaced.
    fn put(&self, object: Object, bytes: Vec<u8>) -> io::Result<()>;

    /// Exactly these bytes of an object.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`]; [`io::ErrorKind::UnexpectedEof`] if it is shorter.
    fn read(&self, object: Object, range: Range<u64>) -> io::Result<Vec<u8>>;

    /// The length of an object.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`].
    fn size(&self, object: Object) -> io::Result<u64>;

    /// All objects of a kind with their lengths, in no order. What has no id for a name is left out.
    fn list(&self, kind: Kind) -> io::Result<Vec<(Id, u64)>>;

    /// Removes an object for good; one that does not exist is no error.
    fn remove(&self, object: Object) -> io::Result<()>;

    /// All of an object.
    ///
    /// # Errors
    /// As of [`Place::read`]; [`io::ErrorKind::FileTooLarge`] for more bytes than `limit`.
    fn read_all(&self, object: Object, limit: u64) -> io::Result<Vec<u8>> {
        let size = self.size(object)?;
        if size > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { self.read(object, 0..size) }
    }
}
