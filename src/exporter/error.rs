//! Errors of the exporter. It must not report the behaviour of clients, which is not an error of the exporter.

use std::io;

use crate::model::Listen;

/// The exporter cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another program uses the address.
    #[error("cannot listen on {listen}: another program uses it")]
    Taken {
        /// Where.
        listen: Listen,
    },
    /// The path of the socket is taken by another file.
    #[error("cannot listen on {listen}: the file exists and is not a socket")]
    NoSocket {
        /// Where.
        listen: Listen,
    },
    /// The system rejects the address.
    #[error("cannot listen on {listen}")]
    Listen {
        /// Where.
        listen: Listen,
        /// Why.
        source: io::Error,
    },
    /// The system cannot wait for connections.
    #[error("cannot wait for connections")]
    Wait(#[source] io::Error),
}

impl Error {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Taken { listen: Listen::Tcp { port, .. } } => Some(format!(
                "See which program it is with `ss -ltnp sport = :{port}`, or choose another port with --listen."
            )),
            Error::Taken { listen: Listen::Unix(path) } => Some(format!(
                "See which program it is with `ss -lxp src {}`, or choose another path with --listen.",
                path.display()
            )),
            Error::NoSocket { .. } => Some("Move the file away, or choose another path with --listen.".to_owned()),
            Error::Listen { listen: Listen::Unix(_), .. } => {
                Some("Create the directory of the socket, and make it writable for this user.".to_owned())
            }
            Error::Listen { .. } => Some("Use an address of this host: `ip address`".to_owned()),
            Error::Wait(_) => None,
        }
    }
}
