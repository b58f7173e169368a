//! `kvmbackup repository key`, with the real restic.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::maintain::{among, found};
use super::{PASSWORD, host, restic};
use crate::host::{Host, run};

const DAILY: &str = "{\"*\": {day_of_week: daily}}";
const NEW: &str = "the new sécret, with = and $x";

/// A host with one restore point, and a file with a new password.
fn backed_up() -> (Host, PathBuf) {
    let host = host(&["a"], DAILY);
    host.run("repository init").ends(0);
    host.run("backup").ends(0);
    let file = host.path("new-password");
    fs::write(&file, format!("{NEW}\n")).unwrap();
    run("chmod", &["600", file.to_str().unwrap()]);
    (host, file)
}

fn keys(host: &Host) -> Vec<(String, bool)> {
    let listed = host.run("repository key list --json").ends(0).json();
    assert_eq!(listed["schema"], 1);
    let keys = listed["keys"].as_array().unwrap();
    keys.iter().map(|key| (key["id"].as_str().unwrap().to_owned(), key["in_use"] == true)).collect()
}

/// Whether this password opens the repository for restic.
fn opens(host: &Host, password: &str) -> bool {
    let mut command = Command::new("restic");
    command.args(["--no-cache", "-q", "-r"]).arg(host.path("repository")).args(["cat", "config"]);
    command.env("RESTIC_PASSWORD", password).output().unwrap().status.success()
}

#[test]
fn password_is_rotated_with_two_keys_while_the_repository_is_in_use() {
    let (host, file) = backed_up();
    let [(old, true)] = &keys(&host)[..] else { panic!("one key, which is in use") };
    let added = host.run(&format!("-vv repository key add --new-password-file {}", file.display())).ends(0);
    let place = host.path("password").display().to_string();
    assert!(added.out.contains(&place) && added.out.contains("key remove ID"), "{added:?}");
    assert!(opens(&host, PASSWORD) && opens(&host, NEW));
    assert_eq!(keys(&host).len(), 2);
    let listed = host.run("repository key list").ends(0).tells(&[&old[..8], "yes"]);
    host.run("backup --force").ends(0);

    fs::copy(&file, host.path("password")).unwrap();
    let in_use: Vec<_> = keys(&host).into_iter().filter(|(_, in_use)| *in_use).collect();
    assert!(in_use.len() == 1 && in_use[0].0 != *old, "{in_use:?}");
    let removed = host.run(&format!("repository key remove {old}")).ends(0);
    assert!(!opens(&host, PASSWORD) && opens(&host, NEW));
    assert_eq!(keys(&host).len(), 1);
    host.run("backup --force").ends(0);
    host.run("verify --all").ends(0);
    restic(&host, &["check"]);
    assert!(fs::read_dir(host.path("repository/locks")).unwrap().next().is_none());
    let all = format!("{added:?}{listed:?}{removed:?}");
    assert!(!all.contains(PASSWORD) && !all.contains(NEW), "{all}");
}

#[test]
fn passwd_replaces_the_key_and_says_what_to_do_and_no_argument_contains_a_password() {
    let (host, file) = backed_up();
    let words = ["repository", "key", "passwd", "--new-password-file", file.to_str().unwrap()];
    let real = host.path("real-restic");
    fs::copy(found("restic"), &real).unwrap();
    let arguments = host.path("arguments");
    let script = format!("echo \"$@\" >>{}; exec {} \"$@\"", arguments.display(), real.display());
    let wrapper = host.script("restic", &script);
    let prepared = format!("mount --bind {} {}", wrapper.display(), found("restic"));
    let changed = host.finish(&mut among(&host, &prepared, &words)).ends(0);
    let place = host.path("password").display().to_string();
    assert!(changed.out.contains(&place) && changed.out.contains("wrong password"), "{changed:?}");
    let arguments = fs::read_to_string(arguments).unwrap();
    assert!(arguments.contains("passwd --new-password-file="), "{arguments}");
    for text in [arguments, format!("{changed:?}")] {
        assert!(!text.contains(PASSWORD) && !text.contains(NEW), "{text}");
    }
    assert!(!opens(&host, PASSWORD) && opens(&host, NEW));
    let refused = host.run("list").ends(5);
    assert!(refused.err.contains("wrong password"), "{refused:?}");
    fs::copy(&file, host.path("password")).unwrap();
    host.run("backup --force").ends(0);
    host.run("verify --all").ends(0);
    assert_eq!(keys(&host).len(), 1);
}

#[test]
fn key_in_use_and_unknown_keys_are_not_removed() {
    let (host, file) = backed_up();
    host.run(&format!("repository key add --new-password-file {}", file.display())).ends(0);
    let before = keys(&host);
    let (used, _) = before.iter().find(|(_, in_use)| *in_use).unwrap();
    let refused = host.run(&format!("repository key remove {used}")).ends(1);
    assert!(refused.err.contains("currently used") && refused.err.contains("hint: Set the password"), "{refused:?}");
    for (id, code, words) in [("0123456789", 1, "repository key list"), ("zz", 2, "not an ID"), ("-x", 2, "-x")] {
        let refused = host.run(&format!("repository key remove {id}")).ends(code);
        assert!(refused.err.contains(words), "{id}: {refused:?}");
    }
    assert_eq!(keys(&host), before);
}

#[test]
fn password_that_restic_would_read_differently_or_others_could_change_is_refused() {
    let (host, file) = backed_up();
    let path = file.display().to_string();
    let refused = |words: &str| {
        for command in ["add", "passwd"] {
            let refused = host.run(&format!("repository key {command} --new-password-file {path}")).ends(1);
            assert!(refused.err.contains(words) && refused.err.contains("hint: "), "{words}: {refused:?}");
        }
    };
    for (bytes, words) in [
        (&b"two\nlines\n"[..], "restic would read another one"),
        (b" blank", "restic would read another one"),
        (b"blank \n", "restic would read another one"),
        (b"\nsecond\n", "empty"),
        (b"", "empty"),
        (b"\xef\xbb\xbfmark", "restic would read another one"),
        (b"\xff\xfe1\x002\x00", "utf-8"),
    ] {
        fs::write(&file, bytes).unwrap();
        refused(words);
    }
    fs::write(&file, NEW).unwrap();
    run("chmod", &["666", &path]);
    refused("cannot be trusted");
    run("chmod", &["644", &path]);
    run("chown", &["65534", &path]);
    refused("cannot be trusted");
    fs::remove_file(&file).unwrap();
    refused("No such file");
    assert!(keys(&host).len() == 1 && opens(&host, PASSWORD));
    host.run("repository key add").ends(2);
}

#[test]
fn every_accepted_form_of_a_password_file_opens_the_repository_afterwards() {
    let (host, file) = backed_up();
    for bytes in ["plain", "with end\n", "windows\r\n", "in ner  blanks\n", "--repo=/nowhere\n", "ü$(id)`x`\"'\\\n"] {
        fs::write(&file, bytes).unwrap();
        host.run(&format!("repository key passwd --new-password-file {}", file.display())).ends(0);
        fs::copy(&file, host.path("password")).unwrap();
        assert_eq!(keys(&host).len(), 1, "{bytes:?}");
        assert!(opens(&host, bytes.trim_end()), "{bytes:?}");
    }
}

#[test]
fn host_without_a_repository_has_no_keys_and_a_wrong_password_is_reported() {
    let archives = Host::new(&["a"]);
    let refused = archives.run("repository key list").ends(2);
    assert!(refused.err.contains("names no repository"), "{refused:?}");
    let (host, file) = backed_up();
    fs::write(host.path("password"), "another").unwrap();
    for words in ["list", "remove 01234567", &format!("add --new-password-file {}", file.display())] {
        let refused = host.run(&format!("repository key {words}")).ends(5);
        assert!(refused.err.contains("wrong password"), "{refused:?}");
    }
}

#[test]
fn json_is_documented_key_by_key() {
    let document = include_str!("../../../docs/json.md");
    let section = document.split("## Keys of a repository\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `")).map(|line| line.split('`').nth(1).unwrap());
    let (host, _) = backed_up();
    let listed: Value = host.run("repository key list --json").ends(0).json();
    let mut found: Vec<String> = listed.as_object().unwrap().keys().cloned().collect();
    found.extend(listed["keys"][0].as_object().unwrap().keys().map(|key| format!("keys[].{key}")));
    let mut documented: Vec<_> = rows.collect();
    found.sort();
    documented.sort_unstable();
    assert_eq!(found, documented);
    assert!(listed["keys"][0]["created"].is_string(), "{listed:#}");
}
