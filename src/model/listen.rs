//! Owns: where something listens, as it is written: `HOST:PORT` or `unix:/PATH`. Must not: listen, or ask a resolver.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP port.
    Tcp {
        /// A name or an address; of IPv6 without its brackets.
        host: String,
        /// 0: one that is free.
        port: u16,
    },
    /// A socket in the file system; the path is absolute and has at most [`Listen::LONGEST_PATH`] bytes.
    Unix(PathBuf),
}

/// A text that is not an address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an address to listen on")]
pub struct BadListen;

impl Listen {
    /// What is valid, for messages.
    pub const VALID: &str = "HOST:PORT, such as 127.0.0.1:9763 or [::1]:9763, or unix:/PATH";
    /// Bytes of the longest path of a socket: `sun_path` of unix(7), less the zero at its end.
    pub const LONGEST_PATH: usize = 107;
}

impl FromStr for Listen {
    type Err = BadListen;

    fn from_str(text: &str) -> Result<Listen, BadListen> {
        if let Some(path) = text.strip_prefix("unix:") {
            let right = Path::new(path).is_absolute() && path.len() <= Listen::LONGEST_PATH && !path.contains('\0');
            return if right { Ok(Listen::Unix(path.into())) } else { Err(BadListen) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(BadListen)?;
        // `u16` would take a sign, too.
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or(BadListen)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().map_err(|_| BadListen)?.to_string(),
            None if is_name(host) => host.to_owned(),
            None => return Err(BadListen),
        };
        Ok(Listen::Tcp { host, port })
    }
}

/// Whether it may be the name of a host (RFC 1123, 2.1), or an IPv4 address.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        let letters = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        letters && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Listen::Tcp { host, port } => write!(f, "{host}:{port}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_the_same() {
        for text in
            ["127.0.0.1:9763", "localhost:0", "mon-1.example.org:65535", "[::1]:9763", "[::]:1", "unix:/run/k s"]
        {
            let listen: Listen = text.parse().unwrap();
            assert_eq!(listen.to_string(), text);
        }
        assert_eq!("[0:0::1]:80".parse::<Listen>().unwrap().to_string(), "[::1]:80");
    }

    #[test]
    fn what_names_no_place_is_refused() {
        let long = format!("unix:/{}", "x".repeat(Listen::LONGEST_PATH));
        let wrong =
            ["", ":", ":9763", "9763", "a:", "a:65536", "a:-1", "a:+1", "::1:9763", "[::1]", "[::1]9763", "[a]:1"];
        let more = ["a b:1", "http://a:1", "a:1/metrics", "-a:1", "a..b:1", "unix:", "unix:run/k", "/run/k", &long];
        for text in wrong.into_iter().chain(more) {
            assert_eq!(text.parse::<Listen>(), Err(BadListen), "{text}");
        }
        assert!(long[..long.len() - 1].parse::<Listen>().is_ok());
    }
}
