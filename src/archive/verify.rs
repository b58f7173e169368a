//! Checks every byte of an archive. Must not stop at the first damage.

use std::ops::ControlFlow;

use super::stream::Ahead;
use super::{Archive, Error, Member, SUMS};
use crate::model::Hasher;
use crate::sys::patience::Stalled;

/// Most damages that are listed.
pub(super) const MAX_DAMAGES: usize = 100;

/// A member that is hashed while its pieces are read.
struct Watched<'a> {
    member: &'a Member,
    hasher: Hasher,
    whole: bool,
}

impl Archive {
    /// Reads and checks everything: frames, tar structure, the digest of each member, and that all members named by
    /// the manifest and `SHA256SUMS` exist.
    ///
    /// `progress` receives the bytes of the file read since its last call, [`Archive::packed_bytes`] in total. If it
    /// returns [`ControlFlow::Break`], the check ends early and its result is meaningless. The error lists all
    /// damages with their members and offsets.
    pub fn verify(&self, threads: usize, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(), Vec<Error>> {
        let mut damages = Vec::new();
        let members = match self.members() {
            Ok(members) => members,
            Err(error) if Stalled::caused(&error) => return Err(vec![error]),
            Err(error) => {
                damages.push(error);
                &[]
            }
        };
        let mut watched: Vec<_> =
            members.iter().map(|member| Watched { member, hasher: Hasher::new(), whole: true }).collect();
        if let Err(error) = self.check_pieces(threads, &mut watched, &mut damages, progress) {
            // Nothing more can be read from a file that hangs.
            let is_stall = Stalled::caused(&error);
            damages.push(error);
            if is_stall {
                return Err(damages);
            }
        }
        if !members.is_empty() {
            self.check_digests(watched, &mut damages);
            self.check_names(members, &mut damages);
        }
        damages.truncate(MAX_DAMAGES);
        if damages.is_empty() { Ok(()) } else { Err(damages) }
    }

    fn check_pieces(
        &self,
        threads: usize,
        watched: &mut [Watched<'_>],
        damages: &mut Vec<Error>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let pieces = self.pieces();
        let mut ahead = Ahead::new(pieces.clone(), 0, pieces.list().len(), threads)?;
        let mut spare = Vec::new();
        for piece in pieces.list() {
            let Some(decoded) = ahead.next(std::mem::take(&mut spare)) else { break };
            let start = piece.stream_offset;
            let end = start + u64::from(piece.entry.unpacked);
            let mut touched = watched
                .iter_mut()
                .filter(|watched| watched.member.offset < end && start < watched.member.offset + watched.member.length);
            match decoded {
                Ok(bytes) => {
                    for watched in touched {
                        let Member { offset, length, .. } = watched.member;
                        // Both ends are inside the piece.
                        let from = offset.max(&start) - start;
                        let until = (offset + length).min(end) - start;
                        watched.hasher.update(&bytes[from as usize..until as usize]);
                    }
                    spare = bytes;
                }
                Err(error) if Stalled::caused(&error) => return Err(error),
                Err(error) => {
                    let first = touched.next();
                    let error = first.iter().fold(error, |error, watched| error.of(&watched.member.name));
                    first.into_iter().chain(touched).for_each(|watched| watched.whole = false);
                    if damages.len() < MAX_DAMAGES {
                        damages.push(error);
                    }
                }
            }
            if progress(u64::from(piece.entry.packed)).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Compares the hashes with `SHA256SUMS`. Members with a damaged frame were already reported.
    fn check_digests(&self, watched: Vec<Watched<'_>>, damages: &mut Vec<Error>) {
        let Ok(sums) = self.sums() else { return };
        for Watched { member, hasher, whole } in watched.into_iter().filter(|watched| watched.member.name != SUMS) {
            let member = member.name.clone();
            match sums.get(&member) {
                None => damages.push(Error::Unlisted { member }),
                Some(digest) if whole && *digest != hasher.finish() => damages.push(Error::Digest { member }),
                Some(_) => {}
            }
        }
    }

    /// Checks that all members named by the manifest or `SHA256SUMS` exist.
    pub(super) fn check_names(&self, members: &[Member], damages: &mut Vec<Error>) {
        let present = |name: &str| members.iter().any(|member| member.name == name);
        let missing = |name: &str| Error::Missing { member: name.to_owned() };
        if let Ok(sums) = self.sums() {
            damages.extend(sums.keys().filter(|name| !present(name)).map(|name| missing(name)));
        }
        match self.manifest() {
            Ok(manifest) => {
                let absent = manifest.members().into_iter().filter(|name| !present(name));
                damages.extend(absent.map(missing));
            }
            // Its damaged frame or digest was already reported.
            Err(Error::Member { .. } | Error::Digest { .. }) => {}
            Err(error) => damages.push(error),
        }
    }
}
