//! Builds responses: status, body, and headers that restrict browsers. It must not know paths.

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

/// The type of a body.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Plain text for people.
    Text,
    /// The exposition format of Prometheus, whose scrape fails without exactly this type.
    Metrics,
    /// A page whose style has this hash, in CSP notation.
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

    /// The content security policy: a page loads and runs nothing, and only its own style applies.
    fn policy(&self) -> String {
        let style = match self {
            Kind::Page(hash) => format!(" style-src '{hash}';"),
            Kind::Text | Kind::Metrics => String::new(),
        };
        format!("default-src 'none';{style} base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    }
}

/// A response with this body.
pub(super) fn of(status: StatusCode, kind: &Kind, body: String) -> Response<String> {
    let policy = HeaderValue::try_from(kind.policy());
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().extend([
        (header::CONTENT_TYPE, HeaderValue::from_static(kind.content_type())),
        (header::CONTENT_SECURITY_POLICY, policy.unwrap_or(HeaderValue::from_static("default-src 'none'"))),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ]);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// One line for people.
pub(super) fn text(status: StatusCode, line: &str) -> Response<String> {
    of(status, &Kind::Text, format!("{line}\n"))
}
