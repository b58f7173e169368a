//! Owns: the server of metrics and status page, alone or during a run. Must not: know HTTP, or the contents of pages.

use std::thread::{self, JoinHandle};

use super::Error;
use crate::config::Settings;
use crate::engine;
use crate::exporter::{self, Listener, Server, Site, Stop};
use crate::model::Listen;

/// The server of a run; dropping it stops it.
pub struct Beside {
    stop: Option<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Serves during a run if the configuration asks for it and no kvmbackup exporter serves already. A run does not depend on it.
///
/// # Errors
/// It cannot listen there, which makes the result untidy at worst.
pub fn beside_run(settings: &Settings) -> Result<Option<Beside>, Error> {
    let Some(listen) = &settings.metrics.listen else { return Ok(None) };
    let (server, stop) = match open(listen) {
        Err(taken @ exporter::Error::Taken { .. }) => {
            let is_ours = exporter::is_ours(listen, &settings.state_dir)
                .map_err(engine::Error::file("write to the directory", &settings.state_dir))?;
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
pub fn site(settings: &Settings, listen: &Listen) -> Site {
    let mut names = settings.metrics.hosts.clone();
    names.push(settings.host.clone());
    if let Listen::Tcp { host, .. } = listen {
        names.push(host.clone());
    }
    Site::new(&settings.state_dir, names)
}

/// Listens there, and warns if other hosts can connect.
pub fn open(listen: &Listen) -> Result<(Server, Stop), exporter::Error> {
    let listener = Listener::bind(listen)?;
    if !listener.is_local() {
        tracing::warn!(
            "{listen} can be reached from other hosts without password or TLS. Put a reverse proxy in front of it. \
             kvmbackup-exporter.service accepts only the addresses in its `IPAddressAllow=`"
        );
    }
    Server::new(listener)
}
