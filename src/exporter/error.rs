//! Owns: why the exporter cannot serve. Must not: tell of peers; what they do is no error of ours.

use std::io;

use crate::model::Listen;

/// The exporter cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody serves there already.
    #[error("cannot listen on {listen}: another program does")]
    Taken {
        /// Where.
        listen: Listen,
    },
    /// Something else than a socket has the path of the socket.
    #[error("cannot listen on {listen}: there is a file that is no socket")]
    NoSocket {
        /// Where.
        listen: Listen,
    },
    /// The system refuses.
    #[error("cannot listen on {listen}")]
    Listen {
        /// Where.
        listen: Listen,
        /// Why.
        source: io::Error,
    },
    /// The system does not let us wait for peers.
    #[error("cannot wait for connections")]
    Wait(#[source] io::Error),
}

impl Error {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Taken { listen: Listen::Tcp { port, .. } } => {
                Some(format!("see who does: `ss -ltnp sport = :{port}`; or choose another port with --listen"))
            }
            Error::Taken { listen: Listen::Unix(path) } => {
                Some(format!("see who does: `ss -lxp src {}`; or choose another path with --listen", path.display()))
            }
            Error::NoSocket { .. } => Some("move it away, or choose another path".to_owned()),
            Error::Listen { listen: Listen::Unix(_), .. } => {
                Some("the folder of the socket must exist, and this user must be allowed to write to it".to_owned())
            }
            Error::Listen { .. } => Some("the address must be one of this host's: see `ip address`".to_owned()),
            Error::Wait(_) => None,
        }
    }
}
