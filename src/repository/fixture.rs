//! Runs Debian's restic on a repository in a temporary directory, for tests. Must not be part of the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use tempfile::TempDir;

use super::{Local, Place};
use crate::sys::patience::Patience;

/// A directory for a repository.
pub struct Restic {
    pub dir: TempDir,
}

impl Restic {
    pub const PASSWORD: &str = "a password";

    pub fn new() -> Restic {
        // In memory, because every object is synced.
        Restic { dir: tempfile::tempdir_in("/dev/shm").unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The place of the repository.
    pub fn place(&self) -> Arc<dyn Place> {
        Arc::new(Local::at(&self.path("repository"), &Patience::default()))
    }

    /// Runs restic, which may fail; returns its result.
    pub fn try_run(&self, arguments: &[&str]) -> Output {
        Restic::try_run_in(self.dir.path(), arguments)
    }

    /// The same for the repository below this directory.
    pub fn try_run_in(dir: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new("restic");
        command.args(["--no-cache", "-r"]).arg(dir.join("repository")).args(arguments);
        command.env("RESTIC_PASSWORD", Restic::PASSWORD).current_dir(dir);
        command.output().expect("restic must be installed: tests/lab/install")
    }

    /// Runs restic, which must succeed; returns its output.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "restic {arguments:?}: {printed}{errors}");
        printed
    }
}
