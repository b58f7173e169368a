//! Runs the command `backup`. Must not back up anything itself; `app::run` does.

use std::io::{IsTerminal, stderr, stdout};

use chrono::Utc;

use super::args::{Backup, Global};
use super::{output, print, print_report};
use crate::app::mail::MailSetup;
use crate::app::{self, mail, watch};
use crate::config::Settings;
use crate::engine::{self, run};
use crate::model::RunResult;
use crate::plan::{Decision, Plan, Selection};
use crate::report;
use crate::report::table::{Table, printable};
use crate::sys::host;
use crate::sys::signals::Cancel;

pub(super) fn run(global: &Global, words: &Backup) -> Result<RunResult, app::Error> {
    let settings = app::settings_of_run(&global.config, global.host.as_deref()).inspect_err(|error| {
        if let app::Error::Config(errors) = error
            && !words.options.dry_run
        {
            super::watched(watch::config_failed(errors, |ledger| ledger.config_failed(Utc::now())), error.result());
            let known = mail::known::recall(errors);
            complain(global, MailSetup::salvaged(errors, known.as_ref()), error);
        }
    })?;
    let selection = Selection {
        force: words.options.force,
        accept_smaller: words.options.accept_smaller,
        domains: words.domains.clone(),
    };
    if words.options.dry_run {
        return plan(&settings, &selection, words.options.json);
    }
    let cancel = Cancel::on_signals().map_err(engine::Error::Signals)?;
    let monitor = super::monitor(global, words.options.json);
    let ended = app::run::backup(&settings, &selection, &cancel, &*monitor)
        .inspect_err(|error| complain(global, MailSetup::of(&settings), error))?;
    ended.complaints.iter().for_each(super::print_failure);
    // Cron emails the output if it goes to neither a terminal nor the journal.
    let settled = ended.settled && !stdout().is_terminal() && !output::is_journal(stdout());
    let wanted = !global.quiet || ended.result != RunResult::Good;
    if words.options.json {
        print(&report::json(&ended.report).map_err(engine::Error::Json)?);
    } else if wanted && !settled {
        print_report(&ended.report);
    } else if wanted && output::is_journal(stderr()) {
        output::print_to_journal(&report::journal(&ended.report));
    }
    Ok(ended.result)
}

/// Emails that a run could not start, and prints why if that mail could not be sent.
fn complain(global: &Global, setup: Option<MailSetup<'_>>, error: &app::Error) {
    let host = global.host.clone().unwrap_or_else(host::short_name);
    app::run::unable(setup, host, error).iter().for_each(super::print_failure);
}

fn plan(settings: &Settings, selection: &Selection, as_json: bool) -> Result<RunResult, app::Error> {
    let hypervisor = app::libvirt(&settings.libvirt_uri)?;
    let plan = run::plan(settings, &hypervisor, selection)?;
    print(&if as_json { plan_json(&plan) } else { plan_text(&plan) });
    let unknown = plan.entries.iter().any(|entry| matches!(entry.decision, Decision::Unknown(_)));
    Ok(if unknown { RunResult::Failed } else { RunResult::Good })
}

fn plan_text(plan: &Plan) -> String {
    let mut table = Table::new(&["DOMAIN", "DECISION"]);
    for entry in &plan.entries {
        table.row([printable(&entry.name), printable(&decision(&entry.decision).1)]);
    }
    let mut text = table.lines().join("\n");
    if text.is_empty() {
        text.push_str("the configuration contains no domain, and no domain exists");
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
