//! Opens the store that the configuration names, and checks its free space. Must not know what kind of store it is.

use super::Error;
use crate::config::{MinFree, RepositorySettings, Settings};
use crate::model::size;
use crate::store::{self, Access, BucketAccess, Location, Store};
use crate::sys::patience::Patience;
use crate::sys::space;

/// Opens the store. Fails if its directory does not exist; sends no request to a bucket.
pub fn open(settings: &Settings) -> Result<Store, Error> {
    Ok(Store::at(location(settings), &Patience::new(settings.stall_timeout))?)
}

/// Opens the repository of the configuration. Reads its configuration, so that a wrong password or a target that is not
/// mounted is not reported in the words of restic.
pub(super) fn open_repository(settings: &Settings) -> Result<(&RepositorySettings, Store), Error> {
    let Some(repository) = &settings.repository else {
        return Err(store::Error::NoRepository { path: settings.backupdir.clone() }.into());
    };
    let store = open(settings)?;
    store.expect_repository()?;
    Ok((repository, store))
}

/// Where the configuration stores restore points.
pub fn location(settings: &Settings) -> Location {
    Location { dir: settings.backupdir.clone(), repository: settings.repository.as_ref().map(access) }
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
    expect_mounted(settings, &Patience::new(settings.stall_timeout))?;
    Ok(Store::init(location(settings), &Patience::new(settings.stall_timeout))?)
}

/// Opens the store to write to it. Checks that it is mounted if that is required, and creates its directory if only
/// that is missing.
pub(super) fn open_or_create(settings: &Settings) -> Result<Store, Error> {
    let patience = Patience::new(settings.stall_timeout);
    expect_mounted(settings, &patience)?;
    Ok(Store::at_or_create(location(settings), &patience)?)
}

fn expect_mounted(settings: &Settings, patience: &Patience) -> Result<(), Error> {
    if let Some(dir) = settings.target_dir().filter(|_| settings.require_mount) {
        let path = dir.to_owned();
        let mounted = patience.call(move || space::is_off_root(&path).unwrap_or(false));
        if !mounted.map_err(Error::file("access", dir))? {
            return Err(Error::Target { path: dir.to_owned() });
        }
    }
    Ok(())
}

/// Fails if less space is free than `min_free` requires. A bucket always has enough.
pub(super) fn expect_room(settings: &Settings, store: &Store) -> Result<(), Error> {
    let Some(room) = store.room()? else { return Ok(()) };
    let wanted = match settings.min_free {
        MinFree::Bytes(bytes) => bytes,
        MinFree::Percent(percent) => (room.total as f64 * percent / 100.0) as u64,
    };
    if room.free < wanted {
        let path = settings.backupdir.clone();
        return Err(Error::Space { path, free: size::bytes(room.free), wanted: size::bytes(wanted) });
    }
    Ok(())
}
