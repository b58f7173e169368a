//! Owns: the head of a request, from bytes to a value. Must not: read a socket, or know what lies at a path.
//!
//! After RFC 9112, the little of it that a reader of a few pages needs: a body is never read, for no method that we answer
//! has a meaning for one.

/// Bytes of the longest head, as most servers have it.
pub(super) const LONGEST_HEAD: usize = 8 << 10;

/// A request, as far as an answer depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Case matters.
    pub method: String,
    /// Without its query.
    pub path: String,
    /// The requested host, perhaps with a port; HTTP/1.0 may omit it.
    pub host: Option<String>,
}

/// What the bytes that have come so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Head {
    /// The beginning of a head.
    Unfinished,
    /// More than [`LONGEST_HEAD`].
    TooLong,
    /// No request.
    Bad,
    /// A request.
    Whole(Request),
}

/// Reads the head of a request.
pub(super) fn head(bytes: &[u8]) -> Head {
    match end(bytes) {
        Some(end) if end <= LONGEST_HEAD => parse(&bytes[..end]).map_or(Head::Bad, Head::Whole),
        None if bytes.len() < LONGEST_HEAD => Head::Unfinished,
        _ => Head::TooLong,
    }
}

/// The length of the head with the empty line that ends it. A line may end without its CR (RFC 9112, 2.2).
fn end(bytes: &[u8]) -> Option<usize> {
    let mut line = 0;
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if line > 0 && matches!(&bytes[line..at], b"" | b"\r") {
            return Some(at + 1);
        }
        line = at + 1;
    }
    None
}

fn parse(head: &[u8]) -> Option<Request> {
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let (method, target, version) = first(lines.next()?)?;
    let fields: Vec<_> = lines.take_while(|line| !line.is_empty()).map(field).collect::<Option<_>>()?;
    let mut hosts = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, value)| *value);
    let host = hosts.next();
    // RFC 9112, 3.2.
    if hosts.next().is_some() || (host.is_none() && version == "HTTP/1.1") {
        return None;
    }
    let (authority, path) = split(target)?;
    let host = authority.or(host).map(str::to_owned);
    Some(Request { method: method.to_owned(), path: path.to_owned(), host })
}

/// Method, target and version: `GET /metrics HTTP/1.1`.
fn first(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let right = words.next().is_none() && is_token(method) && matches!(version, "HTTP/1.1" | "HTTP/1.0");
    right.then_some((method, target, version))
}

/// Name and value of a header line; one that is folded (RFC 9112, 5.2) is none.
fn field(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let right = is_token(name) && !value.chars().any(|c| c.is_control() && c != '\t');
    right.then_some((name, value.trim_matches([' ', '\t'])))
}

/// RFC 9110, 5.6.2.
fn is_token(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Path of a target, and its host if it is a whole URI (RFC 9112, 3.2.2).
fn split(target: &str) -> Option<(Option<&str>, &str)> {
    let (host, path) = match target.split_once("://") {
        Some(("http", rest)) => {
            let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            (Some(host), if path.starts_with('/') { path } else { "/" })
        }
        _ => (None, target),
    };
    let path = path.split(['?', '#']).next()?;
    (path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic())).then_some((host, path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(path: &str, host: Option<&str>) -> Head {
        Head::Whole(Request { method: "GET".to_owned(), path: path.to_owned(), host: host.map(str::to_owned) })
    }

    #[test]
    fn requests_are_read() {
        for (text, path, host) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "/", Some("a")),
            ("GET /metrics?a=b HTTP/1.0\r\n\r\n", "/metrics", None),
            ("GET /metrics HTTP/1.1\nHOST:a:1 \n\nbody", "/metrics", Some("a:1")),
            ("GET http://h:9763/-/ready HTTP/1.1\r\nhost: other\r\nX:\r\n\r\n", "/-/ready", Some("h:9763")),
            ("GET http://h HTTP/1.1\r\nHost: h\r\n\r\n", "/", Some("h")),
            ("GET http://h?x/y HTTP/1.1\r\nHost: h\r\n\r\n", "/", Some("h")),
            ("GET /%3Cb%3E HTTP/1.1\r\nHost:\r\n\r\n", "/%3Cb%3E", Some("")),
        ] {
            assert_eq!(head(text.as_bytes()), get(path, host), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_said_to_be_none() {
        for text in [
            "GET /\r\n\r\n",
            "\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "GET / HTTP/1.1 x\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nhost: a\r\n\r\n",
            "G\u{e9}T / HTTP/1.0\r\n\r\n",
            "GET * HTTP/1.0\r\n\r\n",
            "GET ../x HTTP/1.0\r\n\r\n",
            "GET /\u{7f} HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.0\r\nno colon\r\n\r\n",
            "GET / HTTP/1.0\r\nA: b\r\n folded\r\n\r\n",
            "GET / HTTP/1.0\r\nA : b\r\n\r\n",
            "GET / HTTP/1.0\r\nA: \0\r\n\r\n",
            "\x16\x03\x01\n\n",
        ] {
            assert_eq!(head(text.as_bytes()), Head::Bad, "{text:?}");
        }
        assert_eq!(head(b"GET / HTTP/1.0\r\nA: \xff\r\n\r\n"), Head::Bad);
    }

    #[test]
    fn a_head_may_be_so_long_and_no_longer() {
        let of = |length: usize| {
            let mut text = b"GET / HTTP/1.0\r\nA: ".to_vec();
            text.resize(length - 4, b'a');
            text.extend(b"\r\n\r\n");
            text
        };
        assert_eq!(head(&of(LONGEST_HEAD)), get("/", None));
        assert_eq!(head(&of(LONGEST_HEAD + 1)), Head::TooLong);
        assert_eq!(head(&of(LONGEST_HEAD)[..LONGEST_HEAD - 1]), Head::Unfinished);
        assert_eq!(head(&vec![b'a'; LONGEST_HEAD]), Head::TooLong);
    }

    proptest! {
        #[test]
        fn every_beginning_of_a_request_is_unfinished(cut in 0_usize..50) {
            let text = b"GET /metrics HTTP/1.1\r\nHost: example.org:9763\r\n\r\n";
            let cut = cut.min(text.len() - 1);
            prop_assert_eq!(head(&text[..cut]), Head::Unfinished);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            head(&bytes);
        }
    }
}
