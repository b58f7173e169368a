//! Opens a repository with its key, and reads and writes objects other than packs. Must not know the contents of packs.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use chrono::Utc;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::crypto::{Key, random};
use super::object::{Kind, Object};
use super::{Corruption, Error, Id, Place, format, key_file, polynomial};

/// The format version that this program reads and writes.
const VERSION: u32 = 2;

/// Maximum number of keys that a password is tried on; each try takes a fraction of a second.
const MAX_KEYS: usize = 20;

/// An open repository with its key, which clones share.
#[derive(Debug, Clone)]
pub struct Repository {
    place: Arc<dyn Place>,
    key: Arc<Key>,
    id: Id,
}

#[derive(Serialize, Deserialize)]
struct Config {
    version: u32,
    id: Id,
    chunker_polynomial: String,
}

impl Repository {
    /// Creates a repository. If keys exist without a config, because the creation was interrupted or the config was lost, the
    /// key is used again: with another one, the password would open two different keys.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::Password`], if it opens none of the existing keys.
    pub fn init(place: Arc<dyn Place>, password: &str) -> Result<Repository, Error> {
        let location = place.location();
        match place.size(Object::CONFIG) {
            Ok(_) => return Err(Error::Exists { place: location }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(Error::Access {
                    place: location,
                    action: "examine",
                    what: Object::CONFIG.to_string(),
                    source,
                });
            }
        }
        let system = |source| Error::System { place: place.location(), source };
        let mut id = [0; Id::BYTES];
        random(&mut id).map_err(system)?;
        let (key, file) = match find_key(&*place, password)? {
            Some(key) => (key, None),
            None => {
                let key = Key::random().map_err(system)?;
                let file = key_file::lock(&key, password, Utc::now()).map_err(system)?;
                (key, Some(file))
            }
        };
        let chunker_polynomial = format!("{:x}", polynomial::choose().map_err(system)?);
        let config = Config { version: VERSION, id: Id::from_bytes(id), chunker_polynomial };
        let sealed = format::encode(&key, Kind::Config, &config).map_err(system)?;
        let repository = Repository { place, key: Arc::new(key), id: config.id };
        // The config is written last: without it, the repository does not exist.
        if let Some(file) = file {
            repository.put(Object::new(Kind::Key, Id::of(&file)), file)?;
        }
        repository.put(Object::CONFIG, sealed)?;
        Ok(repository)
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// [`Error::None`], [`Error::Password`], [`Error::Version`].
    pub fn open(place: Arc<dyn Place>, password: &str) -> Result<Repository, Error> {
        let location = place.location();
        let sealed = match place.read_all(Object::CONFIG, format::limits(Kind::Config).0) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::None { place: location }),
            Err(source) => {
                return Err(Error::Access {
                    place: location,
                    action: "read",
                    what: Object::CONFIG.to_string(),
                    source,
                });
            }
        };
        let key = find_key(&*place, password)?.ok_or(Error::Password { place: location.clone() })?;
        let damaged = |source| Error::Damaged { place: place.location(), object: Object::CONFIG, source };
        let config: Config = format::decode(&key, Kind::Config, sealed).map_err(damaged)?;
        match config.version {
            VERSION => Ok(Repository { place, key: Arc::new(key), id: config.id }),
            version => Err(Error::Version { place: location, version }),
        }
    }

    /// The ID in its config, which copies of the repository share.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Its location, for messages.
    pub fn location(&self) -> String {
        self.place.location()
    }

    pub(super) fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// Stores an object as JSON; returns its ID.
    pub fn save<T: Serialize>(&self, kind: Kind, value: &T) -> Result<Id, Error> {
        let sealed = format::encode(&self.key, kind, value).map_err(|source| self.system(source))?;
        let id = Id::of(&sealed);
        self.put(Object::new(kind, id), sealed)?;
        Ok(id)
    }

    /// Reads an object that contains JSON.
    pub(super) fn load<T: DeserializeOwned>(&self, kind: Kind, id: Id) -> Result<T, Error> {
        let object = Object::new(kind, id);
        let (limit, _) = format::limits(kind);
        let sealed = self.place.read_all(object, limit).map_err(|source| match source.kind() {
            io::ErrorKind::FileTooLarge => self.damaged(object, Corruption::TooLarge { limit }),
            io::ErrorKind::UnexpectedEof => self.damaged(object, Corruption::Short),
            _ => self.failed("read", object)(source),
        })?;
        let decoded = format::check_name(id, &sealed).and_then(|()| format::decode(&self.key, kind, sealed));
        decoded.map_err(|source| self.damaged(object, source))
    }

    /// A range of an object's stored bytes.
    pub(super) fn read(&self, object: Object, range: Range<u64>) -> Result<Vec<u8>, Error> {
        self.place.read(object, range).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(object, Corruption::Short),
            _ => self.failed("read", object)(source),
        })
    }

    pub(super) fn size(&self, object: Object) -> Result<u64, Error> {
        self.place.size(object).map_err(self.failed("read", object))
    }

    pub(super) fn put(&self, object: Object, bytes: Vec<u8>) -> Result<(), Error> {
        self.place.put(object, bytes).map_err(self.failed("write", object))
    }

    /// The objects of a kind with their lengths in bytes, sorted by ID.
    pub(super) fn list(&self, kind: Kind) -> Result<Vec<(Id, u64)>, Error> {
        let place = self.location();
        let listed = self.place.list(kind);
        let mut found =
            listed.map_err(|source| Error::Access { place, action: "list", what: kind.folder().to_owned(), source })?;
        found.sort_unstable();
        Ok(found)
    }

    pub(super) fn remove(&self, object: Object) -> Result<(), Error> {
        self.place.remove(object).map_err(self.failed("remove", object))
    }

    pub(super) fn damaged(&self, object: Object, source: Corruption) -> Error {
        Error::Damaged { place: self.location(), object, source }
    }

    pub(super) fn invalid(&self, what: impl Into<String>) -> Error {
        Error::Invalid { place: self.location(), what: what.into() }
    }

    pub(super) fn system(&self, source: io::Error) -> Error {
        Error::System { place: self.location(), source }
    }

    fn failed(&self, action: &'static str, object: Object) -> impl Fn(io::Error) -> Error {
        let place = self.location();
        move |source| Error::Access { place: place.clone(), action, what: object.to_string(), source }
    }
}

/// The master key from the first key file that the password opens; `None` if there are no key files.
fn find_key(place: &dyn Place, password: &str) -> Result<Option<Key>, Error> {
    let access = |action, what: String| move |source| Error::Access { place: place.location(), action, what, source };
    let mut keys = place.list(Kind::Key).map_err(access("list", "keys".to_owned()))?;
    if keys.is_empty() {
        return Ok(None);
    }
    keys.sort_unstable();
    let mut failure = None;
    for (id, _) in keys.into_iter().take(MAX_KEYS) {
        let object = Object::new(Kind::Key, id);
        let file = place.read_all(object, format::limits(Kind::Key).0).map_err(access("read", object.to_string()));
        let opened = file.and_then(|file| {
            let opened = format::check_name(id, &file).and_then(|()| key_file::unlock(&file, password));
            opened.map_err(|source| Error::Damaged { place: place.location(), object, source })
        });
        match opened {
            Ok(Some(key)) => return Ok(Some(key)),
            Ok(None) => {}
            // The password may open another key, so a damaged key is an error only if it opens none.
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or(Error::Password { place: place.location() }))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Restic;
    use super::*;

    #[test]
    fn restic_opens_our_repository_and_we_open_its_repository() {
        let restic = Restic::new();
        let ours = Repository::init(restic.place(), Restic::PASSWORD).unwrap();
        restic.run(&["check", "--read-data"]);
        assert!(restic.run(&["cat", "config"]).contains(&ours.id().to_string()));
        assert!(restic.run(&["key", "list"]).contains("kvmbackup"));
        assert!(matches!(Repository::init(restic.place(), Restic::PASSWORD), Err(Error::Exists { .. })));
        assert!(matches!(Repository::open(restic.place(), "wrong"), Err(Error::Password { .. })));

        let restic = Restic::new();
        restic.run(&["init", "--repository-version", "2"]);
        let opened = Repository::open(restic.place(), Restic::PASSWORD).unwrap();
        assert!(restic.run(&["cat", "config"]).contains(&opened.id().to_string()));
        let debug = format!("{opened:?}");
        assert!(debug.contains("key: Key,"), "the key is not printed: {debug}");
    }

    #[test]
    fn missing_repository_and_other_version_are_refused() {
        let restic = Restic::new();
        assert!(matches!(Repository::open(restic.place(), Restic::PASSWORD), Err(Error::None { .. })));
        restic.run(&["init", "--repository-version", "1"]);
        let error = Repository::open(restic.place(), Restic::PASSWORD).unwrap_err();
        assert!(matches!(error, Error::Version { version: 1, .. }) && error.hint().is_some());
    }

    #[test]
    fn damaged_key_is_an_error_only_if_no_other_key_opens() {
        let restic = Restic::new();
        let place = restic.place();
        Repository::init(place.clone(), Restic::PASSWORD).unwrap();
        let (good, size) = place.list(Kind::Key).unwrap()[0];
        let bad = Object::new(Kind::Key, Id::of(b"other"));
        place.put(bad, vec![b'x'; 70_000]).unwrap();
        Repository::open(place.clone(), Restic::PASSWORD).unwrap();
        place.remove(bad).unwrap();
        let good = Object::new(Kind::Key, good);
        let mut bytes = place.read(good, 0..size).unwrap();
        bytes[100] ^= 1;
        place.put(good, bytes).unwrap();
        let error = Repository::open(place.clone(), Restic::PASSWORD).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains(&good.to_string()), "{error}");
    }

    #[test]
    fn damaged_object_is_an_error_that_names_it() {
        let restic = Restic::new();
        let place = restic.place();
        let ours = Repository::init(place.clone(), Restic::PASSWORD).unwrap();
        let id = ours.save(Kind::Index, &vec![1; 1000]).unwrap();
        let object = Object::new(Kind::Index, id);
        assert_eq!(ours.load::<Vec<i32>>(Kind::Index, id).unwrap().len(), 1000);
        let good = place.read_all(object, 1 << 20).unwrap();
        let mut flipped = good.clone();
        flipped[20] ^= 1;
        for bad in [Vec::new(), good[..good.len() - 1].to_vec(), flipped] {
            place.put(object, bad).unwrap();
            let error = ours.load::<Vec<i32>>(Kind::Index, id).unwrap_err();
            assert!(error.is_damage() && error.to_string().contains(&object.to_string()), "{error}");
        }
        place.remove(object).unwrap();
        assert!(ours.load::<Vec<i32>>(Kind::Index, id).unwrap_err().is_damage(), "a lost object is damage");
    }
}
