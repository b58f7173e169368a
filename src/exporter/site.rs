//! Owns: what lies at which path, made afresh from the state directory for every request. Must not: change it, or tell a
//! peer more of an error than that there is one.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::Utc;

use super::page;
use super::request::Request;
use super::response::{Kind, Response, Status};
use crate::ledger::{Ledger, Survey};
use crate::metrics;
use crate::model::Listen;
use crate::sys::lock;

/// What a living exporter says of itself, and how others know it.
const HEALTHY: &str = "kvmbackup is healthy";

/// What is served: the state directory of one host.
#[derive(Debug)]
pub struct Site {
    state_dir: PathBuf,
}

/// What the state directory says.
struct State {
    ledger: Ledger,
    survey: Option<Survey>,
    running: bool,
}

impl Site {
    /// What this state directory says.
    pub fn new(state_dir: &Path) -> Site {
        Site { state_dir: state_dir.to_owned() }
    }

    pub(super) fn answer(&self, request: &Request) -> Response {
        let make = match request.path.as_str() {
            "/" => Site::page,
            "/metrics" => Site::metrics,
            "/-/healthy" => |_: &Site| Response::text(Status::Ok, HEALTHY),
            "/-/ready" => Site::ready,
            _ => return Response::text(Status::NotFound, "there is: / /metrics /-/healthy /-/ready"),
        };
        match request.method.as_str() {
            "GET" | "HEAD" => make(self),
            _ => Response::text(Status::MethodNotAllowed, "only GET and HEAD"),
        }
    }

    fn page(&self) -> Response {
        let Some(state) = self.state() else { return unreadable() };
        let body = page::html(&state.ledger, state.survey.as_ref(), state.running, Utc::now());
        Response { status: Status::Ok, kind: Kind::Page(page::style_hash()), body }
    }

    /// A state that cannot be read is a metric, not an error: Prometheus would only see a target that is down.
    fn metrics(&self) -> Response {
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

    fn ready(&self) -> Response {
        self.state().map_or_else(unreadable, |_| Response::text(Status::Ok, "kvmbackup is ready"))
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

/// Whether an exporter of ours answers there, within seconds.
pub fn answers(listen: &Listen) -> bool {
    ask(listen).is_ok_and(|answer| answer.contains(HEALTHY))
}

fn ask(listen: &Listen) -> io::Result<String> {
    const LONG: Duration = Duration::from_secs(5);
    match listen {
        Listen::Tcp { host, port } => {
            let address = (host.as_str(), *port).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
            let socket = TcpStream::connect_timeout(&address, LONG)?;
            socket.set_read_timeout(Some(LONG))?;
            exchange(socket)
        }
        Listen::Unix(path) => {
            let socket = UnixStream::connect(path)?;
            socket.set_read_timeout(Some(LONG))?;
            exchange(socket)
        }
    }
}

fn exchange(mut socket: impl Read + Write) -> io::Result<String> {
    socket.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: kvmbackup\r\n\r\n")?;
    let mut answer = Vec::new();
    socket.take(4 << 10).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
