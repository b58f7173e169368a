//! Syncs a large file while it is still being written, so that the final sync is short. Must not replace the final sync: only
//! [`File::sync_all`] after the last write makes a file durable.

use std::fs::File;
use std::io;
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;

/// Bytes between two syncs: large compared with the cost of a sync, small compared with an archive.
const STEP: u64 = 64 << 20;

/// A thread that syncs a file repeatedly. It ends when this is dropped.
pub struct Writeback {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    since: u64,
}

impl Writeback {
    /// Starts the thread, which waits for the first bytes.
    pub fn start(file: &File) -> io::Result<Writeback> {
        let file = file.try_clone()?;
        let (wake, woken) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("writeback".to_owned())
            .spawn(move || woken.iter().try_for_each(|()| file.sync_data()))?;
        Ok(Writeback { wake: Some(wake), thread: Some(thread), since: 0 })
    }

    /// Counts written bytes and starts a sync if necessary. Never waits for the disk.
    pub fn wrote(&mut self, bytes: u64) {
        self.since += bytes;
        if self.since >= STEP && self.wake.as_ref().is_some_and(|wake| wake.try_send(()).is_ok()) {
            self.since = 0;
        }
    }

    /// Ends the thread. The kernel reports a failed write only once per file, so the caller must not ignore this error.
    pub fn finish(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        self.wake = None;
        let gone = || Err(io::Error::other("the thread has ended"));
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| gone()))
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_error_is_returned_at_the_end() {
        // A pipe cannot be synced.
        let (_reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut writeback = Writeback::start(&file).unwrap();
        writeback.wrote(STEP);
        assert!(writeback.finish().is_err());
    }

    #[test]
    fn syncing_a_file_succeeds() {
        let file = tempfile::tempfile().unwrap();
        let mut writeback = Writeback::start(&file).unwrap();
        writeback.wrote(STEP - 1);
        writeback.wrote(1);
        writeback.finish().unwrap();
    }
}
