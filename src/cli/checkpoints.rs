//! Runs the commands `checkpoints list` and `checkpoints remove`. Must not decide which checkpoints are ours.

use super::args::{Checkpoints, CheckpointsCommand, Global};
use super::print;
use crate::app;
use crate::engine;
use crate::engine::checkpoints::{self, Checkpoint};
use crate::model::RunResult;
use crate::report::table::{Table, printable};
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

pub(super) fn run(global: &Global, words: &Checkpoints) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    let (name, removes) = match &words.command {
        CheckpointsCommand::List { domain } => (domain, false),
        CheckpointsCommand::Remove { domain } => (domain, true),
    };
    let cancel = Cancel::on_signals().map_err(engine::Error::Signals)?;
    let patience = Patience::new(settings.stall_timeout);
    // Not during a run, which may be using a checkpoint, and not while the backup job of a killed run exists.
    let first = || super::recover::first(&settings.state_dir, &patience, global.quiet, &cancel);
    let _exclusive = removes.then(first).transpose()?;
    let hypervisor = app::libvirt(&settings.libvirt_uri)?;
    let domain = checkpoints::find(&hypervisor, name)?;
    let found = match removes {
        true => checkpoints::remove(&hypervisor, &domain)?,
        false => checkpoints::list(&hypervisor, &domain)?,
    };
    if found.is_empty() {
        print(&format!("{}: no checkpoints of kvmbackup\n", printable(name)));
    } else if removes {
        let count = found.len();
        let what = if count == 1 { "checkpoint" } else { "checkpoints" };
        print(&format!("{}: removed {count} {what}; the next backup reads whole disks\n", printable(name)));
    } else {
        print(&table(&found));
    }
    Ok(RunResult::Good)
}

fn table(found: &[Checkpoint]) -> String {
    let mut table = Table::new(&["CHECKPOINT", "IN LIBVIRT", "BITMAP ON"]);
    for checkpoint in found {
        let known = if checkpoint.known { "yes" } else { "no" };
        let disks = if checkpoint.disks.is_empty() { "-".to_owned() } else { checkpoint.disks.join(", ") };
        table.row([checkpoint.name.clone(), known.to_owned(), disks]);
    }
    table.lines().join("\n") + "\n"
}
