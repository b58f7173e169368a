//! Owns: the calls to the guest agent. Must not: retry; the engine does, because it knows what is at stake.

use std::time::Duration;

use serde_json::{Value, json};
use virt::domain::Domain as Handle;

use super::{call, ffi};
use crate::hypervisor::error::bounded;
use crate::hypervisor::{Error, Kind};
use crate::model::DomainRef;

/// How long an agent that works takes to answer a question, in seconds.
const ANSWER: i32 = 5;

/// Wait without end: what libvirt begins with (`VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK`). The deadline is the domain's,
/// not the caller's, and cannot be asked for; ours would otherwise hold for everybody from then on.
const NO_DEADLINE: i32 = -2;

/// Asks first whether the agent is there, with a short deadline, so that a guest without one costs nothing and is
/// surely not frozen.
pub(super) fn freeze(handle: &Handle, domain: &DomainRef, timeout: Duration) -> Result<(), Error> {
    ask(handle, domain, &json!({ "execute": "guest-ping" })).map_err(no_agent)?;
    set_timeout(handle, domain, timeout.as_secs().clamp(1, 3600) as i32)?;
    let frozen = ffi::fs_freeze(handle).map_err(|source| call(domain, "freeze its file systems", source));
    forget_timeout(handle, domain);
    // An error after the ping may hide a freeze that is under way: it must never read as "no agent".
    match frozen.map_err(uncertain)? {
        0 => Err(Error::Agent { domain: domain.name.clone(), answer: "it froze no file systemsssssssss".to_owned() }),
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

/// One command, and the value of `return` in its answer.
pub(super) fn ask(handle: &Handle, domain: &DomainRef, request: &Value) -> Result<Value, Error> {
    let name = request.get("execute").and_then(Value::as_str).unwrap_or_default();
    let answer = handle
        .qemu_agent_command(&request.to_string(), ANSWER, 0)
        .map_err(|source| call(domain, format!("ask the guest agent ({name})"), source))?;
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

/// What the call before it came to matters more than this.
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
