//! Tests under load: many guests in one run, many restore points in one directory, a disk with very many extents, many
//! runs in a row.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "this is test code")]

mod host;
mod lab;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use host::Host;
use kvmbackup::model::{Codec, DomainRef, Extent, NewId};
use kvmbackup::store::{self, DiskSource, Intent, Sink, Store};
use kvmbackup::sys::patience::Patience;
use kvmbackup::sys::signals::Cancel;
use lab::{Disk, Lab, Program, run};
use serde_json::json;
use uuid::Uuid;

/// This many paused guests in one run, four at a time: all are saved, in little memory, and nothing is left.
fn many_guests(count: usize) {
    let lab = Lab::new();
    let guests: Vec<_> = (0..count)
        .map(|number| lab.guest(&format!("many-{number:02}")).disk(Disk::qcow2("vda").size("4M")).paused())
        .collect();
    let program = guests.iter().fold(Program::new(&lab).set("parallel", json!(4)), |program, guest| {
        program.domain(guest.name(), json!({"method": "snapshot"}))
    });
    let most = lab.path("memory");
    let command = program.command();
    let mut timed = std::process::Command::new("time");
    timed.args(["--quiet", "-f", "%M", "-o"]).arg(&most).arg(command.get_program()).args(command.get_args());
    let ran = timed.args(["backup", "--quiet"]).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let most: u64 = std::fs::read_to_string(most).unwrap().trim().parse().unwrap();
    println!("figure: {count} guests: {} MiB at most", most >> 10);
    assert!(most < 512 << 10, "{most} KiB of memory");
    for guest in &guests {
        program.assert_no_leftovers(guest);
        let saved = std::fs::read_dir(program.backups().join(guest.name())).unwrap().count();
        assert_eq!(saved, 1, "{}", guest.name());
    }
}

#[test]
fn dozen_guests_in_one_run_are_saved_in_bounded_memory_and_nothing_is_left() {
    many_guests(12);
}

#[test]
#[ignore = "soak: fifty guests"]
fn fifty_guests_in_one_run_are_saved_in_bounded_memory_and_nothing_is_left() {
    many_guests(50);
}

#[test]
fn five_hundred_restore_points_are_listed() {
    let host = Host::new(&["a"]);
    host.run("backup").ends(0);
    let newest = host.archives("a").remove(0);
    for hour in 1..500 {
        let time = (Utc::now() - TimeDelta::hours(hour)).format("%Y%m%dT%H%M%SZ");
        std::fs::hard_link(&newest, newest.with_file_name(format!("a-{time}.tar.zst"))).unwrap();
    }
    let once = || {
        let began = Instant::now();
        let listed = host.run("list --json").ends(0).json();
        assert_eq!(listed["points"].as_array().unwrap().len(), 500);
        began.elapsed()
    };
    let best = (0..3).map(|_| once()).min().unwrap();
    println!("figure: 500 points: {} ms", best.as_millis());
}

/// Cluster size of the image below.
const CLUSTER: u64 = 1 << 16;
/// Clusters per table of the image.
const ENTRIES: u64 = CLUSTER / 8;

/// Writes a qcow2 of 4 TiB that contains 64 GiB, in this many pieces with the largest possible distance. All pieces
/// share the same clusters of the file, as snapshots do. The format is in QEMU's documentation, "Qcow2 Image File
/// Format" (<https://www.qemu.org/docs/master/interop/qcow2.html>).
fn write_thin(image: &Path, pieces: u64) {
    let (clusters, used) = ((4 << 40) / CLUSTER, (64 << 30) / CLUSTER);
    let (length, apart, tables) = (used / pieces, clusters / pieces, clusters / ENTRIES);
    let [l1, counts, count_blocks, l2] = [1, 2, 3, 5];
    let data = l2 + tables;
    let file = File::create(image).unwrap();
    let write = |bytes: &[u8], cluster: u64| file.write_all_at(bytes, cluster * CLUSTER).unwrap();
    let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|word| word.to_be_bytes()).collect() };
    let halves = |high: u64, low: u64| high << 32 | low;
    let magic = u64::from_be_bytes(*b"QFI\xfb\0\0\0\x03");
    let size = [halves(0, CLUSTER.trailing_zeros().into()), 4 << 40, halves(0, tables)];
    let places = [l1 * CLUSTER, counts * CLUSTER, halves(1, 0), 0];
    // No features; 64-bit reference counts; length of this header.
    write(&words(&[&[magic, 0][..], &size, &places, &[0, 0, 0, halves(6, 104)]].concat()), 0);
    write(&words(&(0..tables).map(|table| ((l2 + table) * CLUSTER) | 1 << 63).collect::<Vec<_>>()), l1);
    write(&words(&[count_blocks * CLUSTER, (count_blocks + 1) * CLUSTER]), counts);
    write(&words(&[vec![1; data as usize], vec![pieces; length as usize]].concat()), count_blocks);
    let entry = |entry: u64| if entry % apart < length { (data + entry % apart) * CLUSTER } else { 0 };
    let table = words(&(0..ENTRIES).map(entry).collect::<Vec<_>>());
    (0..tables).for_each(|number| write(&table, l2 + number));
    write(&vec![7; (length * CLUSTER) as usize], data);
}

/// The backup of a disk of 4 TiB with 64 GiB in this many pieces starts to write in under 10 s, in the best of three
/// attempts, and needs little memory until then. A signal ends it, and nothing is left.
fn thin_disk(pieces: u64) {
    let mut host = Host::new(&[]);
    let image = host.path("thin.img");
    write_thin(&image, pieces);
    let image = image.to_str().unwrap().to_owned();
    run("qemu-img", &["check", "-q", "-f", "qcow2", &image]);
    let mapped = run("qemu-img", &["map", "-f", "qcow2", &image]);
    assert_eq!(mapped.lines().skip(1).count() as u64, pieces, "QEMU sees other pieces");
    host.add(
        "thin",
        &format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}'/>\
             <target dev='vdb' bus='virtio'/></disk>"
        ),
    );
    host.configure("min_free: 0%", "{thin: {day_of_week: daily, compression: none}}");
    let files = |folder: &str| run("find", &[host.path(folder).to_str().unwrap(), "!", "-type", "d"]);
    let written = || {
        let files = std::fs::read_dir(host.path("backups/thin")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum::<u64>()
    };
    let once = || {
        let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
        command.args(["backup", "--json", "--host", host::NAME, "-c"]).arg(host.path("config.yml"));
        std::fs::create_dir_all(host.path("backups")).unwrap();
        let began = Instant::now();
        let mut backup = command.stdout(Stdio::piped()).spawn().unwrap();
        lab::wait_until(lab::DEADLINE, "the first byte of the archive", || {
            assert_eq!(backup.try_wait().unwrap(), None, "the run has already ended");
            written() > 0
        });
        let took = began.elapsed();
        let status = std::fs::read_to_string(format!("/proc/{}/status", backup.id())).unwrap();
        run("kill", &["-TERM", &backup.id().to_string()]);
        let ended = backup.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(128 + 15), "{ended:?}");
        let report: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!(report["domains"][0]["read_bytes"], 0, "the disk was not read: {report:#}");
        assert_eq!((files("backups"), files("state/journal"), files("state/sockets")), Default::default());
        let reader = lab::try_run("pgrep", &["-f", &format!("qemu-nbd.*{image}")]);
        assert!(!reader.status.success(), "qemu-nbd is still running");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        (took, peak.split_whitespace().next().unwrap().parse::<u64>().unwrap())
    };
    let tries = || (0..3).map(|_| once());
    let (took, peak) = tries().find(|(took, _)| *took < Duration::from_secs(10)).unwrap_or_else(|| panic!("too slow"));
    println!("figure: {pieces} pieces in 4 TiB: {} ms to the first byte, {} MiB at most", took.as_millis(), peak >> 10);
    assert!(peak < 512 << 10, "{peak} KiB of memory");
}

#[test]
fn backup_of_64_gib_in_very_many_pieces_starts_to_write_within_seconds() {
    thin_disk(1 << 16);
}

#[test]
#[ignore = "soak: the same with a million pieces"]
fn backup_of_64_gib_in_single_clusters_starts_to_write_within_seconds() {
    thin_disk(1 << 20);
}

#[test]
#[ignore = "soak: a thousand backups in a row"]
fn thousand_backups_in_a_row_use_no_more_resources_than_one() {
    let lab = Lab::new();
    let guest = lab.guest("thousand").disk(Disk::qcow2("vda").size("1M")).paused();
    let program = Program::new(&lab).domain(guest.name(), json!({"method": "snapshot", "rotate": 2}));
    let libvirtd = run("cat", &[&format!("{}/libvirtd.pid", std::env::var("KVMBACKUP_LAB").unwrap())]);
    let qemu = run("pgrep", &["-f", "guest=thousand,"]);
    let held = |pid: &str| std::fs::read_dir(format!("/proc/{}/fd", pid.trim())).unwrap().count();
    let memory = |pid: &str| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let state = || run("find", &[program.state().to_str().unwrap()]).lines().count();
    let processes = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()))
            .count()
    };
    let look = || {
        let pids = [libvirtd.as_str(), qemu.as_str()];
        (pids.map(held), pids.map(memory), state(), processes())
    };
    // One-time allocations are done by then.
    for _ in 0..100 {
        assert_eq!(program.run(&["backup", "--quiet"]).code, 0);
    }
    let (files, rss, kept, running) = look();
    for _ in 0..900 {
        assert_eq!(program.run(&["backup", "--quiet"]).code, 0);
    }
    let (files_after, rss_after, kept_after, running_after) = look();
    println!(
        "figure: descriptors {files:?} {files_after:?}, KiB {rss:?} {rss_after:?}, files of state {kept} {kept_after}"
    );
    assert_eq!((kept, running), (kept_after, running_after));
    for (before, after) in files.iter().zip(files_after) {
        assert!(after <= before + 4, "descriptors: {files:?}, then {files_after:?}");
    }
    for (before, after) in rss.iter().zip(rss_after) {
        assert!(after < before + before / 5 + (16 << 10), "memory: {rss:?}, then {rss_after:?}");
    }
    program.assert_no_leftovers(&guest);
}

/// A disk of 6 GiB, an eighth of it incompressible data; every byte is computed from its position.
struct Scattered;

impl Scattered {
    const SIZE: u64 = 6 << 30;
    const EVERY: u64 = 32 << 20;
    const DATA: u64 = 4 << 20;

    /// The contents of the disk from a position on.
    fn fill(offset: u64, out: &mut [u8]) {
        for (at, byte) in (offset..).zip(out) {
            let word = (at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *byte = if at % Self::EVERY < Self::DATA { word.to_le_bytes()[at as usize % 8] } else { 0 };
        }
    }
}

impl DiskSource for Scattered {
    type Error = store::Error;

    fn size(&self) -> u64 {
        Self::SIZE
    }

    fn extents(&mut self) -> Vec<Extent> {
        (0..Self::SIZE / Self::EVERY).map(|at| Extent { offset: at * Self::EVERY, length: Self::DATA }).collect()
    }

    fn read(&mut self, extents: &[Extent], sink: &mut Sink<'_, store::Error>) -> Result<(), store::Error> {
        let mut bytes = vec![0; Self::DATA as usize];
        extents.iter().try_for_each(|extent| {
            Self::fill(extent.offset, &mut bytes);
            sink(extent.offset, &bytes)
        })
    }
}

#[test]
fn any_part_of_a_large_disk_is_read_from_its_restore_point() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let target = Store::at(dir.path(), &Patience::default()).unwrap();
    let domain = DomainRef { name: "big".to_owned(), uuid: Uuid::nil() };
    let intent = Intent { id: NewId::Taken(Utc::now()), codec: Codec::Zstd(1), threads: 2, cancel: Cancel::default() };
    let mut point = target.begin(&domain, &intent, |_| Ok::<_, store::Error>(())).unwrap();
    let manifest = json!({
        "format": 1, "program": "kvmbackup test", "run_id": Uuid::nil(), "point": point.id(), "host": "h",
        "domain": {"name": "big", "uuid": Uuid::nil()}, "state": "off", "method": "direct",
        "consistency": "offline", "quiesce_asked": false, "skipped": [],
        "disks": [{
            "target": "vda", "member": "disks/vda.qcow2", "virtual_bytes": Scattered::SIZE, "read_bytes": 0,
            "source": {"kind": "file", "at": "/v/big.qcow2"}, "format": "qcow2",
        }],
    });
    point.manifest(&serde_json::from_value(manifest).unwrap()).unwrap();
    point.disk("disks/vda.qcow2", &mut Scattered).unwrap();
    let point = point.commit().unwrap();

    let reader = target.open(&point, &Cancel::default()).unwrap();
    let disk = reader.disk("disks/vda.qcow2").unwrap();
    assert_eq!((disk.size(), disk.extents().len()), (Scattered::SIZE, 192));
    let (mut found, mut saved) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let (mut took, count) = (Duration::ZERO, 400_u64);
    for number in 1..=count {
        let place = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (Scattered::SIZE - (64 << 10));
        // Every second position has data.
        let place =
            if number % 2 == 0 { place / Scattered::EVERY * Scattered::EVERY + place % Scattered::DATA } else { place };
        let began = Instant::now();
        disk.read_at(place, &mut found).unwrap();
        took += began.elapsed();
        Scattered::fill(place, &mut saved);
        assert!(found == saved, "at {place}");
    }
    println!("figure: 64 KiB anywhere on a disk of 6 GiB: {:.1} ms", took.as_secs_f64() * 1000.0 / count as f64);
}
