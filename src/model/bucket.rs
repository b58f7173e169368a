//! The URL of a repository in a bucket of an S3 server, as restic writes it. Must not connect to the server.

use std::fmt;
use std::str::FromStr;

/// `s3:https://HOST[:PORT]/BUCKET[/PREFIX]`; `http` is for tests and private networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketUrl {
    /// Scheme, host and port: `https://s3.example.org`.
    pub endpoint: String,
    /// Name of the bucket.
    pub bucket: String,
    /// What the names of all objects start with, without slashes at either end; may be empty.
    pub prefix: String,
}

impl BucketUrl {
    /// The valid form, for messages.
    pub const VALID: &str = "s3:https://HOST[:PORT]/BUCKET[/PREFIX]";

    /// Whether a text is meant as such a URL, and not as a path.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("s3:")
    }

    /// Whether the server is reached without TLS.
    pub fn is_plain(&self) -> bool {
        self.endpoint.starts_with("http:")
    }
}

/// The text is not the URL of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the URL of a bucket")]
pub struct BadBucketUrl;

impl FromStr for BucketUrl {
    type Err = BadBucketUrl;

    fn from_str(text: &str) -> Result<BucketUrl, BadBucketUrl> {
        let url = text.strip_prefix("s3:").ok_or(BadBucketUrl)?;
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).ok_or(BadBucketUrl)?;
        let (host, path) = rest.split_once('/').ok_or(BadBucketUrl)?;
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let parts = prefix.split('/').all(is_name);
        if !is_host(host) || !is_name(bucket) || bucket.len() > 63 || !(prefix.is_empty() || parts) {
            return Err(BadBucketUrl);
        }
        let endpoint = url[..url.len() - rest.len() + host.len()].to_owned();
        Ok(BucketUrl { endpoint, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

/// A host name or address, possibly with a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, port)) => (address, Some(port.strip_prefix(':').unwrap_or_default())),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_address = text.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_ok();
    let is_word = (1..=253).contains(&host.len())
        && host.starts_with(|c: char| c.is_ascii_alphanumeric())
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    (is_address || is_word) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Names that neither a URL nor a shell treats specially.
fn is_name(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3:{}/{}", self.endpoint, self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_buckets_are_read_as_restic_reads_them() {
        for (text, endpoint, bucket, prefix) in [
            ("s3:https://s3.example.org/backup", "https://s3.example.org", "backup", ""),
            ("s3:http://127.0.0.1:9000/b.1/a/b-c", "http://127.0.0.1:9000", "b.1", "a/b-c"),
            ("s3:https://[::1]:443/b/p/", "https://[::1]:443", "b", "p"),
        ] {
            let url: BucketUrl = text.parse().unwrap();
            assert_eq!((&*url.endpoint, &*url.bucket, &*url.prefix), (endpoint, bucket, prefix));
            assert_eq!(url.to_string(), text.trim_end_matches('/'));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "/srv/backup",
            "s3:",
            "s3:host/bucket",
            "s3:ftp://host/bucket",
            "s3:https://host",
            "s3:https://host/",
            "s3:https:///bucket",
            "s3:https://key:secret@host/bucket",
            "s3:https://host:0/bucket",
            "s3:https://host:x/bucket",
            "s3:https://[::1/bucket",
            "s3:https://host/bucket//prefix",
            "s3:https://host/bucket/../prefix",
            "s3:https://host/bucket?x=1",
            "s3:https://host/buck et",
            "s3:https://host/b'b",
        ] {
            assert_eq!(text.parse::<BucketUrl>(), Err(BadBucketUrl), "{text}");
        }
    }
}
