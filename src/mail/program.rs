//! Owns: the way of a mail through a local program, which takes it as `sendmail` does. Must not: keep what it did not take.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lettre::message::Mailbox;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use super::Error;
use crate::sys::program::{self, Stream};

/// How long it may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// How long its last words are waited for after its end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Passes a mail to the program and kills the program after `timeout`. If it rejects the mail because of one recipient, the mail
/// is sent to each recipient separately. Returns the recipients that were rejected while others were accepted.
pub(super) fn send(program: &Path, to: &[String], bytes: &[u8], timeout: Duration) -> Result<Vec<Error>, Error> {
    // `-t`: recipients are those of the header.
    let refusal = match hand(program, &["-t"], bytes, timeout) {
        Err(refusal) if refusal.is_final() && to.len() > 1 => refusal,
        handed => return handed.map(|()| Vec::new()),
    };
    let by = program.display().to_string();
    let mut refused = Vec::new();
    for to in to {
        let address = to.parse::<Mailbox>().map_or_else(|_| to.clone(), |mailbox| mailbox.email.to_string());
        if let Err(error) = hand(program, &["--", &address], bytes, timeout) {
            refused.push(Error::Recipient { to: address, by: by.clone(), source: Box::new(error) });
        }
    }
    if refused.len() == to.len() { Err(refusal) } else { Ok(refused) }
}

fn hand(program: &Path, recipients: &[&str], bytes: &[u8], timeout: Duration) -> Result<(), Error> {
    let failed = |source| Error::Sendmail { program: program.to_owned(), source };
    // `-i`: a line with a dot ends nothing.
    let mut command = program::command(program);
    command.arg("-i").args(recipients);
    let mut child = program::start(command, [Stream::Pipe, Stream::Null, Stream::Pipe]).map_err(failed)?;
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    let stdin = child.stdin.take();
    // One that reads nothing would keep us at the pipe.
    thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(text.as_bytes())));
    let stderr = child.stderr.take();
    let (said, says) = mpsc::channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.map(|stderr| stderr.take(4096).read_to_end(&mut text));
        let _ = said.send(String::from_utf8_lossy(&text).trim().to_owned());
    });
    if !ends(&child, timeout).map_err(failed)? {
        let _ = child.kill();
        let _ = child.wait();
        let by = program.display().to_string();
        return Err(Error::Slow { by, seconds: timeout.as_secs() });
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    // What it left behind may hold the pipe.
    let said = says.recv_timeout(LAST_WORDS).unwrap_or_default();
    let how = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
    Err(Error::Refused { program: program.to_owned(), code: status.code(), how })
}

/// Waits for the end of a process; whether it came.
fn ends(child: &Child, wait: Duration) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let mut events = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let timeout = Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    Ok(rustix::io::retry_on_intr(|| rustix::event::poll(&mut events, Some(&timeout)))? > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn program(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join("sendmail");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn one_that_hangs_is_ended_at_its_deadline_whether_it_reads_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![b'x'; 1 << 20];
        for reads in ["", "cat >/dev/null;"] {
            let path = program(dir.path(), &format!("echo $$ >{}/pid; {reads} exec sleep 600", dir.path().display()));
            let error = send(&path, &[], &bytes, Duration::from_secs(3)).unwrap_err();
            assert!(matches!(error, Error::Slow { .. }) && !error.is_final(), "{error}");
            let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
            assert!(!Path::new("/proc").join(pid.trim()).exists(), "it is gone");
        }
    }

    #[test]
    fn one_that_refuses_all_for_one_recipient_is_asked_for_each() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script =
            format!("cat >/dev/null; case \"$*\" in *-t|*bad*) exit 67;; esac; echo \"$*\" >>{}", log.display());
        let path = program(dir.path(), &script);
        let to = ["root", "-bad", "Ops <ops@example.org>"].map(str::to_owned);
        let refused = send(&path, &to, b"mail", TIMEOUT).unwrap();
        assert!(matches!(&refused[..], [Error::Recipient { to, .. }] if to == "-bad"), "{refused:?}");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "-i -- root\n-i -- ops@example.org\n");
        assert!(matches!(send(&path, &to[1..2], b"mail", TIMEOUT), Err(Error::Refused { code: Some(67), .. })));
    }

    #[test]
    fn its_exit_code_says_whether_it_is_of_use_to_try_again() {
        let dir = tempfile::tempdir().unwrap();
        for (code, is_final) in [(75, false), (69, false), (67, true), (65, true)] {
            let path = program(dir.path(), &format!("cat >/dev/null; echo why >&2; exit {code}"));
            let error = send(&path, &[], b"mail", TIMEOUT).unwrap_err();
            assert!(error.is_final() == is_final && error.to_string().contains("why"), "{error}");
        }
    }
}
