//! Owns: `verified.json` in the state directory, what the last check of each restore point came to. Must not: check any.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::model::PointId;
use crate::store::Point;
use crate::sys::durable;
use crate::sys::opened;
use crate::sys::step::{self, Step};

/// The name of the file.
const FILE: &str = "verified.json";
/// Its bytes, at most: a restore point takes about a hundred.
const MAX: u64 = 64 << 20;

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
    #[serde(skip)]
    path: PathBuf,
}

impl Verified {
    /// Reads the file; where there is none yet, nothing was checked. One that cannot be understood is as good as none, for
    /// a new check makes it anew.
    pub fn load(state_dir: &Path) -> Result<Verified, Error> {
        let path = state_dir.join(FILE);
        let text = match opened::read_file(&path, MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Verified { path, ..Verified::default() });
            }
            result => result.map_err(Error::file("read", &path))?,
        };
        let known = serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the record of checks cannot be read; it begins anew");
            Verified::default()
        });
        Ok(Verified { path, ..known })
    }

    /// The last check of a point.
    pub fn get(&self, point: &Point) -> Option<&Checked> {
        self.domains.get(&point.domain)?.get(&point.id).filter(|checked| checked.bytes == point.bytes)
    }

    /// Whether the last check of a point found damage.
    pub fn is_damaged(&self, point: &Point) -> bool {
        self.get(point).is_some_and(|checked| !checked.good)
    }

    /// Adds a check, forgets those of points that are gone, and makes the file durable; `present` are all points of the
    /// domain.
    pub fn record(&mut self, point: &Point, present: &[Point], good: bool) -> Result<(), Error> {
        // Another check may have added to it meanwhile.
        if let Some(folder) = self.path.parent() {
            *self = Verified::load(folder)?;
        }
        let domain = self.domains.entry(point.domain.clone()).or_default();
        domain.retain(|id, _| present.iter().any(|point| point.id == *id));
        domain.insert(point.id, Checked { time: Utc::now(), good, bytes: point.bytes });
        let failed = || Error::file("write", &self.path);
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other).map_err(failed())?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let made = step::reached(Step::VerifiedWrite).and_then(|()| durable::create_private_dir(folder));
        let written = made.and_then(|()| durable::write(&self.path, &text));
        written.map_err(failed())
    }
}
