//! Decides which restore points a copy of a repository lacks, and which it no longer needs. Must not copy or remove
//! anything.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeZone};
use uuid::Uuid;

use super::{Policy, apply};
use crate::model::PointId;

/// A restore point in a repository or in a copy of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stored {
    /// Name of its domain.
    pub domain: String,
    /// Its guest, if known.
    pub guest: Option<Uuid>,
    /// Its ID for operators.
    pub point: PointId,
    /// Whether it must not be removed.
    pub protected: bool,
    /// ID of the snapshot, which differs between a repository and its copies.
    pub snapshot: String,
}

/// What must be done so that a copy contains what it should.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CopyPlan {
    /// Restore points of the repository that the copy lacks, newest first.
    pub copy: Vec<Stored>,
    /// Restore points of the copy that it no longer needs, newest first.
    pub forget: Vec<Stored>,
}

/// The guest by its UUID, or by its name if the UUID is not known.
type Guest<'a> = Result<Uuid, &'a str>;

impl Stored {
    fn guest(&self) -> Guest<'_> {
        self.guest.ok_or(&self.domain)
    }

    /// What a restore point and its copies have in common. Protecting a point changes the ID of its snapshot.
    fn identity(&self) -> (Guest<'_>, &str, PointId) {
        (self.guest(), &self.domain, self.point)
    }
}

/// Compares a repository with a copy. The copy should contain the newest `keep` restore points of each guest, counting both
/// places, and all protected ones, which do not count. Without `keep`, it should contain all, and nothing is forgotten.
pub fn copies<Tz: TimeZone>(source: &[Stored], copy: &[Stored], keep: Option<u32>, now: &DateTime<Tz>) -> CopyPlan {
    let all = || source.iter().chain(copy);
    let protected: BTreeSet<_> = all().filter(|point| point.protected).map(Stored::identity).collect();
    let mut guests: BTreeMap<Guest<'_>, Vec<PointId>> = BTreeMap::new();
    for point in all().filter(|point| !protected.contains(&point.identity())) {
        guests.entry(point.guest()).or_default().push(point.point);
    }
    let policy = keep.map_or(Policy::default(), Policy::rotate);
    let kept = |(guest, points): (_, Vec<PointId>)| {
        let judged = apply(&policy, &points, now.clone()).into_iter().filter(|judged| judged.keep);
        judged.map(move |judged| (guest, judged.point)).collect::<Vec<_>>()
    };
    let kept: BTreeSet<_> = guests.into_iter().flat_map(kept).collect();
    let is_wanted = |point: &Stored| point.protected || kept.contains(&(point.guest(), point.point));

    let mut there = copy.to_vec();
    there.sort_by(newest_first);
    let best: BTreeMap<_, _> = there.iter().rev().map(|point| (point.identity(), point)).collect();
    let lacks = |point: &&Stored| best.get(&point.identity()).is_none_or(|known| point.protected && !known.protected);
    let mut missing: Vec<_> = source.iter().filter(|point| is_wanted(point)).filter(lacks).cloned().collect();
    missing.sort_by(newest_first);
    // Only one copy of a point is needed; a protected one if there is one.
    let is_best = |point: &Stored| best.get(&point.identity()).is_some_and(|best| best.snapshot == point.snapshot);
    let goes = |point: &&Stored| keep.is_some() && !point.protected && !(is_wanted(point) && is_best(point));
    let forget = there.iter().filter(goes).cloned().collect();
    CopyPlan { copy: missing, forget }
}

fn newest_first(a: &Stored, b: &Stored) -> std::cmp::Ordering {
    b.point.cmp(&a.point).then(b.protected.cmp(&a.protected)).then_with(|| a.cmp(b))
}
