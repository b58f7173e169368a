//! Owns: the command `backup`. Must not: be needed for a backup to be right; the engine is.

use std::io::{IsTerminal, stderr, stdout};

use chrono::Utc;

use super::args::{Backup, Global};
use super::progress::Bars;
use super::{output, print, print_report};
use crate::app::{self, mail, watch};
use crate::config::Settings;
use crate::engine::journal::Journal;
use crate::engine::{self, Monitor, RunHooks, Silent, recover, run};
use crate::model::{Failure, RunReport};
use crate::plan::{Decision, Plan, Request};
use crate::report;
use crate::report::table::{Table, printable};
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;
use crate::sys::step::{self, Step};
use crate::sys::{durable, host};

pub(super) fn run(global: &Global, words: &Backup) -> Result<u8, app::Error> {
    let settings = app::settings_of_run(global).inspect_err(|error| {
        if let app::Error::Config(errors) = error
            && !words.options.dry_run
        {
            super::watched(watch::config_failed(errors, |ledger| ledger.config_failed(Utc::now())), error.exit_code());
            let known = mail::known::recall(errors);
            mail_failure(mail::Source::salvaged(errors, known.as_ref()), global, error);
        }
    })?;
    let request = Request {
        force: words.options.force,
        accept_smaller: words.options.accept_smaller,
        domains: words.domains.clone(),
    };
    if words.options.dry_run {
        let hypervisor = app::libvirt(&settings.libvirt_uri)?;
        let plan = run::plan(&settings, &hypervisor, &request)?;
        print(&if words.options.json { plan_json(&plan) } else { plan_text(&plan) });
        let unknown = plan.entries.iter().any(|entry| matches!(entry.decision, Decision::Unknown(_)));
        return Ok(if unknown { report::ExitCode::Failed } else { report::ExitCode::Good }.code());
    }
    let cancel = Cancel::on_signals().map_err(engine::Error::signals)?;
    let _lock =
        app::lock(&settings.state_dir).inspect_err(|error| mail_failure(mail::Source::of(&settings), global, error))?;
    let journal = app::journal(&settings.state_dir)?;
    let bars = Bars::new();
    let silent = global.quiet || words.options.json || !output::is_screen(&stderr());
    let monitor: &dyn Monitor = if silent { &Silent } else { &bars };

    let mut done = run::begin(&settings, &request);
    let told = watch::begin(&settings, &mut done).and(mail::known::remember(&settings));
    let served = super::exporter::beside_run(&settings);
    let mut hooks = RunHooks::new(&settings, &done, &cancel);
    let began = hooks.enter(&done);
    let skipped = matches!(began, Err(engine::Error::Skipped { .. }));
    let failed = began
        .map_err(app::Error::from)
        .and_then(|()| back_up(&settings, &journal, &request, &cancel, monitor, &mut done))
        .err()
        .filter(|_| !skipped);
    if let Some(error) = &failed {
        done.errors.push(Failure { message: engine::chain(error), hint: error.hint() });
    }
    done.finished = Utc::now();
    let bad = report::failure(&done);
    hooks.leave(&mut done, bad.as_ref(), failed.is_some());
    let code = failed.map_or_else(|| report::exit_code(&done), |error| error.exit_code());
    let code = super::watched(told.and(watch::end(&settings, &done, code)), code);
    let code = super::watched(served.map(drop), code);
    done.damaged = watch::damaged(&settings);
    tell(&settings, &done, code, global.quiet, words.options.json)
}

/// The run itself. Whatever happens, what was done before it is in `done`.
fn back_up(
    settings: &Settings,
    journal: &Journal,
    request: &Request,
    cancel: &Cancel,
    monitor: &dyn Monitor,
    done: &mut RunReport,
) -> Result<(), app::Error> {
    let mut recovered = recover::recover(journal, &app::connect, cancel, &Patience::new(settings.stall_timeout))?;
    let hypervisor = app::libvirt(&settings.libvirt_uri);
    let unknown = match &hypervisor {
        Ok(hypervisor) if recovered.stopped.is_none() => {
            recover::recover_unknown(journal, hypervisor, settings, cancel, &mut recovered)
        }
        _ => Ok(()),
    };
    done.recovered = recovered.done;
    done.leftovers = recovered.left;
    unknown?;
    let hypervisor = hypervisor?;
    Ok(run::run(settings, &hypervisor, journal, request, cancel, monitor, done)?)
}

/// Mails that a run could not begin; it ends with the code of that error anyway.
fn mail_failure(source: Option<mail::Source<'_>>, global: &Global, error: &app::Error) {
    let host = global.host.clone().unwrap_or_else(host::short_name);
    mailed(source, &mail::unable(host, error), error.exit_code());
}

/// Mails the report if that is wanted and due: the exit code, and whether nobody else need be told.
fn mailed(source: Option<mail::Source<'_>>, done: &RunReport, code: u8) -> (u8, bool) {
    source.map_or((code, false), |source| super::mailed(mail::after_run(source, done, code), code))
}

/// Keeps the report for `kvmbackup report`, mails it, prints it where that is of use; the exit code.
fn tell(settings: &Settings, done: &RunReport, code: u8, quiet: bool, as_json: bool) -> Result<u8, app::Error> {
    let json = report::json(done).map_err(engine::Error::json)?;
    // First: a mail may take minutes, and the program may be ended meanwhile.
    let path = settings.state_dir.join(super::report::LAST);
    let kept = step::reached(Step::ReportWrite).and_then(|()| durable::write(&path, json.as_bytes()));
    let kept = kept.map_err(engine::Error::file("write the report", &path));
    let code = super::watched(kept.map_err(app::Error::from), code);
    let (code, settled) = mailed(mail::Source::of(settings), done, code);
    // What is printed where there is neither a terminal nor the journal, cron mails.
    let settled = settled && !stdout().is_terminal() && !output::is_journal(stdout());
    let wanted = !quiet || code != 0;
    if as_json {
        print(&json);
    } else if wanted && !settled {
        print_report(done);
    } else if wanted && output::is_journal(stderr()) {
        output::print_to_journal(&report::journal(done));
    }
    Ok(code)
}

fn plan_text(plan: &Plan) -> String {
    let mut table = Table::new(&["DOMAIN", "DECISION"]);
    for entry in &plan.entries {
        table.row([printable(&entry.name), printable(&decision(&entry.decision).1)]);
    }
    let mut text = table.lines().join("\n");
    if text.is_empty() {
        text.push_str("the configuration names no domain, and libvirt knows none");
    }
    text.push('\n');
    text
}

fn plan_json(plan: &Plan) -> String {
    let entries: Vec<_> = plan
        .entries
        .iter()
        .map(|entry| {
            let (word, reason) = decision(&entry.decision);
            serde_json::json!({
                "domain": entry.name,
                "uuid": entry.domain.as_ref().map(|domain| domain.uuid),
                "decision": word,
                "reason": reason,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::json!({ "schema": 1, "plan": entries }))
}

fn decision(decision: &Decision) -> (&'static str, String) {
    match decision {
        Decision::Due(reason) => ("due", reason.clone()),
        Decision::NotDue(reason) => ("not-due", reason.clone()),
        Decision::NotSelected(reason) => ("not-selected", reason.clone()),
        Decision::Unknown(reason) => ("unknown", reason.message.clone()),
    }
}
