//! An operator does random things to a guest at random moments of its backup. Regardless of these actions, every
//! archive is of one instant, nothing is lost, and nothing of kvmbackup is left after its hints are followed.
//!
//! Each round has its own seed, which is printed if the round fails. `KVMBACKUP_CHAOS_SEED=N` runs only that round,
//! `KVMBACKUP_CHAOS_SEED=N..M` all of these.

#![allow(clippy::print_stderr, reason = "a failed round prints how to replay it")]

mod acts;
mod after;
mod disks;
mod domain;
pub mod hints;
mod images;
mod moments;
mod random;
mod setting;
mod snapshots;
mod world;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use acts::{Act, PLUG};
use random::Random;
use setting::{Place, Setting};
use world::{Start, World};

/// The selected rounds.
const SEEDS: &str = "KVMBACKUP_CHAOS_SEED";

/// The actions of a round.
struct Plan {
    starts: &'static [Start],
    setting: fn(u64) -> Setting,
    acts: fn(Setting) -> Vec<Act>,
}

/// Attaching and detaching disks.
const DISKS: Plan =
    Plan { starts: &[Start::Paused, Start::Running], setting: |_| Setting::default(), acts: |_| PLUG.to_vec() };
/// All actions.
const ANY: Plan =
    Plan { starts: &[Start::Paused, Start::Running, Start::Off], setting: Setting::of, acts: Setting::acts };

/// One backup, the operator's actions during it, and the checks after it. Returns whether they pass.
fn round(seed: u64, plan: &Plan) -> bool {
    let mut random = Random::new(seed);
    let (method, start) = (random.pick(&["snapshot", "pull"]), random.pick(plan.starts));
    let setting = (plan.setting)(seed);
    let start = if setting.system { Start::System } else { start };
    let mut done = vec![];
    let held = catch_unwind(AssertUnwindSafe(|| {
        let name = format!("chaos-{seed}");
        let place = Place::new(setting, &name);
        place.on(|| {
            let mut world = World::new(seed, &place, &name, (method, start));
            let held = catch_unwind(AssertUnwindSafe(|| backup(&mut world, &(plan.acts)(setting))));
            done.append(&mut world.done);
            held.is_ok()
        })
    }));
    let held = held.unwrap_or(false);
    if !held || std::env::var_os(SEEDS).is_some() {
        eprintln!("---- round {seed}: replay it by {SEEDS}={seed} ----\n{}\n----", done.join("\n"));
    }
    held
}

fn backup(world: &mut World, acts: &[Act]) {
    let from = world.disks.instant();
    let mut backup = world.backup();
    let mut killed = false;
    while let Some(moment) = backup.next() {
        world.note(format!("at {}", moment.step));
        for _ in 0..=world.random.below(3) {
            let act = world.pick(acts);
            world.act(act);
        }
        killed = world.random.once_in(10);
        if killed {
            break;
        }
        moment.go_on();
    }
    let report = if killed {
        world.note("SIGKILL");
        backup.kill();
        // The next backup runs before anyone recovers. A guest on another host is not backed up here.
        let again = world.away.is_none() && world.random.once_in(2);
        again.then(|| world.program.run(&["backup", "--json"]))
    } else {
        Some(backup.ended())
    };
    if let Some(ran) = &report {
        world.note(format!("backup: {} {}", ran.code, ran.stdout));
        world.told.push_str(&ran.stdout);
    }
    world.assert_archives(from, report.as_ref());
    world.tidy();
    world.assert_archives(from, None);
    world.assert_tidy();
    world.assert_snapshots();
}

/// Runs these rounds, or the selected ones, and panics if one fails.
fn rounds(plan: &Plan, seeds: Range<u64>) {
    let number = |text: &str| text.parse::<u64>().expect("a seed is a number");
    let seeds = match std::env::var(SEEDS) {
        Ok(asked) => match asked.split_once("..") {
            Some((first, end)) => number(first)..number(end),
            None => number(&asked)..number(&asked) + 1,
        },
        Err(_) => seeds,
    };
    let failed: Vec<_> = seeds.filter(|seed| !round(*seed, plan)).collect();
    assert!(failed.is_empty(), "these rounds failed: {failed:?}");
}

#[test]
fn disks_attached_and_detached_at_any_moment_of_a_backup_do_no_harm() {
    rounds(&DISKS, 1000..1008);
}

#[test]
#[ignore = "soak: 200 backups"]
fn disks_attached_and_detached_at_any_moment_of_200_backups_do_no_harm() {
    rounds(&DISKS, 2000..2200);
}

#[test]
fn operator_actions_at_any_moment_of_a_backup_do_no_harm() {
    rounds(&ANY, 5000..5008);
}

#[test]
#[ignore = "soak: 500 backups"]
fn operator_actions_at_any_moment_of_500_backups_do_no_harm() {
    rounds(&ANY, 10_000..10_500);
}
