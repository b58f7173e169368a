//! Owns: files from their temporary names to their own, all or none. Must not: know what is written into them.
//!
//! Each file is written beside its place as `.NAME.kvmbackup-part`, private and new, so that no link of somebody else's is
//! followed. [`Staging::place`] syncs and renames them; until [`Staging::keep`], dropping this takes everything back, a file
//! that was replaced included.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, fcntl_lock, flock, renameat_with};
use rustix::io::Errno;
use uuid::Uuid;

use crate::engine::Error;
use crate::sys::durable;

/// The end of a temporary name.
const PART: &str = ".kvmbackup-part";
/// What follows the name of a file that is being replaced, where it cannot take the temporary one; then a unique part.
const OLD: &str = ".kvmbackup-old-";

/// renameat2(2), which refuses its flags on file systems that cannot do them.
type Rename = fn(&Path, &Path, RenameFlags) -> Result<(), Errno>;

/// What was written and is not final yet.
pub struct Staging {
    overwrite: bool,
    files: Vec<Staged>,
    /// Folders that were made, outer ones first.
    folders: Vec<PathBuf>,
    kept: bool,
    rename: Rename,
}

struct Staged {
    part: PathBuf,
    target: PathBuf,
    /// Open, and locked, for as long as the temporary name is in use.
    file: File,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    /// Under the temporary name.
    Part,
    /// Under its own name, where nothing was before.
    New,
    /// Under its own name; what was there before has this one beside it.
    Replaced(PathBuf),
}

impl Staging {
    /// With `overwrite`, regular files may be replaced.
    pub fn new(overwrite: bool) -> Staging {
        let rename: Rename = |from, to, flags| renameat_with(CWD, from, CWD, to, flags);
        Staging { overwrite, files: Vec::new(), folders: Vec::new(), kept: false, rename }
    }

    /// Makes a folder, and those above it, for their owner only. One that exists is left as it is.
    pub fn folder(&mut self, path: &Path) -> Result<(), Error> {
        let missing: Vec<&Path> =
            path.ancestors().take_while(|path| *path != Path::new("") && fs::symlink_metadata(path).is_err()).collect();
        for folder in missing.into_iter().rev() {
            DirBuilder::new().mode(0o700).create(folder).map_err(Error::file("create the folder", folder))?;
            self.folders.push(folder.to_owned());
        }
        Ok(())
    }

    /// The same for a folder inside of a chosen one: a link in its place would lead out of there.
    pub fn folder_within(&mut self, path: &Path) -> Result<(), Error> {
        self.folder(path)?;
        match fs::symlink_metadata(path) {
            Ok(status) if status.is_dir() => Ok(()),
            Ok(_) => Err(Error::Exists { path: path.to_owned() }),
            Err(error) => Err(Error::file("look at", path)(error)),
        }
    }

    /// Begins a file that will be called `target`.
    pub fn create(&mut self, target: &Path) -> Result<File, Error> {
        check_target(target, self.overwrite)?;
        let part = part_of(target);
        let file = create_part(&part).map_err(Error::file("create", &part))?;
        let ours = file.try_clone().map_err(Error::file("open", &part))?;
        self.files.push(Staged { part, target: target.to_owned(), file: ours, state: State::Part });
        Ok(file)
    }

    /// The temporary name of a file that was begun.
    pub fn part(target: &Path) -> PathBuf {
        part_of(target)
    }

    /// Gives a file that was begun, and the folders that were made for it below `base`, the owner of another file.
    pub fn own_like(&self, target: &Path, base: &Path, like: &Path) -> Result<(), Error> {
        let status = fs::metadata(like).map_err(Error::file("look at", like))?;
        let (user, group) = (Some(status.uid()), Some(status.gid()));
        let files = self.files.iter().filter(|staged| staged.target == target).map(|staged| &staged.part);
        let folders = self.folders.iter().filter(|folder| folder.starts_with(base) && target.starts_with(folder));
        for path in files.chain(folders) {
            std::os::unix::fs::lchown(path, user, group).map_err(Error::file("change the owner of", path))?;
        }
        Ok(())
    }

    /// Makes all contents durable and gives the files their names.
    pub fn place(&mut self) -> Result<(), Error> {
        for staged in &self.files {
            staged.file.sync_all().map_err(Error::file("write", &staged.part))?;
        }
        for at in 0..self.files.len() {
            let staged = &mut self.files[at];
            if self.overwrite {
                check_target(&staged.target, true)?;
            }
            let placed = place(&staged.part, &staged.target, self.overwrite, self.rename);
            staged.state = placed.map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Error::Exists { path: staged.target.clone() },
                _ => Error::file("rename to", &staged.target)(error),
            })?;
        }
        self.sync_folders()
    }

    /// Ends it: what was placed stays, what it replaced goes. Returns the files.
    pub fn keep(mut self) -> Vec<PathBuf> {
        self.kept = true;
        for staged in &self.files {
            if let State::Replaced(old) = &staged.state {
                remove(old);
            }
        }
        self.files.iter().map(|staged| staged.target.clone()).collect()
    }

    fn sync_folders(&self) -> Result<(), Error> {
        let files = self.files.iter().map(|staged| &staged.target);
        let mut folders: Vec<&Path> = files.chain(&self.folders).filter_map(|path| path.parent()).collect();
        folders.sort();
        folders.dedup();
        for folder in folders {
            let folder = if folder == Path::new("") { Path::new(".") } else { folder };
            durable::sync_dir(folder).map_err(Error::file("write", folder))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for staged in self.files.iter().rev() {
            match &staged.state {
                State::Part => remove(&staged.part),
                State::New => remove(&staged.target),
                State::Replaced(old) => put_back(old, &staged.target),
            }
        }
        for folder in self.folders.iter().rev() {
            // Not empty: somebody else uses it by now.
            let _ = fs::remove_dir(folder);
        }
    }
}

fn part_of(target: &Path) -> PathBuf {
    beside(target, PART)
}

/// A hidden name in the same folder.
fn beside(target: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(end);
    target.with_file_name(name)
}

/// Nothing may be there, or, with `overwrite`, a regular file that no running guest has open.
pub fn check_target(target: &Path, overwrite: bool) -> Result<(), Error> {
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("look at", target)(error)),
        Ok(status) if overwrite && status.is_file() => {
            let file = File::options().read(true).write(true).open(target).map_err(Error::file("open", target))?;
            check_unused(&file, target)
        }
        Ok(_) => Err(Error::Exists { path: target.to_owned() }),
    }
}

/// QEMU locks some bytes of each image it has open (`docs/system/qemu-block-drivers.rst.inc` of QEMU, "Disk image file
/// locking"); a lock on the whole file collides with them.
pub fn check_unused(file: &File, path: &Path) -> Result<(), Error> {
    match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN | Errno::ACCESS) => Err(Error::Other {
            message: format!("{}: a running guest or another program uses it", path.display()),
            hint: Some("shut the guest down first, or restore elsewhere: --to".to_owned()),
        }),
        // A file system without locks cannot tell.
        _ => Ok(()),
    }
}

/// A new file; one that an interrupted restore has left gives way, one that is being written does not.
fn create_part(part: &Path) -> io::Result<File> {
    let created = match durable::create_private(part) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !fs::symlink_metadata(part)?.is_file() {
                return Err(error);
            }
            let left = File::open(part)?;
            flock(&left, FlockOperation::NonBlockingLockExclusive)?;
            fs::remove_file(part)?;
            durable::create_private(part)
        }
        result => result,
    };
    let file = created?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Gives a file its name. What was there keeps a name beside it: the temporary one, for which the file system exchanges both
/// at once, or, where it cannot (NFS: rename(2)), a third one.
fn place(part: &Path, target: &Path, overwrite: bool, rename: Rename) -> io::Result<State> {
    let cannot = |error| matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP);
    match rename(part, target, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(State::New),
        Err(Errno::EXIST) if overwrite => match rename(part, target, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(State::Replaced(part.to_owned())),
            Err(error) if cannot(error) => {}
            Err(error) => return Err(error.into()),
        },
        Err(error) if cannot(error) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(part, target).map(|()| State::New),
        Err(error) => Err(error),
        Ok(_) if overwrite => place_aside(part, target),
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

fn place_aside(part: &Path, target: &Path) -> io::Result<State> {
    let old = beside(target, &format!("{OLD}{}", Uuid::new_v4().simple()));
    fs::rename(target, &old)?;
    fs::rename(part, target).inspect_err(|_| put_back(&old, target))?;
    Ok(State::Replaced(old))
}

/// Gives a file that was replaced its name again; what has that name now is gone then.
fn put_back(old: &Path, target: &Path) {
    if let Err(error) = fs::rename(old, target) {
        let (path, old) = (target.display(), old.display());
        tracing::error!(%path, %old, %error, "could not put the replaced file back; it is kept under the other name");
    }
}

fn remove(path: &Path) {
    if let Err(error) = durable::remove(path) {
        tracing::warn!(path = %path.display(), %error, "could not remove what a restore has written");
    }
}

#[cfg(test)]
mod tests;
