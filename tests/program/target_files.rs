//! Foreign objects in the target, in place of kvmbackup's files, are named with their type and do no harm: they are not
//! followed, not waited for, and not read into memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::{self, Host, Run, run};

/// Limit of a command's address space in bytes.
const MEMORY: &str = "--as=1073741824";
/// Longer than the program waits for a hung target.
const TIME: &str = "60";

/// Types of foreign objects: how each is created at `$1`, and its name in messages.
const KINDS: [(&str, &str); 6] = [
    ("ln -s /dev/zero \"$1\"", "it is a symbolic link, not a regular file"),
    ("mkfifo \"$1\"", "it is a FIFO, not a regular file"),
    ("mkdir \"$1\"", "it is a directory, not a regular file"),
    ("mknod \"$1\" c 1 5", "it is a character device, not a regular file"),
    (SOCKET, "it is a socket, not a regular file"),
    ("truncate -s 300M \"$1\"", "it is larger than 4096 bytes"),
];

/// The path of a socket must be short.
const SOCKET: &str =
    "cd \"$(dirname \"$1\")\" && python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")' && mv s \"$1\"";

/// Creates an object at a path; `false` where only root could.
fn make(script: &str, path: &Path) -> bool {
    let made = std::process::Command::new("sh").args(["-c", script, "sh"]).arg(path).output().unwrap();
    assert!(made.status.success() || script.contains("mknod"), "{script}: {made:?}");
    made.status.success()
}

fn remove(path: &Path) {
    run("rm", &["-r", path.to_str().unwrap()]);
}

/// Runs a command with bounded memory and time.
fn bounded(host: &Host, words: &str) -> Run {
    let mut command = host.command("timeout");
    command.args([TIME, "prlimit", MEMORY, env!("CARGO_BIN_EXE_kvmbackup")]).args(words.split_whitespace());
    host.finish(command.arg("--config").arg(host.path("config.yml")).args(["--host", host::NAME]))
}

/// A host whose guest `web` has a restore point.
fn host() -> Host {
    let host = Host::new(&["web"]);
    host.run("backup").ends(0);
    host
}

#[test]
fn foreign_object_in_place_of_a_name_file_is_named_and_each_command_continues() {
    let host = host();
    let folder = host.path(&format!("backups/{}%-{}", "x".repeat(166), "a".repeat(32)));
    fs::create_dir(&folder).unwrap();
    let note = folder.join(".domain");
    for (script, what) in KINDS {
        if !make(script, &note) {
            continue;
        }
        let what = format!("its file .domain: {what}");
        for (words, code) in [("list", 5), ("verify --all", 5), ("prune --dry-run", 5), ("backup --force", 0)] {
            let ran = bounded(&host, words);
            let told = format!("{}{}", ran.out, ran.err);
            assert!(told.contains(&what), "{words}: {what}: {told}");
            let ran = ran.ends(code);
            assert!(words != "list" || ran.out.contains("web"), "{}", ran.out);
        }
        remove(&note);
    }
}

#[test]
fn foreign_object_with_the_name_of_an_archive_is_named_and_left_alone() {
    let host = host();
    let [archive] = &host.archives("web")[..] else { panic!("one archive") };
    let at = |name: &str| archive.with_file_name(name);
    let places = ["web-20261101T000000Z.tar.zst", ".web-20261101T000000Z.part", "web.tar.gz", "web.tar.gz.1"].map(at);
    for (script, what) in &KINDS[..5] {
        let made: Vec<&PathBuf> = places.iter().filter(|path| make(script, path)).collect();
        for words in ["list --json", "verify --all", "prune --dry-run", "backup --force"] {
            let ran = bounded(&host, words).ends(0);
            for path in &made {
                let told = format!("ignoring {}: {what}", path.display());
                assert!(ran.err.contains(&told), "{words}: {told}: {}", ran.err);
            }
            assert!(!words.starts_with("list") || !ran.json()["points"].as_array().unwrap().is_empty());
        }
        for path in made {
            path.symlink_metadata().expect("it was removed");
            remove(path);
        }
    }
}

#[test]
fn backup_rewrites_the_name_file_of_its_domain_whatever_is_in_its_place() {
    let name = "x".repeat(230);
    let host = Host::new(&[&name]);
    host.run("backup").ends(0);
    let find = || run("find", &[host.path("backups").to_str().unwrap(), "-name", ".domain"]);
    let note = PathBuf::from(find().trim());
    for (script, what) in [KINDS[0], KINDS[1], KINDS[5], ("echo web >\"$1\"", "does not contain the domain's name")] {
        remove(&note);
        make(script, &note);
        let ran = bounded(&host, "backup --force").ends(0);
        assert!(ran.err.contains(what), "{what}: {}", ran.err);
        assert_eq!(fs::read_to_string(&note).unwrap(), name);
        assert!(note.symlink_metadata().unwrap().is_file());
    }
    // A directory cannot be replaced by a file.
    remove(&note);
    make(KINDS[2].0, &note);
    let ran = bounded(&host, "backup --force").ends(1);
    assert!(ran.out.contains(".domain") || ran.err.contains(".domain"), "{ran:?}");
}

#[test]
fn archive_that_becomes_a_pipe_after_it_was_listed_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web-20261101T000000Z.tar.zst");
    make(KINDS[1].0, &path);
    let patience = kvmbackup::sys::patience::Patience::new(Duration::from_secs(600));
    let refused = kvmbackup::archive::Archive::open_patiently(&path, &patience).map(drop).unwrap_err();
    let source = std::error::Error::source(&refused).unwrap();
    assert_eq!(source.to_string(), KINDS[1].1);
}

#[test]
fn very_many_archives_of_one_time_are_listed_at_once() {
    let host = host();
    let folder = host.path("backups/web");
    for number in 1..=5_000 {
        fs::File::create(folder.join(format!("web.tar.gz.{number}"))).unwrap();
    }
    run(
        "sh",
        &["-c", &format!("find {} -name 'web.tar.gz.*' -exec touch -d 2016-05-01T00:00:00Z {{}} +", folder.display())],
    );
    let points = bounded(&host, "list --json").ends(0).json()["points"].as_array().unwrap().len();
    assert_eq!(points, 5_001);
}

#[test]
fn directory_with_too_many_names_is_named_and_never_listed_in_part() {
    let host = host();
    let fill = host.path("fill");
    fs::create_dir(&fill).unwrap();
    for number in 0..=kvmbackup::sys::opened::MAX_NAMES {
        fs::File::create(fill.join(number.to_string())).unwrap();
    }
    run("chmod", &["700", fill.to_str().unwrap()]);
    let commands = [("list", 5), ("verify --all", 5), ("prune --dry-run", 5), ("backup --force", 1)];
    for (place, commands) in
        [("backups/web", &commands[..]), ("backups", &commands), ("state/journal", &[("recover", 1), ("backup", 1)])]
    {
        let (place, aside) = (host.path(place), host.path("aside"));
        fs::rename(&place, &aside).unwrap();
        fs::rename(&fill, &place).unwrap();
        for (words, code) in commands {
            let ran = bounded(&host, words);
            let told = format!("{}{}", ran.out, ran.err);
            assert_eq!(ran.code, *code, "{place:?}: {words}: {ran:?}");
            for part in [place.to_str().unwrap(), "it contains more than 100000 files and directories", "hint: "] {
                assert!(told.contains(part), "{words}: {part}: {told}");
            }
        }
        fs::rename(&place, &fill).unwrap();
        fs::rename(&aside, &place).unwrap();
    }
    host.run("backup --force").ends(0);
}
