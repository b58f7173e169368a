//! Owns: the commands `hooks list` and `hooks test`. Must not: decide what runs when; the engine does.

use std::time::Duration;

use super::args::{Global, Hooks, HooksCommand};
use super::print;
use crate::app;
use crate::config::{Hook, HookKind, HookPlace, OnError, Settings};
use crate::engine;
use crate::model::{HookResult, HookStatus, Phase, RunResult, Span, size};
use crate::report::table::{Table, printable};
use crate::sys::signals::Cancel;

pub(super) fn run(global: &Global, words: &Hooks) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    match &words.command {
        HooksCommand::List { domain } => list(&settings, domain.as_deref()),
        HooksCommand::Test { domain, phase } => test(&settings, domain, phase.map(|phase| phase.0)),
    }
}

fn list(settings: &Settings, domain: Option<&str>) -> Result<RunResult, app::Error> {
    let hooks = match domain {
        Some(domain) => {
            let rule = settings.rule_for(domain).ok_or_else(|| unknown(domain))?;
            rule.domain.hooks.iter().filter(|hook| hook.is_for(domain)).collect::<Vec<_>>()
        }
        None => settings.hooks.iter().collect(),
    };
    let mut table = Table::new(&["WHEN", ">ORDER", "NAME", "WHERE", ">TIMEOUT", "ON ERROR", "COMMAND"]);
    let mut any = false;
    for phase in Phase::ALL {
        for (hook, when, timeout) in
            hooks.iter().filter_map(|hook| moment(hook, phase).map(|(when, time)| (hook, when, time)))
        {
            any = true;
            table.row([
                when,
                hook.order.to_string(),
                hook.name.clone(),
                if hook.place == HookPlace::Guest { "guest".into() } else { "host".into() },
                size::duration(timeout),
                on_error(hook.on_error).into(),
                printable(&hook.command.join(" ")),
            ]);
        }
    }
    match any {
        true => print(&(table.lines().join("\n") + "\n")),
        false => print("no hooks\n"),
    }
    Ok(RunResult::Good)
}

/// How a hook shows at a phase: a command in each of its own, a session where it starts.
fn moment(hook: &Hook, phase: Phase) -> Option<(String, Duration)> {
    match &hook.kind {
        HookKind::Command { timeout, .. } if hook.runs_in(phase) => Some((phase.name().to_owned(), *timeout)),
        HookKind::Session { span, hold, .. } if span.phases().0 == phase => {
            Some((format!("{} (session)", span.name()), *hold))
        }
        _ => None,
    }
}

fn on_error(on_error: OnError) -> &'static str {
    match on_error {
        OnError::FailDomain => "fail_domain",
        OnError::FailRun => "fail_run",
        OnError::Warn => "warn",
        OnError::Ignore => "ignore",
        OnError::Degrade => "degrade",
    }
}

fn test(settings: &Settings, domain: &str, phase: Option<Phase>) -> Result<RunResult, app::Error> {
    let rule = settings.rule_for(domain).ok_or_else(|| unknown(domain))?;
    let cancel = Cancel::on_signals().map_err(engine::Error::Signals)?;
    let _lock = app::lock(&settings.state_dir)?;
    let hypervisor = app::libvirt(&settings.libvirt_uri)?;
    let tested = engine::test_hooks(settings, &rule.domain.hooks, (&hypervisor, domain), phase, &cancel)?;
    if tested.results.is_empty() {
        let what = phase.map_or(Span::Snapshot.name(), Phase::name);
        print(&format!("{}: no hooks for {what}\n", printable(domain)));
    }
    tested.results.iter().for_each(|result| print(&told(result)));
    for (hook, file, bytes) in &tested.artifacts {
        print(&format!("  would be stored: hooks/{hook}/{} ({} bytes)\n", printable(file), bytes.len()));
    }
    if let Some(error) = tested.failed {
        return Err(error.into());
    }
    let good = tested.results.iter().all(|result| result.status == HookStatus::Ok);
    Ok(if good { RunResult::Good } else { RunResult::Failed })
}

fn told(result: &HookResult) -> String {
    let time = |ms: u64| size::duration(Duration::from_millis(ms));
    let status = result.status.label();
    let held = result.held_ms.map_or(String::new(), |held| format!(", held {}", time(held)));
    let why = result.message.as_ref().map_or(String::new(), |message| format!(": {}", printable(message)));
    let mut text = format!("{status:7} {} ({}) {}{held}{why}\n", result.name, result.phase, time(result.duration_ms));
    for line in result.output.iter().flat_map(|output| output.lines()) {
        text.push_str(&format!("    | {}\n", printable(line)));
    }
    text
}

fn unknown(domain: &str) -> app::Error {
    let message = format!("the domain `{}` is not in the configuration", printable(domain));
    engine::Error::Rejected { message, hint: Some("To see the configured domains: kvmbackup backup --dry-run".into()) }
        .into()
}
