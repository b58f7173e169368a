//! Keeps emails that could not be sent as files in the state directory until the next run sends them. It must not send them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chrono::Utc;
use uuid::Uuid;

use super::Error;
use crate::sys::durable;
use crate::sys::opened;
use crate::sys::step::{self, Step};

/// Maximum number of waiting emails, and of rejected ones; the oldest are removed.
const MOST: usize = 50;
/// Maximum size of an email, in bytes.
const MAX: u64 = 64 << 20;
/// Extensions of emails that wait and of emails that were permanently rejected.
const WAITING: &str = "eml";
const REFUSED: &str = "refused";
/// Extension of an incomplete email, after the process id of its writer.
const PART: &str = "part";

/// A private directory with one file per mail.
#[derive(Debug, Clone)]
pub struct Spool(PathBuf);

impl Spool {
    /// The spool of a state directory. It is created with its first email.
    pub fn of(state_dir: &Path) -> Spool {
        Spool(state_dir.join("mail-spool"))
    }

    /// Keeps an email.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<(), Error> {
        self.sweep();
        self.limit(WAITING, MOST - 1)?;
        let name = format!("{}-{}.{WAITING}", Utc::now().format("%Y%m%dT%H%M%S%6fZ"), Uuid::new_v4().simple());
        let path = self.0.join(name);
        let made = step::reached(Step::MailSpool).and_then(|()| durable::create_private_dir(&self.0));
        let written = made.and_then(|()| {
            // Only a complete mail gets a name that is sent.
            let aside = path.with_extension(format!("{}.{PART}", std::process::id()));
            let mut file = durable::create_private(&aside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            step::reached(Step::FileReplace)?;
            fs::rename(&aside, &path)?;
            durable::sync_dir(&self.0)
        });
        written.map_err(|source| Error::Spool { path, source })
    }

    /// Removes incomplete emails of killed writers. They only use space, so errors are ignored.
    fn sweep(&self) {
        for path in opened::entries(&self.0).unwrap_or_default().iter().map(|entry| self.0.join(entry.file_name())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let writer =
                name.strip_suffix(PART).and_then(|name| name.strip_suffix('.')?.rsplit('.').next()?.parse().ok());
            if writer.is_some_and(|writer: u32| !Path::new("/proc").join(writer.to_string()).exists())
                && let Err(error) = durable::remove(&path)
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished mail");
            }
        }
    }

    /// The emails that wait, oldest first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn waiting(&self) -> Result<Vec<PathBuf>, Error> {
        self.list(WAITING)
    }

    fn list(&self, wanted: &str) -> Result<Vec<PathBuf>, Error> {
        let listed = match opened::entries(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(|source| Error::Spool { path: self.0.clone(), source })?,
        };
        let mut paths: Vec<_> = listed.iter().map(|entry| self.0.join(entry.file_name())).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == wanted));
        paths.sort();
        Ok(paths)
    }

    /// Removes the oldest emails with an extension until the limit is met.
    fn limit(&self, ending: &str, most: usize) -> Result<(), Error> {
        let paths = self.list(ending)?;
        for path in paths.iter().take(paths.len().saturating_sub(most)) {
            tracing::warn!(path = %path.display(), "the spool is full: removing the oldest mail");
            self.done(path)?;
        }
        Ok(())
    }

    /// Reads one of them.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, Error> {
        opened::read_file(path, MAX).map_err(|source| Error::Spool { path: path.to_owned(), source })
    }

    /// Marks an email as permanently rejected: it stays as `NAME.refused` and is not sent again.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn refused(&self, path: &Path) -> Result<(), Error> {
        let renamed = step::reached(Step::MailSpoolRemove)
            .and_then(|()| fs::rename(path, path.with_extension(REFUSED)))
            .and_then(|()| durable::sync_dir(&self.0));
        renamed.map_err(|source| Error::Spool { path: path.to_owned(), source })?;
        self.limit(REFUSED, MOST)
    }

    /// Removes an email.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn done(&self, path: &Path) -> Result<(), Error> {
        let removed = step::reached(Step::MailSpoolRemove).and_then(|()| durable::remove(path));
        removed.map_err(|source| Error::Spool { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn spool_is_private_ordered_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::of(dir.path());
        assert!(spool.waiting().unwrap().is_empty());
        for n in 0..MOST + 3 {
            spool.put(format!("{n}").as_bytes()).unwrap();
        }
        let waiting = spool.waiting().unwrap();
        assert_eq!(waiting.len(), MOST);
        assert_eq!(spool.read(&waiting[0]).unwrap(), b"3");
        for path in &waiting {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o600);
        }
        fs::write(dir.path().join(format!("mail-spool/a.{}.part", u32::MAX)), "half").unwrap();
        fs::write(dir.path().join(format!("mail-spool/b.{}.part", std::process::id())), "half").unwrap();
        spool.put(b"one more").unwrap();
        let parts = fs::read_dir(dir.path().join("mail-spool")).unwrap().flatten().map(|entry| entry.file_name());
        let parts: Vec<_> = parts.filter(|name| name.to_string_lossy().ends_with("part")).collect();
        assert_eq!(parts, [format!("b.{}.part", std::process::id()).as_str()], "the writer of b is still running");
        let waiting = spool.waiting().unwrap();
        spool.done(&waiting[0]).unwrap();
        assert_eq!(spool.waiting().unwrap()[0], waiting[1]);
        for path in &waiting[1..] {
            spool.refused(path).unwrap();
        }
        assert!(spool.waiting().unwrap().is_empty());
        assert_eq!(spool.list(REFUSED).unwrap().len(), MOST - 1);
    }
}
