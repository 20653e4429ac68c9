//! What the command line of `rival` says, and how its servers start.

use crate::engine::Engine;
use crate::inference::{Inference, Service};
use crate::model_loop::{self, Looped};
use crate::{axum_rival, bare, fastwebsockets_rival, tokio_rival};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Servers on 127.0.0.1 that Suzu is measured against. They print their address and serve until SIGTERM.
#[derive(Parser)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// tokio and tokio-tungstenite.
    Tokio {
        #[command(flatten)]
        server: Server,
        /// Small buffers, TCP_NODELAY, one flush for all that is ready.
        #[arg(long)]
        tuned: bool,
    },
    /// axum: WebSockets and HTTP.
    Axum {
        #[command(flatten)]
        server: Server,
    },
    /// fastwebsockets on hyper.
    Fastwebsockets {
        #[command(flatten)]
        server: Server,
    },
    /// An echo of bytes on bare TCP, by mio.
    Bare,
    /// No server: a model in a loop on one thread.
    Loop {
        #[arg(long, value_enum)]
        model: Looped,
        /// Streams, or rows of a call.
        #[arg(long, default_value_t = 1)]
        rows: usize,
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        #[command(flatten)]
        models: Models,
    },
}

#[derive(Args)]
struct Server {
    #[arg(long, value_enum, default_value = "current")]
    runtime: Kind,
    /// Threads of the runtime `multi`; one for each core that it may use if not given.
    #[arg(long)]
    threads: Option<usize>,
    #[arg(long, value_enum, default_value = "blocking")]
    inference: Inference,
    /// Threads of the pool for blocking work; one for each core that it may use if not given.
    #[arg(long)]
    inference_threads: Option<usize>,
    #[command(flatten)]
    models: Models,
}

#[derive(Args)]
struct Models {
    /// Where `tests/conformance/run --only-models` made `gru` and `conv`; without it they are not served.
    #[arg(long)]
    models: Option<PathBuf>,
    /// ONNX Runtime where its library is found, if not given.
    #[arg(long, value_enum)]
    engine: Option<Engine>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// One thread for everything.
    Current,
    /// A pool of threads.
    Multi,
}

/// Does what the options say; returns only for `loop` and where starting fails.
///
/// # Errors
/// No port, no thread, or no poll.
pub fn run(options: Options) -> io::Result<()> {
    match options.what {
        What::Tokio { server, tuned } => {
            server.run(async move |listener, service| tokio_rival::serve(listener, service, tuned).await)
        }
        What::Axum { server } => server.run(axum_rival::serve),
        What::Fastwebsockets { server } => server.run(fastwebsockets_rival::serve),
        What::Bare => bare::serve(listen()?),
        What::Loop { model, rows, seconds, models } => {
            let engine = models.engine();
            let looped = model_loop::run(
                model,
                rows,
                Duration::from_secs_f64(seconds),
                models.models.as_deref(),
                engine,
            );
            println!("{}", looped.to_json());
            Ok(())
        }
    }
}

impl Server {
    fn run(self, serve: impl AsyncFnOnce(tokio::net::TcpListener, Arc<Service>)) -> io::Result<()> {
        let service = Service::start(self.models.models.as_deref(), self.models.engine(), self.inference);
        let runtime = self.runtime()?;
        runtime.block_on(async {
            let listener = listen()?;
            listener.set_nonblocking(true)?;
            serve(tokio::net::TcpListener::from_std(listener)?, Arc::new(service)).await;
            Ok(())
        })
    }

    fn runtime(&self) -> io::Result<Runtime> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut builder = match self.runtime {
            Kind::Current => Builder::new_current_thread(),
            Kind::Multi => Builder::new_multi_thread(),
        };
        if let Some(threads) = self.threads {
            builder.worker_threads(threads);
        }
        builder.max_blocking_threads(self.inference_threads.unwrap_or(cores)).enable_all().build()
    }
}

impl Models {
    fn engine(&self) -> Engine {
        self.engine.unwrap_or_else(Engine::found)
    }
}

/// A free port, told as Suzu tells it.
fn listen() -> io::Result<TcpListener> {
    allow_descriptors();
    // The backlog of std is 128 (4096 in newer versions); ten thousand clients come at once, as they do to Suzu.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // SAFETY: a plain system call on a descriptor that lives.
    unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 4096) };
    eprintln!("listening on http://{}", listener.local_addr()?);
    Ok(listener)
}

/// As many descriptors as the system lets this program have.
fn allow_descriptors() {
    // SAFETY: both calls take a pointer to a valid `rlimit` that lives across them.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
