//! Owns: where log lines go: standard error, warnings by default. Must not: be how results are told; reports are.

use tracing_subscriber::EnvFilter;

/// Starts logging. `verbose` counts the `-v`s; `KVMBACKUP_LOG` (tracing's filter syntax) overrides both flags.
pub fn start(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "kvmbackup=info,warn",
        (false, 2) => "kvmbackup=debug,warn",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_env("KVMBACKUP_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .try_init();
}
