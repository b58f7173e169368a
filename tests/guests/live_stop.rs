//! Backups that are stopped, that run at the same time, or whose guest goes away during the backup.

use crate::lab;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::lab::{Call, Contents, DEADLINE, Disk, Gate, Guest, Lab, Program, Ran, Report, run, wait_until};
use serde_json::{Value, json};

/// A paused guest with one disk of incompressible contents, larger than the read-ahead before the first byte is written
/// (a few pieces of 4 MiB for each core).
fn guest(lab: &Lab, name: &str) -> Guest {
    let image = lab.path(&format!("random/{name}/vda.raw"));
    std::fs::create_dir_all(image.parent().unwrap()).unwrap();
    run("dd", &["if=/dev/urandom", &format!("of={}", image.display()), "bs=1M", "count=96", "status=none"]);
    lab.guest(name).disk(Disk::raw("vda").file(image)).paused()
}

/// Slow compression, so that reading a disk takes some time.
fn slow() -> Value {
    json!({"method": "zstd", "level": 19})
}

fn start(program: &Program) -> Child {
    let run = program.command().args(["backup", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    run.expect("cannot run kvmbackup")
}

fn finish(run: Child) -> Report {
    Report::from(Ran::from(run.wait_with_output().unwrap()))
}

fn signal(run: &Child, name: &str) {
    lab::run("kill", &["-s", name, &run.id().to_string()]);
}

fn wait_until_it_reads(run: &mut Child, backups: &Path, domain: &str) {
    let part = || {
        let folder = backups.join(domain);
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).any(|file| file.len() > 0)
    };
    wait_until(DEADLINE, "the first bytes of an archive", || {
        assert!(run.try_wait().unwrap().is_none(), "the backup has already ended");
        part()
    });
}

fn archives(program: &Program, domain: &str) -> usize {
    std::fs::read_dir(program.backups().join(domain)).into_iter().flatten().count()
}

#[test]
fn signal_ends_a_run_cleanly() {
    let lab = Lab::new();
    let guests = [guest(&lab, "stop-a"), guest(&lab, "stop-b")];
    for (method, name, number) in [("snapshot", "INT", 2), ("pull", "TERM", 15)] {
        let program = guests.iter().fold(Program::new(&lab), |program, guest| {
            program.domain(guest.name(), json!({"method": method, "compression": slow()}))
        });
        let mut run = start(&program);
        wait_until_it_reads(&mut run, &program.backups(), "stop-a");
        signal(&run, name);
        let report = finish(run);
        assert_eq!((report.ran.code, &report.json["signal"]), (128 + number, &json!(number)), "{report:#?}");
        let stopped = format!("stopped by signal {number}");
        for domain in ["stop-a", "stop-b"] {
            let outcome = report.domain(domain);
            assert_eq!(outcome["outcome"], "failed", "{report:#?}");
            assert!(outcome["error"]["message"].as_str().unwrap().contains(&stopped), "{report:#?}");
            assert_eq!(archives(&program, domain), 0);
        }
        assert_eq!(report.domain("stop-b")["method"], Value::Null, "it was not started: {report:#?}");
        assert!(program.run(&["report"]).stdout.contains(&format!("INTERRUPTED by signal {number}")));
        guests.iter().for_each(|guest| program.assert_no_leftovers(guest));
        let after = program.run(&["recover"]);
        assert!(after.code == 0 && after.stdout.starts_with("no interrupted run in "), "{after:#?}");
    }
}

#[test]
fn two_concurrent_backups_both_end_on_a_signal() {
    let lab = Lab::new();
    let guests = [guest(&lab, "both-a"), guest(&lab, "both-b")];
    let program = guests
        .iter()
        .fold(Program::new(&lab), |program, guest| program.domain(guest.name(), json!({"compression": slow()})));
    let program = program.set("parallel", json!(2));
    let mut run = start(&program);
    wait_until(DEADLINE, "both to be on their overlays", || {
        assert!(run.try_wait().unwrap().is_none(), "the backup has already ended");
        guests.iter().all(|guest| guest.live_xml().contains(".kvmbackup-"))
    });
    signal(&run, "TERM");
    assert_eq!(finish(run).ran.code, 143);
    guests.iter().for_each(|guest| program.assert_no_leftovers(guest));
}

#[test]
fn second_run_is_refused_and_does_no_harm() {
    let lab = Lab::new();
    let gate = Gate::new(&lab);
    let guest = guest(&lab, "second");
    let program = Program::new(&lab).set("libvirt_uri", json!(gate.uri())).domain(guest.name(), json!({}));
    gate.hold(Call::Commit);
    let mut first = start(&program);
    gate.wait(&mut first);
    for command in ["backup", "recover"] {
        let second = program.run(&[command]);
        assert_eq!(second.code, 3, "{second:#?}");
        assert!(second.stderr.contains(&format!("pid {}", first.id())), "{second:#?}");
    }
    assert!(guest.live_xml().contains(".kvmbackup-"), "a live run is not recovered");
    gate.open();
    let report = finish(first);
    assert_eq!(report.ran.code, 0, "{report:#?}");
    program.unpack(&report, guest.name());
    program.assert_no_leftovers(&guest);
}

#[test]
fn failing_domain_does_not_prevent_the_backup_of_others() {
    let lab = Lab::new();
    let guests = [guest(&lab, "fails"), guest(&lab, "goes-well")];
    let nowhere = json!({"overlay_dir": lab.path("nowhere"), "method": "snapshot"});
    let program = Program::new(&lab).domain("fails", nowhere).domain("goes-well", json!({}));
    let report = program.backup();
    assert_eq!(report.ran.code, 1, "{report:#?}");
    let failed = report.domain("fails");
    assert_eq!((&failed["outcome"], &failed["point"]), (&json!("failed"), &Value::Null));
    assert!(failed["error"]["message"].as_str().unwrap().contains("nowhere"), "{report:#?}");
    assert_eq!(report.domain("goes-well")["outcome"], "success");
    program.unpack(&report, "goes-well");
    guests.iter().for_each(|guest| program.assert_no_leftovers(guest));
    assert_eq!(archives(&program, "fails"), 0);
}

#[test]
fn guest_that_loses_power_while_it_is_read_is_saved_and_returned_to_its_base() {
    let lab = Lab::new();
    let gate = Gate::new(&lab);
    let guest = guest(&lab, "power");
    let backup = |keys: Value| Program::new(&lab).set("libvirt_uri", json!(gate.uri())).domain(guest.name(), keys);
    for while_reading in [true, false] {
        let contents = Contents::of(&lab, &guest, &["vda"]);
        let compression = if while_reading { slow() } else { json!({"method": "zstd", "level": 1}) };
        let program = backup(json!({"method": "snapshot", "compression": compression}));
        if !while_reading {
            gate.hold(Call::Commit);
        }
        let mut run = start(&program);
        if while_reading {
            wait_until_it_reads(&mut run, &program.backups(), guest.name());
        } else {
            gate.wait(&mut run);
        }
        guest.write("vda", 0x71, 2 << 20, 65536);
        guest.destroy();
        gate.open();
        let report = finish(run);
        assert_eq!(report.ran.code, 0, "{report:#?}");
        contents.assert_saved_in(&program.unpack(&report, guest.name()));
        program.assert_no_leftovers(&guest);
        guest.assert_holds("vda", 0x71, 2 << 20, 65536);
        std::fs::remove_dir_all(program.backups()).unwrap();
        guest.start_paused();
    }
}

#[test]
fn pull_of_a_guest_that_loses_power_fails_and_leaves_nothing() {
    let lab = Lab::new();
    let guest = guest(&lab, "power-pull");
    let program = Program::new(&lab).domain(guest.name(), json!({"method": "pull", "compression": slow()}));
    let mut run = start(&program);
    wait_until_it_reads(&mut run, &program.backups(), guest.name());
    guest.destroy();
    let report = finish(run);
    assert_eq!(report.ran.code, 1, "{report:#?}");
    assert_eq!(report.domain(guest.name())["leftovers"], json!([]));
    assert_eq!(archives(&program, guest.name()), 0);
    program.assert_no_leftovers(&guest);
}
