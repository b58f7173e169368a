//! Owns: which domains the archives of a folder belong to. Must not: take a folder that cannot be looked into for a foreign one.

use std::fs;
use std::io;
use std::path::Path;

use super::folder::{is_absent, list};
use super::name;
use super::opened::Opened;

/// The domain that a folder is of; `None` if it is foreign.
pub(super) fn domain_of(component: &str, folder: &Path) -> io::Result<Option<String>> {
    if name::is_shortened(component) {
        let domain = Opened::open(folder).and_then(|folder| fs::read_to_string(folder.path().join(name::NAME_FILE)))?;
        let message = "its file .domain does not hold the domain's name";
        return match name::stands_for(component, &domain) {
            true => Ok(Some(domain)),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, message)),
        };
    }
    if let Some(domain) = name::decode(component) {
        return Ok(Some(domain));
    }
    // The seed script's folders are named as the domain is; anything else is foreign, as lost+found is, which others than
    // root may not look into.
    match fs::metadata(folder.join(format!("{component}.tar.gz"))) {
        Ok(status) => Ok(status.is_file().then(|| component.to_owned())),
        Err(error) if is_absent(&error) || component == "lost+found" => Ok(None),
        Err(error) => Err(error),
    }
}

/// The domains of archives that lie in a folder because the file system took their name for that of the folder.
pub(super) fn guests_in(component: &str, folder: &Path) -> Vec<String> {
    let is_meant = |other: &&str| *other != component && name::may_be_one(other, component);
    // A folder that cannot be read is told of by its own domain.
    let entries = list(folder).ok().flatten().unwrap_or_default();
    let files = entries.iter().filter_map(|entry| entry.file_name().into_string().ok());
    files.filter_map(|file| name::component_of(&file).filter(is_meant).and_then(name::decode)).collect()
}
