//! Runs the command `exporter`. Must not know HTTP, or the contents of pages.

use std::thread;
use std::time::Duration;

use super::args::{Exporter, Global};
use crate::app::{self, serve, watch};
use crate::config::Settings;
use crate::engine;
use crate::model::Listen;
use crate::model::RunResult;
use crate::sys::{durable, signals};

const DEFAULT: (&str, u16) = ("127.0.0.1", 9763);
/// The time between two surveys.
const EVERY: Duration = Duration::from_secs(60);

pub(super) fn run(global: &Global, words: &Exporter) -> Result<RunResult, app::Error> {
    let settings = super::settings(global)?;
    let chosen = words.listen.clone().or_else(|| settings.metrics.listen.clone());
    let listen = chosen.unwrap_or_else(|| Listen::Tcp { host: DEFAULT.0.to_owned(), port: DEFAULT.1 });
    durable::create_private_dir(&settings.state_dir)
        .map_err(engine::Error::file("create the directory", &settings.state_dir))?;
    // Before the socket exists, because a supervisor may send a signal as soon as it can connect.
    let waiter = signals::Waiter::new().map_err(engine::Error::Signals)?;
    let (server, stop) = serve::open(&listen)?;
    if !global.quiet {
        super::print(&format!("serving on {}\n", server.listen()));
    }
    let site = serve::site(&settings, server.listen());
    let watched = global.clone();
    thread::spawn(move || look_again_and_again(&watched, settings));
    let ended = thread::spawn(move || {
        let signal = waiter.wait();
        drop(stop);
        signal
    });
    server.serve(site)?;
    let signal = ended.join().ok().flatten();
    Ok(signal.map_or(RunResult::Failed, RunResult::Signal))
}

/// Reads the configuration and takes a survey every minute, until the process ends.
fn look_again_and_again(global: &Global, mut settings: Settings) {
    loop {
        settings = look(global, settings);
        thread::sleep(EVERY);
    }
}

/// One round of it. An invalid configuration is logged, and the previous settings stay in use.
fn look(global: &Global, mut settings: Settings) -> Settings {
    let read = super::settings(global);
    let config_ok = read.is_ok();
    match read {
        // The served state directory stays the same while the process runs.
        Ok(read) => settings = Settings { state_dir: settings.state_dir, ..read },
        Err(error) => tracing::warn!("keeping the previous settings: {}", engine::chain(&error)),
    }
    if let Err(error) = watch::survey(&settings, config_ok) {
        tracing::warn!("{}", engine::chain(&error));
    }
    settings
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::ledger::{Ledger, Survey};

    #[test]
    fn invalid_configuration_is_recorded_and_previous_settings_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (config, state) = (dir.path().join("config.yml"), dir.path().join("state"));
        let write = |backupdir: &str, state: &std::path::Path| {
            let text = format!(
                "h:\n  backupdir: {backupdir}\n  state_dir: {}\n  libvirt_uri: test:///no/such/node.xml\n  domains: {{a: {{day_of_week: daily}}}}\n",
                state.display()
            );
            fs::write(&config, text).unwrap();
        };
        let global = Global { config: config.clone(), host: Some("h".to_owned()), verbose: 0, quiet: false };
        write("/first", &state);
        let settings = look(&global, super::super::settings(&global).unwrap());
        let seen = || (Ledger::load(&state).unwrap().config_ok, Survey::load(&state).unwrap().unwrap().time);
        let (good, first) = seen();
        assert!(good);
        write("relative", &state);
        let settings = look(&global, settings);
        let (good, second) = seen();
        assert!(!good && second > first, "a survey is still taken");
        assert_eq!(settings.target().to_str(), Some("/first"));
        write("/second", &dir.path().join("elsewhere"));
        let settings = look(&global, settings);
        assert!(seen().0);
        assert_eq!(settings.target().to_str(), Some("/second"));
        assert_eq!(settings.state_dir, state, "the served directory does not change");
    }
}
