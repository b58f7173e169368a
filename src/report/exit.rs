//! Owns: the exit codes of the program, a contract with its callers. Must not: exit.

use crate::model::{Failure, Outcome, RunReport};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All good; nothing was due is good, too.
    Good = 0,
    /// Some domain failed, was only partly saved, or nothing matched.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was touched.
    Usage = 2,
    /// Another run holds the lock.
    Locked = 3,
    /// The hypervisor cannot be reached.
    Hypervisor = 4,
    /// The target of the backups cannot be used.
    Target = 5,
    /// A restore point is damaged.
    Damaged = 6,
    /// The backups are good, but something could not be cleaned up, or a report or metrics not be sent.
    Untidy = 7,
}

impl ExitCode {
    /// The number, for [`std::process::ExitCode`].
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The number of a run that this signal ended: 128 + n, as a shell says it.
    pub fn of_signal(signal: i32) -> u8 {
        u8::try_from(signal).ok().and_then(|signal| signal.checked_add(128)).unwrap_or(u8::MAX)
    }
}

/// The block that ends every `--help`.
pub const EXIT_STATUS: &str = "\
Exit status:
  0      success, or nothing due
  1      a domain failed or was only partly backed up, or no domain matched
  2      usage or configuration error
  3      another run holds the lock
  4      the hypervisor is unreachable
  5      the target is unusable
  6      damage found
  7      backups succeeded, but cleanup, a report or metrics failed
  128+n  stopped by signal n";

/// The number that a run ends with: the worst that happened; a signal before all else.
pub fn exit_code(report: &RunReport) -> u8 {
    let missing = report.domains.iter().any(|domain| is_missing(domain.outcome));
    match report.signal {
        Some(signal) => ExitCode::of_signal(signal),
        None if missing || !report.errors.is_empty() => ExitCode::Failed.code(),
        None if is_untidy(report) => ExitCode::Untidy.code(),
        None => ExitCode::Good.code(),
    }
}

/// The number after a report could not be written or sent. Only 0 changes.
pub fn untold(code: u8) -> u8 {
    if code == ExitCode::Good.code() { ExitCode::Untidy.code() } else { code }
}

fn is_missing(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Partial | Outcome::Failed)
}

/// Why the number is not 0, in one line.
pub fn failure(report: &RunReport) -> Option<Failure> {
    if exit_code(report) == ExitCode::Good.code() {
        return None;
    }
    let missing = report.domains.iter().filter(|domain| is_missing(domain.outcome));
    let names: Vec<&str> = missing.map(|domain| domain.domain.as_str()).collect();
    let first = report.errors.first().cloned();
    let message = match report.signal {
        Some(signal) => format!("stopped by signal {signal}"),
        None if names.is_empty() => "cleanup incomplete".to_owned(),
        None => format!("not (fully) backed up: {}", names.join(", ")),
    };
    Some(first.unwrap_or(Failure { message, hint: None }))
}

/// Whether this run or an earlier one left something that must be cleaned up.
pub(super) fn is_untidy(report: &RunReport) -> bool {
    !report.leftovers.is_empty() || report.domains.iter().any(|domain| !domain.leftovers.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::text::sample;
    use super::*;

    #[test]
    fn the_worst_decides() {
        let failure = || Failure { message: "x".to_owned(), hint: None };
        let mut report = sample::good();
        assert_eq!(exit_code(&report), 0);
        report.domains[0].leftovers.push(failure());
        assert_eq!(exit_code(&report), 7);
        report.domains[0].outcome = Outcome::Partial;
        assert_eq!(exit_code(&report), 1);
        report.domains.clear();
        assert_eq!(exit_code(&report), 0);
        report.errors.push(failure());
        assert_eq!(exit_code(&report), 1);
        report.signal = Some(15);
        assert_eq!(exit_code(&report), 143);
        assert_eq!(ExitCode::of_signal(-1), 255);
    }

    #[test]
    fn the_help_names_every_code() {
        use ExitCode::*;
        for code in [Good, Failed, Usage, Locked, Hypervisor, Target, Damaged, Untidy] {
            assert!(EXIT_STATUS.lines().any(|line| line.trim().starts_with(&format!("{} ", code.code()))));
        }
    }
}
