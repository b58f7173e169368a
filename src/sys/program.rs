//! Owns: starting other programs. Must not: know what they are for, or follow them; `process` does.
//!
//! A new process inherits every open file of the thread that starts it, and exec(2) closes each with a call on its file system. If
//! a file system hangs, this call never returns, and no signal ends the new process. Programs are therefore started by a thread with
//! its own table of open files (unshare(2), `CLONE_FILES`), created before any file of a target is opened: qemu-img, hooks and mail
//! work while a target hangs.

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::Mode;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::umask;

/// Where programs are searched, instead of in the caller's `PATH`.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Files that programs create are private unless the program chooses otherwise.
const UMASK: u32 = 0o077;
/// Standard input, output and error.
const STREAMS: usize = 3;

/// One of the standard streams of a program.
#[derive(Debug)]
pub enum Stream {
    /// `/dev/null`.
    Null,
    /// A pipe, whose other end is in the [`Child`].
    Pipe,
    /// This file.
    File(OwnedFd),
}

/// A program by its name or path, with nothing but [`PATH`] in its environment.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH);
    command
}

/// Starts a program; `streams` are its standard input, output and error and replace those of the command.
///
/// # Errors
/// Those of [`Command::spawn`], or no thread or pipe can be created.
pub fn start(command: Command, streams: [Stream; STREAMS]) -> io::Result<Child> {
    // First: a table created later would contain our ends of these pipes, which then never close.
    let starter = STARTER.as_ref().map_err(|error| error.kind())?;
    let [input, output, errors] = streams;
    let (input, to_input) = input.ends(true)?;
    let (output, from_output) = output.ends(false)?;
    let (errors, from_errors) = errors.ends(false)?;
    let mut child = starter.start(command, [input, output, errors])?;
    child.stdin = to_input.map(Into::into);
    child.stdout = from_output.map(Into::into);
    child.stderr = from_errors.map(Into::into);
    Ok(child)
}

/// Creates the thread that starts programs. Otherwise the first program would create it, when files of a target may be open.
pub fn prepare() {
    LazyLock::force(&STARTER);
}

static STARTER: LazyLock<io::Result<Starter>> = LazyLock::new(Starter::new);

impl Stream {
    /// The program's end (`None`: `/dev/null`), and ours of a pipe.
    fn ends(self, is_input: bool) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
        Ok(match self {
            Stream::Null => (None, None),
            Stream::File(file) => (Some(file), None),
            Stream::Pipe => {
                let (read, write) = io::pipe()?;
                let (read, write) = (Some(read.into()), Some(write.into()));
                if is_input { (read, write) } else { (write, read) }
            }
        })
    }
}

struct Request {
    command: Command,
    /// Which of the standard streams come through the socket; the others are `/dev/null`.
    given: [bool; STREAMS],
    answer: SyncSender<io::Result<Child>>,
}

/// The way to the thread that starts programs.
struct Starter(Mutex<Ways>);

/// A file descriptor means nothing in another table, so files are passed through a socket.
struct Ways {
    requests: mpsc::Sender<Request>,
    files: UnixStream,
}

impl Starter {
    fn new() -> io::Result<Starter> {
        let (files, theirs) = UnixStream::pair()?;
        let (requests, asked) = mpsc::channel();
        let (ready, is_apart) = mpsc::sync_channel(0);
        thread::Builder::new().name("start".to_owned()).spawn(move || {
            let apart = set_apart(&theirs);
            let is_apart = apart.is_ok();
            if ready.send(apart).is_ok() && is_apart {
                serve(&asked, &theirs);
            }
        })?;
        is_apart.recv().map_err(io::Error::other)??;
        Ok(Starter(Mutex::new(Ways { requests, files })))
    }

    fn start(&self, command: Command, files: [Option<OwnedFd>; STREAMS]) -> io::Result<Child> {
        let (answer, started) = mpsc::sync_channel(0);
        let given = files.each_ref().map(Option::is_some);
        let ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&ways.files, files.into_iter().flatten().collect())?;
        ways.requests.send(Request { command, given, answer }).map_err(|_| io::ErrorKind::BrokenPipe)?;
        // The next program has to wait, because there is only one such thread, and it never ends: the kernel sends the
        // parent-death signal when the starting thread ends.
        started.recv().map_err(io::Error::other)?
    }
}

/// Gives this thread its own umask, and its own table of open files with only the standard streams and its socket: programs
/// must not get files that this process has open or has inherited itself.
fn set_apart(socket: &UnixStream) -> io::Result<()> {
    unshare(CloneFlags::CLONE_FILES | CloneFlags::CLONE_FS)?;
    umask(Mode::from_raw_mode(UMASK));
    let names = std::fs::read_dir("/proc/thread-self/fd")?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<_> = names.collect::<io::Result<_>>()?;
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|number| *number > 2 && *number != socket.as_raw_fd()) {
        // One of them was the listed folder itself, which is closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// The loop of the thread: its table contains only the streams of the program that it starts next.
fn serve(asked: &Receiver<Request>, files: &UnixStream) {
    for Request { mut command, given, answer } in asked {
        let child = receive(files).and_then(|files| {
            // At the limit of open files the kernel drops some: the output of a program would be lost.
            if files.len() != given.iter().filter(|given| **given).count() {
                return Err(io::Error::other("cannot pass its standard streams: too many open files"));
            }
            let mut files = files.into_iter();
            let streams = given.map(|given| given.then(|| files.next()).flatten());
            let [input, output, errors] = streams.map(|file| file.map_or_else(Stdio::null, Stdio::from));
            command.stdin(input).stdout(output).stderr(errors).spawn()
        });
        // Close its ends of the pipes before the caller waits for end of file.
        drop(command);
        let _ = answer.send(child);
    }
}

/// Sends open files, with a byte that keeps them apart from those of the next program. Ours are closed.
fn send(socket: &UnixStream, files: Vec<OwnedFd>) -> io::Result<()> {
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::io::retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags))?;
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_has_the_requested_streams() {
        let mut child =
            start(shell("cat; echo error >&2; exit 3"), [Stream::Pipe, Stream::Pipe, Stream::Pipe]).unwrap();
        child.stdin.take().unwrap().write_all(b"input").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &*output.stdout, &*output.stderr), (Some(3), &b"input"[..], &b"error\n"[..]));

        let (mut read, write) = io::pipe().unwrap();
        let same = write.try_clone().unwrap();
        let streams = [Stream::Null, Stream::File(write.into()), Stream::File(same.into())];
        let mut child = start(shell("readlink /proc/self/fd/0; echo error >&2"), streams).unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "/dev/null\nerror\n");
        assert!(child.wait().unwrap().success() && child.stdout.is_none());
    }

    #[test]
    fn a_program_inherits_no_open_file() {
        prepare();
        // Without close-on-exec, it would be seen in the program.
        let file = rustix::io::dup(std::fs::File::open("/proc/version").unwrap()).unwrap();
        let child = start(shell("ls -l /proc/self/fd"), [Stream::Null, Stream::Pipe, Stream::Null]).unwrap();
        let listed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        drop(file);
        assert!(!listed.contains("/proc/version") && listed.contains("pipe:"), "{listed}");
    }

    #[test]
    fn a_program_does_not_inherit_environment_and_umask() {
        assert!(std::env::vars_os().count() > 1, "the test has an environment to inherit");
        let mut command = command("sh");
        command.args(["-c", "env; umask"]);
        let child = start(command, [Stream::Null, Stream::Pipe, Stream::Null]).unwrap();
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        // A shell sets these itself.
        let own = |line: &&str| !["PWD=", "SHLVL=", "_=", "OLDPWD="].iter().any(|name| line.starts_with(name));
        let lines: Vec<_> = said.lines().filter(own).collect();
        assert_eq!(lines, [&format!("PATH={PATH}"), "0077"]);
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let error = start(Command::new("/nowhere/at-all"), [Stream::Null, Stream::Pipe, Stream::Null]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
