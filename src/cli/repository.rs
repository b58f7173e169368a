//! Runs the command `repository`. Must not know the format of a repository.

use super::args::{Global, Repository, RepositoryCommand};
use super::print;
use crate::app;
use crate::engine::target;
use crate::model::RunResult;

pub(super) fn run(global: &Global, words: &Repository) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    match words.command {
        RepositoryCommand::Init => {
            let id = target::init(&settings)?;
            print(&format!("created the repository {id} in {}\n", settings.backupdir.display()));
            Ok(RunResult::Good)
        }
    }
}
