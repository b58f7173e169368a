//! The metrics of a running guest, and of a killed run that left it on an overlay.

use std::path::Path;
use std::process::Stdio;

use crate::lab::{Call, Disk, Gate, Lab, Program};
use serde_json::json;

/// The value of a series, by its text up to the value.
#[track_caller]
fn value(file: &Path, series: &str) -> f64 {
    let text = std::fs::read_to_string(file).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {series} in:\n{text}"))
}

#[test]
fn guest_left_on_an_overlay_is_reported_until_it_is_recovered() {
    let lab = Lab::new();
    let gate = Gate::new(&lab);
    let guest = lab.guest("watched").disk(Disk::qcow2("vda")).paused();
    let folder = lab.path("textfiles");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("kvmbackup.prom");
    let program = Program::new(&lab)
        .set("libvirt_uri", json!(gate.uri()))
        .set("metrics", json!({"textfile": file}))
        .domain(guest.name(), json!({}));
    let [running, aborted] = ["running{backup_job=\"lab\"}", "runs_total{backup_job=\"lab\",result=\"aborted\"}"]
        .map(|series| format!("kvmbackup_job_{series}"));
    let leftover = "kvmbackup_domain_leftover_overlays{domain=\"watched\"}";

    gate.hold(Call::Commit);
    let mut run = program.command().arg("backup").stdout(Stdio::null()).spawn().unwrap();
    gate.wait(&mut run);
    assert_eq!(value(&file, &running), 1.0);
    gate.kill(&mut run);
    assert_eq!(value(&file, &running), 1.0, "no process is left to update it");

    assert_eq!(program.run(&["metrics"]).code, 0);
    assert_eq!(value(&file, &running), 0.0);
    assert_eq!(value(&file, leftover), 1.0);
    assert!(guest.live_xml().contains(".kvmbackup-"), "reading it changes nothing");

    program.backup_well();
    assert_eq!([value(&file, &running), value(&file, &aborted), value(&file, leftover)], [0.0, 1.0, 0.0]);
    let labels = "{backup_job=\"lab\",domain=\"watched\"";
    assert_eq!(
        value(
            &file,
            &format!("kvmbackup_domain_last_consistency_info{labels},level=\"crash\",wanted=\"filesystem\"}}")
        ),
        1.0
    );
    for stage in ["snapshot", "copy", "commit"] {
        let series = format!("kvmbackup_domain_last_stage_duration_seconds{labels},stage=\"{stage}\"}}");
        assert!(value(&file, &series) > 0.0, "{stage}");
    }
    program.assert_no_leftovers(&guest);
}
