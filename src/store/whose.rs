//! Finds out to which domains the archives in a directory belong. Must not treat an unreadable directory as a foreign
//! one.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use super::folder::{is_absent, list};
use super::name;
use crate::sys::opened::Opened;

/// Limit of a stored name in bytes; libvirt cannot store the definition of a domain with a longer one.
const MAX_NAME: u64 = 4096;

/// The domain of a directory; `None` if it is foreign.
pub(super) fn domain_of(component: &str, folder: &Path) -> io::Result<Option<String>> {
    if name::is_shortened(component) {
        return Opened::open(folder).and_then(|folder| noted(component, &folder)).map(Some);
    }
    if let Some(domain) = name::decode(component) {
        return Ok(Some(domain));
    }
    // The legacy script names the directory like the domain. Anything else is foreign, such as lost+found, which only
    // root may read.
    match fs::symlink_metadata(folder.join(format!("{component}.tar.gz"))) {
        Ok(status) => Ok(status.is_file().then(|| component.to_owned())),
        Err(error) if is_absent(&error) || component == "lost+found" => Ok(None),
        Err(error) => Err(error),
    }
}

/// The full name in a directory with a shortened name.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if the directory does not belong to a domain with that name.
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

/// The domains whose archives are in this directory because the file system treated their directory name as the same.
pub(super) fn guests_in(component: &str, folder: &Path) -> Vec<String> {
    let is_meant = |other: &&str| *other != component && name::may_be_one(other, component);
    // An unreadable directory is reported for its own domain.
    let entries = list(folder).ok().flatten().unwrap_or_default();
    let files = entries.iter().filter_map(|entry| entry.file_name().into_string().ok());
    files.filter_map(|file| name::component_of(&file).filter(is_meant).and_then(name::decode)).collect()
}
