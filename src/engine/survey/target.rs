//! Owns: a look at the target that ends, whatever the target does. Must not: write to it, or open an archive.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use chrono::Utc;
use rustix::fs::{Access, access};

use crate::config::Settings;
use crate::engine::verified::Verified;
use crate::ledger::{SeenPoints, SeenRepository};
use crate::model::is_future;
use crate::store::{self, Store};
use crate::sys::patience::Patience;
use crate::sys::space::{self, Space};

/// A target that has not said how large it is by then is not up.
const ANSWER: Duration = Duration::from_secs(10);
/// How long one that answers may take to list what it holds.
const LISTING: Duration = Duration::from_secs(60);

/// Who looks every minute at a mount that hangs for a day must not be left with a thread for each look: while one hangs, all
/// others fail at once.
static ASKED: LazyLock<Patience> = LazyLock::new(Patience::default);
/// The same for what lists, which may hang where asking does not.
static LISTED: LazyLock<Patience> = LazyLock::new(Patience::default);

/// What was found at the target.
#[derive(Debug, Default)]
pub(super) struct Target {
    /// All but `stored_bytes`.
    pub repository: SeenRepository,
    /// By domain, of those that have some; `None` if none could be listed, or not those of a domain.
    pub points: Option<BTreeMap<String, Option<SeenPoints>>>,
}

/// Looks, and marks the points that are recorded as damaged.
pub(super) fn look(settings: &Settings, verified: Verified) -> Target {
    let path = settings.backupdir.clone();
    match ask(settings) {
        Ok(space) => {
            let repository = SeenRepository {
                path: path.clone(),
                up: true,
                capacity_bytes: space.total,
                available_bytes: space.free,
                stored_bytes: 0,
            };
            let patience = Patience::new(settings.stall_timeout);
            let listed = LISTED.within(LISTING).call(move || points(&path, &patience, &verified));
            Target { repository, points: listed.ok().flatten() }
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the target is not available");
            Target { repository: SeenRepository { path, ..SeenRepository::default() }, points: None }
        }
    }
}

/// The target's room, if it can be used. Takes at most 10 s.
pub(in crate::engine) fn ask(settings: &Settings) -> io::Result<Space> {
    let (dir, require_mount) = (settings.backupdir.clone(), settings.require_mount);
    ASKED.within(ANSWER.min(settings.stall_timeout)).call(move || answer(&dir, require_mount))?
}

/// Its room, if it may be written to and is mounted where it has to be.
fn answer(dir: &Path, require_mount: bool) -> io::Result<Space> {
    let room = space::of(dir)?;
    if !std::fs::metadata(dir)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if require_mount && !space::is_off_root(dir)? {
        return Err(io::Error::other("not on a mounted file system"));
    }
    access(dir, Access::WRITE_OK | Access::EXEC_OK)?;
    Ok(room)
}

fn points(dir: &Path, patience: &Patience, verified: &Verified) -> Option<BTreeMap<String, Option<SeenPoints>>> {
    let warn = |error: &store::Error| tracing::warn!("cannot list restore points: {}", crate::engine::chain(error));
    let list = || -> Result<_, store::Error> {
        let store = Store::at(dir, patience)?;
        let (mut found, now) = (BTreeMap::new(), Utc::now());
        let domains = store.domains()?;
        domains.failures.iter().for_each(warn);
        for domain in domains.names {
            let points = match store.points(&domain) {
                Ok(points) => points,
                Err(error) if error.is_stall() => return Err(error),
                Err(error) => {
                    warn(&error);
                    found.insert(domain, None);
                    continue;
                }
            };
            if points.is_empty() {
                continue;
            }
            // Points of the future exist, and nobody knows when they were taken.
            let mut times = points.iter().map(|point| point.id.time()).filter(|time| !is_future(*time, now));
            let oldest = times.next();
            let seen = SeenPoints {
                count: points.len() as u64,
                bytes: points.iter().map(|point| point.bytes).sum(),
                oldest,
                newest: times.next_back().or(oldest),
                damaged: points.iter().filter(|point| verified.is_damaged(point)).map(|point| point.id).collect(),
            };
            found.insert(domain, Some(seen));
        }
        Ok(found)
    };
    list().inspect_err(warn).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixture::{DOMAIN, Fixture};
    use crate::model::Codec;

    #[test]
    fn points_are_counted_by_domain() {
        let fixture = Fixture::new();
        let points = |dir: &Path, patience: &Patience| super::points(dir, patience, &Verified::default());
        assert_eq!(points(&fixture.path("backup"), &Patience::default()), Some(BTreeMap::new()));
        let disks = fixture.usual_disks();
        let [old, new] =
            ["2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z"].map(|time| fixture.point(time, Codec::Zstd(1), &disks));
        // Whatever is in an archive, it is not read.
        std::fs::write(old.location(), vec![0; old.bytes as usize]).unwrap();
        let seen = points(&fixture.path("backup"), &Patience::default()).unwrap();
        let (count, bytes) = (2, old.bytes + new.bytes);
        let times = (Some(old.id.time()), Some(new.id.time()));
        assert_eq!(
            seen,
            BTreeMap::from([(
                DOMAIN.to_owned(),
                Some(SeenPoints { count, bytes, oldest: times.0, newest: times.1, damaged: Vec::new() })
            )])
        );
        assert_eq!(points(&fixture.path("nowhere"), &Patience::default()), None);
    }

    #[test]
    fn what_cannot_be_written_to_is_not_up() {
        let dir = tempfile::tempdir().unwrap();
        assert!(answer(dir.path(), false).unwrap().total > 0);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(answer(&file, false).is_err() && answer(&dir.path().join("nowhere"), false).is_err());
        // Of the file systems that may be mounted read-only, and of those that are not a mount.
        for path in ["/", "/sys/kernel"] {
            assert!(answer(Path::new(path), false).is_err() || !is_read_only(path), "{path}");
        }
        let said = |path: &str, require_mount| {
            answer(Path::new(path), require_mount).map_or_else(|error| error.to_string(), |_| String::new())
        };
        let not_mounted = "not on a mounted file system";
        assert!(said("/", true) == not_mounted && said("/", false) != not_mounted);
        assert_eq!(answer(dir.path(), true).is_ok(), space::is_off_root(dir.path()).unwrap());
    }

    #[test]
    fn a_look_tells_of_which_target_whether_it_is_up_and_what_it_holds() {
        let fixture = Fixture::new();
        fixture.point("2026-11-20T02:00:00Z", Codec::Zstd(1), &fixture.usual_disks());
        let settings = |name: &str| {
            let config = "h:\n  backupdir: /b\n  domains:\n    db: {rotate: 1, day_of_week: daily}\n";
            let settings = crate::config::parse(config, Path::new("c.yml"), "h").unwrap();
            Settings { backupdir: fixture.path(name), ..settings }
        };
        let look = |settings: &Settings| super::look(settings, Verified::default());
        let seen = look(&settings("backup"));
        assert!(seen.repository.up && seen.repository.capacity_bytes >= seen.repository.available_bytes);
        assert_eq!(seen.repository.path, fixture.path("backup"));
        assert_eq!(seen.points.unwrap()[DOMAIN].as_ref().unwrap().count, 1);
        let away = look(&settings("nowhere"));
        assert_eq!((away.repository.path, away.repository.up), (fixture.path("nowhere"), false));
        assert!(away.points.is_none());
    }

    fn is_read_only(path: &str) -> bool {
        rustix::fs::statvfs(path).is_ok_and(|fs| fs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    }
}
