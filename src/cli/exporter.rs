//! Owns: the command `exporter`, and the server of a run. Must not: know HTTP, or what is told.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::args::{Exporter, Global};
use crate::app::{self, watch};
use crate::config::Settings;
use crate::engine;
use crate::exporter::{self, Listener, Server, Site, Stop};
use crate::model::Listen;
use crate::report::ExitCode;
use crate::sys::{durable, signals};

/// Where the exporter listens unless it is told.
const DEFAULT: (&str, u16) = ("127.0.0.1", 9763);
/// Time between two looks at libvirt, the configuration and the target.
const EVERY: Duration = Duration::from_secs(60);

pub(super) fn run(global: &Global, words: &Exporter) -> Result<u8, app::Error> {
    let settings = app::settings(global)?;
    let chosen = words.listen.clone().or_else(|| settings.metrics.listen.clone());
    let listen = chosen.unwrap_or_else(|| Listen::Tcp { host: DEFAULT.0.to_owned(), port: DEFAULT.1 });
    durable::create_private_dir(&settings.state_dir)
        .map_err(engine::Error::file("create the folder", &settings.state_dir))?;
    // Before anybody can know that we are there.
    let waiter = signals::Waiter::new().map_err(engine::Error::signals)?;
    let (server, stop) = open(&listen)?;
    if !global.quiet {
        super::print(&format!("serving on {}\n", server.listen()));
    }
    let site = site(&settings, server.listen());
    let watched = global.clone();
    thread::spawn(move || look_again_and_again(&watched, settings));
    let ended = thread::spawn(move || {
        let signal = waiter.wait();
        drop(stop);
        signal
    });
    server.serve(site)?;
    let signal = ended.join().ok().flatten();
    Ok(signal.map_or(ExitCode::Failed.code(), ExitCode::of_signal))
}

/// The server that a run has beside it. Dropped, it ends.
pub(super) struct Beside {
    stop: Option<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Serves beside a run, where the configuration asks for that and no exporter of ours does it already. A run does not depend
/// on it.
///
/// # Errors
/// It cannot listen there; a warning, and exit code 7 at most.
pub(super) fn beside_run(settings: &Settings) -> Result<Option<Beside>, app::Error> {
    let Some(listen) = &settings.metrics.listen else { return Ok(None) };
    let (server, stop) = match open(listen) {
        Err(taken @ exporter::Error::Taken { .. }) => {
            let is_ours = exporter::is_ours(listen, &settings.state_dir)
                .map_err(engine::Error::file("write to the folder", &settings.state_dir))?;
            tracing::debug!(is_ours, "{taken}");
            return if is_ours { Ok(None) } else { Err(taken.into()) };
        }
        opened => opened?,
    };
    let site = site(settings, server.listen());
    let serve = move || {
        if let Err(error) = server.serve(site) {
            tracing::warn!("{}", engine::chain(&error));
        }
    };
    let thread = thread::Builder::new().name("exporter".to_owned()).spawn(serve).map_err(exporter::Error::Wait)?;
    Ok(Some(Beside { stop: Some(stop), thread: Some(thread) }))
}

/// The pages of this state folder, and the host names under which they are served.
fn site(settings: &Settings, listen: &Listen) -> Site {
    let mut names = settings.metrics.hosts.clone();
    names.push(settings.host.clone());
    if let Listen::Tcp { host, .. } = listen {
        names.push(host.clone());
    }
    Site::new(&settings.state_dir, names)
}

fn open(listen: &Listen) -> Result<(Server, Stop), exporter::Error> {
    let listener = Listener::bind(listen)?;
    if !listener.is_local() {
        tracing::warn!(
            "{listen} can be reached from other hosts, without password or TLS: put a reverse proxy before it. \
             kvmbackup-exporter.service lets only those in that its `IPAddressAllow=` names"
        );
    }
    Server::new(listener)
}

/// Looks at libvirt, the configuration and the target every minute, until the process ends.
fn look_again_and_again(global: &Global, mut settings: Settings) {
    loop {
        settings = look(global, settings);
        thread::sleep(EVERY);
    }
}

/// Looks once. A configuration that cannot be read is told of, and the last settings stay.
fn look(global: &Global, mut settings: Settings) -> Settings {
    let read = app::settings(global);
    let config_ok = read.is_ok();
    match read {
        // What is served does not move while it is.
        Ok(read) => settings = Settings { state_dir: settings.state_dir, ..read },
        Err(error) => tracing::warn!("the last settings stay: {}", engine::chain(&error)),
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
    fn a_configuration_that_breaks_is_told_and_the_last_settings_stay() {
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
        let settings = look(&global, app::settings(&global).unwrap());
        let seen = || (Ledger::load(&state).unwrap().config_ok, Survey::load(&state).unwrap().unwrap().time);
        let (good, first) = seen();
        assert!(good);
        write("relative", &state);
        let settings = look(&global, settings);
        let (good, second) = seen();
        assert!(!good && second > first, "a survey is taken all the same");
        assert_eq!(settings.backupdir.to_str(), Some("/first"));
        write("/second", &dir.path().join("elsewhere"));
        let settings = look(&global, settings);
        assert!(seen().0);
        assert_eq!(settings.backupdir.to_str(), Some("/second"));
        assert_eq!(settings.state_dir, state, "what is served does not move");
    }
}
