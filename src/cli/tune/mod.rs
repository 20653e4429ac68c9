//! `suzu tune`: the setting with which this host holds the most streams.
//!
//! Owns the sweep over settings and the recommendation. How a load is made and checked stands in [`crate::load`]. A
//! server is started for each setting and ended after it; one that runs already is only measured, never changed.
//!
//! The parts: `arguments` what is asked; `settings` which values, in which order, and which is best; `search` how many;
//! `measure` the loads; `server` the child; `sameness` the comparison with unbatched results; `sweep` all of that
//! together; `table`, `page` and `document` what is told.

mod arguments;
mod document;
mod measure;
mod page;
mod sameness;
mod search;
mod server;
mod settings;
mod sweep;
mod table;

use super::{Error, Variables, load};
use arguments::Asked;
use clap::{ArgMatches, Command};
use measure::Row;
use std::io::{self, Write};

const ABOUT: &str = "\
Find the setting with which this host holds the most streams

Starts a server of its own for each setting, and looks by doubling and bisecting for the most streams at real time
that it holds: 99 % of the answers within --p99-max, no error, nothing discarded, every balance right. Settings are
swept one after the other with the others at their best: batch_max, queue_delay_max, workers, and the size and time-out of runs
(batch_size and flush_timeout on /audio, otherwise those of streams). Ties go to what is nearer to the defaults.
What is recommended gave the same results to many streams at once as to each alone without batches.

The load is made by this machine too, and takes its share of it.

With --url a server that runs already is measured at rising levels of load. It cannot be changed from outside, so
nothing is swept and nothing recommended.";

const EXAMPLES: &str = "\
Examples:
  suzu tune --out suzu.toml                             the model `vad`, p99 within 100 ms
  suzu tune --model denoise --wav speech.wav --p99-max 50ms --report tune.html
  suzu tune --config suzu.toml --models-dir models --model keyword
  suzu tune --path /audio --p99-max 2s
  suzu tune --url ws://127.0.0.1:8080 --model vad       how many streams a running server holds

Exit code 1 when no setting meets the target, or none gives the results of unbatched streams. The environment is read as
by `suzu load`; the servers that are started get none of it.";

/// The command and its arguments.
pub(super) fn command() -> Command {
    let (about, _) = ABOUT.split_once('\n').unwrap_or((ABOUT, ""));
    Command::new("tune")
        .about(about)
        .long_about(ABOUT)
        .after_help(EXAMPLES)
        .args(arguments::own())
        .args(arguments::shared())
        .mut_arg("url", |url| url.help("A server that runs already, to be measured as it is"))
}

/// Sweeps or measures, and succeeds only if something meets the target.
pub(super) fn run(matches: &ArgMatches, variables: &Variables) -> Result<(), Error> {
    let asked = Asked::read(matches, variables)?;
    let tell = |line: &str| {
        if !asked.quiet {
            // That nobody reads on is no failure.
            let _ = writeln!(io::stderr(), "{line}");
        }
    };
    match load::options::url(matches, variables)? {
        None => sweep(&asked, &tell),
        Some(url) => levels(&asked, &url, &tell),
    }
}

fn sweep(asked: &Asked, tell: &dyn Fn(&str)) -> Result<(), Error> {
    let outcome = sweep::Sweep::new(asked, tell)?.run()?;
    let best = outcome.best.as_ref().map(|(best, _)| *best);
    let told = Told { best, words: outcome.words.join("\n"), file: outcome.best.map(|(_, file)| file) };
    show(asked, "Settings and the streams they hold", &outcome.rows, &told)?;
    let Some(file) = told.file else {
        let why = match outcome.rows.iter().any(|row| row.clients > 0) {
            true => "no setting gives the results of unbatched streams",
            false => "no setting meets the target",
        };
        return Err(Error::failed(format!("{why}: the table says more")));
    };
    match &asked.out {
        Some(path) => {
            load::write(path, &file)?;
            tell(&format!("written to {}", path.display()));
            Ok(())
        }
        None if asked.prints_json() => Ok(()),
        None => super::print(&file),
    }
}

fn levels(asked: &Asked, url: &str, tell: &dyn Fn(&str)) -> Result<(), Error> {
    tell("a running server cannot be changed from outside: measuring levels of load against its setting");
    let number = std::cell::Cell::new(0);
    let (rows, best) = asked.bench.levels(|row| {
        tell(&table::line(number.replace(number.get() + 1), row));
    })?;
    let words = match best {
        Some(best) => format!(
            "as it is set, {url} holds {}{} clients with a p99 of {:.1} ms; no setting was changed and none is recommended",
            rows[best].clients,
            if rows[best].at_max { " or more" } else { "" },
            rows[best].p99_ms
        ),
        None => format!("{url} does not meet the target at any level of load"),
    };
    let told = Told { best, words, file: None };
    show(asked, "Levels of load against a running server", &rows, &told)?;
    if best.is_some() { Ok(()) } else { Err(Error::failed(told.words)) }
}

/// What is said of the rows.
struct Told {
    best: Option<usize>,
    words: String,
    /// The best setting as TOML.
    file: Option<String>,
}

/// The table and what is said of it, wherever they are wanted.
fn show(asked: &Asked, title: &str, rows: &[Row], told: &Told) -> Result<(), Error> {
    let text = table::table(rows, told.best);
    if let Some(path) = &asked.json {
        let value =
            serde_json::json!({ "rows": rows, "best": told.best, "words": told.words, "toml": told.file });
        let json = format!("{value:#}\n");
        if asked.prints_json() { super::print(&json)? } else { load::write(path, &json)? }
    }
    if !asked.quiet && !asked.prints_json() {
        // Comments, so that what is printed may be kept as a file.
        let lines = text.lines().chain(told.words.lines()).map(|line| format!("# {line}\n"));
        super::print(&lines.collect::<String>())?;
    }
    match &asked.report {
        Some(path) => load::write(path, &page::html(title, rows, &text, &told.words)),
        None => Ok(()),
    }
}
