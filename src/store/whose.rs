//! Owns: which domains the archives of a folder belong to. Must not: take a folder that cannot be looked into for a foreign one.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use super::folder::{is_absent, list};
use super::name;
use crate::sys::opened::Opened;

/// Bytes of the name in a folder, at most; libvirt cannot keep the definition of a domain whose name is so long.
const MAX_NAME: u64 = 4096;

/// The domain that a folder is of; `None` if it is foreign.
pub(super) fn domain_of(component: &str, folder: &Path) -> io::Result<Option<String>> {
    if name::is_shortened(component) {
        return Opened::open(folder).and_then(|folder| noted(component, &folder)).map(Some);
    }
    if let Some(domain) = name::decode(component) {
        return Ok(Some(domain));
    }
    // The legacy script's folders are named as the domain is; anything else is foreign, as lost+found is, which others than
    // root may not look into.
    match fs::symlink_metadata(folder.join(format!("{component}.tar.gz"))) {
        Ok(status) => Ok(status.is_file().then(|| component.to_owned())),
        Err(error) if is_absent(&error) || component == "lost+found" => Ok(None),
        Err(error) => Err(error),
    }
}

/// The name that stands in a folder whose own name is too short for it.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if it is not that of a domain with such a folder.
pub(super) fn noted(component: &str, folder: &Opened) -> io::Result<String> {
    let file = name::NAME_FILE;
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let bytes = folder.read(OsStr::new(file), MAX_NAME).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => wrong(format!("its file {file}: {error}")),
        _ => error,
    })?;
    let domain = String::from_utf8(bytes).ok().filter(|domain| name::stands_for(component, domain));
    domain.ok_or_else(|| wrong(format!("its file {file} does not contain the domain's name")))
}

/// The domains of archives that lie in a folder because the file system took their name for that of the folder.
pub(super) fn guests_in(component: &str, folder: &Path) -> Vec<String> {
    let is_meant = |other: &&str| *other != component && name::may_be_one(other, component);
    // A folder that cannot be read is told of by its own domain.
    let entries = list(folder).ok().flatten().unwrap_or_default();
    let files = entries.iter().filter_map(|entry| entry.file_name().into_string().ok());
    files.filter_map(|file| name::component_of(&file).filter(is_meant).and_then(name::decode)).collect()
}
