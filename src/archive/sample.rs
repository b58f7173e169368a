//! Checks the structure of an archive and a sample of its pieces. Must not report the rest as good.

use std::io;
use std::ops::ControlFlow;
use std::thread::{self, ScopedJoinHandle};

use super::verify::MAX_DAMAGES;
use super::{Archive, Error, Member};
use crate::model::Sample;
use crate::sys::patience::Stalled;

impl Archive {
    /// Reads and checks the tar headers, `SHA256SUMS`, the manifest and a sample of the pieces, on this many threads.
    /// Returns all damage found, and the compressed bytes of the sample. `progress` is that of [`Archive::verify`].
    ///
    /// `None` if only the whole archive can be checked: the pieces of an uncompressed one have no checksums.
    pub fn sample(
        &self,
        sample: Sample,
        threads: usize,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Option<(Vec<Error>, u64)> {
        let (pieces, mut damages, mut read_bytes) = (self.pieces(), Vec::new(), 0);
        if !pieces.kind().has_checksums() {
            return None;
        }
        let members = self.members().unwrap_or_else(|error| {
            damages.push(error);
            &[]
        });
        if !members.is_empty() {
            self.check_names(members, &mut damages);
        }
        let picks = sample.picks(pieces.list().len()).enumerate();
        let picked: Vec<usize> = picks.filter_map(|(index, is_picked)| is_picked.then_some(index)).collect();
        for batch in picked.chunks(threads.max(1)) {
            // Nothing more can be read from a file that hangs.
            if damages.len() >= MAX_DAMAGES || damages.iter().any(|error| Stalled::caused(error)) {
                break;
            }
            damages.extend(self.check_batch(batch, members));
            let bytes = batch.iter().map(|index| u64::from(pieces.list()[*index].entry.packed)).sum();
            read_bytes += bytes;
            if progress(bytes).is_break() {
                break;
            }
        }
        Some((damages, read_bytes))
    }

    /// Decodes these pieces at the same time, and returns their errors.
    fn check_batch(&self, batch: &[usize], members: &[Member]) -> Vec<Error> {
        let pieces = self.pieces();
        let decode = |index: usize| pieces.decode(index, &mut Vec::new());
        let decoded: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = batch.iter().map(|index| scope.spawn(move || decode(*index))).collect();
            threads.into_iter().map(ScopedJoinHandle::join).collect()
        });
        let results = batch.iter().map(|index| &pieces.list()[*index]).zip(decoded);
        let errors = results.filter_map(|(piece, result)| {
            let (offset, start) = (piece.file_offset, piece.stream_offset);
            let panicked = || Error::Read { offset, source: io::Error::other("a decoding thread panicked") };
            let error = result.unwrap_or_else(|_| Err(panicked())).err()?;
            let end = start + u64::from(piece.entry.unpacked);
            let member = members.iter().find(|member| member.offset < end && start < member.offset + member.length);
            Some(member.iter().fold(error, |error, member| error.of(&member.name)))
        });
        errors.collect()
    }
}
