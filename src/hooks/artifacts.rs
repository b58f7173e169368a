//! Reads the artifacts of a hook on this host, and decides which are accepted. Must not store them.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::Error;
use crate::sys::opened::Opened;

/// Maximum number of files of one hook.
pub(super) const MAX_FILES: usize = 64;
/// Maximum size of each file, in bytes.
pub(super) const MAX_SIZE: u64 = 1 << 20;
/// Maximum length of a file name, in bytes.
const MAX_NAME: usize = 100;

/// Reads the artifacts in a hook's directory: names and contents, sorted by name. Does not follow links.
///
/// # Errors
/// [`Error::Artifact`] for more than 64 files, for anything except a regular file of at most 1 MiB, and for a name that
/// contains other characters than ASCII letters, digits, dots, dashes and underscores, or begins with a dot or a dash.
pub fn artifacts(dir: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| Error::Read { path, source }
    };
    let mut found = Vec::new();
    let opened = Opened::open(dir).map_err(failed(dir))?;
    for entry in fs::read_dir(opened.path()).map_err(failed(dir))? {
        let name = entry.map_err(failed(dir))?.file_name();
        check_name(name.as_encoded_bytes())?;
        let name = name.to_string_lossy().into_owned();
        check_count(found.len() + 1, &name)?;
        let bytes = read(&opened, &name)?;
        found.push((name, bytes));
    }
    found.sort();
    Ok(found)
}

fn read(dir: &Opened, name: &str) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: name.into(), source };
    let file = match dir.file(OsStr::new(name)) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return refused(name.as_bytes(), "it is not a regular file");
        }
        file => file.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
    check_size(bytes.len(), name)?;
    Ok(bytes)
}

/// Whether a file of this name may be in an archive, and can be unpacked anywhere.
pub(super) fn check_name(name: &[u8]) -> Result<(), Error> {
    let safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    if name.len() > MAX_NAME {
        return refused(name, "its name is longer than 100 bytes");
    }
    if name.is_empty() || name.starts_with(b".") || name.starts_with(b"-") || !name.iter().all(safe) {
        return refused(name, "its name is not safe");
    }
    Ok(())
}

pub(super) fn check_count(count: usize, name: &str) -> Result<(), Error> {
    if count > MAX_FILES { refused(name.as_bytes(), "there are more than 64") } else { Ok(()) }
}

pub(super) fn check_size(size: usize, name: &str) -> Result<(), Error> {
    if size as u64 > MAX_SIZE { refused(name.as_bytes(), "it is larger than 1 MiB") } else { Ok(()) }
}

pub(super) fn refused<T>(name: &[u8], what: &'static str) -> Result<T, Error> {
    Err(Error::Artifact { name: String::from_utf8_lossy(name).chars().take(MAX_NAME).collect(), what })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn refusal(dir: &Path) -> (String, &'static str) {
        match artifacts(dir) {
            Err(Error::Artifact { name, what }) => (name, what),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn artifacts_are_sorted_by_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(artifacts(dir.path()).unwrap(), []);
        fs::write(dir.path().join("binlog.pos"), b"000042 1337\n").unwrap();
        fs::write(dir.path().join("backup_label"), vec![7; 1 << 20]).unwrap();
        let want =
            [("backup_label".to_owned(), vec![7; 1 << 20]), ("binlog.pos".to_owned(), b"000042 1337\n".to_vec())];
        assert_eq!(artifacts(dir.path()).unwrap(), want);
    }

    #[test]
    fn only_regular_files_are_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("shadow");
        symlink("/etc/shadow", &link).unwrap();
        assert_eq!(refusal(dir.path()), ("shadow".to_owned(), "it is not a regular file"));
        fs::remove_file(&link).unwrap();
        let owner = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &link, rustix::fs::FileType::Fifo, owner, 0).unwrap();
        assert_eq!(refusal(dir.path()).1, "it is not a regular file");
        fs::remove_file(&link).unwrap();
        fs::create_dir(&link).unwrap();
        assert_eq!(refusal(dir.path()).1, "it is not a regular file");
    }

    #[test]
    fn size_and_number_are_limited() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("dump.sql"), vec![0; (1 << 20) + 1]).unwrap();
        assert_eq!(refusal(dir.path()), ("dump.sql".to_owned(), "it is larger than 1 MiB"));
        fs::write(dir.path().join("dump.sql"), "").unwrap();
        (0..64).for_each(|number| fs::write(dir.path().join(format!("f{number}")), "").unwrap());
        assert_eq!(refusal(dir.path()).1, "there are more than 64");
        fs::remove_file(dir.path().join("dump.sql")).unwrap();
        assert_eq!(artifacts(dir.path()).unwrap().len(), 64);
        fs::write(dir.path().join("f64"), "").unwrap();
        fs::write(dir.path().join("f65"), "").unwrap();
        assert_eq!(refusal(dir.path()).1, "there are more than 64");
        assert!(check_count(66, "f65").is_err());
    }

    #[test]
    fn unsafe_names_are_refused() {
        for bad in ["", ".", "..", ".hidden", "-rf", "a/b", "a b", "a\nb", "a\\b", "ü", &"x".repeat(101)] {
            assert!(check_name(bad.as_bytes()).is_err(), "{bad:?}");
        }
        for good in ["backup_label", "a-b.c", "0", "X..y", &"x".repeat(100)] {
            assert!(check_name(good.as_bytes()).is_ok(), "{good:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a\nb"), "").unwrap();
        assert_eq!(refusal(dir.path()), ("a\nb".to_owned(), "its name is not safe"));
    }
}
