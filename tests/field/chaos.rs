//! An operator does random things to a guest at random moments of its backup. Whatever was done, every archive is of one
//! instant, nothing is lost, and nothing of kvmbackup is left once its hints are followed.
//!
//! Each round has a seed of its own, which is printed when the round fails. `KVMBACKUP_CHAOS_SEED=N` runs that round alone.

#![allow(clippy::print_stderr, reason = "a failed round says how to replay it")]

mod acts;
mod after;
mod disks;
pub mod hints;
mod random;
mod snapshots;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use acts::{ALL, Act, PLUG};
use random::Random;
use world::{Start, World};

/// One backup, what the operator does in it, and what holds then.
fn round(seed: u64, acts: &[Act], starts: &[Start]) {
    let mut random = Random::new(seed);
    let (method, start) = (random.pick(&["snapshot", "pull"]), random.pick(starts));
    let mut world = World::new(seed, method, start);
    let ended = catch_unwind(AssertUnwindSafe(|| backup(&mut world, acts)));
    if let Err(panic) = ended {
        eprintln!("---- round {seed}: replay it by KVMBACKUP_CHAOS_SEED={seed} ----\n{}\n----", world.done.join("\n"));
        resume_unwind(panic);
    }
}

fn backup(world: &mut World, acts: &[Act]) {
    let from = world.disks.instant();
    let backup = world.backup();
    if !backup.is_held() {
        world.note("it had no such step");
    }
    for _ in 0..=world.random.below(2) {
        let act = world.random.pick(acts);
        world.act(act);
    }
    let report = if backup.is_held() && world.random.once_in(6) {
        world.note("SIGKILL");
        backup.kill();
        None
    } else {
        let ran = backup.finish();
        world.note(format!("backup: {} {}", ran.code, ran.stdout));
        world.told.push_str(&ran.stdout);
        Some(ran)
    };
    world.assert_archives(from, report.as_ref());
    world.tidy();
    world.assert_archives(from, None);
    world.assert_tidy();
    world.assert_snapshots();
}

/// Runs so many rounds, from the seed of the day, or the one that is asked for.
fn rounds(first: u64, count: u64, acts: &[Act], starts: &[Start]) {
    match std::env::var("KVMBACKUP_CHAOS_SEED") {
        Ok(seed) => round(seed.parse().expect("a seed is a number"), acts, starts),
        Err(_) => (first..first + count).for_each(|seed| round(seed, acts, starts)),
    }
}

const ACTIVE: &[Start] = &[Start::Paused, Start::Running];
const ANY: &[Start] = &[Start::Paused, Start::Running, Start::Off];

#[test]
fn disks_come_and_go_at_any_moment_of_a_backup() {
    rounds(1000, 8, PLUG, ACTIVE);
}

#[test]
#[ignore = "soak: 200 backups"]
fn disks_come_and_go_at_any_moment_of_200_backups() {
    rounds(2000, 200, PLUG, ACTIVE);
}

#[test]
fn an_operator_does_anything_at_any_moment_of_a_backup() {
    rounds(5000, 8, ALL, ANY);
}

#[test]
#[ignore = "soak: 500 backups"]
fn an_operator_does_anything_at_any_moment_of_500_backups() {
    rounds(10_000, 500, ALL, ANY);
}
