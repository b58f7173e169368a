//! Reads and writes `verified.json` in the state directory, the result of the last verification of each restore point.
//! Must not verify any.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::model::version::{self, Unreadable};
use crate::model::{PointId, StoreKind, is_future};
use crate::store::Point;
use crate::sys::step::{self, Step};
use crate::sys::{durable, lock, opened};

const FILE: &str = "verified.json";
/// The version of the file that this program writes.
const VERSION: u32 = 1;
/// The lock for changes to the file.
const LOCK: &str = "verified.lock";
/// Maximum length of the file in bytes. A restore point takes about a hundred.
const MAX: u64 = 64 << 20;
/// Minimum time between two writes, because the file is long at large sites and each write is synced.
const EVERY: Duration = Duration::from_secs(30);

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// When it ended.
    pub time: DateTime<Utc>,
    /// Whether every byte was correct.
    pub good: bool,
    /// Length of the archive at that time, in bytes. With another length, it is another archive.
    pub bytes: u64,
}

/// Results by domain.
type Checks = BTreeMap<String, BTreeMap<PointId, Checked>>;

/// The last verification of each restore point, by domain.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Verified {
    /// Of archives. Files of older releases also have those of snapshots here.
    #[serde(default)]
    domains: Checks,
    /// Of snapshots in a repository, which may have the ID of an archive.
    #[serde(default, skip_serializing_if = "Checks::is_empty")]
    snapshots: Checks,
}

impl Verified {
    /// Reads the file. If it does not exist, nothing was verified. If it cannot be parsed, it counts as empty, because
    /// new verifications rewrite it; this fails only if a newer program wrote it. A good result in the future is
    /// ignored, because the clock was wrong then or is wrong now.
    pub fn load(state_dir: &Path) -> Result<Verified, Error> {
        let path = state_dir.join(FILE);
        let text = match opened::read_file(&path, MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Verified::default()),
            result => result.map_err(Error::file("read", &path))?,
        };
        let mut known: Verified = match version::parse(&text, VERSION) {
            Ok(known) => known,
            Err(source @ Unreadable::Newer { .. }) => return Err(Error::Format { path, source }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read the record of verifications; starting a new one");
                Verified::default()
            }
        };
        let now = Utc::now();
        for checks in known.domains.values_mut().chain(known.snapshots.values_mut()) {
            checks.retain(|_, checked| !(checked.good && is_future(checked.time, now)));
        }
        Ok(known)
    }

    /// The last verification of a point.
    pub fn get(&self, point: &Point) -> Option<&Checked> {
        let of_snapshot = (point.store() == StoreKind::Repository).then_some(&self.snapshots);
        let all = of_snapshot.into_iter().chain([&self.domains]);
        let mut found = all.filter_map(|checks| checks.get(&point.domain)?.get(&point.id));
        found.find(|checked| checked.bytes == point.bytes)
    }

    fn of(&mut self, store: StoreKind) -> &mut Checks {
        match store {
            StoreKind::Archive => &mut self.domains,
            StoreKind::Repository => &mut self.snapshots,
        }
    }

    /// Whether the last verification of a point found damage.
    pub fn is_damaged(&self, point: &Point) -> bool {
        self.get(point).is_some_and(|checked| !checked.good)
    }
}

/// Collects results for the file. It is written at most every 30 seconds, so a crash loses only the results of that
/// time. The owner must call [`Recorder::write`] at the end. Several processes may record at once.
pub struct Recorder {
    state_dir: PathBuf,
    every: Duration,
    written: Instant,
    /// The file at the beginning.
    known: Verified,
    /// The results in `known` of points that do not exist any more.
    gone: Verified,
    new: Verified,
}

impl Recorder {
    /// Reads the file in this directory. To be called before the points are listed.
    pub fn new(state_dir: &Path) -> Result<Recorder, Error> {
        Ok(Recorder {
            state_dir: state_dir.to_owned(),
            every: EVERY,
            written: Instant::now(),
            known: Verified::load(state_dir)?,
            gone: Verified::default(),
            new: Verified::default(),
        })
    }

    /// The results that were in the file at the beginning.
    pub fn known(&self) -> &Verified {
        &self.known
    }

    /// When results of this domain are added, forgets those of points that are not in `present`. Results that another
    /// process has added since the beginning stay, because they may be of newer points.
    pub fn keep_only(&mut self, domain: &str, present: &[Point]) {
        let is_present = |store, id| {
            let is_of = |point: &Point| store == StoreKind::Archive || point.store() == store;
            present.iter().any(|point| point.id == id && is_of(point))
        };
        for store in StoreKind::ALL {
            let mut gone = self.known.of(store).get(domain).cloned().unwrap_or_default();
            gone.retain(|id, _| !is_present(store, *id));
            self.gone.of(store).insert(domain.to_owned(), gone);
        }
    }

    /// Adds the result of a verification that ends now.
    pub fn add(&mut self, point: &Point, good: bool) -> Result<(), Error> {
        let checked = Checked { time: Utc::now(), good, bytes: point.bytes };
        self.new.of(point.store()).entry(point.domain.clone()).or_default().insert(point.id, checked);
        if self.written.elapsed() >= self.every { self.write() } else { Ok(()) }
    }

    /// Writes the added results to disk. The lock is taken only for that, so a hung target blocks no other process.
    pub fn write(&mut self) -> Result<(), Error> {
        if self.new.domains.is_empty() && self.new.snapshots.is_empty() {
            return Ok(());
        }
        self.written = Instant::now();
        let made = step::reached(Step::StateFolder).and_then(|()| durable::create_private_dir(&self.state_dir));
        made.map_err(Error::file("create the directory", &self.state_dir))?;
        let path = self.state_dir.join(LOCK);
        let locked = step::reached(Step::VerifiedLock).and_then(|()| lock::wait(&path));
        let _lock = locked.map_err(Error::file("lock", &path))?;
        let mut known = Verified::load(&self.state_dir)?;
        for store in StoreKind::ALL {
            merge(known.of(store), self.new.of(store), self.gone.of(store));
        }
        let path = self.state_dir.join(FILE);
        let text = version::text(&known, VERSION).map_err(io::Error::other).map_err(Error::file("write", &path))?;
        let written = step::reached(Step::VerifiedWrite).and_then(|()| durable::write(&path, &text));
        written.map_err(Error::file("write", &path))?;
        self.new = Verified::default();
        Ok(())
    }
}

/// Adds new results, and removes those of points that are gone.
fn merge(known: &mut Checks, new: &Checks, gone: &Checks) {
    for (domain, checks) in new {
        let of_domain = known.entry(domain.clone()).or_default();
        if let Some(gone) = gone.get(domain) {
            of_domain.retain(|id, checked| gone.get(id) != Some(checked));
        }
        for (id, checked) in checks {
            let is_older = |other: &Checked| other.time <= checked.time || is_future(other.time, checked.time);
            if of_domain.get(id).is_none_or(is_older) {
                of_domain.insert(*id, checked.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::Codec;
    use crate::store::fixture::{DOMAIN, Fixture};

    #[test]
    fn results_are_written_in_batches() {
        let fixture = Fixture::new();
        let point = |day: u32| fixture.point(&format!("2026-11-{day}T02:00:00Z"), Codec::None, &[]);
        let points = [20, 21, 22].map(point);
        let state = fixture.path("state");
        let count = || Verified::load(&state).unwrap().domains.get(DOMAIN).map_or(0, BTreeMap::len);
        let mut recorder = Recorder { every: Duration::MAX, ..Recorder::new(&state).unwrap() };
        recorder.keep_only(DOMAIN, &points);
        recorder.add(&points[0], true).unwrap();
        recorder.add(&points[1], false).unwrap();
        assert!(!state.exists(), "nothing must be written yet");
        recorder.write().unwrap();
        assert_eq!(count(), 2);
        let mut recorder = Recorder { every: Duration::ZERO, ..Recorder::new(&state).unwrap() };
        recorder.keep_only(DOMAIN, &points[1..]);
        recorder.add(&points[2], true).unwrap();
        assert_eq!(count(), 2, "the result of the missing point must be dropped");
        assert!(Verified::load(&state).unwrap().is_damaged(&points[1]));
    }

    #[test]
    fn good_result_in_the_future_is_ignored_but_damage_is_not() {
        let fixture = Fixture::new();
        let point = fixture.point("2026-11-20T02:00:00Z", Codec::None, &[]);
        let state = fixture.path("state");
        for good in [true, false] {
            let mut recorder = Recorder::new(&state).unwrap();
            recorder.add(&point, good).unwrap();
            recorder.write().unwrap();
            let path = state.join(FILE);
            let text = fs::read_to_string(&path).unwrap();
            let year = Utc::now().format("\"%Y-").to_string();
            assert!(text.contains(&year));
            fs::write(&path, text.replace(&year, "\"2999-")).unwrap();
            let verified = Verified::load(&state).unwrap();
            assert_eq!((verified.get(&point).is_some(), verified.is_damaged(&point)), (!good, !good));
        }
    }

    #[test]
    fn two_recorders_lose_no_result_of_each_other() {
        let fixture = Fixture::new();
        let point = |day: u32| fixture.point(&format!("2026-11-{day}T02:00:00Z"), Codec::None, &[]);
        let [first, second, new] = [20, 21, 22].map(point);
        let state = fixture.path("state");
        let mut slow = Recorder::new(&state).unwrap();
        slow.keep_only(DOMAIN, &[first.clone(), second.clone()]);
        slow.add(&first, true).unwrap();
        slow.add(&second, true).unwrap();
        let mut other = Recorder::new(&state).unwrap();
        other.add(&second, false).unwrap();
        other.add(&new, true).unwrap();
        other.write().unwrap();
        slow.write().unwrap();
        let verified = Verified::load(&state).unwrap();
        assert!(verified.get(&first).is_some() && verified.get(&new).is_some(), "{verified:?}");
        assert!(verified.is_damaged(&second), "the later result counts: {verified:?}");
    }

    #[test]
    fn every_released_version_is_readable() {
        let read = |bytes: &[u8]| version::parse::<Verified>(bytes, VERSION);
        version::history::assert_read("verified", read, |known| version::text(known, VERSION).unwrap());
    }

    #[test]
    fn file_of_a_newer_program_is_left_alone() {
        let fixture = Fixture::new();
        let point = fixture.point("2026-11-20T02:00:00Z", Codec::None, &[]);
        let state = fixture.path("state");
        let mut recorder = Recorder::new(&state).unwrap();
        recorder.add(&point, true).unwrap();
        fs::create_dir_all(&state).unwrap();
        let newer = r#"{"schema": 2, "domains": {}}"#;
        fs::write(state.join(FILE), newer).unwrap();
        let error = recorder.write().unwrap_err();
        assert!(error.hint().unwrap().contains("verified.json.newer"), "{error:?}");
        assert!(Recorder::new(&state).is_err());
        assert_eq!(fs::read_to_string(state.join(FILE)).unwrap(), newer);
    }
}
