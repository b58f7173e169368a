//! All disks of a domain are captured at one instant, and later writes are not in the archive.

use crate::lab;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use crate::lab::{Call, DEADLINE, Disk, Gate, Guest, Lab, Program, Ran, Report, Unpacked, by_each_method, wait_until};
use serde_json::json;

by_each_method! {
    disks_under_write_load_are_captured_at_one_instant
}

/// The places that are written one after the other, over and over, each time with the next number.
const PLACES: [(&str, u64); 4] = [("vda", 0), ("vdb", 0), ("vdb", SIZE - 65536), ("vda", SIZE - 65536)];
const SIZE: u64 = 64 << 20;

/// Rounds that are written without a pause.
const BURST: u32 = 5;

/// At any instant the places contain the numbers n … n, n-1 … n-1 in the order in which they are written: a later place
/// never contains a greater number than an earlier one, and no two differ by more than 1. If there were two captures, a
/// burst would lie between them.
fn disks_under_write_load_are_captured_at_one_instant(method: &str) {
    let lab = Lab::new();
    let guest = lab.guest(&format!("instant-{method}")).disk(Disk::qcow2("vda")).disk(Disk::raw("vdb")).paused();
    for target in ["vda", "vdb"] {
        guest.write(target, 0x77, 1 << 20, 8 << 20);
    }
    let gate = Gate::new(&lab);
    let capture = if method == "pull" { Call::BeginPull } else { Call::Snapshot };
    let program = Program::new(&lab).set("libvirt_uri", json!(gate.uri()));
    let program = program.domain(guest.name(), json!({"method": method}));

    let (report, last) = while_written(&guest, |rounds| {
        gate.hold(capture);
        let mut run = program.command().args(["backup", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
        wait_until(DEADLINE, "the run to end", || {
            if gate.is_holding() {
                let before = rounds.load(Ordering::Relaxed);
                wait_until(DEADLINE, "a burst", || rounds.load(Ordering::Relaxed) > before + BURST);
                gate.hold(capture);
            }
            run.try_wait().unwrap().is_some()
        });
        Report::from(Ran::from(run.wait_with_output().unwrap()))
    });
    assert_eq!(report.ran.code, 0, "{report:#?}");
    let archive = program.unpack(&report, guest.name());
    let numbers: Vec<u8> = PLACES.iter().map(|(target, offset)| number(&archive, target, *offset)).collect();
    let behind: Vec<u8> = numbers.iter().map(|number| numbers[0].wrapping_sub(*number)).collect();
    assert!(behind.is_sorted() && behind[3] <= 1, "captured apart: {numbers:?}");
    // Later writes are in the image.
    for (target, offset) in PLACES {
        guest.assert_holds(target, last, offset, 65536);
    }
    program.assert_no_leftovers(&guest);
}

/// Writes round after round, from before `work` begins until after it ends; returns the number of the last round.
fn while_written<T>(guest: &Guest, work: impl FnOnce(&AtomicU32) -> T) -> (T, u8) {
    let (stop, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        // Stopped before it is waited for, even if a test fails.
        let _stop = Stop(&stop);
        let writer = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let round = rounds.load(Ordering::Relaxed);
                let writes = (round..round + BURST).flat_map(|round| {
                    PLACES.map(|(target, offset)| (target, format!("write -P {} {offset} 64k", round as u8)))
                });
                guest.qemu_io_at_once(&writes.collect::<Vec<_>>());
                rounds.store(round + BURST, Ordering::Relaxed);
            }
        });
        wait_until(DEADLINE, "the first writes", || rounds.load(Ordering::Relaxed) > 0);
        let done = work(&rounds);
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        guest.qemu_io_at_once(&[("vda", "flush".into()), ("vdb", "flush".into())]);
        (done, (rounds.load(Ordering::Relaxed) - 1) as u8)
    })
}

/// Requests a stop when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The number that fills a place of a disk in an archive.
fn number(archive: &Unpacked, target: &str, offset: u64) -> u8 {
    let raw = archive.path(&format!("{target}.raw"));
    if !raw.exists() {
        let [from, to] = [&archive.disk(target), &raw].map(|path| path.to_str().unwrap().to_owned());
        lab::qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &from, &to]);
    }
    let mut bytes = vec![0; 65536];
    File::open(raw).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{target} at {offset} was captured during a write");
    bytes[0]
}
