//! The thread that serves clients (peers), with limits for each peer. It must not know the contents of responses.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{self, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{LocalSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::crowd::{Crowd, Load};
use super::listener::{Door, Listener, Stream};
use super::site::{Read, Route, Site};
use super::{Error, response};
use crate::model::Listen;

/// Time limit to receive a request.
const REQUEST: Duration = Duration::from_secs(5);
/// Time limit for request and response together.
const EXCHANGE: Duration = Duration::from_secs(15);
/// How long bytes after the request are read and discarded. Closing a socket with unread bytes resets the connection, and the
/// peer may lose a response that it has not read yet (RFC 9112, 9.6).
const DRAIN: Duration = Duration::from_secs(1);
/// Maximum size of a request header in bytes, like in most servers.
const LONGEST_HEAD: usize = 8 << 10;
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(200);

/// The server. It runs on the thread of its caller.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    listener: Listener,
    stopped: oneshot::Receiver<Infallible>,
}

/// Ends the server when it is dropped.
#[derive(Debug)]
pub struct Stop {
    _sender: oneshot::Sender<Infallible>,
}

impl Server {
    /// Creates a server, and the handle that ends it.
    ///
    /// # Errors
    /// No file descriptors are left.
    pub fn new(listener: Listener) -> Result<(Server, Stop), Error> {
        // One thread serves peers. Two others read the state directory: one for the page, one for all other paths.
        let runtime =
            Builder::new_current_thread().enable_all().max_blocking_threads(2).build().map_err(Error::Wait)?;
        let (sender, stopped) = oneshot::channel();
        Ok((Server { runtime, listener, stopped }, Stop { _sender: sender }))
    }

    /// The address.
    pub fn listen(&self) -> &Listen {
        self.listener.listen()
    }

    /// Serves until its [`Stop`] is dropped.
    ///
    /// # Errors
    /// The system cannot wait for connections.
    pub fn serve(self, site: Site) -> Result<(), Error> {
        let Server { runtime, listener, mut stopped } = self;
        let served = LocalSet::new().block_on(&runtime, async {
            let mut serving = pin!(admit(listener.open()?, site));
            poll_fn(|cx| match pin!(&mut stopped).poll(cx) {
                Poll::Ready(_) => Poll::Ready(Ok(())),
                Poll::Pending => serving.as_mut().poll(cx).map(Ok),
            })
            .await
        });
        // Does not wait for a hung state directory.
        runtime.shutdown_background();
        served.map_err(Error::Wait)
    }
}

/// Accepts peers forever.
async fn admit(door: Door, site: Site) {
    let turn = || Arc::new(Semaphore::new(1));
    let host = Rc::new(Host { site: Arc::new(site), page: turn(), others: turn(), crowd: Crowd::default() });
    let mut refused = false;
    loop {
        match door.accept().await {
            Ok((stream, at)) => {
                refused = false;
                host.crowd.make_room().await;
                let (host, load) = (Rc::clone(&host), Load::default());
                let task = tokio::task::spawn_local(Rc::clone(&host).serve(stream, at, load.clone()));
                host.crowd.admit(task, load);
            }
            // accept(2) also reports errors of peers that have already disconnected.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // No descriptors or no memory left: close the oldest peer to free its own.
            Err(_) if host.crowd.close_oldest() => tokio::task::yield_now().await,
            Err(error) => {
                if !refused {
                    tracing::warn!("cannot accept connections: {error}; retrying");
                }
                refused = true;
                sleep(PAUSE).await;
            }
        }
    }
}

/// Shared state for all peers.
struct Host {
    site: Arc<Site>,
    /// Queues for reading the state directory, one for the page and one for all other paths, so Prometheus does not wait for
    /// pages. Peers that have disconnected lose their turn.
    page: Arc<Semaphore>,
    others: Arc<Semaphore>,
    crowd: Crowd,
}

impl Host {
    /// Serves one peer from its first byte until the connection is closed.
    async fn serve(self: Rc<Host>, stream: Box<dyn Stream>, at: Listen, load: Load) {
        let service = service_fn(|request| Box::pin(self.answer(request, &at, &load)));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .max_buf_size(LONGEST_HEAD)
            .keep_alive(false)
            // A peer may shut down its writing side after the request and still read.
            .half_close(true)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(stream), service);
        // Errors concern only this peer.
        let _ = timeout(EXCHANGE, poll_fn(|cx| connection.poll_without_shutdown(cx))).await;
        let mut stream = connection.into_parts().io.into_inner();
        let drained = async {
            stream.shutdown().await?;
            io::copy(&mut stream, &mut io::sink()).await
        };
        let _ = timeout(DRAIN, drained).await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        at: &Listen,
        load: &Load,
    ) -> Result<Response<String>, Infallible> {
        load.set(Some(0));
        let response = match self.site.route(&request, at) {
            Route::Known(response) => response,
            Route::Page => self.read(&self.page, Site::page, at.clone()).await,
            Route::Read(read) => self.read(&self.others, read, at.clone()).await,
        };
        self.crowd.carry(load, response.body().len());
        Ok(response)
    }

    /// Reads the state directory on another thread, because this may take long. A turn lasts until its read ends, even if the
    /// peer has disconnected.
    async fn read(&self, turn: &Arc<Semaphore>, read: Read, at: Listen) -> Response<String> {
        let (site, turn) = (Arc::clone(&self.site), Arc::clone(turn).acquire_owned().await);
        let reading = spawn_blocking(move || {
            let response = read(&site, &at);
            drop(turn);
            response
        });
        let lost = |_| response::text(StatusCode::INTERNAL_SERVER_ERROR, "cannot build the response");
        reading.await.unwrap_or_else(lost)
    }
}
