//! Runs the command `copy`. Must not know how a repository is copied.

use chrono::Utc;

use super::args::{Copy, Global};
use super::{print, print_error};
use crate::app::{self, watch};
use crate::engine::Error;
use crate::engine::copies::{self, Copied, CopiedPoint, CopyMode};
use crate::model::RunResult;
use crate::model::size::duration;
use crate::report::table::printable;
use crate::sys::signals::Cancel;

pub(super) fn run(global: &Global, words: &Copy) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    let cancel = Cancel::on_signals().map_err(Error::Signals)?;
    let chosen = copies::named(&settings, &words.names)?;
    // Two processes would store the same data twice.
    let _lock = (!words.dry_run).then(|| app::lock_copies(&settings.state_dir)).transpose()?;
    let chosen = if words.due { watch::due_copies(&settings, chosen, Utc::now())? } else { chosen };
    if chosen.is_empty() && !words.json && !global.quiet {
        print("no copy is due\n");
    }
    let mode = CopyMode { init: words.init, dry_run: words.dry_run };
    let mut worst = RunResult::Good;
    let mut done = Vec::new();
    for copy in chosen {
        let mut copied = copies::copy(&settings, copy, mode, &cancel);
        let told = if words.dry_run { Ok(()) } else { watch::copied(&settings, copy, &copied) };
        if !words.json && (!global.quiet || copied.error.is_some()) {
            print(&text(&copied, words.dry_run));
        }
        if words.json {
            done.push(serde_json::to_value(&copied).map_err(Error::Json)?);
        }
        let result = match copied.error.take().map(app::Error::from) {
            Some(error) => {
                print_error(&error);
                error.result()
            }
            None => RunResult::Good,
        };
        worst = worst.max(super::watched(told, result));
        if cancel.signal().is_some() {
            break;
        }
    }
    if words.json {
        let json = serde_json::json!({"schema": 1, "dry_run": words.dry_run, "copies": done});
        print(&format!("{json:#}\n"));
    }
    Ok(worst)
}

fn text(copy: &Copied, dry_run: bool) -> String {
    let (copied, forgotten) = if dry_run { ("would copy", "would remove") } else { ("copied", "removed") };
    let mut facts = Vec::new();
    if copy.created {
        facts.push("created the copy".to_owned());
    }
    facts.push(format!("{copied} {}", counted(copy.copied.len())));
    if !copy.forgotten.is_empty() {
        facts.push(format!("{forgotten} {}", counted(copy.forgotten.len())));
    }
    facts.extend(copy.restore_points.map(|count| format!("it contains {count}")));
    let took = (copy.finished - copy.started).to_std().unwrap_or_default();
    let failed = if copy.error.is_some() { "FAILED: " } else { "" };
    let mut text =
        format!("{} ({}): {failed}{}, in {}\n", copy.name, printable(&copy.to), facts.join(", "), duration(took));
    let line = |verb: &str, point: &CopiedPoint| format!("  {verb} {} {}\n", printable(&point.domain), point.id);
    text.extend(copy.copied.iter().map(|point| line(copied, point)));
    text.extend(copy.forgotten.iter().map(|point| line(forgotten, point)));
    text
}

fn counted(count: usize) -> String {
    format!("{count} restore point{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::{DateTime, TimeDelta};

    use super::*;

    #[test]
    fn text_names_what_was_copied_and_removed() {
        let point = |id: &str| CopiedPoint { domain: "web\u{1b}".to_owned(), id: id.parse().unwrap() };
        let started = DateTime::UNIX_EPOCH;
        let mut copy = Copied {
            name: "far".to_owned(),
            to: "rest:https://u:***@h/".to_owned(),
            started,
            finished: started + TimeDelta::seconds(187),
            created: true,
            copied: vec![point("20261122T020000Z"), point("20261121T020000Z")],
            forgotten: vec![point("20261101T020000Z")],
            restore_points: Some(30),
            newest: BTreeMap::new(),
            error: None,
        };
        let expected = "far (rest:https://u:***@h/): created the copy, copied 2 restore points, removed 1 restore point, \
                        it contains 30, in 3m 07s\n  copied web\u{fffd} 20261122T020000Z\n  \
                        copied web\u{fffd} 20261121T020000Z\n  removed web\u{fffd} 20261101T020000Z\n";
        assert_eq!(text(&copy, false), expected);
        copy.created = false;
        assert!(
            text(&copy, true).starts_with("far (rest:https://u:***@h/): would copy 2 restore points, would remove 1")
        );
        copy.error = Some(Error::NoCopies);
        assert!(text(&copy, false).contains("): FAILED: copied 2"));
    }
}
