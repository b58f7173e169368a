//! Owns: the command `verify`. Must not: check anything itself.

use std::time::Duration;

use super::args::{Global, Verify};
use super::list::unlisted;
use super::{monitor, print, when};
use crate::app::{self, watch};
use crate::engine;
use crate::engine::verify::{self, Verdict, Verification, Which};
use crate::model::Failure;
use crate::model::size::{bytes, duration};
use crate::report::ExitCode;
use crate::report::table::printable;
use crate::sys::signals::Cancel;

pub(super) fn run(global: &Global, words: &Verify) -> Result<u8, app::Error> {
    let settings = app::settings(global)?;
    let store = app::store(&settings)?;
    let cancel = Cancel::on_signals().map_err(engine::Error::signals)?;
    let which = if words.all { Which::All } else { Which::One(when(words.at)) };
    let monitor = monitor(global, words.json);
    let mut good = Vec::new();
    let mut tell = |result: &Verification| {
        if result.verdict == Verdict::Good {
            good.push((result.domain.clone(), result.time));
        }
        let is_told = !global.quiet || result.verdict != Verdict::Good;
        if is_told && !words.json {
            print(&text(result));
        }
    };
    let chosen = (&words.domains[..], which);
    let results = verify::verify(&store, &settings.state_dir, chosen, &*monitor, &cancel, &mut tell);
    let told = match good.is_empty() {
        true => Ok(()),
        false => watch::tell(&settings, |ledger| good.iter().for_each(|(domain, time)| ledger.verified(domain, *time))),
    };
    let code = super::watched(
        told,
        results.as_ref().map_or(ExitCode::Failed, |(results, failures)| code(results, failures)).code(),
    );
    let (results, failures) = results?;
    if words.json {
        let points = serde_json::to_value(&results).map_err(engine::Error::json)?;
        let failures = serde_json::to_value(&failures).map_err(engine::Error::json)?;
        print(&format!("{:#}\n", serde_json::json!({ "schema": 1, "points": points, "failures": failures })));
    } else if let Some(unlisted) = unlisted(&failures) {
        print(&unlisted);
    } else if results.is_empty() && !global.quiet {
        print("there are no restore points yet\n");
    }
    Ok(code)
}

/// Damage before all else.
fn code(results: &[Verification], failures: &[Failure]) -> ExitCode {
    let any = |verdict| results.iter().any(|result| result.verdict == verdict);
    match (any(Verdict::Damaged), any(Verdict::Unchecked)) {
        (true, _) => ExitCode::Damaged,
        (false, true) if results.iter().any(|result| result.is_stall) => ExitCode::Target,
        (false, _) if !failures.is_empty() => ExitCode::Target,
        (false, true) => ExitCode::Failed,
        (false, false) => ExitCode::Good,
    }
}

fn text(result: &Verification) -> String {
    let verdict = match result.verdict {
        Verdict::Good => "good",
        Verdict::Damaged => "DAMAGED",
        Verdict::Unchecked => "UNCHECKED",
    };
    let (domain, id, size) = (printable(&result.domain), result.id, bytes(result.stored_bytes));
    let took = duration(Duration::from_millis(result.duration_ms));
    let mut text = format!("{verdict:<9}  {domain}  {id}  {size} in {took}\n");
    if result.verdict != Verdict::Good {
        text.push_str(&format!("  {}\n", printable(&result.path.display().to_string())));
    }
    for failure in &result.failures {
        text.push_str(&format!("  {}\n", printable(&failure.message)));
    }
    if let Some(hint) = result.failures.iter().find_map(|failure| failure.hint.as_ref()) {
        text.push_str(&format!("  hint: {}\n", printable(hint)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(verdict: Verdict) -> Verification {
        let failure = |text: &str| Failure { message: text.to_owned(), hint: Some("look".to_owned()) };
        let id: crate::model::PointId = "20261122T020000Z".parse().unwrap();
        Verification {
            domain: "web".to_owned(),
            id,
            path: "/b/web.tar.zst".into(),
            stored_bytes: 2_370_000_000,
            time: id.time(),
            duration_ms: 3_400,
            verdict,
            failures: if verdict == Verdict::Good { Vec::new() } else { vec![failure("a"), failure("b\u{1b}")] },
            is_stall: false,
        }
    }

    #[test]
    fn damage_is_named_with_what_to_do() {
        assert_eq!(text(&result(Verdict::Good)), "good       web  20261122T020000Z  2.37 GB in 3.4 s\n");
        let expected =
            "DAMAGED    web  20261122T020000Z  2.37 GB in 3.4 s\n  /b/web.tar.zst\n  a\n  b\u{fffd}\n  hint: look\n";
        assert_eq!(text(&result(Verdict::Damaged)), expected);
    }

    #[test]
    fn the_worst_is_the_exit_code() {
        use Verdict::*;
        let code = |verdicts: &[Verdict]| super::code(&verdicts.iter().map(|v| result(*v)).collect::<Vec<_>>(), &[]);
        assert_eq!(code(&[]), ExitCode::Good);
        assert_eq!(code(&[Good, Unchecked]), ExitCode::Failed);
        assert_eq!(code(&[Damaged, Unchecked, Good]), ExitCode::Damaged);
        let hangs = Verification { is_stall: true, ..result(Unchecked) };
        assert_eq!(super::code(&[result(Good), hangs.clone(), result(Unchecked)], &[]), ExitCode::Target);
        assert_eq!(super::code(&[hangs, result(Damaged)], &[]), ExitCode::Damaged);
        let unlisted = [Failure { message: "closed".to_owned(), hint: None }];
        assert_eq!(super::code(&[result(Good), result(Unchecked)], &unlisted), ExitCode::Target);
        assert_eq!(super::code(&[result(Damaged)], &unlisted), ExitCode::Damaged);
    }
}
