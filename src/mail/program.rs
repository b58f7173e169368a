//! Sends mail through a local program that is called like `sendmail`. Must not keep emails that it rejects.

use std::path::Path;
use std::time::Duration;

use lettre::message::Mailbox;

use super::Error;
use crate::sys::output::BoundedOutput;
use crate::sys::process::{Answer, Ended, Process};
use crate::sys::program::{self, Stream};

/// How long the program may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum size of its output in an error, in bytes.
const MAX_OUTPUT: usize = 4096;

/// Passes an email to the program and ends the program after `timeout`. If it rejects the email because of one recipient, the email
/// is sent to each recipient separately. Returns the recipients that were rejected while others were accepted.
pub(super) fn send(program: &Path, to: &[String], bytes: &[u8], timeout: Duration) -> Result<Vec<Error>, Error> {
    // `-t`: the recipients are those of the header.
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
    // `-i`: a line with a single dot does not end the email.
    let mut command = program::command(program);
    command.arg("-i").args(recipients);
    let input = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    let output = BoundedOutput::new("sendmail", MAX_OUTPUT);
    let mut process = Process::start(command, Stream::Pipe, Answer::Joined, output).map_err(failed)?;
    process.write_input(input.into_bytes());
    let ran = process.run(timeout, None).map_err(failed)?;
    let (code, status) = match ran.ended {
        Ended::Exit(0) => return Ok(()),
        Ended::Exit(code) => (Some(code), format!("exit status {code}")),
        Ended::Signal(signal) => (None, format!("ended by signal {signal}")),
        Ended::TimedOut | Ended::Cancelled => {
            return Err(Error::Slow { by: program.display().to_string(), seconds: timeout.as_secs() });
        }
    };
    let said = ran.output.trim();
    let how = if said.is_empty() { status } else { format!("{status}: {said}") };
    Err(Error::Refused { program: program.to_owned(), code, how })
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
    fn hung_program_is_terminated_at_its_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![b'x'; 1 << 20];
        for reads in ["", "cat >/dev/null;"] {
            let path = program(dir.path(), &format!("echo $$ >{}/pid; {reads} exec sleep 600", dir.path().display()));
            let error = send(&path, &[], &bytes, Duration::from_secs(3)).unwrap_err();
            assert!(matches!(error, Error::Slow { .. }) && !error.is_final(), "{error}");
            let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
            assert!(!Path::new("/proc").join(pid.trim()).exists(), "the program must be terminated");
        }
    }

    #[test]
    fn each_recipient_is_tried_alone_after_a_refusal() {
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
    fn the_exit_code_decides_whether_to_try_again() {
        let dir = tempfile::tempdir().unwrap();
        for (code, is_final) in [(75, false), (69, false), (67, true), (65, true)] {
            let path = program(dir.path(), &format!("cat >/dev/null; echo why >&2; exit {code}"));
            let error = send(&path, &[], b"mail", TIMEOUT).unwrap_err();
            assert!(error.is_final() == is_final && error.to_string().contains("why"), "{error}");
        }
    }
}
