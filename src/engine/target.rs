//! Owns: the store that the configuration names, and how full it may become. Must not: know what kind of store it is.

use super::Error;
use crate::config::{MinFree, Settings};
use crate::model::size;
use crate::store::Store;
use crate::sys::patience::Patience;
use crate::sys::space;

/// The store, if its folder exists.
pub fn open(settings: &Settings) -> Result<Store, Error> {
    Ok(Store::at(&settings.backupdir, &Patience::new(settings.stall_timeout))?)
}

/// The store to write to: mounted, if it must be. Creates its folder if only that is missing.
pub(super) fn open_or_create(settings: &Settings) -> Result<Store, Error> {
    let dir = &settings.backupdir;
    let patience = Patience::new(settings.stall_timeout);
    if settings.require_mount {
        let path = dir.clone();
        let mounted = patience.call(move || space::is_off_root(&path).unwrap_or(false));
        if !mounted.map_err(Error::file("access", dir))? {
            return Err(Error::Target { path: dir.clone() });
        }
    }
    Ok(Store::at_or_create(dir, &patience)?)
}

/// Fails before the target is fuller than the operator allows.
pub(super) fn expect_room(settings: &Settings, store: &Store) -> Result<(), Error> {
    let room = store.room()?;
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
