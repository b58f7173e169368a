//! Owns: bringing a large file to the disk while it is still being written, so that the sync at its end is short. Must not:
//! stand for that sync: only [`File::sync_all`] after the last write makes a file durable.

use std::fs::File;
use std::io;
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;

/// Bytes written between two syncs: enough that each is worth its cost, and little beside what is written in all.
const STEP: u64 = 64 << 20;

/// A thread that syncs a file again and again. Dropped, it ends.
pub struct Writeback {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    since: u64,
}

impl Writeback {
    /// Starts the thread, which does nothing yet.
    pub fn start(file: &File) -> io::Result<Writeback> {
        let file = file.try_clone()?;
        let (wake, woken) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("writeback".to_owned())
            .spawn(move || woken.iter().try_for_each(|()| file.sync_data()))?;
        Ok(Writeback { wake: Some(wake), thread: Some(thread), since: 0 })
    }

    /// Tells of bytes that were written. Never waits for the disk.
    pub fn wrote(&mut self, bytes: u64) {
        self.since += bytes;
        if self.since >= STEP && self.wake.as_ref().is_some_and(|wake| wake.try_send(()).is_ok()) {
            self.since = 0;
        }
    }

    /// Ends it. The kernel tells of a write that failed once a file, so its error is the only word of it.
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
    fn an_error_of_the_disk_is_kept() {
        // A pipe cannot be synced.
        let (_reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut writeback = Writeback::start(&file).unwrap();
        writeback.wrote(STEP);
        assert!(writeback.finish().is_err());
    }

    #[test]
    fn little_is_left_to_the_sync_at_the_end() {
        let file = tempfile::tempfile().unwrap();
        let mut writeback = Writeback::start(&file).unwrap();
        writeback.wrote(STEP - 1);
        writeback.wrote(1);
        writeback.finish().unwrap();
    }
}
