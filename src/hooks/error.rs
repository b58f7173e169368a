//! Owns: why a hook could not be run. Must not: report a hook that ran and failed, which is no error here.

use std::io;
use std::path::PathBuf;

use crate::sys::trust;

/// A hook could not be run, or its artifacts cannot be archived.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no program to run.
    #[error("the hook has no command")]
    Empty,
    /// The program's file cannot be examined.
    #[error("cannot examine {}", .path.display())]
    Look {
        /// The file, or the folder it lies in.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The program's file is not trusted.
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
    #[error("cannot follow the process of {program}")]
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
    #[error("cannot archive the hook's artifact {name:?}: {what}")]
    Artifact {
        /// The file's name, shortened.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The guest agent failed.
    #[error("the guest agent cannot {action}")]
    Agent {
        /// The requested action, as a verb phrase.
        action: &'static str,
        /// Its answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The guest agent sent an invalid answer.
    #[error("the guest agent cannot {action}; its answer: {answer}")]
    Answer {
        /// The requested action, as a verb phrase.
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
            Error::Look { .. } => "start `command` with the absolute path of a program on this host".to_owned(),
            Error::Untrusted { path, what } => what.hint(path),
            Error::Start { .. } => "check that the interpreter in its first line exists".to_owned(),
            Error::Artifact { .. } => {
                "leave at most 64 regular files of at most 1 MiB each, with names of letters, digits, dots, dashes and underscores"
                    .to_owned()
            }
            Error::Agent { .. } => {
                "check that qemu-guest-agent runs in the guest, that it allows guest-exec and guest-exec-status (on RHEL and \
                 its derivatives, /etc/sysconfig/qemu-ga blocks them), and that the guest has /bin/sh"
                    .to_owned()
            }
        };
        Some(hint)
    }
}
