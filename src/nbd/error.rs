//! Errors of NBD. Must not decide how to handle them.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why an export cannot be read or served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing listens on the socket.
    #[error("cannot connect to the NBD server at {}", socket.display())]
    Connect {
        /// Path of the Unix socket.
        socket: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The server made no progress in time.
    #[error("the NBD server at {} made no progress for {} s", socket.display(), timeout.as_secs_f64())]
    Stalled {
        /// Path of the Unix socket.
        socket: PathBuf,
        /// The limit that was exceeded.
        timeout: Duration,
    },
    /// The server closed the connection.
    #[error("the NBD server at {} closed the connection", socket.display())]
    Closed {
        /// Path of the Unix socket.
        socket: PathBuf,
    },
    /// The connection failed.
    #[error("the connection to the NBD server at {} failed", socket.display())]
    Io {
        /// Path of the Unix socket.
        socket: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The server sent something that the protocol does not allow or that was not requested.
    #[error("the NBD server at {} violated the protocol: {what}", socket.display())]
    Protocol {
        /// Path of the Unix socket.
        socket: PathBuf,
        /// The violation.
        what: &'static str,
    },
    /// The server refuses the export.
    #[error("the NBD server at {} refuses the export '{export}': {reason}", socket.display())]
    Export {
        /// Path of the Unix socket.
        socket: PathBuf,
        /// Name of the export.
        export: String,
        /// The message of the server.
        reason: String,
    },
    /// The server does not have this dirty bitmap.
    #[error("the NBD server at {} has no dirty bitmap {bitmap}", socket.display())]
    NoBitmap {
        /// Path of the Unix socket.
        socket: PathBuf,
        /// Name of the bitmap.
        bitmap: String,
    },
    /// The server reported an error for a request.
    #[error("the NBD server at {} cannot {what} {length} bytes at {offset}{}", socket.display(), detail(message))]
    Request {
        /// Path of the Unix socket.
        socket: PathBuf,
        /// `read` or `map`.
        what: &'static str,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// The message of the server; may be empty.
        message: String,
        /// The error number of the server.
        source: io::Error,
    },
    /// A requested range is not inside the export.
    #[error("a range of {length} bytes at {offset} is outside the export of {size} bytes")]
    Range {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// Size of the export in bytes.
        size: u64,
    },
    /// An earlier call on this client failed and left the connection in the middle of a reply.
    #[error("the connection to the NBD server was closed after an earlier failure")]
    Broken,
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The image is neither a file nor a block device.
    #[error("cannot serve {image}: it is neither a file nor a block device")]
    Image {
        /// The image, for display.
        image: String,
    },
    /// The images below an image are unknown or must not be read.
    #[error("cannot determine the images below {}", image.display())]
    Chain {
        /// Path of the image.
        image: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The program cannot be started, or its socket cannot be created.
    #[error("cannot start qemu-nbd for {}", image.display())]
    Start {
        /// Path of the image.
        image: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The server exited.
    #[error("qemu-nbd for {} exited ({status}){}", image.display(), detail(stderr))]
    Ended {
        /// Path of the image.
        image: PathBuf,
        /// Its exit status.
        status: ExitStatus,
        /// Its standard error, on one line.
        stderr: String,
    },
    /// The server runs but does not serve the image.
    #[error("qemu-nbd for {} was not ready after {} s", image.display(), timeout.as_secs_f64())]
    NotReady {
        /// Path of the image.
        image: PathBuf,
        /// The limit that was exceeded.
        timeout: Duration,
    },
}

impl Error {
    /// What the operator can do.
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

/// `: text`, or nothing if the text is empty.
fn detail(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}
