//! An open file on a file system that may hang: every call, including close, has a time limit. Must not know the contents.
//!
//! Each call runs in a thread and takes its buffer along, so no bytes are copied. Reading one piece of an archive takes a
//! hundred times as long as starting the thread.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::buffer::room;
use super::opened;
use super::patience::{Patience, Stalled, Task};

/// Bytes per system call; each completed call counts as progress.
const STEP: usize = 1 << 20;

/// An open file whose calls never block forever.
#[derive(Debug)]
pub struct PatientFile {
    /// `None` while it is being closed.
    file: Option<Arc<File>>,
    patience: Patience,
    hung: AtomicBool,
}

impl PatientFile {
    /// Opens a regular file for reading: [`opened::open_file`].
    ///
    /// # Errors
    /// Contains [`Stalled`] if it hangs, like the errors of all other calls here.
    pub fn open(path: &Path, patience: &Patience) -> io::Result<PatientFile> {
        let path = path.to_owned();
        let file = patience.call(move || opened::open_file(&path)).and_then(|opened| opened)?;
        Ok(PatientFile::new(file, patience))
    }

    /// Wraps an open file.
    pub fn new(file: File, patience: &Patience) -> PatientFile {
        PatientFile { file: Some(Arc::new(file)), patience: patience.clone(), hung: AtomicBool::new(false) }
    }

    /// Runs `work` on the file.
    pub fn with<T: Send + 'static>(&self, work: impl FnOnce(&File) -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let file = self.shared()?;
        self.note(self.patience.call(move || work(&file)).and_then(|done| done))
    }

    /// Starts work of many steps on the file.
    pub fn start<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> io::Result<Task<io::Result<T>>> {
        let file = self.shared()?;
        self.patience.start(name, move || work(&file))
    }

    /// The time limit for calls.
    pub fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Fills the buffer with `length` bytes from an offset, or fewer at the end of the file. After an error, the contents of the
    /// buffer are undefined.
    pub fn read(&self, buffer: &mut Vec<u8>, length: usize, offset: u64) -> io::Result<()> {
        let file = self.shared()?;
        let done = Arc::new(AtomicU64::new(0));
        let (mut bytes, progress) = (std::mem::take(buffer), done.clone());
        room(&mut bytes, length);
        let work = move || {
            let mut at = 0;
            while at < length {
                let step = STEP.min(length - at);
                match file.read_at(&mut bytes[at..at + step], offset + at as u64) {
                    Ok(0) => break,
                    Ok(count) => at += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
                progress.store(at as u64, Ordering::Relaxed);
            }
            bytes.truncate(at);
            Ok(bytes)
        };
        let task = self.patience.start("read", work);
        let read = task.and_then(|task| task.wait(|| done.load(Ordering::Relaxed))).and_then(|read| read);
        self.note(read).map(|bytes| *buffer = bytes)
    }

    /// The same, but fewer bytes are an error: [`io::ErrorKind::UnexpectedEof`].
    pub fn read_exact(&self, buffer: &mut Vec<u8>, length: usize, offset: u64) -> io::Result<()> {
        self.read(buffer, length, offset)?;
        if buffer.len() == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Fails if any call on it has hung, because then the data read may be incomplete.
    pub fn expect_answers(&self) -> io::Result<()> {
        if self.hung.load(Ordering::Relaxed) { Err(self.patience.stalled()) } else { Ok(()) }
    }

    /// Reads from the start.
    pub fn reader(&self) -> Reader<'_> {
        Reader { file: self, buffer: Vec::new(), at: 0, offset: 0 }
    }

    fn shared(&self) -> io::Result<Arc<File>> {
        self.file.clone().ok_or_else(|| io::Error::other("it is closed"))
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            if Stalled::is(error) {
                self.hung.store(true, Ordering::Relaxed);
            }
        })
    }
}

impl Drop for PatientFile {
    fn drop(&mut self) {
        let file = self.file.take();
        // Closing may hang, too; then the file stays open.
        let _ = self.patience.call(move || drop(file));
    }
}

/// Reads a file in order, in steps large enough for the cost of a call.
#[derive(Debug)]
pub struct Reader<'a> {
    file: &'a PatientFile,
    buffer: Vec<u8>,
    /// Index of the first byte of the buffer that is not consumed.
    at: usize,
    /// Offset in the file of the end of the buffer.
    offset: u64,
}

impl BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() {
            self.at = 0;
            self.file.read(&mut self.buffer, STEP, self.offset)?;
            self.offset += self.buffer.len() as u64;
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.buffer.len());
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn file_is_read_up_to_its_end() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3 * STEP + 5).map(|n| (n % 251) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        let file = PatientFile::new(file, &Patience::default());
        let mut buffer = vec![1; 7];
        file.read_exact(&mut buffer, 2 * STEP, 3).unwrap();
        assert!(buffer == bytes[3..2 * STEP + 3]);
        let mut all = Vec::new();
        file.reader().read_to_end(&mut all).unwrap();
        assert!(all == bytes);
        file.read(&mut buffer, 100, 3 * STEP as u64).unwrap();
        assert_eq!(buffer, bytes[3 * STEP..]);
        let short = file.read_exact(&mut buffer, 100, 3 * STEP as u64).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        file.expect_answers().unwrap();
    }

    #[test]
    fn a_hung_call_is_remembered() {
        let (reader, writer) = io::pipe().unwrap();
        let patience = Patience::new(Duration::from_millis(20));
        let file = PatientFile::new(File::from(std::os::fd::OwnedFd::from(reader)), &patience);
        let hangs = file.with(|mut file| io::Read::read(&mut file, &mut [0]));
        assert!(Stalled::is(&hangs.unwrap_err()));
        drop(writer);
        while patience.call(|| ()).is_err() {
            std::thread::yield_now();
        }
        assert!(Stalled::is(&file.expect_answers().unwrap_err()));
    }
}
