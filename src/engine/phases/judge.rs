//! Owns: what the end of one hook means by itself, and how that is told. Must not: know when it ran, or act on it.

use crate::config::Hook;
use crate::engine::{Error, chain};
use crate::hooks::{self, Ended, Ran};
use crate::model::{Failure, HookResult, HookStatus};

/// The exit status by which a hook leaves a domain out without an error: `EX_TEMPFAIL` of sysexits(3).
const SKIP: i32 = 75;

/// What a hook's end means by itself; the failure, where it is one.
pub(super) fn judged(hook: &Hook, phase: &str, ran: Result<Ran, Error>) -> (HookResult, Option<Failure>) {
    let mut result = HookResult {
        name: hook.name.clone(),
        phase: phase.to_owned(),
        status: HookStatus::Failed,
        message: None,
        duration_ms: 0,
        held_ms: None,
        output: None,
    };
    let ran = match ran {
        Ok(ran) => ran,
        Err(Error::Hook { source, .. }) => {
            return (result, Some(Failure { message: chain(&source), hint: source.hint() }));
        }
        Err(error) => return (result, Some(error.failure())),
    };
    result.duration_ms = ran.time.as_millis() as u64;
    let message = match ran.ended {
        Ended::Exit(0) => {
            result.status = HookStatus::Ok;
            return (result, None);
        }
        Ended::Exit(SKIP) => {
            result.status = HookStatus::Skip;
            format!("it asked to skip this run (exit status {SKIP})")
        }
        Ended::Exit(status) => format!("exit status {status}"),
        Ended::Signal(signal) => format!("ended by signal {signal}"),
        Ended::Cancelled => "terminated: the run was cancelled".to_owned(),
        Ended::TimedOut => {
            result.status = HookStatus::Timeout;
            "timed out and was terminated".to_owned()
        }
    };
    result.output = Some(ran.output).filter(|output| !output.is_empty());
    (result, Some(Failure { message, hint: None }))
}

/// As people read it.
pub(super) fn told(hook: &Hook, phase: &str, failure: &Failure) -> Failure {
    let message = format!("hook {} ({phase}): {}", hook.name, failure.message);
    Failure { message, hint: failure.hint.clone() }
}

pub(super) fn hook_error(hook: &Hook, source: hooks::Error) -> Error {
    Error::Hook { name: hook.name.clone(), source }
}

pub(super) fn no_guest(hook: &Hook) -> Error {
    Error::Rejected {
        message: format!("hook {}: the guest is not running", hook.name),
        hint: Some(
            "A hook with `where: guest` needs a running guest. Set `on_error: ignore` if it may be left out.".into(),
        ),
    }
}
