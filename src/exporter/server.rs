//! Owns: the thread that serves, and the bounds of what one peer costs. Must not: know what is answered.

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

/// How long a request may take to come.
const REQUEST: Duration = Duration::from_secs(5);
/// How long request and response may take together.
const EXCHANGE: Duration = Duration::from_secs(15);
/// How long what comes behind the request is thrown away. A socket that is closed with bytes unread resets the connection,
/// and with it the response that the peer has not read yet (RFC 9112, 9.6).
const DRAIN: Duration = Duration::from_secs(1);
/// Bytes of the longest head, as most servers have it.
const LONGEST_HEAD: usize = 8 << 10;
/// How long nobody is let in after the system did not let us.
const PAUSE: Duration = Duration::from_millis(200);

/// The server; it serves on the thread that asks it to.
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
    /// A server, and what ends it.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub fn new(listener: Listener) -> Result<(Server, Stop), Error> {
        // One thread speaks with peers; others read the state directory for them, one for the page and one for all else.
        let runtime =
            Builder::new_current_thread().enable_all().max_blocking_threads(2).build().map_err(Error::Wait)?;
        let (sender, stopped) = oneshot::channel();
        Ok((Server { runtime, listener, stopped }, Stop { _sender: sender }))
    }

    /// Where it listens.
    pub fn listen(&self) -> &Listen {
        self.listener.listen()
    }

    /// Serves until its [`Stop`] is dropped.
    ///
    /// # Errors
    /// When the system does not let us wait for peers.
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
        // Without waiting for a state directory that hangs.
        runtime.shutdown_background();
        served.map_err(Error::Wait)
    }
}

/// Lets peers in, for ever.
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
            // accept(2): errors of a peer that has gone already come here, too.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // No descriptors or no memory is left: the oldest peer gives back its own.
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

/// What peers are served with.
struct Host {
    site: Arc<Site>,
    /// Whose turn it is to have the state directory read for the page, and for all else: one peer's after the other's, and
    /// none for those that have gone. Prometheus does not wait for pages.
    page: Arc<Semaphore>,
    others: Arc<Semaphore>,
    crowd: Crowd,
}

impl Host {
    /// Serves one peer, from its first byte to the close.
    async fn serve(self: Rc<Host>, stream: Box<dyn Stream>, at: Listen, load: Load) {
        let service = service_fn(|request| Box::pin(self.answer(request, &at, &load)));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .max_buf_size(LONGEST_HEAD)
            .keep_alive(false)
            // A peer may say that it has asked all, and still read.
            .half_close(true)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(stream), service);
        // An error is the peer's.
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

    /// Reads the state directory, which may take long, beside the peers. A turn ends with its reading, even if the peer has gone.
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
