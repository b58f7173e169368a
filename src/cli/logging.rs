//! Writes the log to standard error, by default from level `warn`. Must not report results.

use std::io::{self, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::output;

/// Starts logging. `verbose` counts the `-v`s; `KVMBACKUP_LOG` (tracing's filter syntax) overrides both flags.
pub fn start(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        // A certificate that is not trusted is in the error of the request.
        (true, _) => "error,rustls_platform_verifier=off",
        (false, 0) => "warn,rustls_platform_verifier=off",
        (false, 1) => "kvmbackup=info,warn,rustls_platform_verifier=off",
        (false, 2) => "kvmbackup=debug,warn,rustls_platform_verifier=off",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_env("KVMBACKUP_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Log)
        .with_ansi(output::wants_colour(&io::stderr()))
        .with_target(false)
        .without_time()
        .try_init();
}

struct Log;

/// The writer of one event, with its priority.
struct Event(&'static str);

impl<'a> MakeWriter<'a> for Log {
    type Writer = Event;

    fn make_writer(&'a self) -> Event {
        Event(output::INFO)
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Event {
        Event(match *event.level() {
            Level::ERROR => output::ERROR,
            Level::WARN => output::WARNING,
            Level::INFO => output::INFO,
            _ => output::DEBUG,
        })
    }
}

impl Write for Event {
    /// Receives one whole event per call. Errors are ignored because they could only be reported on the same stream.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        output::complain(self.0, &String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
