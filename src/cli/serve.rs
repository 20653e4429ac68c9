//! `suzu serve`: configuration, logs, the event loop, and the two signals that end it.

use super::{Error, Variables, args, logs};
use crate::config::{Config, OnnxEngine};
use crate::driver::{Clock, Handle};
use crate::model::onnx::EngineKind;
use crate::model::{Registry, Repository, RepositoryOptions, Trial};
use crate::time::Instant;
use clap::{ArgMatches, Command};
use log::{info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

const ABOUT: &str = "\
Serve audio streams and requests (the default command)

Listens on one port for HTTP and WebSocket.
SIGTERM or SIGINT finishes what is in flight and exits with 0; a second one exits at once.
SIGHUP reads models, credentials and certificate again; streams in progress finish on their models.";

const EXAMPLES: &str = "\
A flag beats its environment variable, which beats the file, which beats the default.

Examples:
  suzu serve --port 0 --log-format json
  suzu serve --config suzu.toml --workers 4
  SUZU_PORT=9000 suzu serve";

pub(super) fn command() -> Command {
    let (about, _) = ABOUT.split_once('\n').unwrap_or((ABOUT, ""));
    Command::new("serve").about(about).long_about(ABOUT).after_help(EXAMPLES).args(args::configuration())
}

pub(super) fn run(matches: &ArgMatches, variables: &Variables) -> Result<(), Error> {
    let resolved = args::load(matches, variables)?;
    let memory = super::memory_lines(&resolved.config)?;
    #[expect(clippy::disallowed_methods, reason = "the stamp of a log line decides nothing")]
    logs::install(&resolved.config, SystemTime::now)?;
    for line in &resolved.warnings {
        warn!("{line}");
    }
    for line in &memory {
        info!("{line}");
    }
    let result = serve(resolved.config);
    log::logger().flush();
    result
}

fn serve(config: Config) -> Result<(), Error> {
    let mut registry = Registry::builtin();
    let place = format!("{}:{}", config.host, config.port);
    let scheme = if config.tls_certificate.is_empty() { "http" } else { "https" };
    let repository = repository(&config);
    if let Some(repository) = &repository {
        load_models(repository, &mut registry);
    }
    info!("models: {}", registry.names().collect::<Vec<_>>().join(", "));
    let event_loop = crate::driver::EventLoop::bind_with(config, registry, repository)
        .map_err(|error| cannot_listen(&place, &error))?;
    let handle = event_loop.handle();
    obey_signals(handle).map_err(|error| Error::failed(format!("cannot watch signals: {error}")))?;
    info!("listening on {scheme}://{}", event_loop.local_addr());
    event_loop.run().map_err(|error| Error::failed(format!("the event loop cannot go on: {error}")))?;
    info!("everything is finished");
    Ok(())
}

/// The folder of models, each of which is tried by this very program before it is loaded.
fn repository(config: &Config) -> Option<Repository> {
    if config.models_dir.is_empty() {
        return None;
    }
    let engine = match config.engine {
        OnnxEngine::Rten => EngineKind::Rten,
        OnnxEngine::OnnxRuntime => EngineKind::OnnxRuntime,
    };
    let library = (!config.onnxruntime_library.is_empty()).then(|| config.onnxruntime_library.clone());
    let trial = std::env::current_exe().ok().map(|program| {
        let mut args = vec!["models", "check", "--quiet", "--engine", engine.name()]
            .into_iter()
            .map(OsString::from)
            .collect::<Vec<_>>();
        args.push("--memory-max".into());
        args.push(config.model_memory_max.to_string().into());
        if let Some(library) = &library {
            args.extend(["--onnxruntime-library".into(), library.into()]);
        }
        Trial { program, args, time_max: config.load_timeout }
    });
    let clock = Clock::new();
    let options = RepositoryOptions {
        engine,
        library: library.map(PathBuf::from),
        batch_max: config.batch_max,
        trial,
        clock: Some(Arc::new(move || clock.instant() - Instant::default())),
        ..RepositoryOptions::default()
    };
    Some(Repository::new(&config.models_dir, options))
}

/// Loads what lies in the folder. One that cannot be loaded does not keep the others from being served.
fn load_models(repository: &Repository, registry: &mut Registry) {
    for (name, loaded) in repository.load_all() {
        match loaded {
            Ok(_) if registry.served(&name).is_some() => {
                warn!("model {name} of the folder is not served: one inside the server has that name");
            }
            Ok(served) => {
                info!("model {name} is loaded in version {}", served.version());
                registry.insert_loaded(served);
            }
            Err(why) => log::error!("model {name} is not served: {why}"),
        }
    }
}

/// Says what to do about the usual causes.
fn cannot_listen(place: &str, error: &io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has that port; choose another by --port, or 0 for any free one"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 want privileges; choose another by --port",
        io::ErrorKind::AddrNotAvailable => "no interface here has that address; give one by --host",
        io::ErrorKind::InvalidInput => "change the setting that it names",
        _ => "check --host and --port",
    };
    Error::failed(format!("cannot listen on {place}: {error}. What to do: {advice}."))
}

/// SIGHUP reads models, credentials and certificate again. The first SIGTERM or SIGINT drains; the second ends the process as
/// the signal itself would have.
fn obey_signals(handle: Handle) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let watch = move || {
        let mut draining = false;
        for signal in signals.forever() {
            let name = name_of(signal);
            if signal == SIGHUP {
                info!("{name} came: reading models, credentials and certificate again");
                handle.reload();
            } else if draining {
                warn!("{name} came again: ending at once");
                log::logger().flush();
                std::process::exit(128 + signal);
            } else {
                info!("{name} came: finishing what is in flight; another one ends at once");
                draining = true;
                handle.drain();
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map(drop)
}

fn name_of(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}
