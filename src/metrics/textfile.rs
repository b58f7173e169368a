//! Owns: replacing the file that node_exporter's textfile collector reads. Must not: know what is in it.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Error;
use super::error::file;
use crate::sys::durable;

/// Replaces the file at one instant by a text, readable for all whatever the umask: node_exporter runs as a user of its own.
/// Until then the text has a name that the collector, which reads `*.prom`, does not look at, and that no other process uses.
///
/// # Errors
/// When the folder is not there, or cannot be written to. The file is as it was.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let prefix = prefix(path).map_err(file("write", path))?;
    remove_stale(folder, &prefix).map_err(file("look into the folder of", path))?;
    let aside = folder.join(format!("{prefix}{}.tmp", std::process::id()));
    let result = replace(&aside, path, text);
    if result.is_err() {
        let _ = durable::remove(&aside);
    }
    result?;
    durable::sync_dir(folder).map_err(file("sync the folder of", path))
}

fn replace(aside: &Path, path: &Path, text: &str) -> Result<(), Error> {
    durable::remove(aside).map_err(file("remove", aside))?;
    // Fails if anything has the name, a symbolic link somebody planted included.
    let new = durable::create_private(aside).map_err(file("create", aside))?;
    fill(new, text).map_err(file("write", aside))?;
    fs::rename(aside, path).map_err(file("replace", path))
}

fn fill(mut new: File, text: &str) -> io::Result<()> {
    new.write_all(text.as_bytes())?;
    new.set_permissions(Permissions::from_mode(0o644))?;
    new.sync_all()
}

/// What the temporary names of a file begin with; a number of a process follows.
fn prefix(path: &Path) -> io::Result<String> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(format!(".{}.", name.to_string_lossy()))
}

/// Removes what writers left that were killed.
fn remove_stale(folder: &Path, prefix: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let writer = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(".tmp"));
        let Some(Ok(writer)) = writer.map(str::parse::<u32>) else { continue };
        if !PathBuf::from(format!("/proc/{writer}")).exists() {
            durable::remove(&entry.path())?;
        }
    }
    Ok(())
}
