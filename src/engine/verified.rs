//! Owns: `verified.json` in the state directory, what the last check of each restore point came to. Must not: check any.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::model::{PointId, is_future};
use crate::store::Point;
use crate::sys::durable;
use crate::sys::opened;
use crate::sys::step::{self, Step};

/// The name of the file.
const FILE: &str = "verified.json";
/// Its bytes, at most: a restore point takes about a hundred.
const MAX: u64 = 64 << 20;
/// The time between two writes, at least: at large sites the file is long, and each write is synced.
const EVERY: Duration = Duration::from_secs(30);

/// What a check of a restore point came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// When it ended.
    pub time: DateTime<Utc>,
    /// Whether every byte was right.
    pub good: bool,
    /// Length of the archive then: one of another length is another archive.
    pub bytes: u64,
}

/// The last check of each restore point, by domain.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Verified {
    #[serde(default)]
    domains: BTreeMap<String, BTreeMap<PointId, Checked>>,
}

impl Verified {
    /// Reads the file; where there is none yet, nothing was checked. One that cannot be understood is as good as none, for
    /// a new check makes it anew. A good check of the future is not believed, since the clock was wrong then or is now.
    pub fn load(state_dir: &Path) -> Result<Verified, Error> {
        let path = state_dir.join(FILE);
        let text = match opened::read_file(&path, MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Verified::default()),
            result => result.map_err(Error::file("read", &path))?,
        };
        let mut known: Verified = serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the record of checks cannot be read; it begins anew");
            Verified::default()
        });
        let now = Utc::now();
        for checks in known.domains.values_mut() {
            checks.retain(|_, checked| !(checked.good && is_future(checked.time, now)));
        }
        Ok(known)
    }

    /// The last check of a point.
    pub fn get(&self, point: &Point) -> Option<&Checked> {
        self.domains.get(&point.domain)?.get(&point.id).filter(|checked| checked.bytes == point.bytes)
    }

    /// Whether the last check of a point found damage.
    pub fn is_damaged(&self, point: &Point) -> bool {
        self.get(point).is_some_and(|checked| !checked.good)
    }
}

/// Checks on their way into the file. It is written at most every 30 seconds, so that a crash costs no more than the checks of
/// that time; whoever has one writes it at the end.
pub struct Recorder {
    state_dir: PathBuf,
    every: Duration,
    written: Instant,
    present: BTreeMap<String, BTreeSet<PointId>>,
    new: BTreeMap<String, BTreeMap<PointId, Checked>>,
}

impl Recorder {
    /// One for the file in this folder.
    pub fn new(state_dir: &Path) -> Recorder {
        Recorder {
            state_dir: state_dir.to_owned(),
            every: EVERY,
            written: Instant::now(),
            present: BTreeMap::new(),
            new: BTreeMap::new(),
        }
    }

    /// Forgets, when it adds checks of this domain, those of points that are not among these.
    pub fn keep_only(&mut self, domain: &str, present: &[Point]) {
        self.present.insert(domain.to_owned(), present.iter().map(|point| point.id).collect());
    }

    /// Adds a check that ends now.
    pub fn add(&mut self, point: &Point, good: bool) -> Result<(), Error> {
        let checked = Checked { time: Utc::now(), good, bytes: point.bytes };
        self.new.entry(point.domain.clone()).or_default().insert(point.id, checked);
        if self.written.elapsed() >= self.every { self.write() } else { Ok(()) }
    }

    /// Makes durable what was added.
    pub fn write(&mut self) -> Result<(), Error> {
        if self.new.is_empty() {
            return Ok(());
        }
        self.written = Instant::now();
        // Another check may have added to it meanwhile.
        let mut known = Verified::load(&self.state_dir)?;
        for (domain, checks) in &self.new {
            let of_domain = known.domains.entry(domain.clone()).or_default();
            if let Some(present) = self.present.get(domain) {
                of_domain.retain(|id, _| present.contains(id));
            }
            of_domain.extend(checks.iter().map(|(id, checked)| (*id, checked.clone())));
        }
        let path = self.state_dir.join(FILE);
        let text = serde_json::to_vec_pretty(&known).map_err(io::Error::other).map_err(Error::file("write", &path))?;
        let made = step::reached(Step::VerifiedWrite).and_then(|()| durable::create_private_dir(&self.state_dir));
        made.and_then(|()| durable::write(&path, &text)).map_err(Error::file("write", &path))?;
        self.new.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::engine::fixture::{DOMAIN, Fixture};
    use crate::model::Codec;

    #[test]
    fn many_checks_are_written_at_once() {
        let fixture = Fixture::new();
        let point = |day: u32| fixture.point(&format!("2026-11-{day}T02:00:00Z"), Codec::None, &[]);
        let points = [20, 21, 22].map(point);
        let state = fixture.path("state");
        let count = || Verified::load(&state).unwrap().domains.get(DOMAIN).map_or(0, BTreeMap::len);
        let mut recorder = Recorder { every: Duration::MAX, ..Recorder::new(&state) };
        recorder.keep_only(DOMAIN, &points);
        recorder.add(&points[0], true).unwrap();
        recorder.add(&points[1], false).unwrap();
        assert!(!state.exists(), "nothing was written yet");
        recorder.write().unwrap();
        assert_eq!(count(), 2);
        recorder.every = Duration::ZERO;
        recorder.keep_only(DOMAIN, &points[1..]);
        recorder.add(&points[2], true).unwrap();
        assert_eq!(count(), 2, "it was written, without the point that is gone");
        assert!(Verified::load(&state).unwrap().is_damaged(&points[1]));
    }

    #[test]
    fn a_good_check_of_the_future_is_not_believed_and_damage_is() {
        let fixture = Fixture::new();
        let point = fixture.point("2026-11-20T02:00:00Z", Codec::None, &[]);
        let state = fixture.path("state");
        for good in [true, false] {
            let mut recorder = Recorder::new(&state);
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
}
