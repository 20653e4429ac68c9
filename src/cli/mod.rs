//! The command line: `suzu`, `suzu serve`, `suzu stream`, `suzu load`, `suzu tune`, `suzu models`, `suzu token`,
//! `suzu check`.
//!
//! Parses arguments, calls one command and turns its result into an exit code. The logger is set beneath [`run`] by
//! `serve`, the signals by `serve` and `stream`, and by nothing else, so whoever uses the library gets neither.
//!
//! Exit codes: 0 well, 1 failed while running (or `check` found something), 2 wrong arguments or configuration.

mod args;
mod check;
#[cfg(feature = "tools")]
mod load;
mod logs;
mod models;
mod serve;
mod stream;
mod token;
#[cfg(feature = "tools")]
mod tune;

use crate::config::{Config, ConfigError};
use crate::model::Registry;
use crate::server::{cores, memory_bound, settle_workers};
use clap::{ArgMatches, Command};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// The environment, as it was handed in.
type Variables = [(OsString, OsString)];

/// What the limits of a configuration add up to, a line for each part. More than the memory allowed is an error.
fn memory_lines(config: &Config) -> Result<Vec<String>, ConfigError> {
    let models = Registry::builtin();
    let config = settle_workers(config.clone(), cores(), &models);
    let bound = memory_bound(&config, models.iter());
    bound.check(&config)?;
    Ok(bound.describe())
}

/// Why a command ended before its time.
#[derive(Debug)]
pub struct Error {
    message: String,
    code: u8,
}

impl Error {
    /// The arguments or the configuration are wrong: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }

    /// It was asked rightly and could not be done: exit code 1.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        let mut message = String::from("the configuration cannot be used:");
        for problem in &error.problems {
            message.push_str("\n  ");
            message.push_str(problem);
        }
        message.push_str("\nCorrect it there; `suzu check` reads the same places and starts nothing.");
        Error::usage(message)
    }
}

/// Runs the command that the arguments name. `args` begins with the program's own name.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version come this way too, with code 0. A closed terminal is nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let variables: Vec<_> = variables.into_iter().collect();
    match dispatch(&matches, &variables) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(error.code)
        }
    }
}

fn dispatch(matches: &ArgMatches, variables: &Variables) -> Result<(), Error> {
    match matches.subcommand() {
        None => serve::run(matches, variables),
        Some(("serve", matches)) => serve::run(matches, variables),
        Some(("check", matches)) => check::run(matches, variables),
        Some(("models", matches)) => models::run(matches),
        #[cfg(feature = "tools")]
        Some(("load", matches)) => load::run(matches, variables),
        #[cfg(feature = "tools")]
        Some(("tune", matches)) => tune::run(matches, variables),
        Some(("stream", matches)) => stream::run(matches, variables),
        Some(("token", matches)) => token::run(matches),
        Some((other, _)) => Err(Error::usage(format!("no command `{other}`; see `suzu --help`"))),
    }
}

const EXAMPLES: &str = "\
Without a command, `suzu` serves, and takes the options of `suzu serve`.

Examples:
  suzu                                        serve on 127.0.0.1:8080
  suzu serve --port 9000                      serve on another port
  suzu check --config suzu.toml               say what is wrong with a configuration
  suzu models                                 list the models
  suzu token key --id kiosk                   make a key for a client
  suzu stream speech.wav --model denoise --out clean.wav";

/// The same for what the small build leaves out.
#[cfg(feature = "tools")]
const TOOL_EXAMPLES: &str = "
  suzu load -c 100                            a hundred streams at once, checked and measured
  suzu tune --out suzu.toml                   find the setting that is best for this host";
#[cfg(not(feature = "tools"))]
const TOOL_EXAMPLES: &str = "";

fn command() -> Command {
    let command = Command::new("suzu")
        .version(clap::crate_version!())
        .about("Streams audio through models: one small server, one poll loop, thousands of clients.")
        .after_help(format!("{EXAMPLES}{TOOL_EXAMPLES}"))
        .args_conflicts_with_subcommands(true)
        // `suzu --port 9000` is `suzu serve --port 9000`; the list of options stands in the help of `serve`.
        .args(args::configuration().map(|arg| arg.hide(true)))
        .subcommand(serve::command())
        .subcommand(stream::command());
    #[cfg(feature = "tools")]
    let command = command.subcommand(load::command()).subcommand(tune::command());
    command.subcommand(models::command()).subcommand(token::command()).subcommand(check::command())
}

/// Prints to standard output. That nobody reads on (`suzu check | head`) is no failure.
fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn settings_may_stand_before_no_command_or_behind_one_but_not_in_between() {
        for accepted in
            ["suzu", "suzu --port 1", "suzu serve --port 1", "suzu check --port 1", "suzu check a.toml"]
        {
            assert!(command().try_get_matches_from(accepted.split(' ')).is_ok(), "{accepted}");
        }
        for refused in ["suzu --port 1 serve", "suzu frobnicate", "suzu check a.toml --config b.toml"] {
            assert!(command().try_get_matches_from(refused.split(' ')).is_err(), "{refused}");
        }
    }
}
