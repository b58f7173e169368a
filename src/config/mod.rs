//! Reads the configuration file from YAML into [`Settings`] that are valid by construction. Must not act on them.
//!
//! `node` reads the YAML, `keys` is the table of all keys, `key` reads a mapping by a table, `value` reads single
//! values, `hooks`, `mail`, `repository` and `copies` read the values of these keys, and `check` applies the levels. All problems of a file are
//! reported at once, each with its line and key ([`Errors`]).

mod check;
mod copies;
mod error;
pub mod glob;
mod hook;
mod hooks;
mod key;
mod keys;
mod mail;
mod node;
mod place;
mod repository;
mod settings;
#[cfg(test)]
mod tests;
mod value;

use std::path::Path;

pub use crate::sys::secret::Secret;
pub use copies::CopySettings;
pub(crate) use error::nearest;
pub use error::{Errors, Problem, Salvaged};
pub use hook::{Hook, HookKind, HookPlace, OnError};
pub use mail::{Login, Mail, MailWhen, Security, Smtp, Transport};
pub use repository::RepositorySettings;
pub use settings::{
    DomainSettings, Exclusion, Incremental, MethodChoice, Metrics, MinFree, Quiesce, Rule, Settings, StoreChoice,
};

use crate::sys::opened;
use error::Problems;

/// Maximum size of the file, in bytes.
const SIZE_LIMIT: u64 = 1 << 20;

/// The default state directory.
pub const STATE_DIR: &str = "/var/lib/kvmbackup";

/// Reads a configuration file and returns the section of `host`, the short host name.
///
/// # Errors
/// All problems of the file, in the section of any host, or that it cannot be read.
pub fn load(path: &Path, host: &str) -> Result<Settings, Errors> {
    let text = read(path).map_err(|problem| Errors::one(path, problem))?;
    parse(&text, path, host)
}

/// Checks the text of a configuration file; `path` is for messages only.
///
/// # Errors
/// All problems of the text.
pub fn parse(text: &str, path: &Path, host: &str) -> Result<Settings, Errors> {
    let root = node::parse(text).map_err(|problem| Errors::one(path, problem))?;
    let mut problems = Problems::default();
    let (settings, salvaged) = check::document(&root, host, &mut problems);
    problems.finish(path, salvaged)?;
    // Settings exist if there were no problems, but the types do not show this.
    settings.ok_or_else(|| Errors::one(path, Problem::of_file(None, "cannot be used")))
}

/// The text of a configuration file, which may also be `/dev/stdin` or a pipe.
pub(crate) fn read(path: &Path) -> Result<String, Problem> {
    let unreadable = |error: std::io::Error| {
        let valid = (error.kind() == std::io::ErrorKind::InvalidData).then(|| "a file of at most 1 MiB".to_owned());
        Problem { valid, ..Problem::of_file(None, format!("cannot be read: {error}")) }
    };
    let bytes = opened::read_named(path, SIZE_LIMIT).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        Problem::of_file(Some(line), "not valid UTF-8")
    })
}
