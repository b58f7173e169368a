//! Owns: one export as its reader sees it. Must not: know what serves it.

use std::path::Path;
use std::time::Duration;

use super::handshake::{self, Export};
use super::wire::Wire;
use super::{Error, extents, read, reply};
use crate::model::Extent;

/// One export, open for reading over one connection or two.
///
/// After a failed call the connections are given up: every later call is [`Error::Broken`].
pub struct Client {
    connections: Vec<Wire>,
    export: Export,
    broken: bool,
}

impl Client {
    /// Opens an export at a unix socket; `qemu-nbd` calls its own `""`. Takes a second connection where the server says that
    /// this is safe.
    ///
    /// `timeout` is the longest time that the server may make no progress at all, now and in every later call.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Export`], or what can happen to any exchange: [`Error::Stalled`], [`Error::Closed`],
    /// [`Error::Io`], [`Error::Protocol`].
    pub fn connect(socket: &Path, export: &str, timeout: Duration) -> Result<Client, Error> {
        let open = || {
            let mut wire = Wire::connect(socket, timeout)?;
            let agreed = handshake::negotiate(&mut wire, export)?;
            Ok((wire, agreed))
        };
        let (first, agreed) = open()?;
        let mut connections = vec![first];
        if agreed.multi_conn {
            let (second, same) = open()?;
            if same != agreed {
                return Err(second.protocol("its connections report different exports"));
            }
            connections.push(second);
        }
        Ok(Client { connections, export: agreed, broken: false })
    }

    /// The export's size, in bytes.
    pub fn size(&self) -> u64 {
        self.export.size
    }

    /// The ranges that hold data, by the server's block status: sorted, disjoint, merged. The rest reads as zeros. A server
    /// that does not tell has one range, the whole export; so has the end of a disk with more than 8 Mi ranges.
    ///
    /// # Errors
    /// [`Error::Request`], or what can happen to any exchange.
    pub fn extents(&mut self) -> Result<Vec<Extent>, Error> {
        self.attempt(|client| match client.connections.first_mut() {
            Some(wire) => extents::all(wire, &client.export),
            None => Err(Error::Broken),
        })
    }

    /// Reads exactly the bytes of `ranges`, in their order, and gives them to `sink` with their offsets, at most 1 MiB at once.
    /// Several requests are under way at any time; they need 10 MiB of memory at most.
    ///
    /// # Errors
    /// The sink's own, which ends the reading at once; [`Error::Range`]; [`Error::Request`]; or what can happen to any
    /// exchange.
    pub fn read<E: From<Error>>(
        &mut self,
        ranges: &[Extent],
        sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.attempt(|client| read::all(&mut client.connections, &client.export, ranges, sink))
    }

    /// Does something that leaves the connections unusable when it fails.
    fn attempt<T, E: From<Error>>(&mut self, act: impl FnOnce(&mut Client) -> Result<T, E>) -> Result<T, E> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(Error::Broken.into());
        }
        let result = act(self)?;
        self.broken = false;
        Ok(result)
    }
}

impl Drop for Client {
    /// Takes leave of the server, where it still listens.
    fn drop(&mut self) {
        for wire in self.connections.iter_mut().filter(|_| !self.broken) {
            let _ = reply::request(wire, 0, reply::DISCONNECT, 0, (0, 0));
        }
    }
}
