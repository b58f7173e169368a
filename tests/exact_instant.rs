//! All disks of a domain are captured at one instant, and what is written later is not in the archive.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

mod lab;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lab::{Disk, Guest, Lab, Program, Unpacked, by_each_method, run};
use serde_json::json;

by_each_method! {
    disks_that_are_written_meanwhile_are_captured_at_one_instant
}

/// The places that are written one after the other, over and over, each time with the next number.
const PLACES: [(&str, u64); 4] = [("vda", 0), ("vdb", 0), ("vdb", SIZE - 65536), ("vda", SIZE - 65536)];
const SIZE: u64 = 64 << 20;

/// At any instant the places hold the numbers n … n, n-1 … n-1 in the order in which they are written: a later place
/// never holds a greater number than an earlier one, and no two are further apart than 1.
fn disks_that_are_written_meanwhile_are_captured_at_one_instant(method: &str) {
    let lab = Lab::new();
    let guest = lab.guest(&format!("instant-{method}")).disk(Disk::qcow2("vda")).disk(Disk::raw("vdb")).paused();
    for target in ["vda", "vdb"] {
        guest.write(target, 0x77, 1 << 20, 8 << 20);
    }
    let program = Program::new(&lab).domain(guest.name(), json!({"method": method}));
    let last = write_while(&guest, || program.backup_well());
    let (report, rounds) = last;
    let archive = program.unpack(&report, guest.name());
    let numbers: Vec<u8> = PLACES.iter().map(|(target, offset)| number(&archive, target, *offset)).collect();
    println!("{numbers:?} of {rounds} rounds");
    assert!(numbers.is_sorted_by(|a, b| a >= b) && numbers[0] - numbers[3] <= 1, "{numbers:?} of {rounds} rounds");
    assert!(numbers[0] > 0 && numbers[3] < rounds, "the guest did not write before and after: {numbers:?}, {rounds}");
    // What was written since is where it belongs.
    for (target, offset) in PLACES {
        guest.assert_holds(target, rounds, offset, 65536);
    }
    program.assert_no_leftovers(&guest);
}

/// Writes round after round, from before `work` begins until after it ends; the number of the last round.
fn write_while<T>(guest: &Guest, work: impl FnOnce() -> T) -> (T, u8) {
    let (stop, round) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) && number < u8::MAX {
                number += 1;
                let writes = PLACES.map(|(target, offset)| (target, format!("write -P {number} {offset} 64k")));
                guest.qemu_io_at_once(&writes);
                round.store(true, Ordering::Relaxed);
            }
            number
        });
        lab::wait_until(lab::DEADLINE, "the first round", || round.load(Ordering::Relaxed));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let rounds = writer.join().unwrap();
        guest.qemu_io_at_once(&[("vda", "flush".into()), ("vdb", "flush".into())]);
        (done, rounds)
    })
}

/// The number that a place of a disk in an archive holds throughout.
fn number(archive: &Unpacked, target: &str, offset: u64) -> u8 {
    let raw = archive.path(&format!("{target}.raw"));
    if !raw.exists() {
        let [from, to] = [&archive.disk(target), &raw].map(|path| path.to_str().unwrap().to_owned());
        lab::qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &from, &to]);
    }
    let skip = offset.to_string();
    let bytes = run(
        "sh",
        &[
            "-c",
            "tail -c +$(($2 + 1)) \"$1\" | head -c 65536 | od -An -v -tu1 -w1 | sort -u",
            "sh",
            raw.to_str().unwrap(),
            &skip,
        ],
    );
    bytes.trim().parse().unwrap_or_else(|_| panic!("{target} at {offset} was written in the midst of a write: {bytes}"))
}
