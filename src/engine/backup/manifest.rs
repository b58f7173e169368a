//! Builds the manifest of a restore point from what the backup knows. Must not read anything.

use super::Backup;
use super::members::{Collected, Extra};
use crate::config::Quiesce;
use crate::engine::rights;
use crate::model::{Consistency, DiskOutcome, Domain, DomainOutcome};
use crate::plan::{CapturePlan, PlannedDisk};
use crate::store::{BootEntry, DiskEntry, FORMAT, FileEntry, Manifest, PointWriter};

impl Backup<'_> {
    pub(super) fn manifest(
        &self,
        (domain, plan): (&Domain, &CapturePlan),
        point: &PointWriter,
        collected: &Collected,
    ) -> Manifest {
        let outcome = &self.outcome;
        let file = |extra: &Extra| FileEntry {
            member: extra.member.clone(),
            path: extra.original.clone(),
            device: extra.device,
        };
        let boot = collected.boot.iter().map(|(element, extra)| BootEntry {
            element: element.clone(),
            member: extra.member.clone(),
            path: extra.original.clone(),
        });
        Manifest {
            format: FORMAT,
            program: format!("kvmbackup {}", env!("CARGO_PKG_VERSION")),
            run_id: self.context.run_id,
            point: point.id(),
            host: self.context.run.settings.host.clone(),
            domain: domain.id.clone(),
            state: domain.state,
            method: plan.method,
            method_reason: plan.method_reason.clone(),
            consistency: outcome.consistency.unwrap_or(Consistency::Crash),
            quiesce_asked: self.settings.quiesce != Quiesce::Never,
            frozen_ms: outcome.frozen_ms,
            disks: plan
                .disks
                .iter()
                .zip(&outcome.disks)
                .map(|(planned, saved)| disk_entry(point, planned, saved))
                .collect(),
            skipped: outcome.skipped.clone(),
            nvram: collected.nvram.as_ref().map(file),
            boot: boot.collect(),
            tpm: collected.tpm.iter().map(file).collect(),
            suspect: suspect(outcome),
            tpm_missing: (domain.tpm.is_some() && collected.tpm.is_empty()).then(|| "cannot read its state".to_owned()),
            not_saved: outcome.not_saved.clone(),
            warnings: outcome.warnings.clone(),
            hooks: self.phases.results().to_vec(),
            artifacts: collected.artifacts.iter().map(|(member, _)| member.clone()).collect(),
        }
    }
}

/// Why the point must not cause the removal of an older one.
fn suspect(outcome: &DomainOutcome) -> Option<String> {
    let shrunk: Vec<&str> = outcome.disks.iter().filter(|disk| disk.shrunk).map(|disk| disk.target.as_str()).collect();
    (!shrunk.is_empty()).then(|| format!("much smaller, or with much less data, than before: {}", shrunk.join(", ")))
}

fn disk_entry(point: &PointWriter, planned: &PlannedDisk, saved: &DiskOutcome) -> DiskEntry {
    let image = planned.image();
    DiskEntry {
        target: saved.target.clone(),
        member: point.disk_member(&saved.target),
        virtual_bytes: saved.virtual_bytes,
        read_bytes: saved.data_bytes,
        source: image.source.clone(),
        format: image.format.clone(),
        backing: planned.disk.backing.clone(),
        owner: image.source.path().and_then(rights::of_file),
        encrypted: planned.disk.encrypted,
        shrunk: saved.shrunk,
    }
}
