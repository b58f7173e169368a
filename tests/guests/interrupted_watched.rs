//! What status and metrics report about guests that an interrupted run has left on its overlays, and about guests
//! without backups.

use std::fs;
use std::process::Stdio;

use crate::lab::{Call, Disk, Gate, Lab, Program};
use kvmbackup::engine::survey;
use kvmbackup::hypervisor::Libvirt;
use kvmbackup::ledger::{Seen, Survey};
use serde_json::{Value, json};

/// A new survey, even while a run is in progress.
fn look(program: &Program) -> Survey {
    let settings = kvmbackup::config::load(&program.config(), "lab").unwrap();
    let libvirt = Libvirt::connect(&settings.libvirt_uri).unwrap();
    survey::take(&settings, Some(&libvirt), None)
}

fn seen(survey: &Survey, name: &str) -> Seen {
    survey.domains.get(name).unwrap_or_else(|| panic!("{name} is not in {survey:#?}")).clone()
}

#[test]
fn overlays_left_behind_and_guests_without_backups_are_reported() {
    let lab = Lab::new();
    let guest = lab.guest("watched").disk(Disk::raw("vda")).disk(Disk::qcow2("sda")).paused();
    let uncovered = lab.guest("watched-by-none").disk(Disk::qcow2("vda")).paused();
    let gate = Gate::new(&lab);
    let keys = json!({"method": "snapshot", "rotate": 2, "job": "nightly"});
    let program = Program::new(&lab).set("libvirt_uri", json!(gate.uri())).domain(guest.name(), keys);
    let ledger =
        || -> Value { serde_json::from_slice(&fs::read(program.state().join("ledger.json")).unwrap()).unwrap() };

    gate.hold(Call::Commit);
    let mut run = program.command().arg("backup").stdout(Stdio::null()).spawn().unwrap();
    gate.wait(&mut run);
    assert!(ledger()["jobs"]["nightly"]["running"].is_string(), "the run is in progress");
    gate.kill(&mut run);

    let found = look(&program);
    assert!(found.libvirt_ok && found.repository.up);
    let (left, none) = (seen(&found, guest.name()), seen(&found, uncovered.name()));
    assert_eq!((left.leftover_overlays, left.defined, left.job.as_deref()), (2, true, Some("nightly")));
    assert_eq!((none.leftover_overlays, none.defined, none.job), (0, true, None));
    // The definition shows it without the journal, even for a guest that is off.
    fs::rename(program.state().join("journal"), lab.path("journal")).unwrap();
    assert_eq!(seen(&look(&program), guest.name()).leftover_overlays, 2);
    guest.destroy();
    assert_eq!(seen(&look(&program), guest.name()).leftover_overlays, 2);
    fs::remove_dir_all(program.state().join("journal")).unwrap();
    fs::rename(lab.path("journal"), program.state().join("journal")).unwrap();

    program.backup_well();
    let kept = Survey::load(&program.state()).unwrap().unwrap();
    let saved = seen(&kept, guest.name());
    assert_eq!((saved.leftover_overlays, saved.points.count), (0, 1));
    assert_eq!(ledger()["jobs"]["nightly"]["runs"], json!({"success": 1, "aborted": 1}));
    assert_eq!(ledger()["domains"][guest.name()]["last_result"], "success");
    program.assert_no_leftovers(&guest);
}
