//! The HTTP server: translates requests into the runtime's [`Action`]s and its answers into JSON. It decides nothing.
//!
//! Applications connect over TCP; `HOME/run/admin.sock` serves the same routes and, beyond them, control.
//! `docs/http.md` describes the routes and documents.

mod batch;
pub mod finding;
mod graph;
mod history;
pub mod json;
mod metrics;
mod pack;
mod problem;
mod rehearsal;
pub mod request;
mod routes;
mod server;
pub mod time;

use std::{net::TcpListener, os::unix::net::UnixListener, path::PathBuf, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tokio::sync::{oneshot, watch};

use self::{metrics::RequestMetrics, problem::Problem};
use crate::{
    config::{Config, Http},
    home::Home,
    runtime::{
        Runtime,
        action::{Action, ActionError, Answer, codes},
    },
};
pub use server::{AdminSocketError, bind_admin_socket};

/// The HTTP server of one host.
pub struct Gateway {
    shared: Arc<Shared>,
    drain_max: Duration,
}

/// Where a [`Gateway`] accepts connections.
pub struct Listeners {
    /// For applications, without control.
    pub applications: Vec<TcpListener>,
    /// For control, from [`bind_admin_socket`].
    pub admin: UnixListener,
}

/// What every request sees.
struct Shared {
    runtime: Arc<Runtime>,
    config: Http,
    metrics: RequestMetrics,
    registry: Registry,
    /// Becomes true when the host begins to stop.
    stop: watch::Receiver<bool>,
    admin_socket: PathBuf,
}

impl Gateway {
    /// A server in front of `runtime`. It begins to stop when `stop` becomes true or its sender is gone.
    pub fn new(runtime: Arc<Runtime>, home: &Home, config: &Config, stop: watch::Receiver<bool>) -> Gateway {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::registered(&mut registry);
        runtime.metrics(&mut registry);
        let admin_socket = std::path::absolute(home.admin_socket()).unwrap_or_else(|_| home.admin_socket());
        let shared = Shared { runtime, config: config.http.clone(), metrics, registry, stop, admin_socket };
        Gateway { shared: Arc::new(shared), drain_max: Duration::from_millis(config.execution.drain_ms_max) }
    }

    /// Serves until the host stops; returns once every request that was begun has been answered, or could not be.
    ///
    /// Stopping means: no connection is accepted any more, requests in flight are finished and their connections
    /// closed, and idle connections are closed. Returns false if connections had to be cut after `drain_ms_max`.
    pub async fn serve(self, listeners: Listeners) -> std::io::Result<bool> {
        server::serve(self.shared, listeners, self.drain_max).await
    }
}

impl Shared {
    /// Hands an action to the runtime. What cannot even be queued is answered before this returns.
    fn send(&self, action: Action) -> oneshot::Receiver<Result<Answer, ActionError>> {
        let (sender, receiver) = oneshot::channel();
        // A client that went away does not need its answer.
        self.runtime.perform(action, Box::new(move |outcome| _ = sender.send(outcome)));
        receiver
    }

    /// Has an action performed, and waits until its answer is durable.
    async fn ask(&self, action: Action) -> Result<Answer, Problem> {
        received(self.send(action)).await
    }
}

/// Waits for the runtime's answer.
async fn received(reply: oneshot::Receiver<Result<Answer, ActionError>>) -> Result<Answer, Problem> {
    match reply.await {
        Ok(outcome) => outcome.map_err(Problem::from),
        // The runtime went away with the request. Whether it was done, only the next host knows.
        Err(_) => {
            Err(Problem::new(codes::STOPPING, "the host stopped before the answer; ask again with the same request id"))
        }
    }
}

/// Waits until the host begins to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it everything that would keep the host going.
    _ = stop.wait_for(|stopping| *stopping).await;
}
