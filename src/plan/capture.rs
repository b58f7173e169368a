//! Chooses the method for one domain, and what happens to each disk. Must not call libvirt or open images.
//!
//! One disk that does not support snapshots makes the atomic snapshot of all disks fail, so each disk is checked in advance.
//! The limits of libvirt were tested with libvirt 9.0 and QEMU 7.2.

mod disk;
#[cfg(test)]
mod tests;

use crate::config::{DomainSettings, MethodChoice};
use crate::model::{Disk, Domain, Failure, Image, Method, SkippedDisk};

use disk::{DiskVerdict, Live};

/// How a domain is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturePlan {
    /// [`Method::Direct`] if the domain is off or the guest can change none of the disks.
    pub method: Method,
    /// Why `auto` did not choose its usual method.
    pub method_reason: Option<String>,
    /// In the order of the XML; empty if only the definition is backed up.
    pub disks: Vec<PlannedDisk>,
    /// In the order of the XML.
    pub skipped: Vec<SkippedDisk>,
    pub warnings: Vec<Failure>,
}

/// A disk to back up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDisk {
    pub disk: Disk,
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

/// How the contents of a disk are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFrom {
    /// It takes part in the snapshot or the pull job.
    Capture,
    /// This image and its backing chain are read directly, because the guest cannot change them.
    Direct(Image),
}

/// Why a domain cannot be backed up at all.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// It has disks to back up, but none of them can be read.
    #[error("no disk of domain `{domain}` can be backed up: {}", summary(.skipped))]
    NoDisk { domain: String, skipped: Vec<SkippedDisk> },
}

impl Refusal {
    /// The hints of all disks, each once.
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

/// Plans the backup of a domain. `usual` is the method of `auto`, unless a disk needs another one.
///
/// # Errors
/// If there are disks to back up, but none can be read.
pub fn capture(domain: &Domain, settings: &DomainSettings, usual: Method) -> Result<CapturePlan, Refusal> {
    let active = domain.state.is_active();
    let verdicts: Vec<_> = domain.disks.iter().map(|disk| (disk, disk::judge(disk, settings, domain))).collect();
    let live = || verdicts.iter().filter_map(|(disk, verdict)| Some((*disk, verdict.live()?)));
    let (method, method_reason) = choose(settings.method, usual, live());

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
    // Without a disk to capture, no snapshot or pull job is needed.
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

/// Chooses the method for the disks that a running guest can change.
fn choose<'a>(
    choice: MethodChoice,
    usual: Method,
    mut live: impl Iterator<Item = (&'a Disk, &'a Live)>,
) -> (Method, Option<String>) {
    let pull_only = live.find_map(|(disk, live)| match live {
        Live::PullOnly(reason) => Some(format!("pull: disk {} is {reason}", disk.target)),
        Live::SnapshotOrPull => None,
    });
    match (choice, pull_only) {
        (MethodChoice::Snapshot, _) => (Method::Snapshot, None),
        (MethodChoice::Auto, None) => (usual, None),
        (MethodChoice::Auto, _) if usual == Method::Pull => (Method::Pull, None),
        (MethodChoice::Pull, _) => (Method::Pull, None),
        (MethodChoice::Auto, reason) => (Method::Pull, reason),
    }
}

/// Warns of words in `exclude_disks` that match no disk, because the intended disk may not be excluded.
fn strange_exclusions(domain: &Domain, settings: &DomainSettings) -> Vec<Failure> {
    let targets: Vec<_> = domain.disks.iter().map(|disk| disk.target.as_str()).collect();
    let strange = settings.exclude_disks.iter().filter(|word| !targets.contains(&word.as_str()));
    let warn = |word: &String| Failure {
        message: format!("`exclude_disks` names `{word}`, which is not a disk of domain `{}`", domain.id.name),
        hint: (!targets.is_empty()).then(|| format!("Use one of its disks: {}", targets.join(", "))),
    };
    strange.map(warn).collect()
}

fn only_xml(domain: &Domain) -> Option<Failure> {
    let message =
        format!("only the definition of domain `{}` is backed up, because all its disks are excluded", domain.id.name);
    (!domain.disks.is_empty()).then_some(Failure { message, hint: None })
}
