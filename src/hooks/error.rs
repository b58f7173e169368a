//! Owns: why a hook could not be run. Must not: tell of a hook that ran and failed; that is no error here.

use std::io;
use std::path::PathBuf;

use crate::sys::trust;

/// A hook could not be run, or what it left behind cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no program to run.
    #[error("the hook has no command")]
    Empty,
    /// The program's file cannot be looked at.
    #[error("cannot look at {}", .path.display())]
    Look {
        /// The file, or the folder it lies in.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The program's file is not one to be run.
    #[error("{} is not run as a hook: {what}", .path.display())]
    Untrusted {
        /// The file, or the folder it lies in.
        path: PathBuf,
        /// What is wrong with it.
        what: trust::Wrong,
    },
    /// The program cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The process cannot be followed.
    #[error("lost sight of {program}")]
    Wait {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A folder of artifacts cannot be read.
    #[error("cannot read the hook's artifacts in {}", .path.display())]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An artifact cannot go into an archive.
    #[error("the hook's artifact {name:?} is not taken: {what}")]
    Artifact {
        /// The file's name, shortened.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The guest agent did not do it.
    #[error("the guest agent cannot {action}")]
    Agent {
        /// What was asked, as a verb phrase.
        action: &'static str,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The guest agent answered, but not with what was asked for.
    #[error("the guest agent was asked to {action}, and answered: {answer}")]
    Answer {
        /// What was asked, as a verb phrase.
        action: &'static str,
        /// The answer, shortened.
        answer: String,
    },
}

impl Error {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Empty | Error::Wait { .. } | Error::Read { .. } | Error::Answer { .. } => return None,
            Error::Look { .. } => "`command` begins with the absolute path of a program on this host".to_owned(),
            Error::Untrusted { path, what } => what.hint(path),
            Error::Start { .. } => "does its first line name an interpreter that is there?".to_owned(),
            Error::Artifact { .. } => {
                "leave regular files only, at most 64 of 1 MiB each, named by letters, digits, dots, dashes and underscores"
                    .to_owned()
            }
            Error::Agent { .. } => {
                "is qemu-guest-agent running in the guest, does it allow guest-exec and guest-exec-status (on RHEL and its \
                 kin /etc/sysconfig/qemu-ga blocks them), and has the guest a /bin/sh?"
                    .to_owned()
            }
        };
        Some(hint)
    }
}
