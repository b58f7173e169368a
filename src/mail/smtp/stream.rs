//! The connection to a mail server, in cleartext or inside TLS. It must not know SMTP.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::Trouble;
use crate::config::Smtp;
use crate::mail::Error;
use crate::sys::opened;

/// Maximum size of a certificate file, in bytes. The file of all public authorities is about 250 kB.
const MAX_CERTIFICATES: u64 = 16 << 20;

/// A connection.
pub(super) enum Stream {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Connects in cleartext; `timeout` applies to connecting and to each read and write.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Stream, Trouble> {
        let addresses = (host, port).to_socket_addrs().map_err(Trouble::Name)?;
        let mut failed = Trouble::Name(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for address in addresses {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(socket) => {
                    socket.set_read_timeout(Some(timeout))?;
                    socket.set_write_timeout(Some(timeout))?;
                    return Ok(Stream::Clear(socket));
                }
                Err(error) => failed = Trouble::Unreachable(error),
            }
        }
        Err(failed)
    }
}

impl Stream {
    /// Changes how long each read may take.
    pub fn wait_for_reads(&self, timeout: Duration) -> io::Result<()> {
        self.socket().set_read_timeout(Some(timeout))
    }

    /// The local address as an address literal of RFC 5321, 4.1.3.
    pub fn own_address(&self) -> io::Result<String> {
        Ok(match self.socket().local_addr()?.ip() {
            IpAddr::V4(address) => format!("[{address}]"),
            IpAddr::V6(address) => format!("[IPv6:{address}]"),
        })
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Clear(socket) => socket,
            Stream::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Clear(socket) => socket.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Clear(socket) => socket.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Clear(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// The TLS settings: trusted certificates and the expected name.
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Trusts the authorities of this host and of the configuration.
    pub fn trusting(smtp: &Smtp) -> Result<Tls, Error> {
        let failed = |source: Trouble| Error::Smtp { server: super::name(smtp), source };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &smtp.ca_file {
            let wrong = |source| Error::Certificates { path: path.clone(), source };
            let pem = opened::read_followed(path, MAX_CERTIFICATES).map_err(|error| wrong(error.into()))?;
            let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            let certificates = certificates.map_err(|error| wrong(error.into()))?;
            if certificates.is_empty() {
                return Err(wrong("no certificate found".into()));
            }
            for certificate in certificates {
                roots.add(certificate).map_err(|error| wrong(error.into()))?;
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| failed(error.into()))?;
        let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        let name = ServerName::try_from(smtp.host.clone())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error).into()))?;
        Ok(Tls { config, name })
    }

    /// Starts TLS on a cleartext connection; does nothing on one that already uses it.
    pub fn begin(&self, stream: Stream) -> Result<Stream, Trouble> {
        let Stream::Clear(mut socket) = stream else { return Ok(stream) };
        let mut connection = ClientConnection::new(self.config.clone(), self.name.clone())?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).map_err(|error| match error.downcast::<rustls::Error>() {
                Ok(error) => Trouble::Tls(error),
                Err(error) => Trouble::Network(error),
            })?;
        }
        Ok(Stream::Tls(Box::new(StreamOwned::new(connection, socket))))
    }
}
