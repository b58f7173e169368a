//! Much at once: many guests in one run, many restore points in one folder, a disk of very many extents, run after run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "this is test code")]

mod host;
mod lab;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use host::Host;
use lab::{Disk, Lab, Program, run};
use serde_json::json;

/// So many paused guests in one run, four at a time: all are saved, in little memory, and nothing is left.
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
fn a_dozen_guests_in_one_run_are_saved_in_bounded_memory_and_nothing_is_left() {
    many_guests(12);
}

#[test]
#[ignore = "soak: fifty guests"]
fn fifty_guests_in_one_run_are_saved_in_bounded_memory_and_nothing_is_left() {
    many_guests(50);
}

#[test]
fn five_hundred_restore_points_are_listed_within_a_second() {
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
    assert!(best < Duration::from_secs(1), "{best:?}");
}

#[test]
fn a_thin_disk_of_very_many_extents_begins_to_be_written_within_seconds() {
    const SIZE: u64 = 4 << 40;
    const EXTENTS: u64 = 50_000;
    let mut host = Host::new(&[]);
    let image = host.path("thin.raw");
    let file = File::create(&image).unwrap();
    file.set_len(SIZE).unwrap();
    for extent in 0..EXTENTS {
        file.write_all_at(&[7; 4096], extent * (SIZE / EXTENTS) / 4096 * 4096).unwrap();
    }
    host.add(
        "thin",
        &format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='vdb' bus='virtio'/></disk>",
            image.display()
        ),
    );
    host.configure("", "{thin: {day_of_week: daily, compression: none}}");
    let began = Instant::now();
    let mut backup = host
        .command(env!("CARGO_BIN_EXE_kvmbackup"))
        .args(["backup", "--quiet", "--host", host::NAME, "-c"])
        .arg(host.path("config.yml"))
        .spawn()
        .unwrap();
    let first_byte = || {
        let files = std::fs::read_dir(host.path("backups/thin")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).any(|file| file.len() > 0)
    };
    lab::wait_until(lab::DEADLINE, "the first byte of the archive", || {
        backup.try_wait().unwrap().is_some_and(|ended| ended.success()) || first_byte()
    });
    let took = began.elapsed();
    println!("figure: {EXTENTS} extents in 4 TiB: {} ms to the first byte", took.as_millis());
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(backup.wait().unwrap().success());
    let archive = host.archives("thin").remove(0);
    let listing = run("tar", &["-tvf", archive.to_str().unwrap()]);
    assert!(listing.contains("disks/vdb.qcow2"), "{listing}");
}

#[test]
#[ignore = "soak: a thousand backups in a row"]
fn a_thousand_backups_in_a_row_leave_as_little_as_one() {
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
    // What is made once is made by then.
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
