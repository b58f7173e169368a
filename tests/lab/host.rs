//! A second libvirtd on this machine, as if on another host that shares the lab's storage: a destination of migrations,
//! or a host with another setup.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::command::{at, try_run};
use super::{DEADLINE, Lab, run, wait_until};

/// A libvirtd with its own sockets, state, logs and configuration, in a mount namespace. Its guests end with it:
/// declare it before them.
pub struct Host {
    dir: PathBuf,
    holder: Child,
}

impl Host {
    /// Starts one with the setup of the lab.
    pub fn start(lab: &Lab) -> Self {
        Host::with(lab, "")
    }

    /// Starts one with more lines in its `qemu.conf`.
    pub fn with(lab: &Lab, qemu_conf: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("h").tempdir_in(lab.dir()).expect("cannot create a directory").keep();
        let ready = dir.join("ready");
        // The script that creates the lab creates the host, too. It ends when its input ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "bash"]);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/enter"));
        command.args(["--inside", "sh", "-c", "touch \"$1\"; exec cat", "sh"]).arg(&ready);
        command.env("KVMBACKUP_LAB", &dir).env("KVMBACKUP_LAB_QEMU_CONF", qemu_conf);
        let holder = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cannot start a host");
        let mut host = Host { dir, holder };
        wait_until(DEADLINE, "the second libvirtd to answer", || {
            let ended = host.holder.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "the second libvirtd did not start: {ended:?}");
            ready.exists()
        });
        let helper = format!("#!/bin/sh\nexec {} virt-ssh-helper qemu:///system\n", host.prefix().join(" "));
        fs::write(host.helper(), helper).expect("cannot write a file");
        run("chmod", &["755".as_ref(), host.helper().as_os_str()]);
        host
    }

    /// The libvirt URI for programs of the other host.
    pub fn uri(&self) -> String {
        format!("qemu+ext:///system?command={}", self.helper().display())
    }

    /// Runs everything that `act` does with the lab's library on this host: `virsh`, guests, kvmbackup and all other
    /// programs.
    pub fn on<T>(&self, act: impl FnOnce() -> T) -> T {
        at(self.prefix(), act)
    }

    /// Restarts its libvirtd, as `systemctl restart` does; guests keep running.
    pub fn restart(&self) {
        let pid_file = self.dir.join("libvirtd.pid");
        let pid = fs::read_to_string(&pid_file).expect("libvirtd is running");
        let process = PathBuf::from(format!("/proc/{}", pid.trim()));
        run("kill", &["-TERM", pid.trim()]);
        wait_until(DEADLINE, "the second libvirtd to end", || !process.exists());
        self.on(|| {
            run("libvirtd", &["--daemon".as_ref(), "--pid-file".as_ref(), pid_file.as_os_str()]);
            wait_until(DEADLINE, "the second libvirtd to answer", || try_run("virsh", &["connect"]).status.success());
        });
    }

    fn helper(&self) -> PathBuf {
        self.dir.join("helper")
    }

    /// The prefix that runs a command in the namespace.
    fn prefix(&self) -> Vec<String> {
        ["nsenter", "--target", &self.holder.id().to_string(), "--mount", "--"].map(str::to_owned).to_vec()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.on(|| {
            let running = try_run("virsh", &["--quiet", "list", "--name"]).stdout;
            for name in String::from_utf8_lossy(&running).lines().filter(|name| !name.is_empty()) {
                try_run("virsh", &["--quiet", "destroy", name]);
            }
        });
        for daemon in ["libvirtd", "virtlogd"] {
            if let Ok(pid) = fs::read_to_string(self.dir.join(daemon).with_extension("pid")) {
                try_run("kill", &[pid.trim()]);
            }
        }
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
