//! Owns: how one domain is captured: the method, and what happens to each disk. Must not: ask libvirt, or open an image.
//!
//! What libvirt can and cannot do here was tried against libvirt 9.0 with QEMU 7.2; one disk that cannot be snapshot fails
//! the atomic snapshot of all, so every disk is judged beforehand.

mod disk;
#[cfg(test)]
mod tests;

use crate::config::{DomainSettings, MethodChoice};
use crate::model::{Disk, Domain, Failure, Image, Method, SkippedDisk};

use disk::{DiskVerdict, Live};

/// How a domain is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturePlan {
    /// [`Method::Direct`] for a domain that is off, and where no disk of a running one can change.
    pub method: Method,
    /// Why this method, where `auto` did not take a snapshot.
    pub method_reason: Option<String>,
    /// The disks to save, in the order of the XML; empty for a domain of which only the XML is saved.
    pub disks: Vec<PlannedDisk>,
    /// The disks that are not saved, in the order of the XML.
    pub skipped: Vec<SkippedDisk>,
    /// What the operator should know although it goes on.
    pub warnings: Vec<Failure>,
}

/// A disk to save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDisk {
    /// The disk.
    pub disk: Disk,
    /// How its contents are had.
    pub how: ReadFrom,
}

impl PlannedDisk {
    /// The image that is read.
    pub fn image(&self) -> &Image {
        match &self.how {
            ReadFrom::Capture => &self.disk.image,
            ReadFrom::Direct(image) => image,
        }
    }
}

/// How the contents of a disk are had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFrom {
    /// It takes part in the snapshot or the pull job.
    Capture,
    /// This image, with its backing chain, is read as it is: this guest cannot change it.
    Direct(Image),
}

/// Why a domain cannot be backed up at all.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// It has disks that should be saved, and none can be.
    #[error("no disk of domain `{domain}` can be backed up: {}", summary(.skipped))]
    NoDisk {
        /// The domain's name.
        domain: String,
        /// Its disks, each with the reason.
        skipped: Vec<SkippedDisk>,
    },
}

impl Refusal {
    /// What the operator can do: the hints of the disks, each once.
    pub fn hint(&self) -> Option<String> {
        let Refusal::NoDisk { skipped, .. } = self;
        let mut hints: Vec<&str> = Vec::new();
        for hint in skipped.iter().filter_map(|disk| disk.hint.as_deref()) {
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
        (!hints.is_empty()).then(|| hints.join("; "))
    }
}

fn summary(skipped: &[SkippedDisk]) -> String {
    let missed = skipped.iter().filter(|disk| disk.missed);
    missed.map(|disk| format!("{}: {}", disk.target, disk.reason)).collect::<Vec<_>>().join("; ")
}

/// Chooses the method and sorts the disks.
///
/// # Errors
/// When there is something to save and none of it can be saved.
pub fn capture(domain: &Domain, settings: &DomainSettings) -> Result<CapturePlan, Refusal> {
    let active = domain.state.is_active();
    let verdicts: Vec<_> = domain.disks.iter().map(|disk| (disk, disk::judge(disk, settings, domain))).collect();
    let live = || verdicts.iter().filter_map(|(disk, verdict)| Some((*disk, verdict.live()?)));
    let (method, method_reason) = choose(settings.method, live());

    let mut plan = CapturePlan { method, method_reason, disks: Vec::new(), skipped: Vec::new(), warnings: Vec::new() };
    plan.warnings.extend(strange_exclusions(domain, settings));
    for (disk, verdict) in verdicts {
        let how = match verdict {
            DiskVerdict::Skip(skipped) => {
                plan.skipped.push(skipped);
                continue;
            }
            DiskVerdict::Live(Live::PullOnly(reason)) if method == Method::Snapshot => {
                plan.skipped.push(disk::missed(disk, &reason, "Set `method: auto` or `method: pull` for this domain."));
                continue;
            }
            DiskVerdict::Live(Live::SnapshotOrPull | Live::PullOnly(_)) => ReadFrom::Capture,
            DiskVerdict::Direct(image) => ReadFrom::Direct(image),
        };
        plan.warnings.extend(disk::warning(disk, active));
        plan.disks.push(PlannedDisk { disk: disk.clone(), how });
    }
    // A method without a disk to capture, or from which every disk fell away, is none.
    if !plan.disks.iter().any(|planned| planned.how == ReadFrom::Capture) {
        plan.method = Method::Direct;
        plan.method_reason = None;
    }
    if plan.disks.is_empty() {
        if plan.skipped.iter().any(|disk| disk.missed) {
            return Err(Refusal::NoDisk { domain: domain.id.name.clone(), skipped: plan.skipped });
        }
        plan.warnings.extend(only_xml(domain));
    }
    Ok(plan)
}

/// The method for the disks that a running guest can change.
fn choose<'a>(choice: MethodChoice, mut live: impl Iterator<Item = (&'a Disk, &'a Live)>) -> (Method, Option<String>) {
    let pull_only = live.find_map(|(disk, live)| match live {
        Live::PullOnly(reason) => Some(format!("pull: disk {} is {reason}", disk.target)),
        Live::SnapshotOrPull => None,
    });
    match (choice, pull_only) {
        (MethodChoice::Snapshot, _) | (MethodChoice::Auto, None) => (Method::Snapshot, None),
        (MethodChoice::Pull, _) => (Method::Pull, None),
        (MethodChoice::Auto, reason) => (Method::Pull, reason),
    }
}

/// Words of `exclude_disks` that name no disk: perhaps the disk that was meant is saved.
fn strange_exclusions(domain: &Domain, settings: &DomainSettings) -> Vec<Failure> {
    let targets: Vec<_> = domain.disks.iter().map(|disk| disk.target.as_str()).collect();
    let strange = settings.exclude_disks.iter().filter(|word| !targets.contains(&word.as_str()));
    let warn = |word: &String| Failure {
        message: format!("`exclude_disks` names `{word}`, which is not a disk of domain `{}`", domain.id.name),
        hint: (!targets.is_empty()).then(|| format!("Its disks: {}", targets.join(", "))),
    };
    strange.map(warn).collect()
}

fn only_xml(domain: &Domain) -> Option<Failure> {
    let message =
        format!("only the definition of domain `{}` is backed up, because all its disks are excluded", domain.id.name);
    (!domain.disks.is_empty()).then_some(Failure { message, hint: None })
}
