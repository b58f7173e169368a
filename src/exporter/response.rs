//! Owns: a response, from a value to bytes. Must not: know what lies at a path.

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    Misdirected,
    HeaderTooLarge,
    Unavailable,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::Misdirected => "421 Misdirected Request",
            Status::HeaderTooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
        }
    }
}

/// What a body is, and what a browser may do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text for people.
    Text,
    /// The exposition format of Prometheus, whose scrape fails without exactly this type.
    Metrics,
    /// A page whose style has this hash, as CSP writes it.
    Page(String),
}

impl Kind {
    fn content_type(&self) -> &'static str {
        match self {
            Kind::Text => "text/plain; charset=utf-8",
            Kind::Metrics => "text/plain; version=0.0.4; charset=utf-8",
            Kind::Page(_) => "text/html; charset=utf-8",
        }
    }

    /// Nothing is ever loaded or run; a page has the style that we wrote, and no other.
    fn policy(&self) -> String {
        let style = match self {
            Kind::Page(hash) => format!(" style-src '{hash}';"),
            Kind::Text | Kind::Metrics => String::new(),
        };
        format!("default-src 'none';{style} base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    }
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub status: Status,
    pub kind: Kind,
    pub body: String,
}

impl Response {
    /// One line for people.
    pub fn text(status: Status, line: &str) -> Response {
        Response { status, kind: Kind::Text, body: format!("{line}\n") }
    }

    /// The bytes to send; the answer to HEAD is the one to GET without its body.
    pub fn bytes(&self, with_body: bool) -> Vec<u8> {
        let allow = if self.status == Status::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nContent-Security-Policy: {}\r\n{allow}\r\n",
            self.status.line(),
            self.kind.content_type(),
            self.body.len(),
            self.kind.policy(),
        );
        let body = if with_body { self.body.as_bytes() } else { &[] };
        [head.as_bytes(), body].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_tells_the_length_of_what_it_leaves_out() {
        let response = Response::text(Status::MethodNotAllowed, "no");
        let text = |with_body| String::from_utf8(response.bytes(with_body)).unwrap();
        assert_eq!(text(true), text(false) + "no\n");
        assert!(text(false).starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        assert!(text(false).contains("\r\nContent-Length: 3\r\n") && text(false).contains("\r\nAllow: GET, HEAD\r\n"));
        assert!(text(false).ends_with("\r\n\r\n"));
    }
}
