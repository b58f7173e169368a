//! Checks the results of `restore --salvage` against the members of the good archive, as tar reads them, and against
//! the guest's disks, as QEMU reads them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::archives::{Archives, text};
use super::host::run;
use super::kinds::Kind;
use super::places::Place;

/// The saved data.
pub struct Originals {
    members: BTreeMap<String, Vec<u8>>,
    disks: BTreeMap<String, Vec<u8>>,
}

impl Originals {
    /// From tar, and from the images in the archive.
    pub fn of(archives: &Archives) -> Originals {
        let to = archives.host.path("members");
        fs::create_dir(&to).unwrap();
        run("tar", &["-C", text(&to), "-xf", text(&archives.archive)]);
        let mut members = BTreeMap::new();
        for line in run("find", &[text(&to), "-type", "f"]).lines() {
            let name = Path::new(line).strip_prefix(&to).unwrap().to_str().unwrap().to_owned();
            members.insert(name, fs::read(line).unwrap());
        }
        fs::remove_dir_all(&to).unwrap();
        let second = fs::read(archives.host.path("second.raw")).unwrap();
        let disks = [("vda", raw(&archives.host.image("web"))), ("vdb", second)];
        Originals { members, disks: disks.map(|(target, bytes)| (target.to_owned(), bytes)).into() }
    }
}

/// The contents of an image.
fn raw(image: &Path) -> Vec<u8> {
    let to = image.with_extension("as-raw");
    run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(image), text(&to)]);
    let bytes = fs::read(&to).unwrap();
    fs::remove_file(to).unwrap();
    bytes
}

/// Panics unless everything outside the damaged frames is restored unchanged, and the report lists the rest.
pub fn all_else_comes_back(archives: &Archives, originals: &Originals, what: &str, place: &Place, kind: Kind) {
    let to = archives.host.path("salvaged");
    let ran = archives.host.run(&format!("restore web --salvage --to {}", to.display()));
    assert_eq!(ran.code, 6, "{what}: {ran:?}");
    if !to.exists() {
        assert!(kind == Kind::Truncate && ran.err.contains("is not a kvmbackup archive"), "{what}: {ran:?}");
        return;
    }
    let report: Value = serde_json::from_slice(&fs::read(to.join("salvage.json")).unwrap()).unwrap();
    if place.name.ends_with("the frame of the tar headers") && matches!(archives.codec, "zstd" | "gzip") {
        let names: Vec<_> = report["files"].as_array().unwrap().iter().map(|part| &part["member"]).collect();
        let is_clear = kind != Kind::Truncate;
        assert!(!is_clear || names.contains(&&Value::from("disks/vda.qcow2")), "{what}: {report:#}");
    }
    let mut lost = 0;
    let mut vdb = "missing".to_owned();
    for part in report["files"].as_array().unwrap() {
        lost += ranges(&part["lost"]).iter().map(|(_, length)| length).sum::<usize>();
        if part["disk"]["target"] == "vdb" {
            vdb = part["state"].as_str().unwrap().to_owned();
        }
        check(part, &to, originals, what, archives.codec);
    }
    if matches!(archives.codec, "zstd" | "gzip") {
        let most = if kind == Kind::Truncate { place.behind } else { place.held };
        assert!(lost <= most, "{what}: {lost} bytes are lost, but only {most} were in the damaged frames: {report:#}");
        assert!(!place.leaves_second_disk || kind == Kind::Truncate || vdb == "whole", "{what}: {report:#}");
    }
    fs::remove_dir_all(&to).unwrap();
}

/// Nothing unchanged is called salvaged.
pub fn a_good_one_is_whole(archives: &Archives, originals: &Originals) {
    let to = archives.host.path("salvaged");
    archives.host.run(&format!("restore web --salvage --to {}", to.display())).ends(0);
    let report: Value = serde_json::from_slice(&fs::read(to.join("salvage.json")).unwrap()).unwrap();
    for part in report["files"].as_array().unwrap() {
        assert_eq!((&part["state"], &part["lost"]), (&"whole".into(), &serde_json::json!([])), "{report:#}");
        check(part, &to, originals, "undamaged", archives.codec);
    }
    fs::remove_dir_all(&to).unwrap();
}

/// Compares one part of the report with the saved data.
fn check(part: &Value, to: &Path, originals: &Originals, what: &str, codec: &str) {
    let state = part["state"].as_str().unwrap();
    let files: Vec<&str> = part["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
    for file in &files {
        assert_eq!(file.contains(".salvaged"), state != "whole", "{what}: {part:#}");
        assert!(to.join(file).is_file(), "{what}: {file}");
    }
    // Data without its own checksum is reported as unverified.
    let is_vouched = state == "whole" || (state == "torn" && matches!(codec, "zstd" | "gzip"));
    let Some(member) = part["member"].as_str().filter(|_| is_vouched) else { return };
    let bytes = |file: &str| fs::read(to.join(file)).unwrap();
    match part["disk"]["target"].as_str() {
        Some(target) => {
            if let Some(bare) = files.iter().find(|file| file.ends_with(".member")) {
                same_from_the_end(&bytes(bare), &originals.members[member], part, what);
            }
            let Some(image) = files.iter().find(|file| file.ends_with(".qcow2")) else { return };
            run("qemu-img", &["check", "-q", text(&to.join(image))]);
            let lost = ranges(&part["disk"]["unreadable"]);
            same_but(&raw(&to.join(image)), &originals.disks[target], &lost, what);
            assert!(!lost.is_empty() || state == "whole" || !ranges(&part["lost"]).is_empty(), "{what}: {part:#}");
        }
        None if !files.is_empty() => {
            let mut got = bytes(files[0]);
            let good = &originals.members[member];
            got.resize(good.len(), 0);
            same_but(&got, good, &ranges(&part["lost"]), what);
        }
        None => {}
    }
}

fn ranges(list: &Value) -> Vec<(usize, usize)> {
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    list.as_array().unwrap().iter().map(|range| (number(&range["offset"]), number(&range["length"]))).collect()
}

/// Panics unless the result for a member that may have lost its start is correct where it is not lost.
fn same_from_the_end(got: &[u8], good: &[u8], part: &Value, what: &str) {
    let mut got = got.to_vec();
    got.resize(part["bytes"].as_u64().unwrap() as usize, 0);
    let mut lost = ranges(&part["lost"]);
    let most = got.len().min(good.len());
    let (skipped, got) = (got.len() - most, &got[got.len() - most..]);
    lost.iter_mut().for_each(|(offset, length)| {
        let end = (*offset + *length).max(skipped) - skipped;
        *offset = (*offset).max(skipped) - skipped;
        *length = end - *offset;
    });
    same_but(got, &good[good.len() - most..], &lost, what);
}

/// Panics unless the bytes are the good ones, with zeros where data is lost.
fn same_but(got: &[u8], good: &[u8], lost: &[(usize, usize)], what: &str) {
    assert_eq!(got.len(), good.len(), "{what}");
    let mut wanted = good.to_vec();
    for &(offset, length) in lost {
        let end = (offset + length).min(wanted.len());
        wanted[offset.min(end)..end].fill(0);
    }
    // Compare slices, because comparing single bytes is slow without optimization.
    if got != wanted {
        let wrong = got.iter().zip(&wanted).position(|(got, wanted)| got != wanted);
        panic!("{what}: silently wrong at byte {wrong:?}");
    }
}
