//! Owns: replacing the file that node_exporter's textfile collector reads. Must not: know what is in it.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Error;
use super::error::file;
use crate::sys::durable;
use crate::sys::step::{self, Step};

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
    remove_stale(folder, &prefix).map_err(file("open the directory of", path))?;
    let aside = folder.join(format!("{prefix}{}.tmp", std::process::id()));
    let result = replace(&aside, path, text);
    if result.is_err() {
        let _ = durable::remove(&aside);
    }
    result?;
    durable::sync_dir(folder).map_err(file("sync the folder of", path))
}

fn replace(aside: &Path, path: &Path, text: &str) -> Result<(), Error> {
    step::reached(Step::TextfileWrite).and_then(|()| durable::remove(aside)).map_err(file("remove", aside))?;
    // Fails if anything has the name, a symbolic link somebody planted included.
    let new = durable::create_private(aside).map_err(file("create", aside))?;
    fill(new, text).map_err(file("write", aside))?;
    step::reached(Step::TextfileReplace).and_then(|()| fs::rename(aside, path)).map_err(file("replace", path))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_file_is_replaced_whole_and_all_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.prom");
        write(&path, "one\n").unwrap();
        let before = File::open(&path).unwrap();
        write(&path, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(io::read_to_string(before).unwrap(), "one\n", "who reads meanwhile reads one text, not two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(names(dir.path()), ["k.prom"]);
    }

    #[test]
    fn what_is_planted_at_the_temporary_name_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("k.prom"), dir.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, dir.path().join(format!(".k.prom.{}.tmp", std::process::id()))).unwrap();
        write(&path, "text\n").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(!path.is_symlink());
        assert_eq!(names(dir.path()), ["k.prom", "victim"]);
        // At the name itself, a link is replaced, not what it leads to.
        fs::remove_file(&path).unwrap();
        symlink(&victim, &path).unwrap();
        write(&path, "text\n").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(!path.is_symlink());
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut ended = Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let mut alive = Command::new("sleep").arg("600").spawn().unwrap();
        let left = format!(".k.prom.{}.tmp", ended.id());
        let at_work = format!(".k.prom.{}.tmp", alive.id());
        let others = [".k.prom.old.tmp", ".k.promx.1.tmp", "k.prom.tmp"];
        for name in [left.as_str(), at_work.as_str()].into_iter().chain(others) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        write(&dir.path().join("k.prom"), "text\n").unwrap();
        alive.kill().unwrap();
        alive.wait().unwrap();
        let mut kept = [at_work.as_str(), "k.prom"].into_iter().chain(others).collect::<Vec<_>>();
        kept.sort_unstable();
        assert_eq!(names(dir.path()), kept);
    }

    #[test]
    fn a_missing_folder_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(&dir.path().join("nowhere/k.prom"), "").unwrap_err();
        assert!(error.to_string().contains("nowhere/k.prom"), "{error}");
        assert!(error.hint().unwrap().contains("nowhere"), "{error}");
    }

    #[test]
    fn a_failure_leaves_nothing_and_the_old_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.prom");
        fs::create_dir(&path).unwrap();
        write(&path, "text\n").unwrap_err();
        assert_eq!(names(dir.path()), ["k.prom"]);
        assert!(path.is_dir());
    }
}
