//! A place on which something happens right before a change.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::super::fixture::Restic;
use super::super::*;

/// Returns whether the change is made; an error fails it.
type Before = dyn Fn(Change) -> io::Result<()> + Send + Sync;

/// A change of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Put(Object),
    Remove(Object),
}

/// Passes every change to a function before it is made.
pub struct Meddled {
    place: Arc<dyn Place>,
    before: Box<Before>,
}

impl fmt::Debug for Meddled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meddled")
    }
}

impl Meddled {
    /// A repository on this place. The function must return the error of a change that must fail.
    pub fn open(
        place: Arc<dyn Place>,
        before: impl Fn(Change) -> io::Result<()> + Send + Sync + 'static,
    ) -> Repository {
        let place = Meddled { place, before: Box::new(before) };
        Repository::open(Arc::new(place), Restic::PASSWORD).unwrap()
    }
}

impl Place for Meddled {
    fn location(&self) -> String {
        self.place.location()
    }

    fn put(&self, object: Object, bytes: Vec<u8>) -> io::Result<()> {
        (self.before)(Change::Put(object))?;
        self.place.put(object, bytes)
    }

    fn read(&self, object: Object, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.place.read(object, range)
    }

    fn size(&self, object: Object) -> io::Result<u64> {
        self.place.size(object)
    }

    fn list(&self, kind: Kind) -> io::Result<Vec<(Id, u64)>> {
        self.place.list(kind)
    }

    fn remove(&self, object: Object) -> io::Result<()> {
        (self.before)(Change::Remove(object))?;
        self.place.remove(object)
    }
}
