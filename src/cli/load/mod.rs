//! `suzu load`: many clients at once, their figures, and a verdict for scripts.
//!
//! Turns arguments and the environment into a [`Plan`], shows how far it is, and writes what it came to as a table, as
//! JSON and as a page. What a load is and what is checked stands in [`crate::load`].

pub(super) mod options;
pub(super) mod page;
mod table;

use super::{Error, Variables};
use crate::load::{self, Plan, Progress, Report};
use clap::{ArgMatches, Command};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  suzu load                                             ten streams of `vad` at real time for 10 s
  suzu load -c 500 --model denoise --wav speech.wav     five hundred, with a voice of your own
  suzu load --url ws://127.0.0.1:8080/v1/echo -c 100 --in-flight 16
  suzu load --url http://127.0.0.1:8080/health/live -c 50
  suzu load -c 200 --p99-max 100ms --error-rate-max 0.001 --report load.html

Exit code 1 when a bound is missed. CLIENT_COUNT, CHUNKS_PER_CLIENT, CHUNK_INTERVAL, CHUNK_SIZE, TEST_DURATION,
SERVER_URL, USE_CONNECTION_POOL, POOL_SIZE, CONNECT_TIMEOUT and IDLE_TIMEOUT are read where the option is not given.";

/// The command and its arguments.
pub(super) fn command() -> Command {
    Command::new("load")
        .about("Load a server with many clients, check every answer and tell how fast they were")
        .after_help(EXAMPLES)
        .args(options::whom())
        .args(options::how_much())
        .args(options::connections())
        .args(options::content())
        .args(options::bounds())
        .args(options::output())
}

/// Makes the load, and succeeds only if every stated bound is kept.
pub(super) fn run(matches: &ArgMatches, variables: &Variables) -> Result<(), Error> {
    let plan = options::plan(matches, variables)?;
    let report = make(&plan, !matches.get_flag("quiet") && !matches.get_flag("no-progress"))?;
    let json: Option<&PathBuf> = matches.get_one("json");
    match json {
        Some(path) if path == Path::new("-") => super::print(&as_json(&report))?,
        Some(path) => write(path, &as_json(&report))?,
        None => {}
    }
    if !matches.get_flag("quiet") && json.is_none_or(|path| path != Path::new("-")) {
        super::print(&table::text(&report))?;
    }
    if let Some(path) = matches.get_one::<PathBuf>("report") {
        write(path, &page::html(&report))?;
    }
    if report.connections.opened == 0 {
        let why = report.failures.keys().next().map_or("", String::as_str);
        return Err(Error::failed(format!(
            "no connection could be opened: {why}. Is the server running there?"
        )));
    }
    let missed = options::missed(matches, &report);
    if missed.is_empty() { Ok(()) } else { Err(Error::failed(missed.join("; "))) }
}

/// Makes the load, with a line that tells how far it is if wanted and there is a terminal.
pub(super) fn make(plan: &Plan, shown: bool) -> Result<Report, Error> {
    let line = if shown && io::stderr().is_terminal() { progress_line() } else { None };
    let report = load::run(plan, |progress| {
        if let Some(line) = &line {
            line.set_message(describe(progress));
        }
    });
    if let Some(line) = line {
        line.finish_and_clear();
    }
    report.map_err(|error| match error {
        load::Error::Plan(why) => Error::usage(why),
        load::Error::System { .. } => Error::failed(error.to_string()),
    })
}

fn progress_line() -> Option<ProgressBar> {
    let style = ProgressStyle::with_template("  {spinner} {msg}").ok()?;
    let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    line.set_style(style);
    line.enable_steady_tick(Duration::from_millis(250));
    Some(line)
}

fn describe(progress: &Progress) -> String {
    format!(
        "{:>3.0} %  {} of {} open  {} sent  {} answered  {} errors  p99 {:.1} ms",
        progress.done * 100.0,
        progress.open,
        progress.wanted,
        progress.sent,
        progress.answered,
        progress.errors,
        progress.p99_ms
    )
}

fn as_json(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).unwrap_or_default();
    text.push('\n');
    text
}

/// Writes a file, or says why not.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text)
        .map_err(|error| Error::failed(format!("cannot write {}: {error}", path.display())))
}
