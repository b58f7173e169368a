//! Owns: the life of one `qemu-nbd` process. Must not: talk NBD to it.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Error, image};
use crate::model::Image;
use crate::sys::program::{self, Stream};
use crate::sys::step::{self, Step};
use crate::sys::{durable, socket};

/// Bytes of the server's standard error that are kept.
const MAX_STDERR: u64 = 16 << 10;
/// How often a starting server is tried. A process that is not ours cannot be waited for otherwise.
const RETRY: Duration = Duration::from_millis(5);

/// Settings of the C library's allocator (`man mallopt`): QEMU takes a fresh buffer for every request, and without these
/// each goes back to the kernel and costs a page fault for every 4 KiB, half the time of `qemu-nbd`.
const KEEP_BUFFERS: [(&str, &str); 2] =
    [("MALLOC_MMAP_THRESHOLD_", "67108864"), ("MALLOC_TRIM_THRESHOLD_", "268435456")];

/// How images are opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Take no locks, so that a guest may start on the image while it is read. What is read then is not consistent, and it is
    /// for the caller to see that nothing wrote.
    pub force_share: bool,
    /// The chain given is the whole one, whatever the header of its last image says.
    pub chain_ends: bool,
}

/// A running `qemu-nbd` that serves one image read-only, under the export name `""`, to up to 4 connections.
///
/// It ends when this is dropped, and with this process, however that ends (`PR_SET_PDEATHSIG`, prctl(2)).
pub struct Server {
    child: Child,
    stderr: Option<JoinHandle<String>>,
    image: PathBuf,
    socket: PathBuf,
}

impl Server {
    /// Starts serving `chain[0]` at `socket`, and returns once the image is open and served, `timeout` later at most. The rest of the
    /// chain are its backing images, nearest first; below the last, its own header names them unless the options say that the
    /// chain ends. Whatever lies at `socket` is removed: its folder must be ours alone.
    ///
    /// # Errors
    /// [`Error::Image`] for an image on the network; [`Error::Start`], [`Error::Ended`] (with what `qemu-nbd` said) or
    /// [`Error::NotReady`].
    pub fn start(chain: &[Image], socket: &Path, timeout: Duration, options: Options) -> Result<Server, Error> {
        let [whole, parts] = [true, false].map(|tables| image::options(chain, options, tables));
        let (whole, parts) = (whole?, parts?);
        match Server::spawn(chain, socket, timeout, &whole) {
            // It may be for smaller clusters than usual, which cannot be seen from here.
            Err(Error::Ended { .. }) if whole != parts => Server::spawn(chain, socket, timeout, &parts),
            started => started,
        }
    }

    fn spawn(chain: &[Image], socket: &Path, timeout: Duration, arguments: &OsStr) -> Result<Server, Error> {
        let image = chain.first().and_then(|image| image.source.path()).unwrap_or(Path::new("")).to_owned();
        let failed = |source| Error::Start { image: image.clone(), source };
        // By way of its folder: the whole path may be longer than the kernel takes, and a relative one is refused.
        let near = Path::new("/proc/self/cwd").join(socket.file_name().unwrap_or_default());
        step::reached(Step::ServerStart).and_then(|()| durable::remove(socket)).map_err(failed)?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "qemu-nbd", "--read-only", "--persistent", "--shared=4"])
            .args([OsStr::new("--socket"), near.as_os_str(), OsStr::new("--image-opts"), arguments])
            .current_dir(socket.parent().unwrap_or(Path::new("/")))
            .envs(KEEP_BUFFERS)
            // A terminal's interrupt is for us alone; we end it in our order.
            .process_group(0);
        let mut child = program::start(command, [Stream::Null, Stream::Null, Stream::Pipe]).map_err(failed)?;
        let stderr = child.stderr.take().map(|pipe| thread::spawn(move || capture(pipe)));
        let socket = socket.to_owned();
        let mut server = Server { child, stderr, image, socket };
        server.wait_until_ready(timeout)?;
        step::reached(Step::ServerStarted).map_err(|source| Error::Start { image: server.image.clone(), source })?;
        Ok(server)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it, and tells if it had ended before.
    ///
    /// # Errors
    /// [`Error::Ended`] with what it said.
    pub fn finish(mut self) -> Result<(), Error> {
        self.still_runs()
    }

    fn wait_until_ready(&mut self, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        loop {
            self.still_runs()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NotReady { image: self.image.clone(), timeout });
            }
            if greets(&self.socket, left).is_ok() {
                return Ok(());
            }
            thread::sleep(RETRY);
        }
    }

    fn still_runs(&mut self) -> Result<(), Error> {
        let failed = |source| Error::Start { image: self.image.clone(), source };
        let Some(status) = self.child.try_wait().map_err(failed)? else { return Ok(()) };
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Err(Error::Ended { image: self.image.clone(), status, stderr })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // However that step fails, it has to end.
        let _ = step::reached(Step::ServerEnd);
        // It only reads, so it needs no time to end. One that has ended already is reaped all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = durable::remove(&self.socket) {
            tracing::warn!(socket = %self.socket.display(), %error, "cannot remove a socket");
        }
    }
}

/// Waits for the first words of the server: it listens before it opens the image, and greets only afterwards.
fn greets(socket: &Path, timeout: Duration) -> io::Result<()> {
    let mut stream = socket::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.read_exact(&mut [0; 8])
}

/// The beginning of what the server says, on one line; the rest is read and dropped, so that it never waits for us.
fn capture(mut pipe: ChildStderr) -> String {
    let mut said = Vec::new();
    let _ = pipe.by_ref().take(MAX_STDERR).read_to_end(&mut said);
    let _ = io::copy(&mut pipe, &mut io::sink());
    let text = String::from_utf8_lossy(&said);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
