//! Owns: resolving a backing chain from image headers, and deciding whether to believe a header. Must not: change an image.
//!
//! Anyone who can write to an image can write its header, and QEMU's tools run with our rights, so they would open any file
//! that it names. They are therefore given the whole chain by name, and follow no header.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::rights;
use super::users::{self, MAX_CHAIN};
use crate::model::Image;
use crate::sys::owner;

const NOT_READABLE: &str = "which the owner of the image cannot read";

/// All images below one, according to the headers.
///
/// # Errors
/// When a header cannot be read, or names anything but a local file with its format that the image's owner may read.
pub(super) fn below(image: &Image) -> io::Result<Vec<Image>> {
    let mut chain = vec![image.clone()];
    while let Some(image) = chain.last()
        && let Some(path) = image.source.path()
        && let Some(links) = users::links(path, &image.format)?
        && let Some(name) = &links.backing
    {
        let next = users::below(path, &links)
            .filter(|_| !name.as_encoded_bytes().starts_with(b"json:") && chain.len() < MAX_CHAIN);
        let next = next.ok_or_else(|| refused(path, name, "which is not a file of known format"))?;
        if next.source.path().is_none_or(|next| !may_name(path, next)) {
            return Err(refused(path, name, NOT_READABLE));
        }
        chain.push(next);
    }
    Ok(chain.split_off(1))
}

/// Fails when the header of an image names a data file that the image's owner may not read.
pub(super) fn expect_data_file(image: &Image) -> io::Result<()> {
    let Some(path) = image.source.path() else { return Ok(()) };
    let Some(links) = users::links(path, &image.format)? else { return Ok(()) };
    match links.data_file.as_deref().map(|name| (name, users::resolve(path, name))) {
        Some((name, file)) if file.as_ref().is_none_or(|file| !may_name(path, file)) => {
            Err(refused(path, name, NOT_READABLE))
        }
        _ => Ok(()),
    }
}

/// Whether a path is a regular file itself, and no link to one.
pub(super) fn is_plain_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

fn refused(image: &Path, name: &OsStr, why: &str) -> io::Error {
    let message = format!("the header of {} names {}, {why}", image.display(), name.display());
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}

/// Whether the owner of an image may read a file that its header names. If that cannot be determined, opening the file fails anyway.
fn may_name(image: &Path, named: &Path) -> bool {
    let (Ok(image), Ok(status)) = (fs::metadata(image), fs::metadata(named)) else { return true };
    owner::is_trusted(image.uid()) || lets_read(&status, &image) || rights::has_list(named)
}

fn lets_read(file: &Metadata, image: &Metadata) -> bool {
    let bit = if file.uid() == image.uid() {
        0o400
    } else if file.gid() == image.gid() {
        0o040
    } else {
        0o004
    };
    file.mode() & bit != 0
}
