//! Runs external tools and panics with their error output if they fail. It knows nothing of guests.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

thread_local! {
    /// The prefix of every command of this thread; see [`super::Host::on`].
    static PREFIX: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Makes every command that `act` starts in this thread begin with this prefix.
pub(super) fn at<T>(prefix: Vec<String>, act: impl FnOnce() -> T) -> T {
    /// Also when `act` panics.
    struct Before(Vec<String>);
    impl Drop for Before {
        fn drop(&mut self) {
            PREFIX.replace(std::mem::take(&mut self.0));
        }
    }
    let _before = Before(PREFIX.replace(prefix));
    act()
}

/// A command for this thread's host, without input.
pub(super) fn command(program: &str) -> Command {
    let prefix = PREFIX.with_borrow(Clone::clone);
    let mut words = prefix.iter().map(String::as_str).chain([program]);
    let mut command = Command::new(words.next().expect("there is at least the program"));
    command.args(words).stdin(Stdio::null());
    command
}

/// Runs a program without input and returns its result.
pub fn try_run(program: &str, args: &[impl AsRef<OsStr>]) -> Output {
    let run = command(program).args(args).output();
    run.unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
}

/// Runs a program and returns its standard output. Panics if it fails.
pub fn run(program: &str, args: &[impl AsRef<OsStr>]) -> String {
    let output = try_run(program, args);
    if !output.status.success() {
        let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
        panic!("{program} {args:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `virsh` and returns its standard output. Panics if it fails.
pub fn virsh(args: &[&str]) -> String {
    run("virsh", &[&["--quiet"], args].concat())
}

/// Runs several commands of `virsh` in one process, because starting one costs more than most commands; returns the
/// standard output of each. Panics if one fails.
pub fn virsh_all<const N: usize>(commands: [&str; N]) -> [String; N] {
    let output = try_run("virsh", &["--quiet", &commands.join(&format!("; echo {MARK}; "))]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "virsh {commands:?}: {}: {errors}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let answers: Vec<_> = text.split(MARK).map(str::to_owned).collect();
    answers.try_into().expect("every command has one answer")
}

/// The separator between the answers of several commands.
const MARK: &str = "@next-answer@";

/// Runs `virsh`; returns the standard output, or the error text.
pub fn try_virsh(args: &[&str]) -> Result<String, String> {
    let output = try_run("virsh", &[&["--quiet"], args].concat());
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Runs `qemu-img` and returns its standard output. Panics if it fails.
pub fn qemu_img(args: &[impl AsRef<OsStr>]) -> String {
    run("qemu-img", args)
}
