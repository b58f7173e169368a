//! Reports for tests. Must not be used elsewhere.

use chrono::DateTime;
use uuid::Uuid;

use crate::model::{
    Consistency, DiskOutcome, DomainOutcome, Failure, HookResult, HookStatus, Method, Outcome, PointId, RunReport,
    SkippedDisk,
};

/// A run without domains.
pub fn empty() -> RunReport {
    let started = DateTime::from_timestamp(1_795_312_800, 0).unwrap();
    RunReport {
        schema: RunReport::SCHEMA,
        version: "0.1.0".to_owned(),
        run_id: Uuid::nil(),
        host: "cloud1".to_owned(),
        jobs: vec!["cloud1".to_owned()],
        started,
        finished: started + chrono::TimeDelta::seconds(187),
        domains: Vec::new(),
        not_due: vec!["mail".to_owned(), "web-1".to_owned()],
        recovered: Vec::new(),
        leftovers: Vec::new(),
        errors: Vec::new(),
        signal: None,
        hooks: Vec::new(),
        warnings: Vec::new(),
        damaged: Vec::new(),
        maintenance: None,
    }
}

/// A domain that was backed up.
pub fn saved(name: &str) -> DomainOutcome {
    DomainOutcome {
        outcome: Outcome::Success,
        method: Some(Method::Snapshot),
        consistency: Some(Consistency::Filesystem),
        frozen_ms: Some(89),
        captured_ms: Some(9_000),
        point: Some(PointId::at(empty().started)),
        disks: vec![DiskOutcome {
            target: "vda".to_owned(),
            virtual_bytes: 6 << 30,
            data_bytes: 2_370_000_000,
            read_bytes: 2_370_000_000,
            ..DiskOutcome::default()
        }],
        read_bytes: 2_370_000_000,
        stored_bytes: 891_000_000,
        duration_ms: 8_300,
        restore_points: 4,
        ..DomainOutcome::new(name, Some(Uuid::nil()))
    }
}

/// A run without problems.
pub fn good() -> RunReport {
    let off = DomainOutcome {
        method: Some(Method::Direct),
        consistency: Some(Consistency::Offline),
        pruned: vec![PointId::at(empty().started)],
        ..saved("büro")
    };
    RunReport { domains: vec![saved("DockerNode1"), off], ..empty() }
}

/// A run with every kind of problem.
pub fn bad() -> RunReport {
    let failure =
        |message: &str, hint: Option<&str>| Failure { message: message.to_owned(), hint: hint.map(str::to_owned) };
    let skip = |target: &str, reason: &str, missed: bool| SkippedDisk {
        target: target.to_owned(),
        reason: reason.to_owned(),
        missed,
        hint: missed.then(|| "Set `allow_plaintext: true` to back up its contents unencrypted.".to_owned()),
    };
    let failed = DomainOutcome {
        outcome: Outcome::Failed,
        duration_ms: 30_000,
        restore_points: 7,
        error: Some(failure(
            "domain db1: cannot snapshot: internal error: unable to execute QEMU command 'transaction': Could not \
             create file: No space left on device",
            Some("Free space on /var/lib/libvirt/images, or set `overlay_dir`."),
        )),
        ..DomainOutcome::new("db1", None)
    };
    let partial = DomainOutcome {
        outcome: Outcome::Partial,
        method: Some(Method::Pull),
        method_reason: Some("disk vdb is shareable: it cannot be snapshotted".to_owned()),
        consistency: Some(Consistency::Crash),
        skipped: vec![skip("vdc", "encrypted", true), skip("vdd", "excluded by the configuration", false)],
        warnings: vec![failure(
            "the guest agent is not connected\x1b[2J",
            Some("Install qemu-guest-agent in the guest"),
        )],
        leftovers: vec![failure("cannot remove /srv/images/root.ov: permission denied", None)],
        ..saved("files")
    };
    let hook = |name: &str, phase: &str, status: HookStatus| HookResult {
        name: name.to_owned(),
        phase: phase.to_owned(),
        status,
        message: None,
        duration_ms: 420,
        held_ms: (phase == "snapshot").then_some(117),
        output: (status != HookStatus::Ok)
            .then(|| "curl: (28) Connection timed out\nthe ping was not taken\n".to_owned()),
    };
    let quiesced = DomainOutcome {
        consistency: Some(Consistency::Application),
        hooks: vec![hook("mariadb", "snapshot", HookStatus::Ok), hook("ping", "post-domain", HookStatus::Failed)],
        ..saved("DockerNode1")
    };
    RunReport {
        domains: vec![quiesced, failed, partial],
        recovered: vec!["web-1: committed vda back to /srv/images/web-1.qcow2".to_owned()],
        leftovers: Vec::new(),
        errors: vec![failure("entry 'lab-*' matches no domain", Some("config.yml line 12"))],
        ..empty()
    }
}
