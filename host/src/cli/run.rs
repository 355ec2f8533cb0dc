//! `theseus run`: the life of a host process from its first line of log to its exit code.

use std::{
    io::{self, Write},
    mem::ManuallyDrop,
    net::TcpListener,
    sync::Arc,
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use tokio::sync::watch;

use super::{exit, fault::Fault};
use crate::{
    config::{Config, Log},
    gateway::{Gateway, Listeners, bind_admin_socket, json},
    home::Home,
    restart::{Notifier, listeners},
    runtime::Runtime,
};

/// Threads that serve HTTP. They only translate: executing has threads of its own.
const HTTP_THREADS: usize = 2;

/// Runs the host until it is told to stop, and ends in order.
pub(crate) fn run(home: &Home) -> Result<(), Fault> {
    // A plugin may change the working directory.
    let home = std::path::absolute(home.path()).map_err(cannot("the home's folder cannot be found"))?;
    let home = &Home::new(home);
    let config = Config::load(home)?;
    start_log(&config.log);
    let _exit = exit::guard().map_err(cannot("its end cannot be watched"))?;
    // Before anything is opened, so that being told to stop meanwhile ends in order too.
    let stop = watch_signals().map_err(cannot("signals cannot be received"))?;
    let supervisor = Notifier::from_env().map_err(cannot("the supervisor cannot be told anything"))?;
    let inherited = listeners::take().map_err(cannot("the supervisor's sockets cannot be used"))?;
    // Never dropped: the plugins stay loaded until the process ends, because their own threads may still be running.
    let runtime = ManuallyDrop::new(Arc::new(Runtime::open(home, &config)?));
    let served = serve(home, &config, &runtime, inherited, Arc::new(supervisor), stop);
    // Also if nothing could be served: whatever was opened is closed in order.
    let stopped = runtime.stop();
    let drained = served?;
    let head = stopped.map_err(|error| Fault::failed("cannot_stop", format!("the last commit failed: {error}")))?;
    log::info!("stopped at {}", json::head(&head));
    if drained { Ok(()) } else { Err(Fault::failed("cut", "stopped in order, but connections had to be cut")) }
}

/// Serves until the host is told to stop; false if connections had to be cut.
fn serve(
    home: &Home,
    config: &Config,
    runtime: &Arc<Runtime>,
    inherited: Vec<TcpListener>,
    supervisor: Arc<Notifier>,
    stop: watch::Receiver<bool>,
) -> Result<bool, Fault> {
    let applications = match inherited {
        none if none.is_empty() => {
            let place = format!("cannot listen on {}; set http.listen in theseus.toml", config.http.listen);
            vec![TcpListener::bind(config.http.listen).map_err(cannot(place))?]
        }
        inherited => inherited,
    };
    let address = applications[0].local_addr().map_err(cannot("the listening socket has no address"))?;
    runtime.set_http_address(address.to_string());
    let admin = bind_admin_socket(home).map_err(|error| Fault::failed("cannot_serve", error.to_string()))?;
    let gateway = Gateway::new(runtime.clone(), home, config, stop.clone());
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(HTTP_THREADS)
        .thread_name("theseus-http")
        .enable_all()
        .build()
        .map_err(cannot("the threads for HTTP cannot be started"))?;
    log::info!("ready on {address} at {}", json::head(&runtime.head()));
    supervisor.ready();
    runtime.confirm_trial().map_err(|problem| Fault::failed("cannot_confirm", problem))?;
    threads.spawn(end_if_fatal(runtime.clone()));
    threads.spawn(tell_supervisor(supervisor, runtime.clone(), stop, config.execution.drain_ms_max));
    threads.block_on(gateway.serve(Listeners { applications, admin })).map_err(cannot("the sockets cannot be served"))
}

/// Pings as long as the host is healthy, and announces the stop.
async fn tell_supervisor(
    supervisor: Arc<Notifier>,
    runtime: Arc<Runtime>,
    mut stop: watch::Receiver<bool>,
    drain_ms_max: u64,
) {
    let ping = async {
        let Some(interval) = supervisor.ping_interval() else { return std::future::pending().await };
        loop {
            match runtime.health() {
                Ok(()) => supervisor.ping(),
                Err(trouble) => log::error!("the supervisor is not pinged: {trouble}"),
            }
            tokio::time::sleep(interval).await;
        }
    };
    tokio::select! {
        () = ping => {}
        _ = stop.wait_for(|stopping| *stopping) => {}
    }
    supervisor.stopping();
    supervisor.extend_timeout(Duration::from_millis(drain_ms_max));
}

/// Ends the host as a signal would when it finds that it cannot go on; the stop then fails, and the exit code says so.
async fn end_if_fatal(runtime: Arc<Runtime>) {
    while runtime.fatal().is_none() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    if let Err(error) = signal_hook::low_level::raise(SIGTERM) {
        log::error!("the host cannot end itself: {error}");
    }
}

/// Becomes true at the first SIGTERM or SIGINT; later ones change nothing.
fn watch_signals() -> io::Result<watch::Receiver<bool>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (sender, receiver) = watch::channel(false);
    // Lives as long as the process, so that no signal can end it before it is done.
    thread::Builder::new().name("theseus-signals".into()).spawn(move || {
        for signal in signals.forever() {
            let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
            if sender.send_replace(true) {
                log::warn!("{name}: already stopping");
            } else {
                log::info!("{name}: stopping");
            }
        }
    })?;
    Ok(receiver)
}

fn start_log(log: &Log) {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&log.filter).format(|out, record| {
        let (time, target) = (out.timestamp_millis(), record.target());
        writeln!(out, "{time} {:5} {target}: {}", record.level(), record.args())
    });
    // Only fails if a logger was set before, and then that one is used.
    _ = builder.try_init();
}

fn cannot<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Fault {
    move |error| Fault::failed("cannot_run", format!("{what}: {error}"))
}
