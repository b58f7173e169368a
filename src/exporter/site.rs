//! Maps paths to responses, which are built from the state directory for each request. It must not change the state directory,
//! or disclose details of errors to clients.

use std::path::{Path, PathBuf};
use std::time::Instant;

use chrono::Utc;

use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode, Version};

use super::hosts::Hosts;
use super::response::{self, Kind};
use super::{ours, page};
use crate::ledger::{Ledger, Survey};
use crate::metrics;
use crate::model::Listen;
use crate::sys::lock;

/// The site: serves the state directory of one host.
#[derive(Debug)]
pub struct Site {
    state_dir: PathBuf,
    hosts: Hosts,
}

/// Builds a response from the state directory.
pub(super) type Read = fn(&Site, &Listen) -> Response<String>;

/// The source of a response.
pub(super) enum Route {
    /// It depends only on the request.
    Known(Response<String>),
    /// The status page, which takes longer to build than other responses.
    Page,
    Read(Read),
}

impl Route {
    fn text(status: StatusCode, line: &str) -> Route {
        Route::Known(response::text(status, line))
    }
}

/// The contents of the state directory.
struct State {
    ledger: Ledger,
    survey: Option<Survey>,
    running: bool,
}

impl Site {
    /// Serves this state directory to requests whose `Host` is one of these names, a loopback address, or the address that the
    /// peer connected to.
    pub fn new(state_dir: &Path, names: Vec<String>) -> Site {
        Site { state_dir: state_dir.to_owned(), hosts: Hosts::new(names) }
    }

    /// The source of the response for a peer that connected to `at`.
    pub(super) fn route<B>(&self, request: &Request<B>, at: &Listen) -> Route {
        let Some(host) = host(request) else {
            return Route::text(StatusCode::BAD_REQUEST, "not an HTTP/1.1 request");
        };
        if !self.hosts.allow(host, at) {
            let line = "this host name is not in `metrics.hosts` of the configuration";
            return Route::text(StatusCode::MISDIRECTED_REQUEST, line);
        }
        let route = match request.uri().path() {
            "/" => Route::Page,
            "/metrics" => Route::Read(Site::metrics),
            "/-/healthy" => Route::text(StatusCode::OK, "kvmbackup is healthy"),
            "/-/ready" => Route::Read(Site::ready),
            ours::PATH => Route::Read(Site::nonce),
            _ => return Route::Known(not_found()),
        };
        match *request.method() {
            Method::GET | Method::HEAD => route,
            _ => Route::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed"),
        }
    }

    pub(super) fn page(&self, _: &Listen) -> Response<String> {
        let Some(state) = self.state() else { return unreadable() };
        let html = page::html(&state.ledger, state.survey.as_ref(), state.running, Utc::now());
        html.map_or_else(
            |error| {
                tracing::error!("cannot render the status page: {error}");
                response::text(StatusCode::INTERNAL_SERVER_ERROR, "cannot render the page")
            },
            |body| response::of(StatusCode::OK, &Kind::Page(page::style_hash()), body),
        )
    }

    /// An unreadable state is reported as a metric, because with an HTTP error Prometheus would only see a failed scrape.
    fn metrics(&self, _: &Listen) -> Response<String> {
        let began = Instant::now();
        let state = self.state();
        let text = match &state {
            Some(state) => metrics::text(&state.ledger, state.survey.as_ref(), state.running),
            None => Ok(String::new()),
        };
        let own = |text: String| Ok(text + &metrics::exporter_text(state.is_some(), began.elapsed())?);
        text.and_then(own).map_or_else(
            |error: metrics::Error| {
                tracing::warn!("cannot build the metrics: {error}");
                response::text(StatusCode::SERVICE_UNAVAILABLE, "cannot build the metrics")
            },
            |body| response::of(StatusCode::OK, &Kind::Metrics, body),
        )
    }

    fn ready(&self, _: &Listen) -> Response<String> {
        self.state().map_or_else(unreadable, |_| response::text(StatusCode::OK, "kvmbackup is ready"))
    }

    fn nonce(&self, at: &Listen) -> Response<String> {
        ours::answer(&self.state_dir, at).map_or_else(not_found, |proof| response::text(StatusCode::OK, &proof))
    }

    fn state(&self) -> Option<State> {
        let told = |error: &dyn std::fmt::Display| tracing::debug!("cannot read the state directory: {error}");
        // A missing state directory would look like one without any runs.
        std::fs::read_dir(&self.state_dir).inspect_err(|error| told(error)).ok()?;
        let ledger = Ledger::load(&self.state_dir).inspect_err(|error| told(error)).ok()?;
        let survey = Survey::load(&self.state_dir).inspect_err(|error| told(error)).ok()?;
        Some(State { ledger, survey, running: lock::is_held(&self.state_dir.join("lock")).unwrap_or(false) })
    }
}

/// The host of a request, which HTTP/1.0 may omit; `None` if the request is invalid. The host of an absolute URI takes
/// precedence over the header (RFC 9112, 3.2).
fn host<B>(request: &Request<B>) -> Option<Option<&str>> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match hosts.next() {
        Some(host) => Some(host.to_str().ok()?),
        None => None,
    };
    let is_one = hosts.next().is_none() && (host.is_some() || request.version() == Version::HTTP_10);
    let authority = request.uri().authority().map(hyper::http::uri::Authority::as_str);
    (is_one && request.uri().path().starts_with('/')).then_some(authority.or(host))
}

fn unreadable() -> Response<String> {
    response::text(StatusCode::SERVICE_UNAVAILABLE, "cannot read the state directory")
}

fn not_found() -> Response<String> {
    response::text(StatusCode::NOT_FOUND, "not found; valid: / /metrics /-/healthy /-/ready")
}
