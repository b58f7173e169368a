//! Surveys what libvirt, the configuration and the target contain now. Must not fail, wait without limit, or open an
//! archive.
//!
//! What cannot be observed now is taken from the previous survey: a mount that hangs for a day must not look like a
//! hundred guests without restore points. `libvirt_ok` and the `up` of each target show which parts are current.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Utc;

use super::journal::Journal;
use super::overlay_file;
use super::verified::Verified;
use crate::config::{Settings, glob};
use crate::hypervisor::Hypervisor;
use crate::ledger::{Seen, SeenJob, SeenPoints, SeenRepository, Survey};
use crate::model::command::quoted;
use crate::model::{DamagedPoint, Disk, Domain, Failure};

mod expect;
pub(super) mod target;

use target::Target;

/// Takes a survey. Waits at most 10 s for a target that does not answer, and a minute for one that is slow to list its
/// contents.
pub fn take(settings: &Settings, hypervisor: Option<&dyn Hypervisor>, previous: Option<&Survey>) -> Survey {
    let guests = hypervisor.and_then(|hypervisor| guests(settings, hypervisor, previous));
    let verified = Verified::load(&settings.state_dir).inspect_err(|error| {
        tracing::warn!("cannot read which restore points are damaged: {}", super::chain(error));
    });
    let is_known = verified.is_ok();
    let mut survey = join(settings, guests, target::look(settings, verified.unwrap_or_default()), previous);
    if !is_known {
        for (name, seen) in &mut survey.domains {
            let before = previous.and_then(|survey| survey.domains.get(name));
            seen.points.damaged = before.map_or_else(Vec::new, |seen| seen.points.damaged.clone());
        }
    }
    survey
}

/// The damaged restore points of a survey.
pub fn damaged(survey: &Survey) -> Vec<DamagedPoint> {
    let points = survey.domains.iter().flat_map(|(name, seen)| seen.points.damaged.iter().map(move |id| (name, *id)));
    let damaged = points.map(|(name, id)| DamagedPoint {
        domain: name.clone(),
        id,
        failure: Failure {
            message: format!("restore point {id} was found damaged by its last verification"),
            hint: Some(format!(
                "To see what is damaged: kvmbackup verify {} --at {id}; for what to do, \
                 see docs/operations.md, \"Damage is found\".",
                quoted(name)
            )),
        },
    });
    damaged.collect()
}

/// A domain as libvirt and the journal know it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Guest {
    defined: bool,
    leftover_overlays: u64,
}

/// All domains that libvirt has or the journal names. `None` if libvirt does not answer.
fn guests(
    settings: &Settings,
    hypervisor: &dyn Hypervisor,
    previous: Option<&Survey>,
) -> Option<BTreeMap<String, Guest>> {
    let warn = |error| tracing::warn!("the survey continues without libvirt: {}", super::chain(&error));
    let known = hypervisor.domains().map_err(warn).ok()?;
    let mut of_journal = in_journal(settings);
    let mut guests = BTreeMap::new();
    for (id, _) in known {
        let mut targets = of_journal.remove(&id.name).unwrap_or_default();
        let leftover_overlays = match hypervisor.describe(&id) {
            Ok(domain) => {
                targets.extend(on_overlays(&domain));
                targets.len() as u64
            }
            Err(error) => {
                tracing::warn!(domain = id.name, "the survey cannot read its disks: {}", super::chain(&error));
                previous.and_then(|survey| survey.domains.get(&id.name)).map_or(0, |seen| seen.leftover_overlays)
            }
        };
        guests.insert(id.name, Guest { defined: true, leftover_overlays });
    }
    let gone =
        |(name, targets): (_, BTreeSet<_>)| (name, Guest { defined: false, leftover_overlays: targets.len() as u64 });
    guests.extend(of_journal.into_iter().map(gone));
    Some(guests)
}

/// Disks with overlays that an interrupted run left, by domain. An unreadable entry is skipped.
fn in_journal(settings: &Settings) -> BTreeMap<String, BTreeSet<String>> {
    let left = Journal::open(&settings.state_dir).and_then(|journal| journal.left()).unwrap_or_else(|error| {
        tracing::warn!("cannot read what interrupted runs left: {}", error.failure().message);
        Vec::new()
    });
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    for record in left.into_iter().flatten() {
        let entry = record.entry();
        let there = entry.overlays.iter().filter(|overlay| overlay.path.try_exists().unwrap_or(true));
        for overlay in there {
            found.entry(entry.domain.name.clone()).or_default().insert(overlay.target.clone());
        }
    }
    found
}

/// Disks on an overlay of ours, now or after the next start. The overlay may be below another program's snapshot.
fn on_overlays(domain: &Domain) -> BTreeSet<String> {
    let is_on = |disk: &&Disk| {
        let images = std::iter::once(&disk.image).chain(&disk.backing).chain(&disk.persistent);
        images.filter_map(|image| image.source.path()).any(overlay_file::is_ours)
    };
    domain.disks.iter().filter(is_on).map(|disk| disk.target.clone()).collect()
}

/// Combines what was found. Pure except for the clock.
fn join(
    settings: &Settings,
    guests: Option<BTreeMap<String, Guest>>,
    target: Target,
    previous: Option<&Survey>,
) -> Survey {
    let before = || previous.into_iter().flat_map(|survey| &survey.domains);
    let libvirt_ok = guests.is_some();
    let guests = guests.unwrap_or_else(|| {
        let seen = before().filter(|(_, seen)| seen.defined || seen.leftover_overlays > 0);
        let guest = |seen: &Seen| Guest { defined: seen.defined, leftover_overlays: seen.leftover_overlays };
        seen.map(|(name, seen)| (name.clone(), guest(seen))).collect()
    });
    let as_before = |name: &String| before().find(|(known, _)| *known == name).map(|(_, seen)| seen.points.clone());
    let points = target.points.unwrap_or_else(|| before().map(|(name, _)| (name.clone(), None)).collect());
    let points: BTreeMap<String, SeenPoints> = points
        .into_iter()
        .filter_map(|(name, points)| points.or_else(|| as_before(&name)).map(|points| (name, points)))
        .filter(|(_, points)| points.count > 0)
        .collect();
    let sum = |bytes: fn(&SeenPoints) -> u64| points.values().map(bytes).sum::<u64>();
    let (all, in_other) = (sum(|points| points.bytes), sum(|points| points.other_bytes.min(points.bytes)));
    let exact = settings.rules.iter().map(|rule| &rule.pattern).filter(|pattern| !glob::is_glob(pattern));
    let names: BTreeSet<&String> = guests.keys().chain(points.keys()).chain(exact).collect();
    let time = Utc::now();
    let domain = |name: &String| {
        let mut seen = seen(settings, name, guests.get(name), points.get(name));
        let before = previous.and_then(|survey| survey.domains.get(name)).and_then(|seen| seen.since);
        seen.since = (seen.defined && seen.job.is_some()).then(|| before.map_or(time, |before| before.min(time)));
        (name.clone(), seen)
    };
    Survey {
        time,
        host: settings.host.clone(),
        domains: names.into_iter().map(domain).collect(),
        jobs: settings.jobs(&[]).into_iter().map(|job| (job.clone(), seen_job(settings, &job))).collect(),
        hooks: settings.rules.iter().flat_map(|rule| &rule.domain.hooks).map(|hook| hook.name.clone()).collect(),
        copies: settings.copies().iter().map(|copy| (copy.name.clone(), copy.every.as_secs())).collect(),
        repository: SeenRepository { stored_bytes: all - in_other, ..target.repository },
        other: target.other.map(|other| SeenRepository { stored_bytes: in_other, ..other }),
        libvirt_ok,
    }
}

fn seen(settings: &Settings, name: &str, guest: Option<&Guest>, points: Option<&SeenPoints>) -> Seen {
    let guest = guest.copied().unwrap_or_default();
    let domain = settings.rule_for(name).map(|rule| &rule.domain);
    Seen {
        job: domain.map(|domain| domain.job.clone()),
        excluded: settings.exclusion_of(name).is_some(),
        defined: guest.defined,
        leftover_overlays: guest.leftover_overlays,
        since: None,
        expected_interval_s: domain.map_or(0, |domain| expect::longest_gap(&domain.days)),
        store: domain.map(|domain| domain.store.first()),
        wanted: domain.map(|domain| domain.wanted(name)),
        points: points.cloned().unwrap_or_default(),
    }
}

fn seen_job(settings: &Settings, job: &str) -> SeenJob {
    let of_job = || settings.rules.iter().map(|rule| &rule.domain).filter(|domain| domain.job == job);
    let days: Vec<_> = of_job().flat_map(|domain| domain.days.iter().copied()).collect();
    let kept = of_job().filter_map(|domain| domain.retention.as_ref()).filter_map(expect::kept);
    SeenJob { expected_interval_s: expect::longest_gap(&days), minimum_restore_points: kept.min().unwrap_or(0) }
}

#[cfg(test)]
mod tests;
