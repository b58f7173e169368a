//! Starts and ends one `qemu-nbd` process. Must not speak NBD.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Error, image};
use crate::model::Image;
use crate::sys::program::{self, Stream};
use crate::sys::step::{self, Step};
use crate::sys::{durable, socket};

/// Limit for the server's standard error that is kept, in bytes.
const MAX_STDERR: u64 = 16 << 10;
/// Interval of connection attempts to a starting server, which does not notify us when it is ready.
const RETRY: Duration = Duration::from_millis(5);

/// Settings of the C library's allocator (`man mallopt`). QEMU allocates a buffer for every request. By default each goes back
/// to the kernel and causes a page fault per 4 KiB, which takes half the time of `qemu-nbd`.
const KEEP_BUFFERS: [(&str, &str); 2] =
    [("MALLOC_MMAP_THRESHOLD_", "67108864"), ("MALLOC_TRIM_THRESHOLD_", "268435456")];

/// How images are opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// Takes no locks, so that a guest may start on the image while it is read. The caller must check that nothing wrote to
    /// it, because the data read would be inconsistent.
    pub force_share: bool,
    /// The chain is complete, regardless of the header of its last image.
    pub chain_ends: bool,
    /// A persistent dirty bitmap of the first image that is exported with it. The server does not start without it.
    pub bitmap: Option<&'a str>,
}

/// A running `qemu-nbd` that serves one image read-only, as export `""`, to at most 4 connections.
///
/// It is killed when this is dropped and when this process ends for any reason (`PR_SET_PDEATHSIG`, prctl(2)).
pub struct Server {
    child: Child,
    stderr: Option<JoinHandle<String>>,
    image: PathBuf,
    socket: PathBuf,
}

impl Server {
    /// Serves `chain[0]` on `socket` and returns when the image is open, after at most `timeout`. The rest of the chain are
    /// its backing images, nearest first. Unless the options end the chain, the header of the last image may name more.
    /// Removes any existing file at `socket`, whose directory must be private.
    ///
    /// # Errors
    /// [`Error::Image`] for an image on the network; [`Error::Start`], [`Error::Ended`] (with the output of `qemu-nbd`) or
    /// [`Error::NotReady`].
    pub fn start(chain: &[Image], socket: &Path, timeout: Duration, options: Options<'_>) -> Result<Server, Error> {
        let [whole, parts] = [true, false].map(|tables| image::options(chain, options, tables));
        let (whole, parts) = (whole?, parts?);
        let bitmap = options.bitmap;
        match Server::spawn(chain, socket, timeout, (&whole, bitmap)) {
            // The cluster size is unknown here and may be smaller than the default, so try again without whole tables.
            Err(Error::Ended { .. }) if whole != parts => Server::spawn(chain, socket, timeout, (&parts, bitmap)),
            started => started,
        }
    }

    fn spawn(
        chain: &[Image],
        socket: &Path,
        timeout: Duration,
        (image_options, bitmap): (&OsStr, Option<&str>),
    ) -> Result<Server, Error> {
        let image = chain.first().and_then(|image| image.source.path()).unwrap_or(Path::new("")).to_owned();
        let failed = |source| Error::Start { image: image.clone(), source };
        // Through /proc/self/cwd: the whole path may exceed the kernel's limit, and qemu-nbd rejects relative paths.
        let near = Path::new("/proc/self/cwd").join(socket.file_name().unwrap_or_default());
        step::reached(Step::ServerStart).and_then(|()| durable::remove(socket)).map_err(failed)?;
        let mut command = program::command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "qemu-nbd", "--read-only", "--persistent", "--shared=4"])
            .args([OsStr::new("--socket"), near.as_os_str(), OsStr::new("--image-opts"), image_options])
            .args(bitmap.map(|bitmap| format!("--bitmap={bitmap}")))
            .current_dir(socket.parent().unwrap_or(Path::new("/")))
            .envs(KEEP_BUFFERS)
            // Ctrl-C in a terminal must reach only this process, which ends the server itself.
            .process_group(0);
        let mut child = program::start(command, [Stream::Null, Stream::Null, Stream::Pipe]).map_err(failed)?;
        let stderr = child.stderr.take().map(|pipe| thread::spawn(move || capture(pipe)));
        let socket = socket.to_owned();
        let mut server = Server { child, stderr, image, socket };
        server.wait_until_ready(timeout)?;
        step::reached(Step::ServerStarted).map_err(|source| Error::Start { image: server.image.clone(), source })?;
        Ok(server)
    }

    /// Path of its Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the server.
    ///
    /// # Errors
    /// [`Error::Ended`] with its output, if it had already exited.
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
        // The server must end even if the step fails.
        let _ = step::reached(Step::ServerEnd);
        // SIGKILL is safe because the server only reads. `wait` also reaps a server that has already exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = durable::remove(&self.socket) {
            tracing::warn!(socket = %self.socket.display(), %error, "cannot remove a socket");
        }
    }
}

/// Waits for the greeting: the server listens before it opens the image, but sends the greeting only afterwards.
fn greets(socket: &Path, timeout: Duration) -> io::Result<()> {
    let mut stream = socket::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.read_exact(&mut [0; 8])
}

/// The start of the output, on one line. The rest is read and discarded, so that the server never blocks.
fn capture(mut pipe: ChildStderr) -> String {
    let mut said = Vec::new();
    let _ = pipe.by_ref().take(MAX_STDERR).read_to_end(&mut said);
    let _ = io::copy(&mut pipe, &mut io::sink());
    let text = String::from_utf8_lossy(&said);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
