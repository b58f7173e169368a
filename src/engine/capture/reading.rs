//! Opens the disks of a capture for reading, with the ranges that changed if they are known. Must not capture or release
//! them.

use std::path::{Path, PathBuf};

use super::{Capture, SERVER_TIMEOUT};
use crate::engine::chain;
use crate::model::{Disk, Extent, Image, WholeRead};
use crate::nbd;
use crate::plan::ReadFrom;

/// One captured disk, ready to be read.
pub(in crate::engine) struct Reading {
    pub client: nbd::Client,
    /// The ranges that may differ from the previous point; `None` if unknown.
    pub changed: Option<Vec<Extent>>,
    /// Why they are unknown, if changes are tracked at all.
    pub why_whole: Option<WholeRead>,
    /// The process that serves it, if we started it.
    server: Option<nbd::Server>,
}

impl Reading {
    /// Closes the connection and stops its server process.
    pub fn finish(self) -> Result<(), nbd::Error> {
        drop(self.client);
        self.server.map_or(Ok(()), nbd::Server::finish)
    }
}

impl Capture<'_> {
    /// Connects to one disk. With `force_share`, other processes may write to its image at the same time.
    pub fn open(&self, disk: &Disk, how: &ReadFrom, force_share: bool) -> Result<Reading, nbd::Error> {
        if let (ReadFrom::Capture, Some(job)) = (how, &self.pull) {
            let client = nbd::Client::connect(&job.socket, &disk.target, SERVER_TIMEOUT)?;
            return self.with_changes(disk, (&job.socket, &disk.target), client, None);
        }
        let image = match how {
            ReadFrom::Capture => &disk.image,
            ReadFrom::Direct(image) => image,
        };
        // The known chain is that of the active image. What it lacks is read from the headers.
        let (mut chain, mut is_whole) = (vec![image.clone()], false);
        if *image == disk.image {
            chain.extend(disk.backing.iter().cloned());
            is_whole = disk.chain_ends;
        }
        if let Some(last) = chain.last().filter(|_| !is_whole) {
            let below = chain::below(last).map_err(|source| nbd::Error::Chain { image: path_of(image), source })?;
            chain.extend(below);
        }
        for image in &chain {
            chain::expect_data_file(image).map_err(|source| nbd::Error::Chain { image: path_of(image), source })?;
        }
        let socket = self.sockets.join(format!("{}.sock", disk.target));
        let start = |bitmap| {
            let options = nbd::Options { force_share, chain_ends: true, bitmap };
            nbd::Server::start(&chain, &socket, SERVER_TIMEOUT, options)
        };
        // A server with an unusable bitmap ends at once.
        let (server, is_refused) = match self.tracking.since(&disk.target).map(|bitmap| start(Some(bitmap))) {
            Some(Ok(server)) => (server, false),
            Some(Err(error)) => {
                tracing::warn!(disk = disk.target, "cannot read only what changed: {error}");
                (start(None)?, true)
            }
            None => (start(None)?, false),
        };
        let client = nbd::Client::connect(server.socket(), "", SERVER_TIMEOUT)?;
        if is_refused {
            let why_whole = Some(WholeRead::Refused);
            return Ok(Reading { client, changed: None, why_whole, server: Some(server) });
        }
        self.with_changes(disk, (&socket, ""), client, Some(server))
    }

    /// Queries what changed, if the changes of the disk are tracked. If that fails, the disk is read whole.
    fn with_changes(
        &self,
        disk: &Disk,
        (socket, export): (&Path, &str),
        client: nbd::Client,
        server: Option<nbd::Server>,
    ) -> Result<Reading, nbd::Error> {
        let Some(bitmap) = self.tracking.since(&disk.target) else {
            return Ok(Reading { client, changed: None, why_whole: self.tracking.why_whole(&disk.target), server });
        };
        let (changed, why_whole) = match nbd::Client::changed(socket, export, bitmap, SERVER_TIMEOUT) {
            Ok(changed) => (Some(changed), None),
            Err(error) => {
                tracing::warn!(disk = disk.target, "cannot read only what changed: {error}");
                (None, Some(WholeRead::Refused))
            }
        };
        Ok(Reading { client, changed, why_whole, server })
    }
}

fn path_of(image: &Image) -> PathBuf {
    image.source.path().unwrap_or(Path::new("")).to_owned()
}
