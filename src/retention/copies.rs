//! Decides which restore points a copy of a repository lacks, and which it no longer needs. Must not copy or remove
//! anything.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeZone};
use uuid::Uuid;

use super::{Policy, apply};
use crate::model::PointId;

/// A restore point in a repository or in a copy of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredPoint {
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
    pub copy: Vec<StoredPoint>,
    /// Restore points of the copy that it no longer needs, newest first.
    pub forget: Vec<StoredPoint>,
}

/// The guest by its UUID, or by its name if the UUID is not known.
type Guest<'a> = Result<Uuid, &'a str>;

impl StoredPoint {
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
pub fn copies<Tz: TimeZone>(
    source: &[StoredPoint],
    copy: &[StoredPoint],
    keep: Option<u32>,
    now: &DateTime<Tz>,
) -> CopyPlan {
    let all = || source.iter().chain(copy);
    let protected: BTreeSet<_> = all().filter(|point| point.protected).map(StoredPoint::identity).collect();
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
    let is_wanted = |point: &StoredPoint| point.protected || kept.contains(&(point.guest(), point.point));

    let mut there = copy.to_vec();
    there.sort_by(newest_first);
    let best: BTreeMap<_, _> = there.iter().rev().map(|point| (point.identity(), point)).collect();
    let lacks =
        |point: &&StoredPoint| best.get(&point.identity()).is_none_or(|known| point.protected && !known.protected);
    let mut missing: Vec<_> = source.iter().filter(|point| is_wanted(point)).filter(lacks).cloned().collect();
    missing.sort_by(newest_first);
    // Only one copy of a point is needed; a protected one if there is one.
    let is_best = |point: &StoredPoint| best.get(&point.identity()).is_some_and(|best| best.snapshot == point.snapshot);
    let goes = |point: &&StoredPoint| keep.is_some() && !point.protected && !(is_wanted(point) && is_best(point));
    let forget = there.iter().filter(goes).cloned().collect();
    CopyPlan { copy: missing, forget }
}

fn newest_first(a: &StoredPoint, b: &StoredPoint) -> std::cmp::Ordering {
    b.point.cmp(&a.point).then(b.protected.cmp(&a.protected)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, Utc};
    use proptest::prelude::*;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    /// The point of a guest that was taken this many days ago, in the repository.
    fn point(guest: u128, days: i64) -> StoredPoint {
        let point = PointId::at(now() - TimeDelta::days(days));
        let domain = format!("guest-{guest}");
        let snapshot = format!("{domain}-{days}");
        StoredPoint { domain, guest: Some(Uuid::from_u128(guest)), point, protected: false, snapshot }
    }

    fn copied(point: &StoredPoint) -> StoredPoint {
        StoredPoint { snapshot: format!("copy-of-{}-{}", point.snapshot, point.protected), ..point.clone() }
    }

    fn protected(point: &StoredPoint) -> StoredPoint {
        StoredPoint { protected: true, snapshot: format!("{}-protected", point.snapshot), ..point.clone() }
    }

    fn plan(source: &[StoredPoint], copy: &[StoredPoint], keep: Option<u32>) -> (Vec<String>, Vec<String>) {
        let CopyPlan { copy, forget } = copies(source, copy, keep, &now());
        let ids = |points: Vec<StoredPoint>| points.into_iter().map(|point| point.snapshot).collect();
        (ids(copy), ids(forget))
    }

    /// The snapshots of a copy after a plan was carried out.
    fn after(source: &[StoredPoint], copy: &[StoredPoint], keep: Option<u32>) -> Vec<StoredPoint> {
        let plan = copies(source, copy, keep, &now());
        let stays = copy.iter().filter(|point| !plan.forget.contains(point)).cloned();
        stays.chain(plan.copy.iter().map(copied)).collect()
    }

    #[test]
    fn newest_points_of_each_guest_are_copied_newest_first() {
        let source = [point(1, 3), point(1, 2), point(1, 1), point(2, 9)];
        let (copy, forget) = plan(&source, &[], Some(2));
        assert_eq!((copy, forget), (vec!["guest-1-1".into(), "guest-1-2".into(), "guest-2-9".into()], vec![]));
        assert_eq!(plan(&source, &[], None).0.len(), 4);
    }

    #[test]
    fn points_that_only_the_copy_has_count_and_stay_within_the_number() {
        let copy = [copied(&point(1, 5)), copied(&point(1, 4))];
        assert_eq!(plan(&[point(1, 1)], &copy, Some(2)).1, ["copy-of-guest-1-5-false"]);
        assert_eq!(plan(&[point(1, 9)], &copy, Some(2)), (vec![], vec![]), "an older point is not copied");
        assert_eq!(plan(&[], &copy, None), (vec![], vec![]));
    }

    #[test]
    fn renamed_guest_is_one_guest_and_another_guest_with_its_name_is_not() {
        let renamed = StoredPoint { domain: "new-name".to_owned(), ..point(1, 1) };
        assert_eq!(plan(&[point(1, 2), renamed.clone()], &[], Some(1)).0, [renamed.snapshot]);
        let other = StoredPoint { guest: Some(Uuid::from_u128(7)), ..point(1, 1) };
        let unknown = StoredPoint { guest: None, ..point(1, 3) };
        assert_eq!(plan(&[point(1, 2), other, unknown], &[], Some(1)).0.len(), 3);
    }

    #[test]
    fn protection_is_copied_does_not_count_and_outlasts_that_of_the_repository() {
        let (old, new) = (point(1, 9), point(1, 1));
        let copy = [copied(&old), copied(&new)];
        let source = [protected(&old), new.clone()];
        assert_eq!(plan(&source, &copy, Some(1)), (vec!["guest-1-9-protected".into()], vec![copied(&old).snapshot]));
        assert_eq!(plan(&source, &copy, None), (vec!["guest-1-9-protected".into()], vec![]));
        let copy = [copied(&protected(&old)), copied(&new)];
        assert_eq!(plan(&source, &copy, Some(1)), (vec![], vec![]));
        assert_eq!(plan(&[old, new], &copy, Some(1)), (vec![], vec![]));
    }

    #[test]
    fn second_copy_of_a_point_is_removed() {
        let twice = [copied(&point(1, 1)), StoredPoint { snapshot: "z".to_owned(), ..point(1, 1) }];
        assert_eq!(plan(&[point(1, 1)], &twice, Some(3)), (vec![], vec!["z".into()]));
        assert_eq!(plan(&[point(1, 1)], &twice, None), (vec![], vec![]));
    }

    #[test]
    fn point_in_the_future_replaces_no_other() {
        let source = [point(1, -400), point(1, 1)];
        assert_eq!(plan(&source, &[], Some(1)).0.len(), 2);
    }

    fn stored() -> impl Strategy<Value = Vec<StoredPoint>> {
        let one = (1..3_u128, 0..9_i64, any::<bool>()).prop_map(|(guest, days, is_protected)| {
            let point = point(guest, days);
            if is_protected { protected(&point) } else { point }
        });
        prop::collection::vec(one, 0..12)
    }

    proptest! {
        #[test]
        fn second_run_has_nothing_to_do(source in stored(), other in stored(), keep in prop::option::of(1..4_u32)) {
            let copy: Vec<_> = other.iter().map(copied).collect();
            let once = after(&source, &copy, keep);
            prop_assert_eq!(plan(&source, &once, keep), (vec![], vec![]));
        }

        #[test]
        fn protected_and_newest_points_are_always_in_the_copy(
            source in stored(), other in stored(), keep in prop::option::of(1..4_u32),
        ) {
            let copy: Vec<_> = other.iter().map(copied).collect();
            let there = after(&source, &copy, keep);
            let has = |point: &StoredPoint| there.iter().any(|other| other.identity() == point.identity());
            prop_assert!(source.iter().chain(&copy).filter(|point| point.protected).all(has));
            for guest in 1..3 {
                let of = source.iter().filter(|point| point.guest == Some(Uuid::from_u128(guest)));
                let Some(newest) = of.max_by_key(|point| point.point) else { continue };
                let newer = there.iter().any(|other| other.guest == newest.guest && other.point > newest.point);
                prop_assert!(has(newest) || newer);
            }
        }
    }
}
