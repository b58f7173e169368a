//! Opens the stores that the configuration names, and checks their free space. Must not know how they store anything.

use std::collections::{BTreeMap, BTreeSet};

use super::Error;
use crate::config::{MinFree, RepositorySettings, Settings};
use crate::model::{Failure, FailureReason, StoreKind, size};
use crate::store::{self, Access, BucketAccess, Location, Store};
use crate::sys::patience::Patience;
use crate::sys::space;

/// Opens the stores; only the one of this kind, if one is named. Fails if a directory does not exist; sends no request to
/// a bucket.
pub fn open(settings: &Settings, only: Option<StoreKind>) -> Result<Store, Error> {
    let open = |kind| Ok::<_, Error>(Store::at(location(settings, kind), &Patience::new(settings.stall_timeout))?);
    match (only, settings.stores().as_slice()) {
        (None, [first, second]) => {
            let both = existing(settings, *first).and_then(|store| Ok(store.beside(existing(settings, *second)?)));
            both.map_err(|error| one_of_two(settings, &error))
        }
        (None, stores) => open(stores.first().copied().unwrap_or(StoreKind::Archive)),
        (Some(kind), stores) if stores.contains(&kind) => open(kind),
        (Some(kind), _) => Err(Error::NoStore { kind }),
    }
}

/// Opens one store, and fails if that does not exist.
fn existing(settings: &Settings, kind: StoreKind) -> Result<Store, Error> {
    let store = open(settings, Some(kind))?;
    if kind == StoreKind::Repository {
        store.expect_repository()?;
    }
    Ok(store)
}

/// The error of a command that needs both stores, with a hint how to do without the broken one.
fn one_of_two(settings: &Settings, error: &Error) -> Error {
    let other = settings.stores().into_iter().find(|kind| existing(settings, *kind).is_ok());
    let more = other.map(|kind| format!("To use only the other store, add: --store {}", kind.name()));
    let hints: Vec<String> = error.hint().into_iter().chain(more).collect();
    let hint = (!hints.is_empty()).then(|| hints.join(" "));
    Error::Unusable { failure: Failure { hint, ..error.failure() }, reason: error.reason() }
}

/// Opens the repository of the configuration. Reads its configuration, so that a wrong password or a target that is not
/// mounted is not reported in the words of restic.
pub(super) fn open_repository(settings: &Settings) -> Result<(&RepositorySettings, Store), Error> {
    let Some(repository) = &settings.repository else {
        return Err(store::Error::NoRepository { path: settings.target().to_owned() }.into());
    };
    let store = open(settings, Some(StoreKind::Repository))?;
    store.expect_repository()?;
    Ok((repository, store))
}

/// Where the configuration has the store of this kind.
pub(super) fn location(settings: &Settings, kind: StoreKind) -> Location {
    let repository = settings.repository.as_ref().filter(|_| kind == StoreKind::Repository);
    Location { dir: settings.path_of(kind).to_owned(), repository: repository.map(access) }
}

/// How a repository is opened.
pub(super) fn access(repository: &RepositorySettings) -> Access {
    Access {
        bucket: repository.bucket.as_ref().map(|url| BucketAccess {
            url: url.clone(),
            region: repository.region.clone(),
            key: repository.access_key_id.clone().zip(repository.secret_access_key.clone()),
            ca_file: repository.ca_file.clone(),
        }),
        password: repository.password.clone(),
        cache_dir: repository.cache_dir.clone(),
        blob_size: repository.blob_size,
    }
}

/// Creates the repository that the configuration names, and returns its ID.
pub fn init(settings: &Settings) -> Result<String, Error> {
    let (kind, patience) = (StoreKind::Repository, Patience::new(settings.stall_timeout));
    if settings.repository.is_none() {
        return Err(store::Error::NoRepository { path: settings.target().to_owned() }.into());
    }
    expect_mounted(settings, kind, &patience)?;
    Ok(Store::init(location(settings, kind), &patience)?)
}

/// What a run can write to.
pub struct Writable {
    /// The stores that can be used.
    pub store: Store,
    /// Why others cannot.
    pub unusable: BTreeMap<StoreKind, Unusable>,
}

/// Why a store cannot be used in this run.
#[derive(Debug, Clone)]
pub struct Unusable {
    /// The error.
    pub failure: Failure,
    /// What failed, for metrics.
    pub reason: FailureReason,
}

impl Writable {
    /// Opens the stores to write to them. Checks that each is mounted if that is required, and creates its directory if
    /// only that is missing.
    ///
    /// # Errors
    /// If none can be used: why the first cannot.
    pub fn open(settings: &Settings) -> Result<Writable, Error> {
        Writable::of(settings.stores().into_iter().map(|kind| (kind, open_or_create(settings, kind))).collect())
    }

    /// The stores that exist, for a plan. Creates nothing.
    pub fn existing(settings: &Settings) -> Result<Writable, Error> {
        Writable::of(settings.stores().into_iter().map(|kind| (kind, existing(settings, kind))).collect())
    }

    /// The same without the stores of these kinds that fail `check`.
    pub fn checked(
        self,
        needed: &BTreeSet<StoreKind>,
        check: impl Fn(&Store) -> Result<(), Error>,
    ) -> Result<Writable, Error> {
        let stores = StoreKind::ALL.into_iter().filter_map(|kind| Some((kind, self.store.only(kind)?)));
        let judged = stores.map(|(kind, store)| match check(&store) {
            Err(error) if needed.contains(&kind) => (kind, Err(error)),
            _ => (kind, Ok(store)),
        });
        let Writable { store, mut unusable } = Writable::of(judged.collect())?;
        unusable.extend(self.unusable);
        Ok(Writable { store, unusable })
    }

    fn of(opened: Vec<(StoreKind, Result<Store, Error>)>) -> Result<Writable, Error> {
        let (mut usable, mut errors) = (None, Vec::new());
        for (kind, store) in opened {
            match (store, usable.take()) {
                (Ok(store), None) => usable = Some(store),
                (Ok(store), Some(first)) => usable = Some(Store::beside(first, store)),
                (Err(error), first) => {
                    usable = first;
                    errors.push((kind, error));
                }
            }
        }
        match usable {
            Some(store) => {
                let unusable =
                    |(kind, error): (_, Error)| (kind, Unusable { failure: error.failure(), reason: error.reason() });
                Ok(Writable { store, unusable: errors.into_iter().map(unusable).collect() })
            }
            None => {
                Err(errors.into_iter().next().map_or(Error::NoStore { kind: StoreKind::Archive }, |(_, error)| error))
            }
        }
    }
}

fn open_or_create(settings: &Settings, kind: StoreKind) -> Result<Store, Error> {
    let patience = Patience::new(settings.stall_timeout);
    expect_mounted(settings, kind, &patience)?;
    Ok(Store::at_or_create(location(settings, kind), &patience)?)
}

fn expect_mounted(settings: &Settings, kind: StoreKind, patience: &Patience) -> Result<(), Error> {
    if let Some(dir) = settings.dir_of(kind).filter(|_| settings.require_mount) {
        let path = dir.to_owned();
        let mounted = patience.call(move || space::is_off_root(&path).unwrap_or(false));
        if !mounted.map_err(Error::file("access", dir))? {
            return Err(Error::Target { path: dir.to_owned() });
        }
    }
    Ok(())
}

/// Fails if less space is free in the store of new restore points than `min_free` requires. A bucket always has enough.
pub(super) fn expect_room(settings: &Settings, store: &Store) -> Result<(), Error> {
    let Some(room) = store.room()? else { return Ok(()) };
    let wanted = match settings.min_free {
        MinFree::Bytes(bytes) => bytes,
        MinFree::Percent(percent) => (room.total as f64 * percent / 100.0) as u64,
    };
    if room.free < wanted {
        let path = store.location().to_owned();
        return Err(Error::Space { path, free: size::bytes(room.free), wanted: size::bytes(wanted) });
    }
    Ok(())
}
