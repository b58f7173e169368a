//! Examines the target within a time limit, whatever the target does. Must not write to it or open an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use chrono::Utc;
use rustix::fs::{Access, access};

use crate::config::Settings;
use crate::engine::Error;
use crate::engine::target;
use crate::engine::verified::Verified;
use crate::ledger::{SeenPoints, SeenRepository};
use crate::model::{StoreKind, is_future};
use crate::store::{Point, Store};
use crate::sys::patience::Patience;
use crate::sys::space::{self, Space};

/// A target that does not report its size within this time is not up.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a target that answers may take to list its contents.
const LISTING: Duration = Duration::from_secs(60);

/// A survey is taken every minute, and a mount may hang for a day. While one call hangs, all others fail at once, so
/// that hung threads do not accumulate.
static ASKED: LazyLock<Patience> = LazyLock::new(Patience::default);
/// The same for listing, which may hang where [`ask`] does not.
static LISTED: LazyLock<Patience> = LazyLock::new(Patience::default);

/// What was found at the target.
#[derive(Debug, Default)]
pub(super) struct Target {
    /// Everything except `stored_bytes`.
    pub repository: SeenRepository,
    /// The same of the other target, if there are two.
    pub other: Option<SeenRepository>,
    /// The points of each domain that has some. `None` for a domain that could not be listed, or if nothing could.
    pub points: Option<BTreeMap<String, Option<SeenPoints>>>,
}

/// Examines the target, and marks points that are recorded as damaged.
pub(super) fn look(settings: &Settings, verified: Verified) -> Target {
    let mut seen = settings.stores().into_iter().map(|kind| state(settings, kind));
    let (repository, other) = (seen.next().unwrap_or_default(), seen.next());
    // The points of one target are not all that there are.
    if !repository.up || other.as_ref().is_some_and(|other| !other.up) {
        return Target { repository, other, points: None };
    }
    let settings = settings.clone();
    let listed = LISTED.within(LISTING).call(move || points(|| target::open(&settings, None), &verified));
    Target { repository, other, points: listed.ok().flatten() }
}

/// The state of one target.
fn state(settings: &Settings, kind: StoreKind) -> SeenRepository {
    let path = settings.path_of(kind).to_owned();
    let deduplicated = kind == StoreKind::Repository;
    match ask(settings, kind) {
        Ok(space) => SeenRepository {
            path,
            up: true,
            // A bucket has no size, and 0 means unknown.
            capacity_bytes: space.map_or(0, |space| space.total),
            available_bytes: space.map_or(0, |space| space.free),
            stored_bytes: 0,
            deduplicated,
        },
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the target is not available");
            SeenRepository { path, deduplicated, ..SeenRepository::default() }
        }
    }
}

/// Size and free space of a target, if it can be used; a bucket has none. Takes at most 10 s.
pub(in crate::engine) fn ask(settings: &Settings, kind: StoreKind) -> io::Result<Option<Space>> {
    let limit = ANSWER.min(settings.stall_timeout);
    let Some(dir) = settings.dir_of(kind) else {
        let store = Store::at(target::location(settings, kind), &Patience::new(limit));
        let reached = store.and_then(|store| store.reach());
        return reached.map(|()| None).map_err(|error| io::Error::other(crate::engine::chain(&error)));
    };
    let (dir, require_mount) = (dir.to_owned(), settings.require_mount);
    ASKED.within(limit).call(move || answer(&dir, require_mount))?.map(Some)
}

/// Size and free space, if the directory is writable and mounted as required.
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

fn points(
    open: impl FnOnce() -> Result<Store, Error>,
    verified: &Verified,
) -> Option<BTreeMap<String, Option<SeenPoints>>> {
    let warn = |error: &dyn std::error::Error| {
        tracing::warn!("cannot list restore points: {}", crate::engine::chain(error));
    };
    let list = || -> Result<_, Error> {
        let store = open()?;
        let (mut found, now) = (BTreeMap::new(), Utc::now());
        let domains = store.domains()?;
        domains.failures.iter().for_each(|error| warn(error));
        for (domain, points) in store.points_of(domains.names)? {
            let points = match points {
                Ok(points) => points,
                Err(error) => {
                    warn(&error);
                    found.insert(domain, None);
                    continue;
                }
            };
            if points.is_empty() {
                continue;
            }
            // Points in the future exist, but their time is unknown.
            let mut times = points.iter().map(|point| point.id.time()).filter(|time| !is_future(*time, now));
            let oldest = times.next();
            let bytes = |points: &mut dyn Iterator<Item = &Point>| points.map(|point| point.bytes).sum();
            let ids: BTreeSet<_> = points.iter().map(|point| point.id).collect();
            let seen = SeenPoints {
                count: ids.len() as u64,
                bytes: bytes(&mut points.iter()),
                other_bytes: bytes(&mut points.iter().filter(|point| point.store() != store.kind())),
                oldest,
                newest: times.next_back().or(oldest),
                damaged: points.iter().filter(|point| verified.is_damaged(point)).map(|point| point.id).collect(),
            };
            found.insert(domain, Some(seen));
        }
        Ok(found)
    };
    list().inspect_err(|error| warn(error)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Codec;
    use crate::store::fixture::{DOMAIN, Fixture};

    #[test]
    fn points_are_counted_by_domain() {
        let fixture = Fixture::new();
        let points =
            |dir: &Path, patience: &Patience| super::points(|| Ok(Store::at(dir, patience)?), &Verified::default());
        assert_eq!(points(&fixture.path("backup"), &Patience::default()), Some(BTreeMap::new()));
        let disks = fixture.usual_disks();
        let [old, new] =
            ["2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z"].map(|time| fixture.point(time, Codec::Zstd(1), &disks));
        // The contents of archives are not read, so they do not matter.
        std::fs::write(old.location(), vec![0; old.bytes as usize]).unwrap();
        let seen = points(&fixture.path("backup"), &Patience::default()).unwrap();
        let (count, bytes) = (2, old.bytes + new.bytes);
        let times = (Some(old.id.time()), Some(new.id.time()));
        assert_eq!(
            seen,
            BTreeMap::from([(
                DOMAIN.to_owned(),
                Some(SeenPoints { count, bytes, oldest: times.0, newest: times.1, ..SeenPoints::default() })
            )])
        );
        assert_eq!(points(&fixture.path("nowhere"), &Patience::default()), None);
    }

    #[test]
    fn target_that_is_not_writable_is_not_up() {
        let dir = tempfile::tempdir().unwrap();
        assert!(answer(dir.path(), false).unwrap().total > 0);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(answer(&file, false).is_err() && answer(&dir.path().join("nowhere"), false).is_err());
        // Either may be on a file system that is mounted read-only.
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
    fn survey_of_a_target_reports_whether_it_is_up_and_its_points() {
        let fixture = Fixture::new();
        fixture.point("2026-11-20T02:00:00Z", Codec::Zstd(1), &fixture.usual_disks());
        let settings = |name: &str| {
            let config = "h:\n  backupdir: /b\n  domains:\n    db: {rotate: 1, day_of_week: daily}\n";
            let settings = crate::config::parse(config, Path::new("c.yml"), "h").unwrap();
            Settings { backupdir: Some(fixture.path(name)), ..settings }
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
