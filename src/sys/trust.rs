//! Owns: checking that only root, or the user of this process, can change or replace a file or folder. Must not: open or run it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use super::owner;

/// Links that are followed, as many as Linux does (path_resolution(7)).
const MAX_LINKS: usize = 40;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Why a path is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another user can change it, or it is of the wrong kind.
    #[error("{}: {what}", .path.display())]
    Untrusted {
        /// The file or folder on the way to it, or itself.
        path: PathBuf,
        /// What is wrong.
        what: Wrong,
    },
    /// It cannot be looked at.
    #[error("cannot examine {}", .path.display())]
    Look {
        /// The file or folder on the way to it, or itself.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What is wrong with a file, a folder or a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says itself")]
pub enum Wrong {
    #[error("its path is not absolute")]
    Relative,
    #[error("it is an endless symbolic link")]
    Endless,
    #[error("it is not a regular file")]
    NoFile,
    #[error("it is neither a file nor a pipe")]
    NoInput,
    #[error("it is not a folder")]
    NoFolder,
    #[error("it is not executable")]
    NotExecutable,
    #[error("its first line ends in a carriage return (Windows line ending)")]
    CarriageReturn,
    #[error("the interpreter in its first line does not exist")]
    NoInterpreter,
    #[error("it is owned by another user")]
    Owned,
    #[error("it is writable by its group or by others")]
    Writable,
    #[error("the directory is owned by another user")]
    FolderOwned,
    #[error("the directory is writable by its group or by others")]
    FolderWritable,
}

impl Refused {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Refused::Untrusted { path, what } => Some(what.hint(path)),
            Refused::Look { .. } => None,
        }
    }
}

impl Wrong {
    /// What the operator can type.
    pub fn hint(self, path: &Path) -> String {
        let command = match self {
            Wrong::Relative => return "Use its absolute path".to_owned(),
            Wrong::Endless | Wrong::NoFile | Wrong::NoInput | Wrong::NoFolder => "Check what it is: ls -ld",
            Wrong::NotExecutable => "Make it executable: chmod a+x",
            Wrong::CarriageReturn => r"Remove the carriage returns: sed -i 's/\r$//'",
            Wrong::NoInterpreter => "Install the interpreter, or correct the first line: head -n 1",
            Wrong::Owned => "Give it to root: chown -h root",
            Wrong::Writable => "Let only its owner change it: chmod go-w",
            Wrong::FolderOwned => "Use a directory that belongs to root, or give this one to root: chown root",
            Wrong::FolderWritable => {
                "Use a directory that only root can change, or let only its owner change this one: chmod go-w"
            }
        };
        let path = path.to_string_lossy().replace('\'', r"'\''");
        format!("{command} '{path}'")
    }
}

/// A regular file that only a trusted user can write, in folders that only trusted users can change.
///
/// # Errors
/// [`Refused`] names the first file, folder or link on the path that another user could change.
pub fn file(path: &Path) -> Result<(), Refused> {
    let (real, found) = walk(path)?;
    if !found.is_file() {
        return untrusted(&real, Wrong::NoFile);
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        return untrusted(&real, Wrong::Writable);
    }
    Ok(())
}

/// Input that only a trusted user can write, in folders that only trusted users can change: a file or a pipe. What this process was
/// given open (`/dev/stdin`, `<(…)`) cannot be replaced by another user and is trusted.
///
/// # Errors
/// As [`file()`] has them.
pub fn input(path: &Path) -> Result<(), Refused> {
    let path = std::path::absolute(path).map_err(look(path))?;
    if is_descriptor(&path) {
        return Ok(());
    }
    let (real, found) = walk(&path)?;
    let kind = found.file_type();
    // The error of a folder that is read says more.
    if !(kind.is_file() || kind.is_fifo() || kind.is_dir()) {
        return untrusted(&real, Wrong::NoInput);
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        return untrusted(&real, Wrong::Writable);
    }
    Ok(())
}

/// Whether a path of `/dev` or `/proc` names a file descriptor of this process.
fn is_descriptor(path: &Path) -> bool {
    let own = fs::canonicalize("/proc/self/fd");
    let link = match fs::read_link(path) {
        // As /dev/stdin does.
        Ok(target) if path.starts_with("/dev") => target,
        _ => path.to_owned(),
    };
    let folder = link.parent().map(fs::canonicalize);
    matches!((own, folder), (Ok(own), Some(Ok(folder))) if own == folder)
}

/// A folder that only a trusted user can write, in folders that only trusted users can change.
///
/// # Errors
/// As [`file()`] has them.
pub fn folder(path: &Path) -> Result<(), Refused> {
    let (real, found) = walk(path)?;
    if !found.is_dir() {
        return untrusted(&real, Wrong::NoFolder);
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        return untrusted(&real, Wrong::FolderWritable);
    }
    Ok(())
}

/// The same for a folder that may not exist yet: checks the nearest existing folder above it.
///
/// # Errors
/// As [`file()`] has them.
pub fn future_folder(path: &Path) -> Result<(), Refused> {
    let path = std::path::absolute(path).map_err(look(path))?;
    let exists = |folder: &&Path| fs::symlink_metadata(folder).is_ok();
    let existing = path.ancestors().find(exists).unwrap_or(Path::new("/"));
    if existing == path {
        return folder(existing);
    }
    // In a sticky folder, a new folder can be replaced only by its owner.
    let (real, found) = walk(existing)?;
    check_folder(&real, &found)
}

/// Follows a path as the kernel does, checking every folder and link on the way, and the owner of the result.
fn walk(path: &Path) -> Result<(PathBuf, Metadata), Refused> {
    if !path.is_absolute() {
        return untrusted(path, Wrong::Relative);
    }
    let mut rest: VecDeque<OsString> = parts(path);
    let mut at = PathBuf::from("/");
    let mut found = fs::metadata(&at).map_err(look(&at))?;
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == *".." {
            at.pop();
            found = fs::symlink_metadata(&at).map_err(look(&at))?;
            continue;
        }
        check_folder(&at, &found)?;
        let next = at.join(&part);
        let status = fs::symlink_metadata(&next).map_err(look(&next))?;
        if !status.is_symlink() {
            (at, found) = (next, status);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return untrusted(path, Wrong::Endless);
        }
        if !owner::is_trusted(status.uid()) {
            return untrusted(&next, Wrong::Owned);
        }
        let target = fs::read_link(&next).map_err(look(&next))?;
        for part in parts(&target).into_iter().rev() {
            rest.push_front(part);
        }
        if target.is_absolute() {
            at = PathBuf::from("/");
            found = fs::metadata(&at).map_err(look(&at))?;
        }
    }
    if !owner::is_trusted(found.uid()) {
        return untrusted(&at, Wrong::Owned);
    }
    Ok((at, found))
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// Fails if another user could replace a trusted file in this folder.
fn check_folder(path: &Path, found: &Metadata) -> Result<(), Refused> {
    if !owner::is_trusted(found.uid()) {
        return untrusted(path, Wrong::FolderOwned);
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 && found.mode() & STICKY == 0 {
        return untrusted(path, Wrong::FolderWritable);
    }
    Ok(())
}

fn look(path: &Path) -> impl FnOnce(io::Error) -> Refused {
    let path = path.to_owned();
    |source| Refused::Look { path, source }
}

fn untrusted<T>(path: &Path, what: Wrong) -> Result<T, Refused> {
    Err(Refused::Untrusted { path: path.to_owned(), what })
}

#[cfg(test)]
mod tests;
