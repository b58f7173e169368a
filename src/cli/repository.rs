//! Runs the command `repository`. Must not know the format of a repository.

use super::args::{Global, Repository, RepositoryCommand};
use super::keys;
use super::{maintain as texts, print};
use crate::app;
use crate::config::Settings;
use crate::engine::repair;
use crate::engine::{Error, maintain, target};

use crate::model::{RunResult, StoreKind};
use crate::sys::signals::Cancel;

/// The percentage of the data that a check reads.
const ALL: u32 = 100;

pub(super) fn run(global: &Global, words: &Repository) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    match &words.command {
        RepositoryCommand::Init => {
            let id = target::init(&settings)?;
            print(&format!("created the repository {id} in {}\n", settings.path_of(StoreKind::Repository).display()));
            Ok(RunResult::Good)
        }
        RepositoryCommand::Check { repair_from_guests, json } => {
            check(&settings, *repair_from_guests, *json, global.quiet)
        }
        RepositoryCommand::Stats { json } => stats(&settings, *json),
        RepositoryCommand::Key { command } => keys::run(&settings, command),
    }
}

fn check(settings: &Settings, repairs: bool, json: bool, quiet: bool) -> Result<RunResult, app::Error> {
    let cancel = Cancel::on_signals().map_err(Error::Signals)?;
    let result = maintain::check(settings, ALL, &cancel)?;
    if !json && (!quiet || !result.good) {
        print(&texts::checked(&result));
    }
    let repaired = repairs && !result.bad_packs.is_empty();
    if repaired {
        repair::repair(settings, &result.bad_packs, &cancel)?;
    }
    if json {
        let mut shown = serde_json::to_value(&result).map_err(Error::Json)?;
        if repaired {
            shown["removed_packs"] = serde_json::to_value(&result.bad_packs).map_err(Error::Json)?;
        }
        print_json(shown);
    }
    if repaired {
        if !json {
            print(&texts::repaired(&result.bad_packs));
        }
        return Ok(RunResult::Damaged);
    }
    match maintain::damage(settings.path_of(StoreKind::Repository), &result) {
        Some(error) => Err(error.into()),
        None => Ok(RunResult::Good),
    }
}

fn stats(settings: &Settings, json: bool) -> Result<RunResult, app::Error> {
    let cancel = Cancel::on_signals().map_err(Error::Signals)?;
    let result = maintain::stats(settings, &cancel)?;
    if json {
        print_json(serde_json::to_value(result).map_err(Error::Json)?);
    } else {
        print(&format!("{}\n", texts::contents(&result)));
    }
    Ok(RunResult::Good)
}

pub(super) fn print_json(mut json: serde_json::Value) {
    json["schema"] = 1.into();
    print(&format!("{json:#}\n"));
}
