//! The client for one export. Must not know which server it uses.

use std::path::Path;
use std::time::Duration;

use super::handshake::{self, Context, Export};
use super::wire::Wire;
use super::{Error, extents, read, reply};
use crate::model::Extent;

/// An open export with one or two connections.
///
/// After an error the connections are unusable, and every later call fails with [`Error::Broken`].
pub struct Client {
    connections: Vec<Wire>,
    export: Export,
    broken: bool,
}

impl Client {
    /// Opens an export at a Unix socket. The name of `qemu-nbd`'s export is `""`. Uses a second connection if the server
    /// allows it.
    ///
    /// `timeout` is the longest time without progress, in this and every later call.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Export`], or an error of the connection: [`Error::Stalled`], [`Error::Closed`],
    /// [`Error::Io`], [`Error::Protocol`].
    pub fn connect(socket: &Path, export: &str, timeout: Duration) -> Result<Client, Error> {
        let open = || {
            let mut wire = Wire::connect(socket, timeout)?;
            let agreed = handshake::negotiate(&mut wire, export, Context::Allocation)?;
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

    /// The ranges of an export that changed since a dirty bitmap was created, sorted, disjoint and merged; the bitmap's
    /// granularity decides how much more they contain. Uses a connection of its own.
    ///
    /// # Errors
    /// [`Error::NoBitmap`] if the server does not have this bitmap; otherwise those of [`Client::connect`].
    pub fn changed(socket: &Path, export: &str, bitmap: &str, timeout: Duration) -> Result<Vec<Extent>, Error> {
        let mut wire = Wire::connect(socket, timeout)?;
        let agreed = handshake::negotiate(&mut wire, export, Context::Changed(bitmap))?;
        let changed = match agreed.context {
            Some(_) => extents::all(&mut wire, &agreed, Context::Changed(bitmap))?,
            None => return Err(Error::NoBitmap { socket: socket.to_owned(), bitmap: bitmap.to_owned() }),
        };
        // The answer is complete, so a failure to say goodbye means nothing.
        let _ = reply::request(&mut wire, 0, reply::DISCONNECT, 0, (0, 0));
        Ok(changed)
    }

    /// The size of the export in bytes.
    pub fn size(&self) -> u64 {
        self.export.size
    }

    /// The ranges with data, from the server's block status: sorted, disjoint and merged. The rest reads as zeros. Without
    /// block status, the whole export is one range. After 8 Mi ranges, the rest of the disk is one range.
    ///
    /// # Errors
    /// [`Error::Request`], or an error of the connection.
    pub fn extents(&mut self) -> Result<Vec<Extent>, Error> {
        self.attempt(|client| match client.connections.first_mut() {
            Some(wire) => extents::all(wire, &client.export, Context::Allocation),
            None => Err(Error::Broken),
        })
    }

    /// Reads the bytes of `ranges` in order and passes them to `sink` with their offsets, at most 1 MiB per call. Several
    /// requests are in flight, with buffers of at most 10 MiB.
    ///
    /// # Errors
    /// An error of the sink, which stops reading at once; [`Error::Range`]; [`Error::Request`]; or an error of the connection.
    pub fn read<E: From<Error>>(
        &mut self,
        ranges: &[Extent],
        sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.attempt(|client| read::all(&mut client.connections, &client.export, ranges, sink))
    }

    /// Marks the client as broken if `act` fails.
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
    /// Disconnects as the protocol requires, if the connections still work.
    fn drop(&mut self) {
        for wire in self.connections.iter_mut().filter(|_| !self.broken) {
            let _ = reply::request(wire, 0, reply::DISCONNECT, 0, (0, 0));
        }
    }
}
