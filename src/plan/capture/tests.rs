//! Tests how each kind of disk and domain is captured.

use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::model::{Codec, Device, DomainRef, DomainState, DomainXml, Format, Source};

/// As for archives.
fn capture(domain: &Domain, settings: &DomainSettings) -> Result<CapturePlan, Refusal> {
    super::capture(domain, settings, Method::Snapshot)
}

fn settings() -> DomainSettings {
    DomainSettings {
        job: "h".into(),
        days: vec![chrono::Weekday::Sun],
        catch_up: false,
        priority: 50,
        store: crate::config::StoreChoice::Archive,
        retention: None,
        compression: Codec::Zstd(3),
        quiesce: crate::config::Quiesce::Prefer,
        freeze_timeout: Duration::from_secs(30),
        method: MethodChoice::Auto,
        exclude_disks: Vec::new(),
        overlay_dir: None,
        incremental: crate::config::Incremental::Auto,
        scratch_dir: None,
        allow_plaintext: false,
        hooks: Vec::new(),
    }
}

fn with(method: MethodChoice) -> DomainSettings {
    DomainSettings { method, ..settings() }
}

fn plain(method: MethodChoice) -> DomainSettings {
    DomainSettings { allow_plaintext: true, ..with(method) }
}

fn image(source: Source) -> Image {
    Image { source, format: Format::Raw }
}

fn disk(target: &str) -> Disk {
    Disk {
        target: target.to_owned(),
        device: Device::Disk,
        image: image(Source::File(format!("/images/{target}").into())),
        backing: Vec::new(),
        chain_ends: false,
        persistent: None,
        readonly: false,
        shareable: false,
        transient: false,
        encrypted: false,
        only_qemu: None,
        unknown: None,
    }
}

fn domain(state: DomainState, disks: Vec<Disk>) -> Domain {
    Domain {
        id: DomainRef { name: "web".to_owned(), uuid: Uuid::nil() },
        state,
        suspended: false,
        persistent: true,
        xml: DomainXml { live: String::new(), inactive: String::new(), migratable: String::new() },
        disks,
        nvram: None,
        boot: Vec::new(),
        tpm: None,
        agent_channel: false,
        outside: Vec::new(),
    }
}

fn running(disks: Vec<Disk>) -> Domain {
    domain(DomainState::Running, disks)
}

fn off(disks: Vec<Disk>) -> Domain {
    domain(DomainState::Off, disks)
}

/// The plan in short form: the method, then `vda` for a captured disk, `=vda` for direct, `-vda` for excluded and `!vda` for
/// missed.
fn short(domain: &Domain, settings: &DomainSettings) -> String {
    let (method, disks, skipped) = match capture(domain, settings) {
        Ok(plan) => (format!("{:?}", plan.method), plan.disks, plan.skipped),
        Err(Refusal::NoDisk { skipped, .. }) => ("refused".to_owned(), Vec::new(), skipped),
    };
    let saved = disks.iter().map(|disk| match &disk.how {
        ReadFrom::Capture => format!(" {}", disk.disk.target),
        ReadFrom::Direct(_) => format!(" ={}", disk.disk.target),
    });
    let skipped = skipped.iter().map(|disk| format!(" {}{}", if disk.missed { "!" } else { "-" }, disk.target));
    format!("{method}{}", saved.chain(skipped).collect::<String>())
}

#[test]
fn an_active_domain_is_captured_with_the_configured_method() {
    let disks = || vec![disk("vda"), disk("vdb")];
    for state in [DomainState::Running, DomainState::Paused] {
        assert_eq!(short(&domain(state, disks()), &settings()), "Snapshot vda vdb");
        assert_eq!(short(&domain(state, disks()), &with(MethodChoice::Snapshot)), "Snapshot vda vdb");
        assert_eq!(short(&domain(state, disks()), &with(MethodChoice::Pull)), "Pull vda vdb");
    }
    let plan = capture(&running(disks()), &settings()).unwrap();
    assert_eq!((plan.method_reason, plan.warnings), (None, vec![]));
}

#[test]
fn a_domain_that_is_off_is_read_directly_with_any_method() {
    for method in [MethodChoice::Auto, MethodChoice::Snapshot, MethodChoice::Pull] {
        let shared = Disk { shareable: true, ..disk("vdb") };
        let lun = Disk { device: Device::Lun, image: image(Source::Block("/dev/sdx".into())), ..disk("sda") };
        assert_eq!(short(&off(vec![disk("vda"), shared, lun]), &with(method)), "Direct =vda =vdb =sda");
    }
}

#[test]
fn a_shareable_disk_of_a_domain_that_is_off_causes_a_warning() {
    let plan = capture(&off(vec![Disk { shareable: true, ..disk("vdb") }]), &settings()).unwrap();
    assert!(plan.warnings[0].message.starts_with("disk vdb is shareable: if another domain writes to it"));
}

#[test]
fn auto_pulls_disks_without_snapshot_support_and_reports_the_reason() {
    let cases = [
        (Disk { shareable: true, ..disk("vdb") }, "pull: disk vdb is shareable, which snapshots do not support"),
        (
            Disk { device: Device::Lun, ..disk("vdb") },
            "pull: disk vdb is a passed-through LUN, which cannot be snapshotted",
        ),
        (
            Disk { image: image(Source::Network("rbd:pool/x".into())), ..disk("vdb") },
            "pull: disk vdb is on the network, where no overlay can be created beside it",
        ),
        (Disk { encrypted: true, ..disk("vdb") }, "pull: disk vdb is encrypted, and a snapshot's overlay would not be"),
    ];
    for (odd, reason) in cases {
        let domain = running(vec![disk("vda"), odd]);
        let plan = capture(&domain, &plain(MethodChoice::Auto)).unwrap();
        assert_eq!((plan.method, plan.method_reason.as_deref()), (Method::Pull, Some(reason)));
        assert_eq!(short(&domain, &plain(MethodChoice::Auto)), "Pull vda vdb");
        assert_eq!(short(&domain, &plain(MethodChoice::Pull)), "Pull vda vdb");
        assert_eq!(short(&domain, &plain(MethodChoice::Snapshot)), "Snapshot vda !vdb");
        let plan = capture(&domain, &plain(MethodChoice::Snapshot)).unwrap();
        assert_eq!(plan.skipped[0].hint.as_deref(), Some("Set `method: auto` or `method: pull` for this domain."));
    }
}

#[test]
fn encrypted_disks_need_allow_plaintext_and_pull() {
    let luks = || Disk { encrypted: true, ..disk("vdb") };
    let domain = running(vec![disk("vda"), luks()]);
    assert_eq!(short(&domain, &settings()), "Snapshot vda !vdb");
    let skipped = capture(&domain, &settings()).unwrap().skipped.remove(0);
    assert!(skipped.hint.unwrap().contains("`allow_plaintext: true`"));
    let warnings = capture(&domain, &plain(MethodChoice::Auto)).unwrap().warnings;
    assert_eq!(warnings[0].message, "disk vdb is encrypted, but its contents are unencrypted in the archive");
    assert_eq!(short(&off(vec![disk("vda"), luks()]), &plain(MethodChoice::Auto)), "Direct =vda !vdb");
    let read_only = Disk { readonly: true, ..luks() };
    assert_eq!(short(&running(vec![read_only]), &plain(MethodChoice::Auto)), "Pull vdb");
}

#[test]
fn read_only_disks_are_read_directly() {
    let read_only = Disk { readonly: true, ..disk("vdb") };
    assert_eq!(short(&running(vec![disk("vda"), read_only.clone()]), &settings()), "Snapshot vda =vdb");
    assert_eq!(short(&running(vec![disk("vda"), read_only.clone()]), &with(MethodChoice::Pull)), "Pull vda =vdb");
    assert_eq!(short(&running(vec![read_only.clone()]), &settings()), "Direct =vdb");
    let remote = Disk { image: image(Source::Network("nbd:x".into())), ..read_only };
    assert_eq!(short(&running(vec![disk("vda"), remote]), &settings()), "Pull vda vdb");
}

#[test]
fn a_transient_disk_is_backed_up_from_its_persistent_image() {
    let base = image(Source::File("/images/base".into()));
    let known = Disk { transient: true, persistent: Some(base.clone()), ..disk("vdb") };
    let plan = capture(&running(vec![disk("vda"), known.clone()]), &settings()).unwrap();
    assert_eq!(plan.disks[1].how, ReadFrom::Direct(base.clone()));
    assert_eq!(
        plan.warnings[0].message,
        "disk vdb is transient: data written since the guest started is not backed up"
    );

    let below = Disk { persistent: None, backing: vec![base.clone()], ..known.clone() };
    assert_eq!(capture(&running(vec![below]), &settings()).unwrap().disks[0].how, ReadFrom::Direct(base));
    let unclear = Disk { persistent: None, ..known };
    assert_eq!(short(&running(vec![disk("vda"), unclear.clone()]), &settings()), "Snapshot vda !vdb");
    let plan = capture(&off(vec![unclear.clone()]), &settings()).unwrap();
    assert_eq!((&plan.disks[0].how, plan.warnings), (&ReadFrom::Direct(unclear.image), vec![]));
}

#[test]
fn removable_and_excluded_disks_are_skipped_but_not_missed() {
    let empty = Disk { device: Device::Cdrom, image: image(Source::Unsupported("file".into())), ..disk("sda") };
    let full = Disk { device: Device::Floppy, ..disk("fda") };
    let excluding = DomainSettings { exclude_disks: vec!["vdb".into(), "vdx".into()], ..settings() };
    let domain = running(vec![disk("vda"), disk("vdb"), empty, full]);
    let plan = capture(&domain, &excluding).unwrap();
    let reasons: Vec<_> = plan.skipped.iter().map(|disk| (disk.target.as_str(), disk.reason.as_str())).collect();
    assert_eq!(reasons, [("vdb", "excluded by the configuration"), ("sda", "no medium"), ("fda", "removable medium")]);
    assert_eq!(short(&domain, &excluding), "Snapshot vda -vdb -sda -fda");
    assert_eq!(plan.warnings[0].message, "`exclude_disks` names `vdx`, which is not a disk of domain `web`");
    assert_eq!(plan.warnings[0].hint.as_deref(), Some("Use one of its disks: vda, vdb, sda, fda"));
}

#[test]
fn an_excluded_disk_does_not_affect_the_method() {
    let excluding = DomainSettings { exclude_disks: vec!["vdb".into()], ..settings() };
    assert_eq!(
        short(&running(vec![disk("vda"), Disk { shareable: true, ..disk("vdb") }]), &excluding),
        "Snapshot vda -vdb"
    );
}

#[test]
fn unsupported_sources_are_missed() {
    let vhost = Disk { image: image(Source::Unsupported("vhostuser".into())), ..disk("vdb") };
    assert_eq!(short(&running(vec![disk("vda"), vhost.clone()]), &settings()), "Snapshot vda !vdb");
    assert_eq!(short(&running(vec![disk("vda"), vhost.clone()]), &with(MethodChoice::Pull)), "Pull vda !vdb");
    assert_eq!(short(&off(vec![disk("vda"), vhost]), &settings()), "Direct =vda !vdb");
    let remote = Disk { image: image(Source::Network("rbd:pool/x".into())), ..disk("vdb") };
    let plan = capture(&off(vec![disk("vda"), remote]), &settings()).unwrap();
    assert_eq!(plan.skipped[0].hint.as_deref(), Some("Back it up while the domain runs."));
}

#[test]
fn each_missed_disk_has_its_reason_and_hint() {
    let exclude = "If it need not be backed up, add it to `exclude_disks`.";
    let runs = "Back it up while the domain runs.";
    let vhost = || Disk { image: image(Source::Unsupported("vhostuser".into())), ..disk("vdb") };
    let remote = Disk { image: image(Source::Network("rbd:pool/x".into())), ..disk("vdb") };
    let luks = Disk { encrypted: true, ..disk("vdb") };
    let transient = Disk { transient: true, ..disk("vdb") };
    let dark = Disk { encrypted: true, ..transient.clone() };
    let kind = "source type not supported (vhostuser)";
    let of_qemu = "which only the domain's QEMU can read";
    let cases = [
        (running(vec![disk("vda"), vhost()]), kind.to_owned(), exclude),
        (running(vec![disk("vda"), Disk { transient: true, ..vhost() }]), kind.to_owned(), exclude),
        (off(vec![disk("vda"), vhost()]), kind.to_owned(), exclude),
        (running(vec![disk("vda"), dark]), "transient and encrypted, which cannot be read".to_owned(), exclude),
        (
            running(vec![disk("vda"), transient]),
            "transient, and its base image is unknown".to_owned(),
            "Back it up while the domain is off.",
        ),
        (off(vec![disk("vda"), luks]), format!("encrypted, {of_qemu}"), runs),
        (off(vec![disk("vda"), remote]), format!("on the network, {of_qemu}"), runs),
    ];
    for (domain, reason, hint) in cases {
        let skipped = capture(&domain, &plain(MethodChoice::Auto)).unwrap().skipped.remove(0);
        assert_eq!((skipped.reason, skipped.hint.as_deref(), skipped.missed), (reason, Some(hint), true));
    }
}

#[test]
fn without_disks_only_the_definition_is_backed_up_or_the_backup_fails() {
    let plan = capture(&running(vec![]), &settings()).unwrap();
    assert_eq!((plan.method, plan.warnings), (Method::Direct, vec![]));
    for method in [MethodChoice::Snapshot, MethodChoice::Pull] {
        assert_eq!(short(&running(vec![]), &with(method)), "Direct");
    }

    let excluding = DomainSettings { exclude_disks: vec!["vda".into()], ..settings() };
    let plan = capture(&running(vec![disk("vda")]), &excluding).unwrap();
    assert_eq!(
        plan.warnings[0].message,
        "only the definition of domain `web` is backed up, because all its disks are excluded"
    );

    let luks = |target| Disk { encrypted: true, ..disk(target) };
    let refusal = capture(&running(vec![luks("vda"), luks("vdb")]), &settings()).unwrap_err();
    let reason = "encrypted, and its contents would be unencrypted in the archive";
    assert_eq!(refusal.to_string(), format!("no disk of domain `web` can be backed up: vda: {reason}; vdb: {reason}"));
    assert_eq!(
        refusal.hint().as_deref(),
        Some("Set `allow_plaintext: true` for this domain to back up the contents of its encrypted disks.")
    );
}
