//! Calls to the guest agent. Must not retry; the engine does, because it knows the consequences.

use std::time::Duration;

use serde_json::{Value, json};
use virt::domain::Domain as Handle;

use super::{call, ffi};
use crate::hypervisor::error::bounded;
use crate::hypervisor::{Error, Kind, in_ascii};
use crate::model::DomainRef;

/// Timeout for a short command, in seconds.
const ANSWER: i32 = 5;

/// Wait forever: the default of libvirt (`VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK`). The timeout belongs to the domain and
/// cannot be read, so it must be reset; otherwise ours would apply to all other programs.
const NO_DEADLINE: i32 = -2;

/// Pings the agent first with a short timeout, so that a guest without an agent costs little time and is certainly not frozen.
pub(super) fn freeze(handle: &Handle, domain: &DomainRef, timeout: Duration) -> Result<(), Error> {
    ask(handle, domain, &json!({ "execute": "guest-ping" })).map_err(no_agent)?;
    set_timeout(handle, domain, timeout.as_secs().clamp(1, 3600) as i32)?;
    let frozen = ffi::fs_freeze(handle).map_err(|source| call(domain, "freeze its file systems", source));
    forget_timeout(handle, domain);
    // After a successful ping, an error may hide a freeze in progress, so it must never be reported as "no agent".
    match frozen.map_err(uncertain)? {
        0 => Err(Error::Agent { domain: domain.name.clone(), answer: "it froze no file systems".to_owned() }),
        _ => Ok(()),
    }
}

pub(super) fn thaw(handle: &Handle, domain: &DomainRef) -> Result<(), Error> {
    set_timeout(handle, domain, ANSWER)?;
    let thawed = ffi::fs_thaw(handle).map_err(|source| call(domain, "thaw its file systems", source));
    forget_timeout(handle, domain);
    thawed
}

pub(super) fn is_frozen(handle: &Handle, domain: &DomainRef) -> Result<bool, Error> {
    let status = ask(handle, domain, &json!({ "execute": "guest-fsfreeze-status" }))?;
    match status.as_str() {
        Some("thawed") => Ok(false),
        Some("frozen") => Ok(true),
        _ => Err(wrong(domain, &status.to_string())),
    }
}

/// Sends one command and returns the value of `return` in its answer.
pub(super) fn ask(handle: &Handle, domain: &DomainRef, request: &Value) -> Result<Value, Error> {
    let name = request.get("execute").and_then(Value::as_str).unwrap_or_default();
    let answer = handle
        .qemu_agent_command(&in_ascii(request), ANSWER, 0)
        .map_err(|source| call(domain, format!("query the guest agent ({name})"), source))?;
    match serde_json::from_str(&answer) {
        Ok(Value::Object(mut answer)) if answer.contains_key("return") => Ok(answer["return"].take()),
        _ => Err(wrong(domain, &answer)),
    }
}

fn wrong(domain: &DomainRef, answer: &str) -> Error {
    Error::Agent { domain: domain.name.clone(), answer: bounded(answer) }
}

fn set_timeout(handle: &Handle, domain: &DomainRef, seconds: i32) -> Result<(), Error> {
    ffi::set_agent_timeout(handle, seconds).map_err(|source| call(domain, "set the timeout of the guest agent", source))
}

/// Errors are only logged, because the result of the preceding call matters more.
fn forget_timeout(handle: &Handle, domain: &DomainRef) {
    if let Err(error) = set_timeout(handle, domain, NO_DEADLINE) {
        tracing::debug!(domain = domain.name, "{error}");
    }
}

fn no_agent(error: Error) -> Error {
    with_kind(error, Kind::NoAgent)
}

fn uncertain(error: Error) -> Error {
    match error.kind() {
        Kind::Refused => error,
        _ => with_kind(error, Kind::Other),
    }
}

fn with_kind(error: Error, kind: Kind) -> Error {
    match error {
        Error::Call { domain, action, source, .. } => Error::Call { domain, action, kind, source },
        other => other,
    }
}
