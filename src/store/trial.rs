//! Owns: trying on the target what a backup does to it. Must not: leave anything there, or touch what others have there.

use std::fs;
use std::path::{Path, PathBuf};

use super::Error;
use super::folder::{Folder, make_private};
use super::partial::rename_new;
use crate::sys::opened::Opened;
use crate::sys::{durable, host};

/// The file of a trial, before and after it is renamed.
const FILES: [&str; 2] = ["new", "renamed"];

impl Folder {
    /// Makes a private folder, and removes it. With `file`, also makes a private file, syncs and renames it, and syncs the folder.
    pub(super) fn try_out(&self, file: bool) -> Result<(), Error> {
        let prefix = format!(".kvmbackup-trial-{}-", host::node_name());
        self.sweep(&prefix);
        let trial = self.backupdir.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir(&trial).map_err(failed("create", &trial))?;
        let tried = make_private(&trial).map_err(failed("make private", &trial));
        let tried = tried.and_then(|()| if file { try_file(&trial) } else { Ok(()) });
        let removed = remove(&trial);
        tried.and(removed)
    }

    /// Removes what a process of this host left that was killed meanwhile.
    fn sweep(&self, prefix: &str) {
        let is_left = |path: &PathBuf| {
            let pid = path.file_name().and_then(|name| name.to_str()?.strip_prefix(prefix)?.parse::<u32>().ok());
            pid.is_some_and(|pid| pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists())
        };
        let entries = fs::read_dir(&self.backupdir).into_iter().flatten();
        for left in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_left) {
            if let Err(error) = remove(&left) {
                tracing::warn!(%error, "cannot remove the files of an earlier check");
            }
        }
    }
}

fn try_file(trial: &Path) -> Result<(), Error> {
    let opened = Opened::open(trial).map_err(failed("open", trial))?;
    let [new, renamed] = FILES.map(|name| opened.at(Path::new(name)));
    let file = durable::create_private(&new).map_err(failed("create a private file in", trial))?;
    file.sync_all().map_err(failed("sync a file in", trial))?;
    rename_new(&new, &renamed).map_err(failed("rename a file in", trial))?;
    opened.sync().map_err(failed("sync", trial))
}

fn remove(trial: &Path) -> Result<(), Error> {
    let files = FILES.iter().try_for_each(|name| durable::remove(&trial.join(name)));
    files.and_then(|()| fs::remove_dir(trial)).map_err(failed("remove", trial))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}
