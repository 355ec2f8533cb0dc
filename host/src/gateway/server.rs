//! Sockets and connections: accepting, bounding, and ending them so that no request is lost.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixListener as StdUnixListener},
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Listeners, Shared, routes, stopped};

/// How long connections stay usable after the host began to stop: requests that were on their way to it are read and
/// answered (with `Connection: close`) instead of being reset.
const QUIET: Duration = Duration::from_millis(50);

/// How long to wait before accepting again after the system refused to.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How many control connections may be open at once.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("the control socket {} cannot be made: {source}; the path may have at most 107 bytes", path.display())]
pub struct AdminSocketError {
    /// Where it should be.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Makes the control socket of a home, for this user only. One that is left from an earlier host is replaced, so the
/// caller must own the identity.
pub fn bind_admin_socket(home: &crate::home::Home) -> Result<StdUnixListener, AdminSocketError> {
    let path = home.admin_socket();
    let bind = || {
        fs::create_dir_all(home.run())?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = StdUnixListener::bind(&path)?;
        // Whoever connects before this takes effect still has to pass `is_trusted`.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|source| AdminSocketError { path: path.clone(), source })
}

/// Serves all listeners until the host stops, then drains. False if connections had to be cut.
pub(crate) async fn serve(shared: Arc<Shared>, listeners: Listeners, drain_max: Duration) -> io::Result<bool> {
    let mut accepting = JoinSet::new();
    let slots = Arc::new(Semaphore::new(shared.config.connections_max));
    let application = routes::application(shared.clone());
    for listener in listeners.applications {
        listener.set_nonblocking(true)?;
        let listener = Listener::Applications(TcpListener::from_std(listener)?);
        accepting.spawn(accept(shared.clone(), listener, application.clone(), slots.clone()));
    }
    listeners.admin.set_nonblocking(true)?;
    let listener = Listener::Admin(UnixListener::from_std(listeners.admin)?);
    let slots = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    accepting.spawn(accept(shared.clone(), listener, routes::admin(shared.clone()), slots));

    stopped(&mut shared.stop.clone()).await;
    let drained = timeout(drain_max, async { while accepting.join_next().await.is_some() {} }).await.is_ok();
    // Nobody can connect any more, and the next host makes its own.
    _ = fs::remove_file(&shared.admin_socket);
    Ok(drained)
}

enum Listener {
    Applications(TcpListener),
    Admin(UnixListener),
}

enum Stream {
    Application(TcpStream),
    Admin(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Applications(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are small and wanted at once.
                stream.set_nodelay(true)?;
                Ok(Stream::Application(stream))
            }
            Listener::Admin(listener) => Ok(Stream::Admin(listener.accept().await?.0)),
        }
    }
}

/// Accepts connections until the host stops, then waits for those that are open. Dropping it cuts them.
async fn accept(shared: Arc<Shared>, listener: Listener, router: Router, slots: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    let mut stop = shared.stop.clone();
    let mut stop = pin!(stopped(&mut stop));
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, slot)
        };
        let (stream, slot) = tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = connections.join_next() => continue,
            next = next => next,
        };
        let (shared, router) = (shared.clone(), router.clone());
        match stream {
            Ok(Stream::Admin(stream)) if !is_trusted(&stream) => {
                log::warn!("a connection to the control socket by another user was closed");
            }
            Ok(stream) => {
                connections.spawn(async move {
                    shared.metrics.connections.inc();
                    match stream {
                        Stream::Application(stream) => converse(&shared, stream, router).await,
                        Stream::Admin(stream) => converse(&shared, stream, router).await,
                    }
                    shared.metrics.connections.dec();
                    drop(slot);
                });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                log::warn!("a connection could not be accepted: {error}");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
    // A socket that a supervisor holds too goes on queueing connections, for the next host to accept.
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Control is for the user whose host it is, and for root.
fn is_trusted(stream: &UnixStream) -> bool {
    let trusted = [rustix::process::geteuid().as_raw(), 0];
    stream.peer_cred().is_ok_and(|peer| trusted.contains(&peer.uid()))
}

/// Serves one connection to its end.
async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send>(shared: &Shared, stream: S, router: Router) {
    let used = AtomicBool::new(false);
    let routes = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
        used.store(true, Ordering::Relaxed);
        routes.call(request)
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(Duration::from_millis(shared.config.idle_ms_max));
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let mut stop = shared.stop.clone();

    // What ends a connection early (a reset, a timeout, bytes that are not HTTP) is the client's affair.
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = async { stopped(&mut stop).await; sleep(QUIET).await } => None,
    };
    if let Some(ended) = ended {
        _ = ended.inspect_err(|error| log::debug!("a connection ended: {error}"));
        return;
    }
    connection.as_mut().graceful_shutdown();
    // A client that has not finished even its first request's head by now is not waited for.
    if used.load(Ordering::Relaxed) {
        _ = connection.await;
    }
}
