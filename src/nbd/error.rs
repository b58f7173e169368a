//! Owns: everything that can go wrong with NBD. Must not: decide what follows from it.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why an export cannot be read or served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers at the socket.
    #[error("cannot connect to the NBD server at {}", socket.display())]
    Connect {
        /// The unix socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server made no progress in time.
    #[error("the NBD server at {} made no progress for {} s", socket.display(), timeout.as_secs_f64())]
    Stalled {
        /// The unix socket.
        socket: PathBuf,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The server ended the connection.
    #[error("the NBD server at {} closed the connection", socket.display())]
    Closed {
        /// The unix socket.
        socket: PathBuf,
    },
    /// The connection failed.
    #[error("the connection to the NBD server at {} failed", socket.display())]
    Io {
        /// The unix socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server said what the protocol does not allow, or what was not asked.
    #[error("the NBD server at {} violated the protocol: {what}", socket.display())]
    Protocol {
        /// The unix socket.
        socket: PathBuf,
        /// What it did.
        what: &'static str,
    },
    /// The server refuses the export.
    #[error("the NBD server at {} refuses the export '{export}': {reason}", socket.display())]
    Export {
        /// The unix socket.
        socket: PathBuf,
        /// The export's name.
        export: String,
        /// What the server says.
        reason: String,
    },
    /// The server could not do what was asked.
    #[error("the NBD server at {} cannot {what} {length} bytes at {offset}{}", socket.display(), detail(message))]
    Request {
        /// The unix socket.
        socket: PathBuf,
        /// `read` or `map`.
        what: &'static str,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// What the server says; may be empty.
        message: String,
        /// The error number that it gave.
        source: io::Error,
    },
    /// A range to read is not inside the export.
    #[error("a range of {length} bytes at {offset} is outside the export of {size} bytes")]
    Range {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// The export's bytes.
        size: u64,
    },
    /// An earlier call on this client failed, and left the connection in the middle of a reply.
    #[error("the connection to the NBD server was closed after an earlier failure")]
    Broken,
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The image is not one that `qemu-nbd` is given here.
    #[error("cannot serve {image}: it is neither a file nor a block device")]
    Image {
        /// The image, as far as it has a name.
        image: String,
    },
    /// The images below an image cannot be told, or must not be read for it.
    #[error("cannot determine the images below {}", image.display())]
    Chain {
        /// The image.
        image: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server's program or its socket's place cannot be used.
    #[error("cannot start qemu-nbd for {}", image.display())]
    Start {
        /// The image to serve.
        image: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server ended by itself.
    #[error("qemu-nbd for {} exited ({status}){}", image.display(), detail(stderr))]
    Ended {
        /// The image it served.
        image: PathBuf,
        /// How.
        status: ExitStatus,
        /// What it wrote to its standard error, on one line.
        stderr: String,
    },
    /// The server runs and does not serve.
    #[error("qemu-nbd for {} was not ready after {} s", image.display(), timeout.as_secs_f64())]
    NotReady {
        /// The image to serve.
        image: PathBuf,
        /// How long it was waited for.
        timeout: Duration,
    },
}

impl Error {
    /// What the operator can do, where there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Chain { .. } => {
                "Check the backing file in its header: qemu-img info -U FILE. Correct it with `qemu-img rebase -u`, \
                 add <backingStore> to the definition, or back the guest up while it runs."
            }
            Error::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "Install setpriv (Debian: util-linux), and check that the socket's directory exists."
            }
            Error::Ended { status, .. } if status.code() == Some(127) => "Install qemu-nbd (Debian: qemu-utils).",
            Error::Ended { stderr, .. } if stderr.contains("lock") => {
                "Another process has the image open. Find it with `fuser`."
            }
            Error::Ended { stderr, .. } if stderr.contains("Permission denied") => {
                "Check the owner and mode of the image, and AppArmor or SELinux rules."
            }
            Error::Stalled { .. } | Error::NotReady { .. } => {
                "Check that the disk's storage responds (`dmesg`, network mounts)."
            }
            Error::Request { source, .. } if source.raw_os_error() == Some(5) => {
                "The disk's storage cannot read these bytes. Check `dmesg`, and run `qemu-img check` on the image."
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// `: text`, or nothing.
fn detail(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}
