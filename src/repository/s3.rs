//! Stores a repository in a bucket of an S3 server. Must not know the contents of objects, or print a key.
//!
//! Requests run on one private thread; callers wait for its results. An upload is atomic: readers see an object only when
//! all of it is stored. `object_store` retries what a server or a network may fail at once; the limit of [`Patience`] bounds
//! how long a call makes no progress, including retries. After a call without a response, the next call first asks for
//! one object and fails soon if the server is still gone, so that a run does not wait for each object again.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt,
    PutPayload, RetryConfig, StaticCredentialProvider,
};
use tokio::runtime::{Builder, Handle};
use zeroize::Zeroizing;

use super::Id;
use super::object::{Kind, Object};
use super::place::Place;
use crate::model::{BucketUrl, printable};
use crate::sys::patience::Patience;

/// Larger objects are uploaded in parts, so that every part is progress.
const WHOLE: usize = 32 << 20;
const PART: usize = 8 << 20;

/// How long the first response of a server may take, and how long it is retried.
const FIRST: Duration = Duration::from_secs(10);
const FIRST_RETRIES: Duration = Duration::from_secs(5);

const CONNECT: Duration = Duration::from_secs(10);
/// Servers close idle connections; this is less than most of them wait.
const IDLE: Duration = Duration::from_secs(20);

/// The longest message of a server that is reported.
const MESSAGE: usize = 300;

/// The access key of a server.
#[derive(Clone)]
pub struct S3Keys {
    /// Name of the key.
    pub id: String,
    /// The secret.
    pub secret: Zeroizing<String>,
    /// Token of a temporary key.
    pub token: Option<Zeroizing<String>>,
}

impl fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Keys")
    }
}

/// A repository in a bucket.
#[derive(Clone)]
pub struct S3 {
    url: BucketUrl,
    /// For requests to a server that responds.
    steady: Arc<AmazonS3>,
    /// For the first request: fails soon.
    first: Arc<AmazonS3>,
    /// Whether the last call had a response.
    responds: Arc<AtomicBool>,
    patience: Patience,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3").field(&self.url).finish()
    }
}

impl S3 {
    /// The place at this URL. `authorities` are certificates in PEM format that are trusted besides those of the system.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for unusable certificates. Sends no request.
    pub fn at(
        url: &BucketUrl,
        region: &str,
        keys: &S3Keys,
        authorities: Option<&[u8]>,
        patience: &Patience,
    ) -> io::Result<S3> {
        // The first one wins; emails use the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates = authorities.map(Certificate::from_pem_bundle).transpose().map_err(invalid)?;
        if certificates.as_ref().is_some_and(Vec::is_empty) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no certificate in PEM format"));
        }
        let certificates = certificates.unwrap_or_default();
        let build = |timeout: Duration, retries: Duration| {
            let options = ClientOptions::new()
                .with_allow_http(url.is_plain())
                .with_timeout(timeout)
                .with_connect_timeout(timeout.min(CONNECT))
                .with_pool_idle_timeout(IDLE);
            let options = certificates.iter().cloned().fold(options, ClientOptions::with_root_certificate);
            let backoff = BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: (retries / 5).max(Duration::from_millis(200)),
                base: 2.0,
            };
            let credential = AwsCredential {
                key_id: keys.id.clone(),
                secret_key: keys.secret.to_string(),
                token: keys.token.as_ref().map(|token| token.to_string()),
            };
            let store = AmazonS3Builder::new()
                .with_endpoint(&url.endpoint)
                .with_bucket_name(&url.bucket)
                .with_region(region)
                .with_allow_http(url.is_plain())
                .with_client_options(options)
                .with_retry(RetryConfig { backoff, max_retries: usize::MAX, retry_timeout: retries })
                .with_credentials(Arc::new(StaticCredentialProvider::new(credential)))
                .with_disable_bulk_delete(true)
                .build();
            store.map(Arc::new).map_err(invalid)
        };
        let limit = patience.limit();
        Ok(S3 {
            url: url.clone(),
            // A lost connection is noticed early enough for a second try.
            steady: build(limit * 2 / 3, limit / 2)?,
            first: build(FIRST.min(limit / 2), FIRST_RETRIES.min(limit / 3))?,
            responds: Arc::default(),
            patience: patience.clone(),
        })
    }

    /// Runs a request, or several of them, and waits for the result. `work` adds to the number whenever there is progress.
    fn call<T: Send + 'static, F: Future<Output = Result<T, object_store::Error>> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<AmazonS3>, Arc<AtomicU64>) -> F,
    ) -> io::Result<T> {
        if !self.responds.load(Ordering::Relaxed) {
            let (store, config) = (self.first.clone(), self.path(Object::CONFIG));
            match self.wait(async move { store.head(&config).await.map(drop) }, &AtomicU64::new(0)) {
                // The request itself reports the other errors.
                Err(error) if is_silence(&error) => return Err(error),
                _ => {}
            }
        }
        let progress = Arc::new(AtomicU64::new(0));
        self.wait(work(self.steady.clone(), progress.clone()), &progress)
    }

    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, object_store::Error>> + Send + 'static,
        progress: &AtomicU64,
    ) -> io::Result<T> {
        let (done, result) = mpsc::sync_channel(1);
        let task = runtime()?.spawn(async move { drop(done.send(work.await)) });
        let mut seen = 0;
        let found = loop {
            match self.patience.receive(&result) {
                Ok(Some(found)) => break found.map_err(translated),
                Ok(None) => break Err(io::Error::other("the request ended without a result")),
                Err(_) if progress.load(Ordering::Relaxed) > seen => seen = progress.load(Ordering::Relaxed),
                Err(stalled) => {
                    task.abort();
                    break Err(stalled);
                }
            }
        };
        self.responds.store(!found.as_ref().is_err_and(is_silence), Ordering::Relaxed);
        found
    }

    fn path(&self, object: Object) -> Path {
        self.below(&[object.folder().as_str(), &object.file_name()])
    }

    fn below(&self, parts: &[&str]) -> Path {
        let parts = [self.url.prefix.as_str()].into_iter().chain(parts.iter().copied());
        Path::from_iter(parts.flat_map(|part| part.split('/')).filter(|part| !part.is_empty()))
    }
}

impl Place for S3 {
    fn location(&self) -> String {
        self.url.to_string()
    }

    fn put(&self, object: Object, bytes: Vec<u8>) -> io::Result<()> {
        let (path, large) = (self.path(object), bytes.len() > WHOLE);
        let put = self.call(move |store, progress| async move {
            let payload = PutPayload::from(bytes);
            if !large {
                return store.put(&path, payload).await.map(drop);
            }
            let mut upload = store.put_multipart(&path).await?;
            let sent = async {
                for bytes in payload.as_ref() {
                    for start in (0..bytes.len()).step_by(PART) {
                        let part = bytes.slice(start..bytes.len().min(start + PART));
                        upload.put_part(PutPayload::from(part)).await?;
                        progress.fetch_add(1, Ordering::Relaxed);
                    }
                }
                upload.complete().await.map(drop)
            };
            let sent = sent.await;
            if sent.is_err() {
                // Servers remove abandoned parts themselves if their bucket is configured so.
                let _ = upload.abort().await;
            }
            sent
        });
        put.map_err(|error| match error.kind() {
            // An upload finds everything except its bucket.
            io::ErrorKind::NotFound => io::Error::other(error.to_string()),
            _ => error,
        })
    }

    fn read(&self, object: Object, range: Range<u64>) -> io::Result<Vec<u8>> {
        // S3 has no empty ranges, and reports one behind the end as an error of its own.
        if range.is_empty() {
            return if range.start > self.size(object)? {
                Err(io::ErrorKind::UnexpectedEof.into())
            } else {
                Ok(vec![])
            };
        }
        let (path, wanted) = (self.path(object), range.clone());
        let read = self.call(move |store, progress| async move {
            let options = GetOptions { range: Some(GetRange::Bounded(wanted)), ..GetOptions::default() };
            contents(store.get_opts(&path, options).await?, u64::MAX, &progress).await
        });
        match read {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_silence(&error) => Err(error),
            Err(error) if self.size(object)? >= range.end => Err(error),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// In one request, because each one costs a round trip.
    fn read_all(&self, object: Object, limit: u64) -> io::Result<Vec<u8>> {
        let path = self.path(object);
        let read = self.call(move |store, progress| async move {
            let found = store.get(&path).await?;
            if found.meta.size > limit {
                return Ok(None);
            }
            contents(found, limit, &progress).await.map(Some)
        });
        read?.filter(|bytes| bytes.len() as u64 <= limit).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
    }

    fn size(&self, object: Object) -> io::Result<u64> {
        let path = self.path(object);
        self.call(move |store, _| async move { Ok(store.head(&path).await?.size) })
    }

    fn list(&self, kind: Kind) -> io::Result<Vec<(Id, u64)>> {
        let folder = self.below(&[kind.folder()]);
        let own = |object: Object| self.path(object);
        let listed = self.call(move |store, progress| async move {
            let mut listed = store.list(Some(&folder));
            let mut found = Vec::new();
            while let Some(entry) = listed.next().await {
                found.push(entry?);
                progress.fetch_add(1, Ordering::Relaxed);
            }
            Ok(found)
        })?;
        let objects = listed.into_iter().filter_map(|entry| {
            let id: Id = entry.location.filename()?.parse().ok()?;
            (own(Object::new(kind, id)) == entry.location).then_some((id, entry.size))
        });
        Ok(objects.collect())
    }

    fn remove(&self, object: Object) -> io::Result<()> {
        let path = self.path(object);
        match self.call(move |store, _| async move { store.delete(&path).await }) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// The bytes of a response; more than `limit` only by the length of one chunk.
async fn contents(found: GetResult, limit: u64, progress: &AtomicU64) -> object_store::Result<Vec<u8>> {
    let (mut stream, mut bytes) = (found.into_stream(), Vec::new());
    while bytes.len() as u64 <= limit
        && let Some(chunk) = stream.next().await
    {
        bytes.extend_from_slice(&chunk?);
        progress.fetch_add(1, Ordering::Relaxed);
    }
    Ok(bytes)
}

/// The thread that runs all requests of this process. It ends with the process.
fn runtime() -> io::Result<&'static Handle> {
    static RUNTIME: LazyLock<io::Result<Handle>> = LazyLock::new(|| {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new().name("s3".to_owned()).spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(handle)
    });
    RUNTIME.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

fn invalid(error: object_store::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, deepest(&error))
}

/// Whether the server did not respond, or could not be reached.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::NotConnected)
}

/// An error with the kind that callers expect, and a message without the request.
fn translated(error: object_store::Error) -> io::Error {
    use object_store::Error;
    let transport = causes(&error).find_map(|cause| cause.downcast_ref::<HttpError>()).map(HttpError::kind);
    let text = answer(&deepest(&error));
    let kind = match (&error, transport) {
        (Error::NotFound { .. }, _) => io::ErrorKind::NotFound,
        (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, _) => io::ErrorKind::PermissionDenied,
        // Lists have no errors of these kinds.
        _ if text.starts_with("404 ") => io::ErrorKind::NotFound,
        _ if text.starts_with("401 ") || text.starts_with("403 ") => io::ErrorKind::PermissionDenied,
        (_, Some(HttpErrorKind::Timeout | HttpErrorKind::Interrupted | HttpErrorKind::Request)) => {
            io::ErrorKind::TimedOut
        }
        (_, Some(HttpErrorKind::Connect)) => io::ErrorKind::NotConnected,
        // A server that only reports its own failures is as good as unreachable.
        _ if text.starts_with('5') => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, text)
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn deepest(error: &object_store::Error) -> String {
    causes(error.source().unwrap_or(error)).last().map(ToString::to_string).unwrap_or_default()
}

/// The status, code and message of a response: `403 Forbidden: AccessDenied: Access Denied`. Other texts are unchanged.
fn answer(text: &str) -> String {
    let inside = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once("</")?.0)
    };
    let status = text.split_once("status code: ").map_or(text, |(_, rest)| rest);
    let status = status.split_once(": <").map_or(status, |(status, _)| status).trim_end_matches([':', ' ']);
    let parts = [Some(status), inside("Code"), inside("Message")];
    let text = parts.into_iter().flatten().collect::<Vec<_>>().join(": ");
    printable(&text.chars().take(MESSAGE).collect::<String>())
}

#[cfg(test)]
mod tests;
