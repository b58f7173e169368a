//! Owns: whether a guest that runs will do what it is asked at night. Must not: leave anything in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::{Finding, Severity};
use crate::config::{DomainSettings, HookPlace, Quiesce};
use crate::engine::chain;
use crate::engine::phases::GuestAgent;
use crate::hooks::{Agent, Call, Ended, Guest, Runner};
use crate::model::DomainRef;

/// What a freeze asks of the agent.
const FREEZE: [&str; 3] = ["guest-fsfreeze-freeze", "guest-fsfreeze-status", "guest-fsfreeze-thaw"];
/// What a hook in the guest asks of it.
const EXEC: [&str; 2] = ["guest-exec", "guest-exec-status"];
/// For one question to a guest.
const PATIENCE: Duration = Duration::from_secs(10);

/// Exit status 3: there are scripts, and the agent does not know of them. How Debian's and Fedora's agents are told:
/// <https://www.qemu.org/docs/master/interop/qemu-ga.html>.
const FREEZE_HOOKS: &str = "\
scripts=$(ls -A /etc/qemu/fsfreeze-hook.d 2>/dev/null | head -n 1)
[ -n \"$scripts\" ] || exit 0
for pid in $(pidof qemu-ga); do
  tr '\\0' '\\n' </proc/$pid/cmdline | grep -q -e '^-F' -e '^--fsfreeze-hook' && exit 0
done
grep -qs '^[[:space:]]*fsfreeze-hook' /etc/qemu/qemu-ga.conf && exit 0
exit 3";

/// Asks the agent of a guest that runs, if it is needed.
pub(super) fn look(agent: &GuestAgent<'_>, domain: &DomainRef, settings: &DomainSettings, findings: &mut Vec<Finding>) {
    let hooks = settings.hooks.iter().any(|hook| hook.place == HookPlace::Guest && hook.is_for(&domain.name));
    if settings.quiesce == Quiesce::Never && !hooks {
        return;
    }
    let needed = settings.quiesce == Quiesce::Require || hooks;
    let severity = if needed { Severity::Problem } else { Severity::Warning };
    let about = format!("domain {}", domain.name);
    let allowed = match agent.command(&serde_json::json!({"execute": "guest-info"})) {
        Ok(info) => enabled(&info),
        Err(error) => {
            let hint = "Install and start qemu-guest-agent in the guest, or set `quiesce: never` for the domain.";
            let message = format!("the guest agent does not answer: {}", chain(&*error));
            findings.push(Finding::new(about, severity, message, Some(hint)));
            return;
        }
    };
    let wanted = [(settings.quiesce != Quiesce::Never, &FREEZE[..]), (hooks, &EXEC[..])];
    let wanted = wanted.into_iter().filter(|(wanted, _)| *wanted).flat_map(|(_, commands)| commands);
    let missing: Vec<&str> = wanted.copied().filter(|command| !allowed.contains(*command)).collect();
    if !missing.is_empty() {
        let message = format!("the guest agent does not allow: {}", missing.join(", "));
        let hint =
            "In the guest, remove them from `block-rpcs` in /etc/qemu/qemu-ga.conf, or add them to `allow-rpcs`.";
        findings.push(Finding::new(about, severity, message, Some(hint)));
        return;
    }
    findings.push(Finding::new(
        &about,
        Severity::Good,
        "the guest agent answers and allows all required commands",
        None,
    ));
    if EXEC.iter().all(|command| allowed.contains(*command)) && settings.quiesce != Quiesce::Never {
        findings.extend(unused_freeze_hooks(agent, about));
    }
}

/// Scripts for a freeze that the agent was not told of: they look as if they did something.
fn unused_freeze_hooks(agent: &GuestAgent<'_>, about: String) -> Option<Finding> {
    let guest = Guest::new(agent, &Uuid::new_v4().simple().to_string());
    let argv = ["/bin/sh", "-c", FREEZE_HOOKS].map(str::to_owned).to_vec();
    let env = BTreeMap::from([("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())]);
    let ran = guest.prepare(b"{}").and_then(|()| guest.run(&Call { argv, env }, PATIENCE, None));
    guest.clean();
    let ran = ran.inspect_err(|error| tracing::debug!(about, "{}", chain(error))).ok()?;
    matches!(ran.ended, Ended::Exit(3)).then(|| {
        let message = "the guest agent does not run the scripts in /etc/qemu/fsfreeze-hook.d";
        let hint = "In the guest, start qemu-ga with -F, or set `fsfreeze-hook = /etc/qemu/fsfreeze-hook` in section \
        [general] of /etc/qemu/qemu-ga.conf.";
        Finding::new(about, Severity::Warning, message, Some(hint))
    })
}

fn enabled(info: &Value) -> BTreeSet<String> {
    let commands = info["supported_commands"].as_array().into_iter().flatten();
    let enabled = commands.filter(|command| command["enabled"] == true);
    enabled.filter_map(|command| command["name"].as_str()).map(str::to_owned).collect()
}
