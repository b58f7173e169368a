//! The result of a run or of another command: its exit code, its severity, and its words. Must not exit, or decide the
//! result.

use super::words::words;

/// How a run or another command ended, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunResult {
    /// Nothing was due, or everything is done.
    Good,
    /// The backups are good, but cleanup, a report or metrics failed.
    Untidy,
    /// A domain failed or was only partly backed up, or nothing matched.
    Failed,
    /// The command line or the configuration is wrong; nothing was changed.
    Usage,
    /// Another run holds the lock.
    Locked,
    /// The hypervisor cannot be reached.
    Hypervisor,
    /// The target cannot be used.
    Target,
    /// A restore point is damaged.
    Damaged,
    /// This signal ended it.
    Signal(i32),
}

/// How much attention a run needs, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// None.
    Ok,
    /// The backups are good, but something needs attention.
    Warning,
    /// Something was not backed up.
    Failed,
    /// A signal ended it.
    Aborted,
}

words!(Status { Ok = "OK", Warning = "WARNING", Failed = "FAILED", Aborted = "ABORTED" });

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

impl RunResult {
    /// The exit code, a contract with callers: [`EXIT_STATUS`]. For a signal, it is the code that a shell reports.
    pub fn exit_code(self) -> u8 {
        match self {
            RunResult::Good => 0,
            RunResult::Failed => 1,
            RunResult::Usage => 2,
            RunResult::Locked => 3,
            RunResult::Hypervisor => 4,
            RunResult::Target => 5,
            RunResult::Damaged => 6,
            RunResult::Untidy => 7,
            RunResult::Signal(signal) => {
                u8::try_from(signal).ok().and_then(|signal| signal.checked_add(128)).unwrap_or(u8::MAX)
            }
        }
    }

    /// How much attention it needs.
    pub fn severity(self) -> Status {
        match self {
            RunResult::Good => Status::Ok,
            RunResult::Untidy => Status::Warning,
            RunResult::Signal(_) => Status::Aborted,
            _ => Status::Failed,
        }
    }

    /// The cause in a report that names no domain.
    pub fn cause(self) -> &'static str {
        match self {
            RunResult::Usage => "configuration",
            RunResult::Locked => "another run holds the lock",
            RunResult::Hypervisor => "cannot connect to libvirt",
            RunResult::Target => "the target cannot be used",
            RunResult::Untidy => "cleanup is incomplete",
            RunResult::Good | RunResult::Failed | RunResult::Damaged | RunResult::Signal(_) => "the run",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RunResult::*;
    use super::*;

    #[test]
    fn the_help_names_every_code_once() {
        let codes = [Good, Failed, Usage, Locked, Hypervisor, Target, Damaged, Untidy].map(RunResult::exit_code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7]);
        let listed = EXIT_STATUS.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().to_owned());
        assert!(listed.eq(codes.iter().map(u8::to_string).chain(["128+n".to_owned()])));
        assert_eq!([Signal(15), Signal(-1), Signal(200)].map(RunResult::exit_code), [143, 255, 255]);
    }

    #[test]
    fn results_are_ordered_by_severity() {
        let all = [Good, Untidy, Failed, Usage, Locked, Hypervisor, Target, Damaged, Signal(15)];
        assert!(all.is_sorted() && all.is_sorted_by_key(|result| result.severity()));
        // Any other result is worse than a report that was not sent.
        assert_eq!((Good.max(Untidy), Failed.max(Untidy)), (Untidy, Failed));
    }
}
