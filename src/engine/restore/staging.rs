//! Owns: files from their temporary names to their own, all or none. Must not: know what is written into them.
//!
//! Each file is written beside its place as `.NAME.kvmbackup-part`, private and new, so that no link of somebody else's is
//! followed. [`Staging::place`] gives them their owners, syncs and renames them; until [`Staging::keep`], dropping this takes
//! everything back, a file that was replaced included.
//!
//! The folder may be a mount that hangs: every call on it is made with patience, but for those on the host's own TPM state.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use self::rename::{beside, create_part, place, put_back};
use self::target::check_target;
use crate::engine::{Error, rights};
use crate::model::Owner;
use crate::sys::durable;
use crate::sys::patience::Patience;
use crate::sys::patient_file::PatientFile;

/// The end of a temporary name.
const PART: &str = ".kvmbackup-part";
/// renameat2(2), which refuses its flags on file systems that cannot do them.
type Rename = fn(&Path, &Path, RenameFlags) -> Result<(), Errno>;

/// Who may use a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Only the user that restores.
    Private,
    /// Those who could use the file that it replaces; or else these, if any.
    Kept(Option<Owner>),
}

/// The mode of folders that only their owner may use.
pub const PRIVATE: u32 = 0o700;
/// The mode of folders whose files everyone may open by name: as libvirt makes them, for the users that guests run as.
pub const PASSABLE: u32 = 0o711;

/// What was written and is not final yet.
pub struct Staging {
    overwrite: bool,
    patience: Patience,
    files: Vec<Staged>,
    /// Folders that were made, outer ones first.
    folders: Vec<PathBuf>,
    /// Why files did not get their owners.
    notes: Vec<String>,
    kept: bool,
    rename: Rename,
}

struct Staged {
    part: PathBuf,
    target: PathBuf,
    /// Open, and locked, for as long as the temporary name is in use.
    file: Arc<PatientFile>,
    owner: Option<Owner>,
    state: State,
}

#[derive(Clone, PartialEq, Eq)]
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
    pub fn new(overwrite: bool, patience: &Patience) -> Staging {
        let rename: Rename = |from, to, flags| renameat_with(CWD, from, CWD, to, flags);
        let patience = patience.clone();
        Staging { overwrite, patience, files: Vec::new(), folders: Vec::new(), notes: Vec::new(), kept: false, rename }
    }

    /// Makes a folder, and those above it, of this mode. One that exists is left as it is.
    pub fn folder(&mut self, path: &Path, mode: u32) -> Result<(), Error> {
        let wanted = path.to_owned();
        let (made, result) = self.call("create the directory", path, move || Ok(make_missing(&wanted, mode)))?;
        self.folders.extend(made);
        result
    }

    /// The same for a folder inside of a chosen one: a link in its place would lead out of there.
    pub fn folder_within(&mut self, path: &Path, mode: u32) -> Result<(), Error> {
        self.folder(path, mode)?;
        let made = path.to_owned();
        self.call("access", path, move || match fs::symlink_metadata(&made) {
            Ok(status) if status.is_dir() => Ok(()),
            Ok(_) => Err(target::obstacle(&made)),
            Err(error) => Err(Error::file("access", &made)(error)),
        })
    }

    /// Gives a folder, if it was made here, to a user.
    pub fn own_folder(&mut self, path: &Path, owner: Option<Owner>) {
        let Some(owner) = owner.filter(|_| self.folders.iter().any(|folder| folder == path)) else { return };
        if let Err(error) = std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid)) {
            self.notes.push(not_given(path, owner, &error));
        }
    }

    /// Begins a file that will be called `target`.
    pub fn create(&mut self, target: &Path, rights: Rights) -> Result<Arc<PatientFile>, Error> {
        let part = part_of(target);
        let (to, overwrite, new) = (target.to_owned(), self.overwrite, part.clone());
        let (file, owner) = self.call("create", target, move || {
            check_target(&to, overwrite)?;
            let owner = match rights {
                Rights::Private => None,
                Rights::Kept(other) => rights::of_replaced(&to).or(other),
            };
            Ok((create_part(&new).map_err(Error::file("create", &new))?, owner))
        })?;
        let file = Arc::new(PatientFile::new(file, &self.patience));
        self.files.push(Staged { part, target: target.to_owned(), file: file.clone(), owner, state: State::Part });
        Ok(file)
    }

    /// Whether regular files may be replaced.
    pub fn overwrites(&self) -> bool {
        self.overwrite
    }

    /// How long a call on what is written may take.
    pub fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Does something where files are written, or will be; `action` and `path` say what, if that hangs.
    pub fn call<T: Send + 'static>(
        &self,
        action: &'static str,
        path: &Path,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.patience.call(work).map_err(Error::file(action, path)).and_then(|done| done)
    }

    /// The temporary name of a file that was begun.
    pub fn part(target: &Path) -> PathBuf {
        part_of(target)
    }

    /// Makes all contents durable and gives the files their names.
    pub fn place(&mut self) -> Result<(), Error> {
        for staged in &self.files {
            if let Some(owner) = staged.owner
                && let Err(error) = staged.file.with(move |file| give(file, owner))
            {
                self.notes.push(not_given(&staged.target, owner, &error));
            }
            staged.file.with(File::sync_all).map_err(Error::file("write", &staged.part))?;
        }
        for at in 0..self.files.len() {
            let Staged { part, target, .. } = &self.files[at];
            let (part, to, overwrite, rename) = (part.clone(), target.clone(), self.overwrite, self.rename);
            self.files[at].state = self.call("rename to", target, move || {
                if overwrite {
                    check_target(&to, true)?;
                }
                place(&part, &to, overwrite, rename).map_err(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => Error::Exists { path: to },
                    _ => Error::file("rename to", &to)(error),
                })
            })?;
        }
        self.sync_folders()
    }

    /// What to tell the operator of what was placed.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Ends it: what was placed stays, what it replaced goes. Returns the files.
    pub fn keep(mut self) -> Vec<PathBuf> {
        self.kept = true;
        let replaced = self.files.iter().filter_map(|staged| match &staged.state {
            State::Replaced(old) => Some(old.clone()),
            _ => None,
        });
        let replaced: Vec<PathBuf> = replaced.collect();
        if !replaced.is_empty() {
            told(self.patience.call(move || replaced.iter().for_each(|old| remove(old))));
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
            let path = folder.to_owned();
            self.call("write", folder, move || durable::sync_dir(&path).map_err(Error::file("write", &path)))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let paths = |staged: &Staged| (staged.state.clone(), staged.part.clone(), staged.target.clone());
        let files: Vec<_> = self.files.iter().rev().map(paths).collect();
        let folders = std::mem::take(&mut self.folders);
        // The files are open, and so locked, until they are gone.
        told(self.patience.call(move || {
            for (state, part, target) in &files {
                match state {
                    State::Part => remove(part),
                    State::New => remove(target),
                    State::Replaced(old) => put_back(old, target),
                }
            }
            for folder in folders.iter().rev() {
                // Not empty: somebody else uses it by now.
                let _ = fs::remove_dir(folder);
            }
        }));
    }
}

/// Gives a file to a user. Its contents are private until then.
fn give(file: &File, owner: Owner) -> io::Result<()> {
    std::os::unix::fs::fchown(file, Some(owner.uid), Some(owner.gid))?;
    durable::set_mode(file, owner.mode)
}

fn not_given(path: &Path, owner: Owner, error: &io::Error) -> String {
    let Owner { uid, gid, mode } = owner;
    let path = path.display();
    format!(
        "{path} cannot be given to user {uid}, group {gid}, mode {mode:o}: {error}; the guest may be unable to use it"
    )
}

/// Makes a folder and those above it; those that were made, outer ones first, and whether all could be.
fn make_missing(path: &Path, mode: u32) -> (Vec<PathBuf>, Result<(), Error>) {
    let is_missing = |path: &&Path| *path != Path::new("") && fs::symlink_metadata(path).is_err();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    let mut made = Vec::new();
    for folder in missing.into_iter().rev() {
        match make_folder(folder, mode) {
            Ok(()) => made.push(folder.to_owned()),
            Err(error) => return (made, Err(Error::file("create the directory", folder)(error))),
        }
    }
    (made, Ok(()))
}

/// Of this mode, whatever the umask.
fn make_folder(folder: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode & PRIVATE).create(folder)?;
    durable::set_mode(&File::open(folder)?, mode)
}

/// Says in the log that a removal hangs: there is an error already, or nothing that counts.
fn told(removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(%error, "cannot remove what a restore wrote or replaced");
    }
}

fn part_of(target: &Path) -> PathBuf {
    beside(target, PART)
}

fn remove(path: &Path) {
    if let Err(error) = durable::remove(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove what a restore wrote");
    }
}

mod rename;
pub mod target;
#[cfg(test)]
mod tests;
