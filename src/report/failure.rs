//! Owns: why a run was not good, in one line. Must not: decide whether it was.

use crate::model::{Failure, RunReport, RunResult};

/// Why the result of the run is not [`RunResult::Good`], in one line.
pub fn failure(report: &RunReport) -> Option<Failure> {
    if report.result() == RunResult::Good {
        return None;
    }
    let missing = report.domains.iter().filter(|domain| domain.outcome.is_failure());
    let names: Vec<&str> = missing.map(|domain| domain.domain.as_str()).collect();
    let first = report.errors.first().cloned();
    let message = match report.signal {
        Some(signal) => format!("stopped by signal {signal}"),
        None if names.is_empty() => "not all could be cleaned up".to_owned(),
        None => format!("not, or not wholly, saved: {}", names.join(", ")),
    };
    Some(first.unwrap_or(Failure { message, hint: None }))
}

#[cfg(test)]
mod tests {
    use super::super::text::sample;
    use super::*;
    use crate::model::Outcome;

    #[test]
    fn the_worst_decides() {
        let failure = || Failure { message: "x".to_owned(), hint: None };
        let code = |report: &RunReport| report.result().exit_code();
        let mut report = sample::good();
        assert_eq!(code(&report), 0);
        report.domains[0].leftovers.push(failure());
        assert_eq!(code(&report), 7);
        report.domains[0].outcome = Outcome::Partial;
        assert_eq!(code(&report), 1);
        report.domains.clear();
        assert_eq!(code(&report), 0);
        report.errors.push(failure());
        assert_eq!(code(&report), 1);
        report.signal = Some(15);
        assert_eq!(code(&report), 143);
    }
}
