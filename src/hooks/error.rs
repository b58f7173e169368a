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
    #[error("cannot examine {}", .path.display())]
    Look {
        /// The file, or the folder it lies in.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The program's file is not one to be run.
    #[error("{} cannot be a hook: {what}", .path.display())]
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
    #[error("cannot wait for {program}")]
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
    #[error("ignoring the hook's artifact {name:?}: {what}")]
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
    #[error("the guest agent cannot {action}: {answer}")]
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
            Error::Look { .. } => "Begin `command` with the absolute path of a program on this host.".to_owned(),
            Error::Untrusted { path, what } => what.hint(path),
            Error::Start { .. } => "Check that the interpreter in its first line exists.".to_owned(),
            Error::Artifact { .. } => {
                "Leave only regular files, at most 64 of 1 MiB each, with letters, digits, dots, dashes and \
                 underscores in their names."
                    .to_owned()
            }
            Error::Agent { .. } => {
                "Check in the guest that qemu-guest-agent is running, that it allows guest-exec and guest-exec-status \
                 (on RHEL, /etc/sysconfig/qemu-ga blocks them), and that /bin/sh exists."
                    .to_owned()
            }
        };
        Some(hint)
    }
}
