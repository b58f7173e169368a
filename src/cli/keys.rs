//! Runs the command `repository key`. Must not know the format of a key.

use std::path::{Path, PathBuf, absolute};

use super::args::{KeyCommand, NewPassword};
use super::print;
use super::repository::print_json;
use crate::app;
use crate::config::Settings;
use crate::engine::Error;
use crate::engine::keys::{self, KeyChange, RepositoryKey};
use crate::model::RunResult;
use crate::model::command::typed;
use crate::report;
use crate::report::table::{Table, printable};
use crate::sys::secret::Secret;
use crate::sys::signals::Cancel;

pub(super) fn run(settings: &Settings, command: &KeyCommand) -> Result<RunResult, app::Error> {
    let cancel = Cancel::on_signals().map_err(Error::Signals)?;
    match command {
        KeyCommand::List { json } => {
            let keys = keys::list(settings, &cancel)?;
            match json {
                true => print_json(serde_json::json!({ "keys": keys })),
                false => print(&text(&keys)),
            }
        }
        KeyCommand::Add(NewPassword { new_password_file }) => {
            let file = whole(new_password_file)?;
            keys::change(settings, KeyChange::Add(&file), &cancel)?;
            print(&added(settings, &file));
        }
        KeyCommand::Remove { id } => {
            keys::change(settings, KeyChange::Remove(id), &cancel)?;
            print(&format!("removed the key {id}\n"));
        }
        KeyCommand::Passwd(NewPassword { new_password_file }) => {
            let file = whole(new_password_file)?;
            keys::change(settings, KeyChange::Passwd(&file), &cancel)?;
            print(&changed(settings, &file));
        }
    }
    Ok(RunResult::Good)
}

/// The absolute path of a file on the command line.
fn whole(path: &Path) -> Result<PathBuf, Error> {
    absolute(path).map_err(Error::file("find", path))
}

fn text(keys: &[RepositoryKey]) -> String {
    let mut table = Table::new(&["ID", "CREATED", "BY", "IN USE"]);
    for key in keys {
        let created = key.created.map_or_else(|| "unknown".to_owned(), report::moment);
        let in_use = if key.in_use { "yes" } else { "" };
        table.row(
            [key.id.clone(), created, format!("{}@{}", key.user, key.host), in_use.to_owned()]
                .map(|cell| printable(&cell)),
        );
    }
    table.lines().join("\n") + "\n"
}

fn added(settings: &Settings, file: &Path) -> String {
    format!(
        "added a key for the password in {}\n\
         The configuration still uses the old password. Put the new one into {} on every host that uses this \
         repository. Then remove the old key: {}\n",
        printable(&file.display().to_string()),
        place(settings),
        typed("kvmbackup repository key list; kvmbackup repository key remove ID")
    )
}

fn changed(settings: &Settings, file: &Path) -> String {
    format!(
        "changed the password of the repository to that in {}\n\
         Put it into {} now, on every host that used the old one. Until then, every command fails with \"wrong \
         password\".\n",
        printable(&file.display().to_string()),
        place(settings)
    )
}

/// Where the configuration has the password.
fn place(settings: &Settings) -> String {
    let place = settings.repository.as_ref().map(|repository| match &repository.password {
        Secret::File(path) => path.display().to_string(),
        Secret::Env(name) => format!("the environment variable {name}"),
        Secret::Credential(name) => format!("the credential {name}"),
    });
    printable(&place.unwrap_or_default())
}
