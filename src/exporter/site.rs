//! Owns: what lies at which path, made afresh from the state directory for every request. Must not: change it, or tell a
//! peer more of an error than that there is one.

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

/// What is served: the state directory of one host.
#[derive(Debug)]
pub struct Site {
    state_dir: PathBuf,
    hosts: Hosts,
}

/// Makes an answer from the state directory.
pub(super) type Read = fn(&Site, &Listen) -> Response<String>;

/// Where an answer comes from.
pub(super) enum Route {
    /// It depends on nothing but the request.
    Known(Response<String>),
    /// It is the page, which takes longer to make than the others.
    Page,
    Read(Read),
}

impl Route {
    fn text(status: StatusCode, line: &str) -> Route {
        Route::Known(response::text(status, line))
    }
}

/// What the state directory says.
struct State {
    ledger: Ledger,
    survey: Option<Survey>,
    running: bool,
}

impl Site {
    /// Serves this state folder to requests whose `Host` is one of these names, a loopback address, or the address that the
    /// peer connected to.
    pub fn new(state_dir: &Path, names: Vec<String>) -> Site {
        Site { state_dir: state_dir.to_owned(), hosts: Hosts::new(names) }
    }

    /// Where the answer for a peer that connected to `at` comes from.
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

    /// A state that cannot be read is a metric, not an error: Prometheus would only see a target that is down.
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
        // A state directory that is gone would read as one in which nothing has happened yet.
        std::fs::read_dir(&self.state_dir).inspect_err(|error| told(error)).ok()?;
        let ledger = Ledger::load(&self.state_dir).inspect_err(|error| told(error)).ok()?;
        let survey = Survey::load(&self.state_dir).inspect_err(|error| told(error)).ok()?;
        Some(State { ledger, survey, running: lock::is_held(&self.state_dir.join("lock")).unwrap_or(false) })
    }
}

/// The host that a request names, which HTTP/1.0 may leave out; `None` if the request is none that we answer. The host of a
/// whole URI counts, not the one beside it (RFC 9112, 3.2).
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
