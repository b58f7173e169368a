//! Every compression makes an archive that the usual tools accept as their own format.

use std::path::PathBuf;

use crate::lab::{Disk, Lab, run, save_exactly};
use serde_json::json;

/// Backs up a guest that is off with 24 MB of incompressible data; returns the archive.
fn archive(lab: &Lab, compression: serde_json::Value) -> PathBuf {
    let random = lab.path("images").join("random.raw");
    std::fs::create_dir_all(random.parent().unwrap()).unwrap();
    run("sh", &["-c", "head -c 24M /dev/urandom >\"$1\" && truncate -s 64M \"$1\"", "sh", random.to_str().unwrap()]);
    let name = format!("codec {}", compression["method"].as_str().unwrap());
    let guest = lab.guest(&name).disk(Disk::raw("vda").file(&random)).define();
    let saved = save_exactly(lab, &guest, json!({"compression": compression}), &["vda"]);
    saved.program.archive(&saved.report, guest.name())
}

fn pipe(command: &str, archive: &std::path::Path) -> String {
    run("sh", &["-euc", command, "sh", archive.to_str().unwrap()])
}

#[test]
fn zstd_archive_is_valid_for_zstd_in_several_frames() {
    let lab = Lab::new();
    let archive = archive(&lab, json!({"method": "zstd", "level": 3}));
    assert!(archive.to_str().unwrap().ends_with(".tar.zst"));
    pipe("zstd -q -t \"$1\"", &archive);
    let list = pipe("zstd -l \"$1\" | tail -n 1", &archive);
    let frames: u32 = list.split_whitespace().next().unwrap().parse().unwrap();
    assert!(frames > 2, "{list}");
}

#[test]
fn gzip_archive_is_valid_for_gzip() {
    let lab = Lab::new();
    let archive = archive(&lab, json!({"method": "gzip", "level": 1}));
    assert!(archive.to_str().unwrap().ends_with(".tar.gz"));
    pipe("gzip -t \"$1\"; pigz -t \"$1\"", &archive);
    let names = pipe("pigz -dc \"$1\" | tar -tf -", &archive);
    assert_eq!(names, pipe("gzip -dc \"$1\" | tar -tf -", &archive));
    assert_eq!(names.lines().next(), Some("manifest.json"));
    assert_eq!(names.lines().last(), Some("SHA256SUMS"));
}

#[test]
fn uncompressed_archive_is_valid_for_tar() {
    let lab = Lab::new();
    let archive = archive(&lab, json!({"method": "none"}));
    let names = pipe("tar -tf \"$1\"", &archive);
    let expected = [
        "manifest.json",
        "domain.xml",
        "domain-inactive.xml",
        "domain-migratable.xml",
        "disks/vda.qcow2",
        "SHA256SUMS",
    ];
    assert_eq!(names.lines().collect::<Vec<_>>(), expected);
}
