//! The lab: real libvirt guests for integration tests, controlled only by `virsh`, `qemu-img` and `qemu-io`.
//!
//! It is an oracle, so it must not use this project's own code. A test creates a [`Lab`], defines a [`Guest`] in it
//! with a [`GuestBuilder`] and drops both at its end. Everything runs under `tests/lab/enter`, with its libvirtd.
//!
//! ```ignore
//! let lab = Lab::new();
//! let guest = lab.guest("web").disk(Disk::qcow2("vda")).paused();
//! guest.write("vda", 0xbb, 2 << 20, 65536);
//! ```
#![allow(dead_code, unused_imports, unused_macros, reason = "every test binary compiles the lab and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

mod agent;
mod builder;
mod command;
mod contents;
mod database;
mod database_guest;
mod database_hook;
mod database_mariadb;
mod database_postgresql;
mod database_redis;
mod disk;
mod domain_xml;
mod exact;
mod gate;
mod guest;
mod host;
mod leftovers;
mod port;
mod program;
mod small;
mod wait;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

pub use agent::ExecOutput;
pub use builder::GuestBuilder;
pub use command::{qemu_img, run, try_run, try_virsh, virsh, virsh_all};
pub use contents::{Contents, assert_same, sha256};
pub use database::Writer;
pub use database_guest::{Database, DatabaseGuest};
pub use database_hook::{ENDS, Ended, RUN_ID, Session, hook, hook_path, run_hook};
pub use database_mariadb::MariaDb;
pub use database_postgresql::PostgreSql;
pub use database_redis::Redis;
pub use disk::{Disk, LUKS_PASSPHRASE, LoopDevice};
pub(crate) use exact::by_each_method;
pub use exact::{Saved, save_contents, save_exactly};
pub use gate::{Call, Gate};
pub use guest::Guest;
pub use host::Host;
pub use port::free_port;
pub use program::{Program, Ran, Report, Unpacked};
pub use small::Small;
pub use wait::{BOOT_DEADLINE, DEADLINE, next_second, wait_until};

/// A directory for one test's images, backups and configuration. It is removed when dropped: declare it before the
/// guests.
pub struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    /// A new directory. Panics outside `tests/lab/enter`: a test that needs real guests is never skipped silently.
    pub fn new() -> Self {
        if std::env::var_os("KVMBACKUP_LAB").is_none() {
            panic!("this test needs the lab: run it with `make test`, or with `tests/lab/enter cargo test …`");
        }
        assert!(
            guest_system().join("initramfs").exists(),
            "the lab's guest is missing in {}: run tests/lab/build-guest",
            guest_system().display()
        );
        // QEMU's own user needs access to its images in here.
        let mode = std::fs::Permissions::from_mode(0o711);
        let dir = tempfile::Builder::new().prefix("t").permissions(mode).tempdir();
        let dir = dir.expect("cannot create the test's directory");
        Lab { dir }
    }

    /// The lab's directory; its path is short enough for unix sockets.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the lab's directory; nothing is created.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Creates an executable shell script in the lab's directory, including parent directories.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("the script is in a directory"))
            .expect("cannot create a directory");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("cannot write a file");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("a mode can be set");
        path
    }

    /// Starts to build a guest. Its name must be unique among the tests that run at the same time.
    pub fn guest(&self, name: &str) -> GuestBuilder {
        GuestBuilder::new(self, name)
    }

    /// Adopts a domain that was defined elsewhere, for example a restored one, and removes it when dropped.
    pub fn adopt(&self, name: &str) -> Guest {
        Guest::adopt(self, name)
    }
}

/// The directory that contains the guest's `vmlinuz` and `initramfs`.
pub fn guest_system() -> PathBuf {
    std::env::var_os("KVMBACKUP_LAB_GUEST").map(PathBuf::from).unwrap_or_default()
}
