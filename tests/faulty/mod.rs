//! A file system that fails like real storage: it is full, returns errors, hangs or vanishes, and computes what a power
//! cut may leave.
//!
//! It is in memory and mounted by FUSE, so the program under test makes real system calls. One [`Rule`] is active at
//! a time. Changes can be recorded, and [`cut`] computes what a power cut at any moment may leave of them.
//!
//! It needs root and `/dev/fuse`. Without these the tests fail, because a test that causes no fault proves nothing.
//! `KVMBACKUP_WITHOUT_FUSE=1` skips them with a message.
#![allow(dead_code, reason = "every test binary compiles this and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

pub mod cut;
mod serve;
pub mod tree;

use std::any::Any;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use fuser::{BackgroundSession, Config, Errno, MountOption};

use tree::{Op, Tree};

/// A call to the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Statfs,
    Readdir,
    Create,
    Read,
    Write,
    Fsync,
    Rename,
    Unlink,
}

/// The result of a call.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The call fails with this error.
    Error(Errno),
    /// This call and every later one is accepted and never answered. The calling process cannot even be killed.
    Hang,
    /// This call is answered, and later calls are not accepted. The calling process can be ended only by SIGKILL.
    Deaf,
}

/// A fault, and the call that triggers it.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    pub call: Call,
    /// Bytes that can still be read or written, or files and directories that can still be created, before the rule
    /// applies.
    pub after: u64,
    pub fault: Fault,
}

/// The mounted file system.
pub struct Faulty {
    path: PathBuf,
    /// Number of its connection in the kernel.
    connection: u32,
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
    control: tempfile::TempDir,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when a rule applies, and when hung calls are released.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    tree: Tree,
    rule: Option<Rule>,
    /// Whether the rule has applied since it was set.
    met: bool,
    moved: u64,
    hangs: bool,
    deaf: bool,
    /// Withheld replies. Dropping them returns `EIO`.
    held: Vec<Box<dyn Any + Send>>,
    log: Option<Vec<Op>>,
    /// Whether names are matched as on exFAT and CIFS.
    folds: bool,
    /// The mode of all files and directories; chmod cannot change it.
    fixed: Option<u32>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the lock")
    }
}

/// Whether fault tests can run here. Panics if they should run but cannot.
pub fn can_mount() -> bool {
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    match device {
        Ok(_) if rustix::process::geteuid().is_root() => true,
        _ if std::env::var_os("KVMBACKUP_WITHOUT_FUSE").is_some_and(|value| value == "1") => {
            eprintln!("LEFT OUT: no file system that fails can be had here");
            false
        }
        found => panic!(
            "this test needs root and /dev/fuse ({:?}); set KVMBACKUP_WITHOUT_FUSE=1 to skip it",
            found.map(|_| "it is there")
        ),
    }
}

impl Faulty {
    /// Mounts an empty one on a new directory.
    pub fn mount(path: &Path) -> Faulty {
        std::fs::create_dir_all(path).unwrap();
        let shared = Arc::new(Shared::default());
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faulty".into()), MountOption::DefaultPermissions];
        config.acl = fuser::SessionACL::All;
        let session = fuser::spawn_mount(serve::Server(shared.clone()), path, &config).expect("cannot mount by FUSE");
        let device = std::fs::metadata(path).unwrap().dev();
        let control = tempfile::tempdir().unwrap();
        run("mount", &["-t", "fusectl", "none", control.path().to_str().unwrap()]);
        Faulty { path: path.to_owned(), connection: rustix::fs::minor(device), shared, session: Some(session), control }
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Matches names from now on as exFAT and CIFS do: case and trailing dots make no difference, and the first
    /// spelling is kept.
    pub fn fold_names(&self) {
        self.shared.state().folds = true;
    }

    /// Gives everything one mode from now on and refuses chmod, as vfat and exFAT do.
    pub fn fix_mode(&self, mode: u32) {
        self.shared.state().fixed = Some(mode);
    }

    /// Sets the rule in place of the previous one, and counts bytes from now.
    pub fn set(&self, call: Call, after: u64, fault: Fault) {
        let mut state = self.shared.state();
        state.rule = Some(Rule { call, after, fault });
        (state.met, state.moved) = (false, 0);
    }

    /// Removes the rule.
    pub fn heal(&self) {
        self.shared.state().rule = None;
    }

    /// Whether the rule has applied.
    pub fn was_met(&self) -> bool {
        self.shared.state().met
    }

    /// Releases all hung calls with an error, and answers calls again.
    pub fn release(&self) {
        let mut state = self.shared.state();
        (state.rule, state.hangs, state.deaf) = (None, false, false);
        state.held.clear();
        self.shared.changed.notify_all();
    }

    /// Starts recording changes.
    pub fn record(&self) {
        self.shared.state().log = Some(Vec::new());
    }

    /// The recorded changes in order, and the tree before them.
    pub fn recorded(&self) -> Vec<Op> {
        self.shared.state().log.clone().expect("recording was started")
    }

    /// The current tree.
    pub fn tree(&self) -> Tree {
        self.shared.state().tree.clone()
    }

    /// Replaces the tree with what a power cut left.
    pub fn load(&self, image: &cut::Image) {
        let mut state = self.shared.state();
        state.tree = cut::restored(image, state.tree.unused());
    }

    /// Aborts the connection, like a server that is gone for good.
    pub fn vanish(&self) {
        std::fs::write(self.control.path().join(self.connection.to_string()).join("abort"), "1").unwrap();
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.release();
        let abort = self.control.path().join(self.connection.to_string()).join("abort");
        let _ = std::fs::write(abort, "1");
        // A mount that is in use disappears when its last user closes it.
        for path in [&self.path, self.control.path()] {
            let _ = Command::new("umount").arg("--lazy").arg(path).status();
        }
        if let Some(session) = self.session.take() {
            drop(session);
        }
    }
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
