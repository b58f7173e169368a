//! Owns: the order of hooks: which run when, what their failure means, and that whatever was entered is left again, on
//! every way out. Must not: start processes itself; `hooks` does.
//!
//! Spans nest like brackets. Entering one runs its `pre-` commands and starts its sessions, in their order; leaving it ends the
//! sessions and runs the `post-` commands, in the reverse order. A hook that failed or was too late may have done half of
//! its work, so what belongs to it is left as well; one that never began is not.

use std::time::Duration;

use self::facts::{Facts, Moment};
use self::judge::{hook_error, judged, no_guest, told};
use super::Error;
use crate::config::{Hook, HookKind, HookPlace, OnError};
use crate::hooks::{self, Deadlines, Held, Runner, Started};
use crate::model::{Failure, HookResult, HookStatus, Method, Phase, Span};
use crate::sys::signals::Cancel;
use crate::sys::step::{self, Step};

mod facts;
mod guest;
mod judge;
mod of_run;
mod test_run;
#[cfg(test)]
mod tests;

pub(super) use facts::Subject;
pub(super) use guest::GuestAgent;
pub use of_run::RunHooks;
pub use test_run::{Tested, test};

/// Where what hooks left in the guest goes; no hook can have this name.
const IN_GUEST: &str = "_guest";

/// The hooks of a run or of a domain. Dropped, it leaves all that was entered.
pub struct Phases<'a> {
    hooks: Vec<&'a Hook>,
    facts: Facts<'a>,
    agent: Option<&'a dyn hooks::Agent>,
    guest: Option<hooks::Guest<'a>>,
    cancel: &'a Cancel,
    entered: Vec<Entered<'a>>,
    results: Vec<HookResult>,
    warnings: Vec<Failure>,
    quiesced: Quiesced,
    /// A span was entered.
    begun: bool,
}

/// A span that was entered.
struct Entered<'a> {
    span: Span,
    /// Commands that were begun, by their place in the list.
    begun: Vec<usize>,
    /// Sessions that are held, by their place in the list.
    held: Vec<(usize, Box<dyn Held + 'a>)>,
}

/// What sessions over a snapshot came to.
#[derive(Debug, Clone, Copy, Default)]
struct Quiesced {
    kept: usize,
    /// One did not hold, or a hook failed whose failure degrades.
    lost: bool,
}

impl<'a> Phases<'a> {
    /// Those of the list that are for the subject.
    pub(super) fn new(
        hooks: &'a [Hook],
        subject: Subject<'a>,
        agent: Option<&'a dyn hooks::Agent>,
        cancel: &'a Cancel,
    ) -> Self {
        let hooks = hooks.iter().filter(|hook| subject.domain.is_none_or(|domain| hook.is_for(&domain.name))).collect();
        Phases {
            hooks,
            facts: Facts::new(subject),
            agent,
            guest: None,
            cancel,
            entered: Vec::new(),
            results: Vec::new(),
            warnings: Vec::new(),
            quiesced: Quiesced::default(),
            begun: false,
        }
    }

    /// What hooks are told from now on.
    pub(super) fn know(&mut self, subject: &impl serde::Serialize) {
        self.facts.context = serde_json::to_value(subject).unwrap_or_default();
    }

    /// How the domain is captured.
    pub(super) fn method(&mut self, method: Method) {
        self.facts.method = method.name();
    }

    /// Runs what comes before. After an error the span has been left already.
    pub(super) fn enter(&mut self, span: Span) -> Result<(), Error> {
        let (pre, _) = span.phases();
        self.begun = true;
        self.entered.push(Entered { span, begun: Vec::new(), held: Vec::new() });
        for at in 0..self.hooks.len() {
            let hook = self.hooks[at];
            let done = match &hook.kind {
                HookKind::Command { timeout, .. } if hook.runs_in(pre) => {
                    self.current().begun.push(at);
                    self.command(hook, pre, *timeout, None)
                }
                HookKind::Session { .. } if hook.is_held_over(span) => self.start(at, span),
                _ => continue,
            };
            if let Err(error) = done {
                let failed = Some(error.failure()).filter(|_| !matches!(error, Error::Skipped { .. }));
                self.facts.skipped = failed.is_none();
                // What they fail with comes second to why the span is left.
                let _ = self.leave(span, failed.as_ref());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Runs what comes after, of this span and of those inside it, whatever fails on the way; the first failure that counts.
    /// Nothing when the span was not entered, or was left.
    pub(super) fn leave(&mut self, span: Span, failed: Option<&Failure>) -> Result<(), Error> {
        let mut first = Ok(());
        while self.entered.iter().any(|entered| entered.span == span) {
            let Some(entered) = self.entered.pop() else { break };
            let left = self.unwind(entered, failed);
            first = first.and(left);
        }
        first
    }

    /// Runs what comes after a failure, of what was begun at all.
    pub(super) fn on_failure(&mut self, failure: &Failure) {
        if !self.begun {
            return;
        }
        for hook in self.hooks.clone() {
            if let HookKind::Command { timeout, .. } = &hook.kind
                && hook.runs_in(Phase::OnFailure)
            {
                // It has failed already.
                let _ = self.command(hook, Phase::OnFailure, *timeout, Some(failure));
            }
        }
    }

    /// Whether a session held all through the span of the snapshot, and none was lost.
    pub(super) fn quiesced(&self) -> bool {
        self.quiesced.kept > 0 && !self.quiesced.lost
    }

    /// What hooks have left to be saved: the name of the hook, of its file, and the bytes.
    pub(super) fn artifacts(&mut self) -> Result<Vec<(String, String, Vec<u8>)>, Error> {
        let mut found = Vec::new();
        for hook in &self.hooks {
            if let Some(folder) = self.facts.artifact_folder(&hook.name) {
                let files = hooks::artifacts(&folder).map_err(|source| hook_error(hook, source))?;
                found.extend(files.into_iter().map(|(file, bytes)| (hook.name.clone(), file, bytes)));
            }
        }
        if let Some(guest) = &self.guest {
            let files = guest.artifacts().map_err(|source| Error::Hook { name: "in the guest".into(), source })?;
            found.extend(files.into_iter().map(|(file, bytes)| (IN_GUEST.to_owned(), file, bytes)));
        }
        Ok(found)
    }

    /// What became of the hooks so far.
    pub(super) fn results(&self) -> &[HookResult] {
        &self.results
    }

    /// The same, and what there is to warn of; nothing is entered any more.
    pub(super) fn finish(mut self) -> (Vec<HookResult>, Vec<Failure>) {
        self.leave_all();
        (std::mem::take(&mut self.results), std::mem::take(&mut self.warnings))
    }

    fn current(&mut self) -> &mut Entered<'a> {
        // There is one whenever this is called; an empty one is the harmless answer.
        if self.entered.is_empty() {
            self.entered.push(Entered { span: Span::Run, begun: Vec::new(), held: Vec::new() });
        }
        let last = self.entered.len() - 1;
        &mut self.entered[last]
    }

    fn unwind(&mut self, mut entered: Entered<'a>, failed: Option<&Failure>) -> Result<(), Error> {
        let (pre, post) = entered.span.phases();
        let mut first = Ok(());
        for at in (0..self.hooks.len()).rev() {
            let hook = self.hooks[at];
            if let Some(place) = entered.held.iter().position(|(held, _)| *held == at) {
                let (_, held) = entered.held.swap_remove(place);
                self.release(hook, entered.span, held);
            }
            if let HookKind::Command { timeout, .. } = &hook.kind
                && hook.runs_in(post)
                && self.belongs(hook, pre, &entered.begun)
            {
                let done = self.command(hook, post, *timeout, failed);
                first = first.and(done);
            }
        }
        first
    }

    /// A command of after with the name of one of before belongs to it, and runs when that was begun.
    fn belongs(&self, hook: &Hook, pre: Phase, begun: &[usize]) -> bool {
        let mut before =
            self.hooks.iter().enumerate().filter(|(_, other)| other.name == hook.name && other.runs_in(pre));
        before.next().is_none_or(|(at, _)| begun.contains(&at))
    }

    fn command(&mut self, hook: &Hook, phase: Phase, timeout: Duration, failed: Option<&Failure>) -> Result<(), Error> {
        let moment = Moment { hook, phase: phase.name(), timeout, before: phase.is_pre(), failed };
        // Whoever asks for the end does not mean that a database stays locked.
        let cancel = phase.is_pre().then_some(self.cancel);
        let ran = match hook.place {
            HookPlace::Host => self
                .facts
                .call(&moment, None)
                .and_then(|call| starts(hook).map(|()| call))
                .and_then(|call| hooks::Host.run(&call, timeout, cancel).map_err(|source| hook_error(hook, source))),
            HookPlace::Guest => self.in_guest(&moment).and_then(|call| {
                let guest = self.guest.as_ref().ok_or_else(|| no_guest(hook))?;
                starts(hook)?;
                guest.run(&call, timeout, cancel).map_err(|source| hook_error(hook, source))
            }),
        };
        let (result, failure) = judged(hook, phase.name(), ran);
        self.note(hook, phase.is_pre(), result, failure)
    }

    fn start(&mut self, at: usize, span: Span) -> Result<(), Error> {
        let hook = self.hooks[at];
        let HookKind::Session { ready, hold, release, .. } = hook.kind else { return Ok(()) };
        let moment = Moment { hook, phase: span.name(), timeout: hold, before: true, failed: None };
        let deadlines = Deadlines { ready, hold, release };
        let started = match hook.place {
            HookPlace::Host => self.facts.call(&moment, None).and_then(|call| {
                starts(hook)?;
                hooks::Host.hold(&call, deadlines, Some(self.cancel)).map_err(|source| hook_error(hook, source))
            }),
            HookPlace::Guest => self.in_guest(&moment).and_then(|call| {
                let guest = self.guest.as_ref().ok_or_else(|| no_guest(hook))?;
                starts(hook)?;
                guest.hold(&call, deadlines, Some(self.cancel)).map_err(|source| hook_error(hook, source))
            }),
        };
        let ran = match started {
            Ok(Started::Ready(held)) => {
                self.current().held.push((at, held));
                return Ok(());
            }
            Ok(Started::NotReady(ran)) => Ok(ran),
            Err(error) => Err(error),
        };
        let (mut result, mut failure) = judged(hook, span.name(), ran);
        if result.status == HookStatus::Ok {
            result.status = HookStatus::Failed;
            failure = Some(Failure { message: "it ended without printing READY".into(), hint: None });
        }
        self.quiesced.lost |= span == Span::Snapshot;
        self.note(hook, true, result, failure)
    }

    /// A session that was lost does not fail the backup: it is worth less, and says so.
    fn release(&mut self, hook: &Hook, span: Span, held: Box<dyn Held + 'a>) {
        // However that step fails, it has to be let go.
        let _ = step::reached(Step::HookRelease);
        let released = held.release();
        let (mut result, mut failure) = judged(hook, span.name(), Ok(released.ran));
        result.held_ms = Some(released.held.as_millis() as u64);
        if !released.kept {
            result.status = HookStatus::Lost;
            let why = failure.take().map(|failure| format!(": {}", failure.message)).unwrap_or_default();
            let message = format!("it ended before it was released{why}");
            failure =
                Some(Failure { message, hint: Some("Check its output. `hold_timeout` may be too short.".into()) });
        }
        match (span, &failure) {
            (Span::Snapshot, None) => self.quiesced.kept += 1,
            (Span::Snapshot, Some(_)) => self.quiesced.lost = true,
            _ => {}
        }
        if let Some(failure) = &failure {
            result.message = Some(failure.message.clone());
            if hook.on_error != OnError::Ignore {
                self.warnings.push(told(hook, &result.phase, failure));
            }
        }
        self.results.push(result);
    }

    /// Notes what became of a hook, and says what that means.
    fn note(
        &mut self,
        hook: &Hook,
        before: bool,
        mut result: HookResult,
        failure: Option<Failure>,
    ) -> Result<(), Error> {
        result.message = failure.as_ref().map(|failure| failure.message.clone());
        let (status, phase) = (result.status, result.phase.clone());
        tracing::info!(hook = hook.name, phase, ?status, duration_ms = result.duration_ms);
        self.results.push(result);
        let Some(failure) = failure else { return Ok(()) };
        if status == HookStatus::Skip && before {
            return Err(Error::Skipped { hook: hook.name.clone() });
        }
        if let Some(signal) = self.cancel.signal().filter(|_| before) {
            return Err(Error::Cancelled(signal));
        }
        let failure = told(hook, &phase, &failure);
        match hook.on_error {
            OnError::FailDomain => return Err(Error::HookFailed { failure, run: false }),
            OnError::FailRun => return Err(Error::HookFailed { failure, run: true }),
            OnError::Ignore => {}
            OnError::Warn => self.warnings.push(failure),
            OnError::Degrade => {
                self.quiesced.lost = true;
                self.warnings.push(failure);
            }
        }
        Ok(())
    }

    fn in_guest(&mut self, moment: &Moment<'_>) -> Result<hooks::Call, Error> {
        let failed = |source| hook_error(moment.hook, source);
        if self.guest.is_none()
            && let Some(agent) = self.agent
        {
            let guest = hooks::Guest::new(agent, &self.facts.token());
            let prepared = step::reached(Step::HookFiles).map_err(|source| started(moment.hook, source));
            prepared.and_then(|()| guest.prepare(&self.facts.context_bytes(moment))).map_err(failed)?;
            self.guest = Some(guest);
        }
        let guest = self.guest.as_ref().ok_or_else(|| no_guest(moment.hook))?;
        self.facts.call(moment, Some((guest.context_path(), guest.artifact_dir())))
    }

    fn leave_all(&mut self) {
        while let Some(entered) = self.entered.last() {
            let failure = Failure { message: "the backup ended early".into(), hint: None };
            let _ = self.leave(entered.span, Some(&failure));
        }
        if let Some(guest) = self.guest.take()
            && step::reached(Step::HookFilesRemove).is_ok()
        {
            guest.clean();
        }
        self.facts.clean();
    }
}

/// Says that a hook is about to be started.
fn starts(hook: &Hook) -> Result<(), Error> {
    step::reached(Step::HookStart).map_err(|source| hook_error(hook, started(hook, source)))
}

fn started(hook: &Hook, source: std::io::Error) -> hooks::Error {
    hooks::Error::Start { program: hook.name.clone(), source }
}

impl Drop for Phases<'_> {
    fn drop(&mut self) {
        self.leave_all();
    }
}
