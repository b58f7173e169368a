//! Owns: what lies at which path, made afresh from the state directory for every request. Must not: change it, or tell a
//! peer more of an error than that there is one.

use std::path::{Path, PathBuf};
use std::time::Instant;

use chrono::Utc;

use super::hosts::Hosts;
use super::request::Request;
use super::response::{Kind, Response, Status};
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

    /// Answers a peer that connected to `at`.
    pub(super) fn answer(&self, request: &Request, at: &Listen) -> Response {
        if !self.hosts.allow(request.host.as_deref(), at) {
            return Response::text(
                Status::Misdirected,
                "this host name is not in `metrics.hosts` of the configuration",
            );
        }
        let make = match request.path.as_str() {
            "/" => Site::page,
            "/metrics" => Site::metrics,
            "/-/healthy" => |_: &Site, _: &Listen| Response::text(Status::Ok, "kvmbackup is healthy"),
            "/-/ready" => Site::ready,
            ours::PATH => Site::nonce,
            _ => return not_found(),
        };
        match request.method.as_str() {
            "GET" | "HEAD" => make(self, at),
            _ => Response::text(Status::MethodNotAllowed, "only GET and HEAD"),
        }
    }

    fn page(&self, _: &Listen) -> Response {
        let Some(state) = self.state() else { return unreadable() };
        let body = page::html(&state.ledger, state.survey.as_ref(), state.running, Utc::now());
        Response { status: Status::Ok, kind: Kind::Page(page::style_hash()), body }
    }

    /// A state that cannot be read is a metric, not an error: Prometheus would only see a target that is down.
    fn metrics(&self, _: &Listen) -> Response {
        let began = Instant::now();
        let state = self.state();
        let text = match &state {
            Some(state) => metrics::text(&state.ledger, state.survey.as_ref(), state.running),
            None => Ok(String::new()),
        };
        let own = |text: String| Ok(text + &metrics::exporter_text(state.is_some(), began.elapsed())?);
        text.and_then(own).map_or_else(
            |error: metrics::Error| {
                tracing::warn!("the metrics cannot be made: {error}");
                Response::text(Status::Unavailable, "the metrics cannot be made")
            },
            |body| Response { status: Status::Ok, kind: Kind::Metrics, body },
        )
    }

    fn ready(&self, _: &Listen) -> Response {
        self.state().map_or_else(unreadable, |_| Response::text(Status::Ok, "kvmbackup is ready"))
    }

    fn nonce(&self, at: &Listen) -> Response {
        ours::answer(&self.state_dir, at).map_or_else(not_found, |proof| Response::text(Status::Ok, &proof))
    }

    fn state(&self) -> Option<State> {
        let told = |error: &dyn std::fmt::Display| tracing::debug!("the state directory cannot be read: {error}");
        // A state directory that is gone would read as one in which nothing has happened yet.
        std::fs::read_dir(&self.state_dir).inspect_err(|error| told(error)).ok()?;
        let ledger = Ledger::load(&self.state_dir).inspect_err(|error| told(error)).ok()?;
        let survey = Survey::load(&self.state_dir).inspect_err(|error| told(error)).ok()?;
        Some(State { ledger, survey, running: lock::is_held(&self.state_dir.join("lock")).unwrap_or(false) })
    }
}

fn unreadable() -> Response {
    Response::text(Status::Unavailable, "the state directory cannot be read")
}

fn not_found() -> Response {
    Response::text(Status::NotFound, "there is: / /metrics /-/healthy /-/ready")
}
