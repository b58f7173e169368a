//! A file system that fails as storage fails: it is full, gives errors, hangs, vanishes, and tells what a power cut may leave.
//!
//! It lies in memory and is mounted by FUSE, so that the program under test meets real system calls. One [`Rule`] at a time is
//! in force. What was changed can be recorded, and [`cut`] says what of it a power cut at any moment may leave.
//!
//! It needs root and `/dev/fuse`. Where these cannot be had its tests fail, for a fault that was never made proves nothing;
//! `KVMBACKUP_WITHOUT_FUSE=1` leaves them out, and says so.
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

/// What the file system is asked for.
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

/// What becomes of a call.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// It fails with this error.
    Error(Errno),
    /// It, and every call after it, is taken and gets no answer: who called cannot even be killed.
    Hang,
    /// It is answered, and then no call is taken any more: who calls can be killed, and by nothing else be ended.
    Deaf,
}

/// A fault, and the call that meets it.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    pub call: Call,
    /// Bytes that can still be read or written, or files and folders that can still be made, before it holds.
    pub after: u64,
    pub fault: Fault,
}

/// The file system while it is mounted.
pub struct Faulty {
    path: PathBuf,
    /// Of its connection in the kernel.
    connection: u32,
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
    control: tempfile::TempDir,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when a rule was met, and when what hangs is let go.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    tree: Tree,
    rule: Option<Rule>,
    /// Whether a rule was met since it was set.
    met: bool,
    moved: u64,
    hangs: bool,
    deaf: bool,
    /// Replies that are not given; dropped, they are an `EIO`.
    held: Vec<Box<dyn Any + Send>>,
    log: Option<Vec<Op>>,
    /// Whether names are taken as exFAT and CIFS take them.
    folds: bool,
    /// The one mode of all files and folders, which chmod cannot change.
    fixed: Option<u32>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }
}

/// Whether tests of faults can run here. Panics where they should and cannot.
pub fn can_mount() -> bool {
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    match device {
        Ok(_) if rustix::process::geteuid().is_root() => true,
        _ if std::env::var_os("KVMBACKUP_WITHOUT_FUSE").is_some_and(|value| value == "1") => {
            eprintln!("LEFT OUT: no file system that fails can be had here");
            false
        }
        found => panic!(
            "this test needs root and /dev/fuse ({:?}); KVMBACKUP_WITHOUT_FUSE=1 leaves it out",
            found.map(|_| "it is there")
        ),
    }
}

impl Faulty {
    /// Mounts an empty one on a new folder.
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

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes names from now on as exFAT and CIFS do: case and dots at the end tell none apart, and the first spelling is kept.
    pub fn fold_names(&self) {
        self.shared.state().folds = true;
    }

    /// Gives everything one mode from now on and refuses chmod, as vfat and exFAT do.
    pub fn fix_mode(&self, mode: u32) {
        self.shared.state().fixed = Some(mode);
    }

    /// Sets the rule; the one before holds no more, and bytes are counted from now.
    pub fn set(&self, call: Call, after: u64, fault: Fault) {
        let mut state = self.shared.state();
        state.rule = Some(Rule { call, after, fault });
        (state.met, state.moved) = (false, 0);
    }

    /// Takes the rule away.
    pub fn heal(&self) {
        self.shared.state().rule = None;
    }

    /// Whether the rule was met.
    pub fn was_met(&self) -> bool {
        self.shared.state().met
    }

    /// Lets everybody go who waits for an answer, with an error, and answers again.
    pub fn release(&self) {
        let mut state = self.shared.state();
        (state.rule, state.hangs, state.deaf) = (None, false, false);
        state.held.clear();
        self.shared.changed.notify_all();
    }

    /// Begins to record what is changed.
    pub fn record(&self) {
        self.shared.state().log = Some(Vec::new());
    }

    /// What was changed since then, in order, and what it was changed from.
    pub fn recorded(&self) -> Vec<Op> {
        self.shared.state().log.clone().expect("it was recorded")
    }

    /// What it holds.
    pub fn tree(&self) -> Tree {
        self.shared.state().tree.clone()
    }

    /// Lets it hold what a power cut has left.
    pub fn load(&self, image: &cut::Image) {
        let mut state = self.shared.state();
        state.tree = cut::restored(image, state.tree.unused());
    }

    /// Cuts the mount off, as a server that is gone for good.
    pub fn vanish(&self) {
        std::fs::write(self.control.path().join(self.connection.to_string()).join("abort"), "1").unwrap();
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.release();
        let abort = self.control.path().join(self.connection.to_string()).join("abort");
        let _ = std::fs::write(abort, "1");
        // A mount that is still in use goes when nobody uses it any more.
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
