//! The versions of long-lived files: docs/versions.md and the samples, an upgrade, and a downgrade.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::host::Host;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The sample of a version.
fn sample(file: &str, version: &str) -> String {
    fs::read_to_string(root().join(format!("tests/formats/{file}/{version}.json"))).unwrap()
}

#[test]
fn every_version_in_the_manual_has_a_sample_and_every_sample_a_row() {
    let manual = fs::read_to_string(root().join("docs/versions.md")).unwrap();
    let cells =
        |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect() };
    let rows = manual.lines().filter(|line| line.starts_with("| `")).map(cells);
    let is_version = |cell: &str| cell.chars().all(|c| c == '.' || c.is_ascii_digit());
    let named: BTreeSet<_> =
        rows.filter(|row| is_version(&row[2])).map(|row| format!("{}/{}.json", row[1], row[2])).collect();
    let mut there = BTreeSet::new();
    for folder in fs::read_dir(root().join("tests/formats")).unwrap().map(|entry| entry.unwrap()) {
        for file in fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap()) {
            there.insert(format!("{}/{}", folder.file_name().display(), file.file_name().display()));
        }
    }
    assert_eq!(named, there, "docs/versions.md and tests/formats differ");
    assert!(named.len() > 25);
}

/// Writes a file to the state directory, as the program does.
fn put(host: &Host, name: &str, text: &str) -> PathBuf {
    let path = host.path("state").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for folder in [host.path("state"), path.parent().unwrap().to_owned()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn files_of_the_first_release_are_read_and_continued() {
    let host = Host::new(&["web-1"]);
    for (file, name) in [
        ("ledger", "ledger"),
        ("survey", "survey"),
        ("verified", "verified"),
        ("report", "last-report"),
        ("mail", "mail"),
    ] {
        put(&host, &format!("{name}.json"), &sample(file, "1.0"));
    }
    host.run("report").ends(0).tells(&["1 of 1 good"]);
    host.run("backup").ends(0);
    host.run("verify").ends(0);
    host.run("list").ends(0);
    let ledger: Value = serde_json::from_slice(&fs::read(host.path("state/ledger.json")).unwrap()).unwrap();
    assert_eq!((&ledger["schema"], &ledger["hooks"]["flush"]["runs"]["ok"]), (&json!(1), &json!(9)));
    assert_eq!(ledger["domains"]["web-1"]["failures"]["copy"], 2, "counters continue");
    let attempts = ledger["domains"]["web-1"]["history"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    let verified: Value = serde_json::from_slice(&fs::read(host.path("state/verified.json")).unwrap()).unwrap();
    assert_eq!(verified["schema"], 1);
}

/// A file of version 2.
fn newer(file: &str, version: &str) -> String {
    let mut value: Value = serde_json::from_str(&sample(file, version)).unwrap();
    value["schema"] = json!(2);
    value["unheard_of"] = json!({"meaning": "everything"});
    value.to_string()
}

#[test]
fn files_of_a_newer_release_are_refused_with_a_hint_and_not_changed() {
    let host = Host::new(&["web-1"]);
    host.run("backup").ends(0);
    host.age("web-1", &[3, 2, 1]);
    for (file, version, name) in [
        ("ledger", "1.8", "ledger.json"),
        ("survey", "1.6", "survey.json"),
        ("verified", "1.2", "verified.json"),
        ("journal", "1.3", "journal/00000000000000000001-5a58ba3c-5c3c-4f3c-8a3c-000000000001.json"),
    ] {
        host.configure("", "{\"*\": {day_of_week: daily, rotate: 1}}");
        let text = newer(file, version);
        let before = host.path("state").join(name);
        let kept = fs::read(&before).ok();
        let path = put(&host, name, &text);
        let is_told = |run: &crate::host::Run| {
            // Reports are wrapped to the width of a terminal.
            let said = format!("{}{}", run.out, run.err).split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains("written by a newer kvmbackup"), "{file}: {run:?}");
            assert!(said.contains(path.to_str().unwrap()), "{file}: {run:?}");
        };
        let saved = host.archives("web-1").len();
        let backup = host.run("backup --force web-1").ends(7);
        is_told(&backup);
        assert!(backup.out.contains("1 of 1 good"), "{file}: {backup:?}");
        if file == "verified" {
            assert_eq!(host.archives("web-1").len(), saved + 1, "nothing is removed while damage is unknown");
            for words in ["verify", "prune"] {
                let run = host.run(words).ends(1);
                is_told(&run);
                assert!(run.err.contains(&format!("mv {0} {0}.newer", path.display())), "{run:?}");
            }
            host.run("list").ends(0).tells(&["web-1"]);
        }
        if file == "journal" {
            is_told(&host.run("recover").ends(7));
        }
        if file == "ledger" {
            is_told(&host.run("verify").ends(7));
            is_told(&host.run("prune").ends(7));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "{file} was changed");
        match kept {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
    }
    let path = host.path("state/last-report.json");
    fs::write(&path, newer("report", "1.5")).unwrap();
    let run = host.run("report").ends(1);
    assert!(run.err.contains("written by a newer kvmbackup") && run.err.contains("last-report.json"), "{run:?}");
}
