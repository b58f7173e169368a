//! Owns: which restore points go, and their removal. Must not: remove what is not known to be superseded by a good point, or
//! what the seed script made.

use chrono::{DateTime, Local};
use serde::Serialize;

use super::verified::Verified;
use super::{Error, points};
use crate::config::Settings;
use crate::model::{Failure, PointId};
use crate::retention::{self, Policy};
use crate::store::{Origin, Point, Store};

/// What became of the restore points of one domain.
#[derive(Debug, Clone, Serialize)]
pub struct Rotation {
    /// The domain.
    pub domain: String,
    /// Its points, newest first.
    pub points: Vec<Judged>,
    /// Why nothing was judged, where that is so.
    pub note: Option<String>,
}

/// One restore point, judged.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    /// The point.
    pub id: PointId,
    /// Length of the archive, in bytes.
    pub stored_bytes: u64,
    /// Whether it stays by the rules.
    pub keep: bool,
    /// Why; never empty.
    pub reasons: Vec<String>,
    /// Whether it was removed.
    pub removed: bool,
    /// Why it could not be removed.
    pub failure: Option<Failure>,
}

impl Rotation {
    /// The points that were removed.
    pub fn removed(&self) -> Vec<PointId> {
        self.points.iter().filter(|point| point.removed).map(|point| point.id).collect()
    }

    /// How many points there are now.
    pub fn left(&self) -> usize {
        self.points.iter().filter(|point| !point.removed).count()
    }

    /// What could not be removed.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.points.iter().filter_map(|point| point.failure.as_ref())
    }
}

/// Applies retention to these domains (none named: all that have restore points), whether libvirt knows them or not. With
/// `dry_run`, nothing is removed.
pub fn prune(
    settings: &Settings,
    store: &Store,
    domains: &[String],
    dry_run: bool,
    now: DateTime<Local>,
) -> Result<Vec<Rotation>, Error> {
    let verified = Verified::load(&settings.state_dir)?;
    let mut rotations = Vec::new();
    for domain in points::chosen(store, domains)? {
        let present = points::points_of(store, &domain, !domains.is_empty())?;
        if present.is_empty() {
            continue;
        }
        let policy = settings.rule_for(&domain).map(|rule| rule.domain.retention);
        rotations.push(match policy {
            Some(Some(policy)) => rotate_points(store, &verified, &domain, present, &policy, now, dry_run),
            Some(None) => untouched(&domain, present, "the configuration keeps all"),
            None => untouched(&domain, present, "no entry of the configuration is for it"),
        });
    }
    Ok(rotations)
}

/// Applies retention to one domain, after a backup of it or at any time. `verified` is the record of checks.
pub fn rotate(
    store: &Store,
    verified: &Verified,
    domain: &str,
    policy: &Policy,
    now: DateTime<Local>,
) -> Result<Rotation, Error> {
    Ok(rotate_points(store, verified, domain, store.points(domain)?, policy, now, false))
}

fn rotate_points(
    store: &Store,
    verified: &Verified,
    domain: &str,
    present: Vec<Point>,
    policy: &Policy,
    now: DateTime<Local>,
    dry_run: bool,
) -> Rotation {
    let judged = judge(&present, policy, now, |point| worth(store, point, verified));
    let remove = |(point, mut judged): (&Point, Judged)| {
        if !judged.keep && !dry_run {
            match store.remove(point) {
                Ok(()) => judged.removed = true,
                Err(error) => judged.failure = Some(Error::from(error).failure()),
            }
        }
        judged
    };
    let points = present.iter().rev().zip(judged).map(remove).collect();
    Rotation { domain: domain.to_owned(), points, note: None }
}

/// What a point is worth to retention.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worth {
    /// It holds all that was to be saved.
    Whole,
    /// A disk or the TPM state is missing against the operator's will.
    Partial,
    /// It may not hold what it should.
    Suspect,
    /// It is not judged by the rules, and stays, for this reason.
    Exempt(&'static str),
}

/// Judges points, given oldest first; the judgements come newest first. Only good points count: a damaged one neither fills
/// a place among those that stay, nor goes, for somebody may still get something out of it.
fn judge(present: &[Point], policy: &Policy, now: DateTime<Local>, worth: impl Fn(&Point) -> Worth) -> Vec<Judged> {
    let worth: Vec<(&Point, Worth)> = present.iter().map(|point| (point, worth(point))).collect();
    let is_counted = |worth: &Worth| !matches!(worth, Worth::Exempt(_));
    let good = worth.iter().filter(|(_, worth)| is_counted(worth));
    let verdicts = retention::apply(policy, &good.map(|(point, _)| point.id).collect::<Vec<_>>(), now);
    // A newest point that may have lost contents supersedes nothing.
    let newest = worth.iter().rev().map(|(_, worth)| worth).find(|worth| is_counted(worth));
    let is_held = |worth: &Worth| newest == Some(&Worth::Suspect) && *worth != Worth::Suspect;
    let last_whole = worth.iter().rev().find(|(_, worth)| *worth == Worth::Whole).map(|(point, _)| point.id);
    let judged = worth.iter().rev().map(|(point, worth)| {
        let verdict = verdicts.iter().find(|verdict| verdict.point == point.id);
        let (keep, reasons) = match (worth, verdict) {
            (Worth::Exempt(why), _) => (true, vec![(*why).to_owned()]),
            (worth, Some(verdict)) if !verdict.keep && is_held(worth) => {
                (true, vec!["rotation is on hold: the newest restore point is suspect".to_owned()])
            }
            (_, Some(verdict)) if !verdict.keep && last_whole == Some(point.id) => {
                (true, vec!["the last whole one".to_owned()])
            }
            (_, Some(verdict)) => (verdict.keep, verdict.reasons.clone()),
            (_, None) => (true, vec!["not judged".to_owned()]),
        };
        Judged { id: point.id, stored_bytes: point.bytes, keep, reasons, removed: false, failure: None }
    });
    judged.collect()
}

/// Reads the manifest, and no disk data.
fn worth(store: &Store, point: &Point, verified: &Verified) -> Worth {
    if point.origin != Origin::Kvmbackup {
        return Worth::Exempt("made by the seed script: never removed");
    }
    if verified.is_damaged(point) {
        return Worth::Exempt("damaged, as its last check found: look at it, then remove it yourself");
    }
    match points::open(point, store.patience()).map(|(_, manifest)| manifest) {
        Err(error) if error.is_target_stall() => Worth::Exempt("its target hangs: not judged"),
        Ok(manifest) if manifest.suspect.is_some() => Worth::Suspect,
        Ok(manifest) if manifest.tpm_missing.is_some() => Worth::Partial,
        Ok(manifest) if manifest.skipped.iter().any(|disk| disk.missed) => Worth::Partial,
        Ok(_) => Worth::Whole,
        Err(_) => Worth::Exempt("damaged: its manifest cannot be read; look at it, then remove it yourself"),
    }
}

fn untouched(domain: &str, present: Vec<Point>, why: &str) -> Rotation {
    let points = present.iter().rev().map(|point| Judged {
        id: point.id,
        stored_bytes: point.bytes,
        keep: true,
        reasons: vec![why.to_owned()],
        removed: false,
        failure: None,
    });
    Rotation { domain: domain.to_owned(), points: points.collect(), note: Some(format!("{why}; nothing is removed")) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::engine::fixture::{DOMAIN, Fixture};
    use crate::model::Codec;

    fn lines(rotation: &Rotation) -> Vec<String> {
        let line = |judged: &Judged| {
            let sign = match (judged.keep, judged.removed) {
                (true, _) => '+',
                (false, true) => '-',
                (false, false) => '?',
            };
            let why: String = judged.reasons.join(", ").chars().take(30).collect();
            format!("{sign} {} {why}", judged.id)
        };
        rotation.points.iter().map(line).collect()
    }

    fn now() -> DateTime<Local> {
        "2026-11-30T12:00:00Z".parse::<DateTime<chrono::Utc>>().unwrap().with_timezone(&Local)
    }

    #[test]
    fn damaged_points_fill_no_place_and_stay() {
        let fixture = Fixture::new();
        let point = |day: u32| fixture.point(&format!("2026-11-{day}T02:00:00Z"), Codec::None, &[]);
        let points: Vec<_> = (20..25).map(point).collect();
        fs::write(&points[4].path, "").unwrap();
        let mut verified = Verified::load(&fixture.path("state")).unwrap();
        verified.record(&points[3], &points, false).unwrap();
        let rotation = rotate(&fixture.store, &verified, DOMAIN, &Policy::rotate(2), now()).unwrap();
        assert_eq!(
            lines(&rotation),
            [
                "+ 20261124T020000Z damaged: its manifest cannot b",
                "+ 20261123T020000Z damaged, as its last check fou",
                "+ 20261122T020000Z last 1 of 2",
                "+ 20261121T020000Z last 2 of 2",
                "- 20261120T020000Z no rule keeps it",
            ]
        );
        assert_eq!((rotation.left(), rotation.removed()), (4, vec![points[0].id]));
        assert_eq!(fixture.store.points(DOMAIN).unwrap().len(), 4);
    }

    #[test]
    fn the_only_good_point_stays_though_newer_ones_are_there() {
        let fixture = Fixture::new();
        let point = |day: u32| fixture.point(&format!("2026-11-{day}T02:00:00Z"), Codec::Zstd(1), &[]);
        let points: Vec<_> = (20..24).map(point).collect();
        points[1..].iter().for_each(|point| fs::write(&point.path, "x").unwrap());
        let verified = Verified::load(&fixture.path("state")).unwrap();
        let rotation = rotate(&fixture.store, &verified, DOMAIN, &Policy::rotate(1), now()).unwrap();
        assert!(rotation.points.iter().all(|judged| judged.keep), "{rotation:?}");
    }

    #[test]
    fn the_last_point_with_every_disk_stays() {
        let fixture = Fixture::new();
        fixture.point("2026-11-19T02:00:00Z", Codec::None, &[]);
        fixture.point("2026-11-20T02:00:00Z", Codec::None, &[]);
        for day in 21..24 {
            let lacks = |manifest: &mut crate::archive::Manifest| manifest.skipped[0].missed = true;
            fixture.point_with(&format!("2026-11-{day}T02:00:00Z"), Codec::None, &[], "<domain/>", lacks);
        }
        let verified = Verified::load(&fixture.path("state")).unwrap();
        let rotation = rotate(&fixture.store, &verified, DOMAIN, &Policy::rotate(2), now()).unwrap();
        assert_eq!(
            lines(&rotation),
            [
                "+ 20261123T020000Z last 1 of 2",
                "+ 20261122T020000Z last 2 of 2",
                "- 20261121T020000Z no rule keeps it",
                "+ 20261120T020000Z the last whole one",
                "- 20261119T020000Z no rule keeps it",
            ]
        );
    }

    #[test]
    fn a_newest_point_that_may_have_lost_contents_supersedes_none_that_has_not() {
        let fixture = Fixture::new();
        for (day, shrunk) in [(20, false), (21, true), (22, false), (23, true), (24, true)] {
            let mark = |manifest: &mut crate::archive::Manifest| manifest.suspect = shrunk.then(|| "empty".to_owned());
            fixture.point_with(&format!("2026-11-{day}T02:00:00Z"), Codec::None, &[], "<domain/>", mark);
        }
        let verified = Verified::load(&fixture.path("state")).unwrap();
        let rotated = || lines(&rotate(&fixture.store, &verified, DOMAIN, &Policy::rotate(1), now()).unwrap());
        assert_eq!(
            rotated(),
            [
                "+ 20261124T020000Z last 1 of 1",
                "- 20261123T020000Z no rule keeps it",
                "+ 20261122T020000Z rotation is on hold: the newes",
                "- 20261121T020000Z no rule keeps it",
                "+ 20261120T020000Z rotation is on hold: the newes",
            ]
        );
        fixture.point("2026-11-25T02:00:00Z", Codec::None, &[]);
        assert_eq!(rotated()[1..].iter().filter(|line| line.starts_with('-')).count(), 3);
    }

    #[test]
    fn seeds_stay_and_do_not_count() {
        let fixture = Fixture::new();
        fixture.seed("web 1.tar.gz", &[]);
        fixture.point("2026-11-20T02:00:00Z", Codec::None, &[]);
        fixture.point("2026-11-21T02:00:00Z", Codec::None, &[]);
        let verified = Verified::load(&fixture.path("state")).unwrap();
        let rotation = rotate(&fixture.store, &verified, DOMAIN, &Policy::rotate(1), now()).unwrap();
        assert_eq!(rotation.removed().len(), 1);
        assert_eq!(fixture.store.points(DOMAIN).unwrap().len(), 2);
    }
}
