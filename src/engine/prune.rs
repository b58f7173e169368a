//! Decides which restore points to remove, and removes them. Must not remove a point unless a good point of the same
//! guest is known to supersede it, or an archive of the legacy script.

use std::collections::BTreeSet;

use chrono::{DateTime, Local};
use serde::Serialize;
use uuid::Uuid;

use super::verified::Verified;
use super::{Error, points};
use crate::config::{Settings, StoreChoice};
use crate::model::command::quoted;
use crate::model::{BucketUrl, Failure, PointId, StoreKind, is_future};
use crate::retention::{self, Judgement, Policy};
use crate::store::{Point, Store};

#[cfg(test)]
mod tests;

/// The result of retention for one domain.
#[derive(Debug, Clone, Serialize)]
pub struct Rotation {
    /// The domain.
    pub domain: String,
    /// Its points, newest first.
    pub points: Vec<Judged>,
    /// Why the rules were not applied, if they were not.
    pub note: Option<String>,
    /// Points that rotation leaves to the operator.
    pub left_alone: Vec<Failure>,
}

/// The decision about one restore point.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    /// Id of the point.
    pub id: PointId,
    /// The kind of store that contains it.
    pub store: StoreKind,
    /// Length of the archive, in bytes.
    pub stored_bytes: u64,
    /// Whether the rules keep it.
    pub keep: bool,
    /// Reasons for the decision; never empty.
    pub reasons: Vec<String>,
    /// Whether it was removed.
    pub removed: bool,
    /// Why it could not be removed.
    pub failure: Option<Failure>,
    /// Whether it belongs to another guest that had the domain's name.
    pub of_another_guest: bool,
}

impl Rotation {
    /// The points that were removed.
    pub fn removed(&self) -> Vec<PointId> {
        // Those of a point and its copy follow each other.
        let mut removed: Vec<_> = self.points.iter().filter(|point| point.removed).map(|point| point.id).collect();
        removed.dedup();
        removed
    }

    /// How many points of the guest are left.
    pub fn left(&self) -> usize {
        let left = self.points.iter().filter(|point| !point.removed && !point.of_another_guest);
        left.map(|point| point.id).collect::<BTreeSet<_>>().len()
    }

    /// Why points could not be removed.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.points.iter().filter_map(|point| point.failure.as_ref())
    }
}

/// Applies retention to these domains (to all that have restore points if none are named), even if libvirt does not
/// know them. With `dry_run`, nothing is removed. Also returns why some domains could not be judged.
pub fn prune(
    settings: &Settings,
    store: &Store,
    domains: &[String],
    dry_run: bool,
    now: DateTime<Local>,
) -> Result<(Vec<Rotation>, Vec<Failure>), Error> {
    let verified = Verified::load(&settings.state_dir)?;
    let rotate = Rotate { store, verified: &verified, now, dry_run };
    let mut rotations = Vec::new();
    let found = points::found(store, domains)?;
    for (domain, present) in found.domains.into_iter().filter(|(_, present)| !present.is_empty()) {
        let policy = settings.rule_for(&domain).map(|rule| (rule.domain.retention, rule.domain.store));
        rotations.push(match policy {
            Some((Some(policy), store)) => rotate.points(&domain, None, &present, (&policy, store)),
            Some((None, _)) => untouched(&domain, present, "the configuration keeps all restore points"),
            None => untouched(&domain, present, "not in the configuration"),
        });
    }
    Ok((rotations, found.failures))
}

/// The parameters of a rotation.
pub struct Rotate<'a> {
    /// The target.
    pub store: &'a Store,
    /// Results of verifications.
    pub verified: &'a Verified,
    /// The time that the rules use as now.
    pub now: DateTime<Local>,
    /// Whether to only decide and not remove.
    pub dry_run: bool,
}

impl Rotate<'_> {
    /// Applies a policy to the points of one guest after its backup. Points of other guests that had its name stay.
    pub fn guest(&self, domain: &str, guest: Uuid, policy: (&Policy, StoreChoice)) -> Result<Rotation, Error> {
        Ok(self.points(domain, Some(guest), &self.store.points(domain)?, policy))
    }

    /// Without a guest, takes that of the newest point. `present` has the oldest point first.
    fn points(
        &self,
        domain: &str,
        guest: Option<Uuid>,
        present: &[Point],
        (policy, store): (&Policy, StoreChoice),
    ) -> Rotation {
        let mut assessed: Vec<Assessed<'_>> = present.iter().map(|point| self.assess(point)).collect();
        let guest = guest.or_else(|| newest(&assessed, self.now).and_then(|newest| newest.guest));
        let left_alone = set_others_aside(&mut assessed, guest);
        let mut rotation = Rotation { domain: domain.to_owned(), points: Vec::new(), note: None, left_alone };
        rotation.points = judge(&assessed, policy, store, self.now);
        let held = newest(&assessed, self.now).and_then(|newest| newest.suspect.as_ref());
        if let Some(why) = held {
            rotation.left_alone.push(hold(&mut rotation.points, &assessed, domain, why));
        }
        for (point, judged) in present.iter().rev().zip(&mut rotation.points) {
            if !judged.keep && !self.dry_run {
                match self.store.remove(point) {
                    Ok(()) => judged.removed = true,
                    Err(error) => judged.failure = Some(Error::from(error).failure()),
                }
            }
        }
        rotation
    }

    /// Reads the manifest but no disk data.
    fn assess<'a>(&self, point: &'a Point) -> Assessed<'a> {
        let exempt = |why: &str| Assessed {
            point,
            guest: None,
            suspect: None,
            is_other: false,
            worth: Worth::Exempt(why.to_owned()),
        };
        if let Some(why) = point.kept_because() {
            return exempt(why);
        }
        let manifest = match points::open(self.store, point) {
            Ok((_, Some(manifest))) => manifest,
            Ok((_, None)) => return exempt("not created by kvmbackup: ignored"),
            Err(error) if error.is_target_stall() => return exempt("the target hangs: ignored"),
            Err(_) => return exempt("damaged: its manifest cannot be read; examine it, then remove it by hand"),
        };
        let guest = Some(manifest.domain.uuid);
        if self.verified.is_damaged(point) {
            let damaged = exempt("found damaged by its last verification; examine it, then remove it by hand");
            return Assessed { guest, ..damaged };
        }
        let misses = manifest.tpm_missing.is_some() || manifest.skipped.iter().any(|disk| disk.missed);
        let worth = if misses || manifest.suspect.is_some() { Worth::Partial } else { Worth::Whole };
        Assessed { point, guest, suspect: manifest.suspect, is_other: false, worth }
    }
}

/// What retention knows of a point.
struct Assessed<'a> {
    point: &'a Point,
    /// Its guest. `None` if unknown.
    guest: Option<Uuid>,
    /// Why it may lack data.
    suspect: Option<String>,
    /// Whether the guest is not the one whose points are rotated.
    is_other: bool,
    worth: Worth,
}

/// The value of a point for retention.
#[derive(Clone, PartialEq, Eq)]
enum Worth {
    /// It contains everything that was requested.
    Whole,
    /// A disk or the TPM state is missing against the operator's will, or a disk may have lost data.
    Partial,
    /// The rules do not apply to it, and it stays for this reason.
    Exempt(String),
}

impl Assessed<'_> {
    fn is_good(&self) -> bool {
        matches!(self.worth, Worth::Whole | Worth::Partial)
    }
}

/// The newest good point. Points in the future count only if there are no others, because the clock may have been set
/// back.
fn newest<'a, 'p>(assessed: &'a [Assessed<'p>], now: DateTime<Local>) -> Option<&'a Assessed<'p>> {
    let good = || assessed.iter().rev().filter(|assessed| assessed.is_good());
    good().find(|assessed| !is_future(assessed.point.id.time(), now.to_utc())).or_else(|| good().next())
}

/// Exempts the points of other guests, and reports for each guest how many there are and how to remove them.
fn set_others_aside(assessed: &mut [Assessed<'_>], guest: Option<Uuid>) -> Vec<Failure> {
    let mut others: Vec<(Uuid, Vec<&Point>)> = Vec::new();
    for assessed in assessed {
        let Some(other) = assessed.guest.filter(|other| guest.is_some_and(|guest| guest != *other)) else { continue };
        assessed.is_other = true;
        assessed.worth = Worth::Exempt(format!("of another guest with this name (UUID {other})"));
        match others.iter_mut().find(|(uuid, _)| *uuid == other) {
            Some((_, points)) => points.push(assessed.point),
            None => others.push((other, vec![assessed.point])),
        }
    }
    let told = |(uuid, points): (Uuid, Vec<&Point>)| {
        let (count, are) = match points.len() {
            1 => ("1 restore point".to_owned(), "is"),
            count => (format!("{count} restore points"), "are"),
        };
        let locations = points.iter().map(|point| point.location().to_string_lossy().into_owned());
        let command = match points.first().and_then(|point| point.location().to_str()?.split_once("/snapshots/")) {
            Some((bucket, _)) if BucketUrl::is_meant(bucket) => {
                let ids = locations.filter_map(|location| Some(location.rsplit_once('/')?.1.to_owned()));
                format!("restic -r {} forget {}", quoted(bucket), ids.collect::<Vec<_>>().join(" "))
            }
            _ => format!("rm {}", locations.map(|location| quoted(&location)).collect::<Vec<_>>().join(" ")),
        };
        Failure {
            message: format!("{count} of another guest with this name (UUID {uuid}) {are} kept"),
            hint: Some(format!("Rotation never removes them. If they are no longer needed: {command}")),
        }
    };
    others.into_iter().map(told).collect()
}

/// Keeps all points that are older than the newest suspect ones. The rules still decide about the suspect ones.
fn hold(points: &mut [Judged], assessed: &[Assessed<'_>], domain: &str, why: &str) -> Failure {
    let dropped = points.iter_mut().zip(assessed.iter().rev()).filter(|(judged, _)| !judged.keep);
    for (judged, _) in dropped.filter(|(_, assessed)| assessed.suspect.is_none()) {
        judged.keep = true;
        judged.reasons = vec!["rotation is on hold: the newest restore point is suspect".to_owned()];
    }
    Failure {
        message: format!("rotation is on hold, older restore points are kept: {why}"),
        hint: Some(format!(
            "Check the guest's disks. If the newest restore point is correct: kvmbackup backup --force {} \
             --accept-smaller; if not, remove its archive.",
            quoted(domain)
        )),
    }
}

/// Judges points that are sorted oldest first; the judgements are sorted newest first. Only good points count. A
/// damaged point takes no place among those that stay, but is not removed either, because its data may still be
/// salvaged. With [`StoreChoice::Both`], each store keeps its own points, because the other one may lack the newest.
fn judge(assessed: &[Assessed<'_>], policy: &Policy, store: StoreChoice, now: DateTime<Local>) -> Vec<Judged> {
    let groups = match store {
        StoreChoice::Both => StoreKind::ALL.map(|kind| vec![kind]).to_vec(),
        StoreChoice::Archive | StoreChoice::Repository => vec![StoreKind::ALL.to_vec()],
    };
    let mut judged = vec![None; assessed.len()];
    for group in groups {
        let of_group = |assessed: &&Assessed<'_>| group.contains(&assessed.point.store());
        let good = assessed.iter().filter(of_group).filter(|assessed| assessed.is_good());
        // A point and its copy count once, and share their verdict.
        let verdicts = retention::apply(policy, &good.map(|assessed| assessed.point.id).collect::<Vec<_>>(), now);
        let last_whole = assessed.iter().rfind(|assessed| of_group(assessed) && assessed.worth == Worth::Whole);
        let last_whole = last_whole.map(|assessed| assessed.point.id);
        for (assessed, judged) in assessed.iter().zip(&mut judged).filter(|(assessed, _)| of_group(assessed)) {
            let verdict = verdicts.iter().find(|verdict| verdict.point == assessed.point.id);
            *judged = Some(sentence(assessed, verdict, last_whole));
        }
    }
    judged.into_iter().rev().flatten().collect()
}

fn sentence(assessed: &Assessed<'_>, verdict: Option<&Judgement>, last_whole: Option<PointId>) -> Judged {
    let Assessed { point, worth, is_other, .. } = assessed;
    let (keep, reasons) = match (worth, verdict) {
        (Worth::Exempt(why), _) => (true, vec![why.clone()]),
        (_, Some(verdict)) if !verdict.keep && last_whole == Some(point.id) => {
            (true, vec!["the newest complete one".to_owned()])
        }
        (_, Some(verdict)) => (verdict.keep, verdict.reasons.clone()),
        (_, None) => (true, vec!["not judged".to_owned()]),
    };
    Judged { keep, reasons, of_another_guest: *is_other, ..unjudged(point) }
}

fn unjudged(point: &Point) -> Judged {
    Judged {
        id: point.id,
        store: point.store(),
        stored_bytes: point.bytes,
        keep: true,
        reasons: Vec::new(),
        removed: false,
        failure: None,
        of_another_guest: false,
    }
}

fn untouched(domain: &str, present: Vec<Point>, why: &str) -> Rotation {
    let points = present.iter().rev().map(|point| Judged { reasons: vec![why.to_owned()], ..unjudged(point) });
    let note = Some(format!("{why}; nothing is removed"));
    Rotation { domain: domain.to_owned(), points: points.collect(), note, left_alone: Vec::new() }
}
