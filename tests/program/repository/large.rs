//! Memory and time for a repository with 16 million blobs, a guest with a disk of 10 TiB, and 30,000 restore points. Prints figures,
//! also of restic.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{host, restic};
use crate::forge::{self, Forge, dir_node, file_node, id, tree};
use crate::host::{Host, NAME, run};

/// Number of blobs in an index object, as restic and kvmbackup write them.
const IN_INDEX: u32 = 50_000;
/// Number of blobs in a pack.
const IN_PACK: u32 = 500;
/// Size of a blob of a disk of 10 TiB.
const BLOB: u64 = 4 << 20;
const DISK: u64 = 10 << 40;
/// Limit for our commands, in KiB.
const LIMIT: u64 = 256 << 10;

fn blob(number: u32) -> String {
    id(&number.to_le_bytes())
}

fn write(host: &Host, forge: &mut Forge) {
    for (path, bytes) in std::mem::take(&mut forge.files) {
        let path = host.path("repository").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// The contents of an index object with these blobs, whose packs do not exist.
fn index(blobs: std::ops::Range<u32>) -> String {
    let mut json = "{\"packs\":[".to_owned();
    for first in blobs.clone().step_by(IN_PACK as usize) {
        let comma = if first == blobs.start { "" } else { "," };
        let _ = write!(json, "{comma}{{\"id\":\"{}\",\"blobs\":[", id(&[&first.to_le_bytes()[..], b"pack"].concat()));
        for number in first..(first + IN_PACK).min(blobs.end) {
            let comma = if number == first { "" } else { "," };
            let offset = (number - first) * 1000;
            let _ = write!(
                json,
                "{comma}{{\"id\":\"{}\",\"type\":\"data\",\"offset\":{offset},\"length\":1000,\"uncompressed_length\":{BLOB}}}",
                blob(number)
            );
        }
        json.push_str("]}");
    }
    json.push_str("]}");
    json
}

/// Runs a program; returns its exit code and its peak of resident memory in KiB.
fn measured(command: &mut Command) -> (i32, u64) {
    let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", process.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmHWM:"));
        peak = line.map_or(peak, |line| line.split_whitespace().nth(1).unwrap().parse().unwrap());
        if let Some(ended) = process.try_wait().unwrap() {
            return (ended.code().unwrap(), peak);
        }
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "soak: 16 million blobs"]
fn sixteen_million_blobs_and_a_disk_of_ten_tebibytes_need_little_memory() {
    let host = host(&["web"], "{\"*\": {day_of_week: daily}}");
    host.run("repository init").ends(0);
    host.run("backup").ends(0);
    let names = ["domain-inactive.xml", "domain-migratable.xml", "domain.xml", "manifest.json"];
    let files = names.map(|name| (name, restic(&host, &["dump", "latest", &format!("/web/{name}")])));
    let manifest: serde_json::Value = serde_json::from_str(&files[3].1).unwrap();
    let uuid = manifest["domain"]["uuid"].as_str().unwrap().to_owned();
    fs::write(host.path("password"), forge::PASSWORD).unwrap();
    fs::remove_dir_all(host.path("repository")).unwrap();
    fs::create_dir_all(host.path("repository/locks")).unwrap();

    // restic opens no cheaper key.
    let mut forge = Forge::with_cost(15, 8);
    let contents: Vec<String> = (0..(DISK / BLOB) as u32).map(blob).collect();
    let contents: Vec<&str> = contents.iter().map(String::as_str).collect();
    // Compressed, as every program stores it: a directory of this size has 176 MB.
    let json = tree(&[file_node("vda.raw", DISK, &contents)]);
    let disks = id(json.as_bytes());
    forge.stored("tree", &disks, &zstd::bulk::compress(json.as_bytes(), 3).unwrap(), Some(json.len() as u32));
    drop(json);
    let mut nodes = vec![dir_node("disks", &disks)];
    for (name, text) in &files {
        let stored = forge.blob("data", text.as_bytes());
        nodes.push(file_node(name, text.len() as u64, &[&stored]));
    }
    let below = forge.blob("tree", tree(&nodes).as_bytes());
    let root = forge.blob("tree", tree(&[dir_node("web", &below)]).as_bytes());
    let (_, small) = forge.pack();
    forge.object("index", small.as_bytes());
    forge.object("snapshots", forge::snapshot(&root).replace("5a58ba3c-5c3c-4f3c-8a3c-000000000000", &uuid).as_bytes());
    write(&host, &mut forge);
    let image = host.image("web");
    run("qemu-img", &["create", "-q", "-f", "qcow2", image.to_str().unwrap(), &DISK.to_string()]);

    let mut count = 0;
    for millions in [4, 16] {
        while count < millions * 1_000_000 {
            forge.object("index", index(count..count + IN_INDEX).as_bytes());
            write(&host, &mut forge);
            count += IN_INDEX;
        }
        let config = host.path("config.yml");
        let ours = |words: &[&str], code: i32| {
            let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
            command.args(words).arg("--config").arg(&config).args(["--host", NAME]);
            let (ended, peak) = measured(&mut command);
            eprintln!("figure: {words:?} with {millions} million blobs: {} MiB", peak >> 10);
            assert_eq!(ended, code, "{words:?}");
            assert!(peak < LIMIT, "{words:?}: {peak} KiB");
        };
        ours(&["repository", "stats"], 0);
        ours(&["list"], 0);
        // The disk is empty now, and the last point has 2.6 million blobs.
        ours(&["backup", "--force"], 0);
        let (ended, peak) = restic_peak(&host.path("repository"));
        eprintln!("figure: restic list blobs with {millions} million blobs: {} MiB", peak >> 10);
        assert_eq!(ended, 0);
    }
}

fn restic_peak(repository: &Path) -> (i32, u64) {
    let mut command = Command::new("restic");
    command.args(["--no-cache", "--no-lock", "-r"]).arg(repository).args(["list", "blobs"]);
    measured(command.env("RESTIC_PASSWORD", forge::PASSWORD))
}

#[test]
#[ignore = "soak: 30,000 restore points"]
fn points_of_a_thousand_guests_are_listed() {
    let host = host(&["web"], "{\"*\": {day_of_week: daily}}");
    host.run("repository init").ends(0);
    host.run("backup").ends(0);
    let manifest = restic(&host, &["dump", "latest", "/web/manifest.json"]);
    fs::write(host.path("password"), forge::PASSWORD).unwrap();
    fs::remove_dir_all(host.path("repository")).unwrap();
    fs::create_dir_all(host.path("repository/locks")).unwrap();
    fs::remove_dir_all(host.path("cache")).unwrap();

    let mut forge = Forge::new();
    for guest in 0..1000 {
        let name = format!("guest-{guest}");
        let text = manifest.replace("\"name\": \"web\"", &format!("\"name\": \"{name}\""));
        let blob = forge.blob("data", text.as_bytes());
        let below = forge.blob("tree", tree(&[file_node("manifest.json", text.len() as u64, &[&blob])]).as_bytes());
        let root = forge.blob("tree", tree(&[dir_node(&name, &below)]).as_bytes());
        for day in 1..=30 {
            let snapshot =
                forge::snapshot(&root).replace("web", &name).replace("2026-11-30", &format!("2026-11-{day:02}"));
            forge.object("snapshots", snapshot.as_bytes());
        }
    }
    let (_, index) = forge.pack();
    forge.object("index", index.as_bytes());
    write(&host, &mut forge);
    // Another build of the program can be measured, such as the release.
    let program = std::env::var("KVMBACKUP_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_kvmbackup").to_owned());
    for cache in ["cold", "warm"] {
        let began = std::time::Instant::now();
        let mut command = host.command(&program);
        command.args(["list", "--json", "--config"]).arg(host.path("config.yml")).args(["--host", NAME]);
        let listed = command.output().unwrap();
        eprintln!("figure: list of 30,000 points with a {cache} cache: {:.1} s", began.elapsed().as_secs_f64());
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        let points = listed["points"].as_array().unwrap();
        assert!(points.len() == 30_000 && points.iter().all(|point| point["damaged"].is_null()));
    }
}
