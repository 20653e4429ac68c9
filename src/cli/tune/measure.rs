//! How many clients a server holds: bounded loads of rising size, each judged as a whole.

use super::search::{Greatest, Probe, Range, greatest};
use super::server::Server;
use crate::cli::{Error, load};
use crate::driver::Clock;
use crate::load::{Plan, Report};
use crate::time::Instant;
use serde::Serialize;
use std::time::Duration;

/// Above the target by no more than this, a load is made a second time: one busy moment of the machine decides nothing.
const NEAR: f64 = 1.5;
/// Clients of the first load, if nothing is known yet.
const FIRST_GUESS: usize = 10;

/// What every load of a sweep has in common.
pub(super) struct Bench {
    pub(super) plan: Plan,
    pub(super) p99_max: Duration,
    pub(super) clients_max: usize,
    pub(super) precision: f64,
    pub(super) clock: Clock,
    /// Nothing new is begun from then on.
    pub(super) until: Instant,
    pub(super) shown: bool,
}

/// A line of the table: a setting, or a level of load, and what it came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Row {
    /// What was measured, in words.
    pub(super) setting: String,
    /// Clients that it holds within the target; 0: it does not meet it.
    pub(super) clients: usize,
    /// Nothing failed up to the most that was tried.
    pub(super) at_max: bool,
    /// Answers in a second.
    pub(super) answers_per_second: f64,
    /// Latency, milliseconds.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// CPU time of the server for each answer, if it is known.
    pub(super) cpu_us_per_message: Option<f64>,
    /// CPU time of the server as a share of one core, if it is known.
    pub(super) cpu_share: Option<f64>,
    /// Runs in a batch, the mean.
    pub(super) batch_mean: Option<f64>,
    /// What else is to be said.
    pub(super) note: String,
}

impl Row {
    /// The figures of a load.
    pub(super) fn new(setting: String, clients: usize, report: &Report) -> Row {
        Row {
            setting,
            clients,
            answers_per_second: report.throughput_per_second,
            p50_ms: report.latency_ms.p50,
            p99_ms: report.latency_ms.p99,
            cpu_us_per_message: report.server.map(|server| server.cpu_us_per_message),
            cpu_share: report.server.map(|server| server.cpu_share),
            ..Row::default()
        }
    }
}

/// A load that was made.
struct Level {
    report: Report,
    batch_mean: Option<f64>,
}

impl Bench {
    /// Whether there is time for more.
    pub(super) fn has_time(&self) -> bool {
        self.clock.instant() < self.until
    }

    /// The most clients that a server of one's own holds. `None`: there was no time for a single load.
    pub(super) fn most(
        &self,
        setting: String,
        server: &Server,
        guess: Option<usize>,
    ) -> Result<Option<Row>, Error> {
        let mut plan = self.plan.clone();
        plan.target.address = server.addr;
        plan.target.url.port = server.addr.port();
        plan.server_pid = Some(server.pid());
        let mut why = String::new();
        let found = self.search(guess, |clients| {
            let before = server.batches();
            let report = self.load(&plan, clients)?;
            let batch_mean = before.zip(server.batches()).and_then(|((batches, runs), (later, more))| {
                (later > batches).then(|| (more - runs) / (later - batches))
            });
            let fault = fault(&report, self.p99_max);
            why = fault.clone().unwrap_or_default();
            Ok((Level { report, batch_mean }, fault.is_none()))
        })?;
        Ok(match found {
            Greatest { seen: Some(level), count, at_max, .. } => {
                let row = Row::new(setting, count, &level.report);
                Some(Row { at_max, batch_mean: level.batch_mean, ..row })
            }
            Greatest { stopped: true, .. } => None,
            _ => Some(Row { setting, note: why, ..Row::default() }),
        })
    }

    /// Loads of rising size against a server that stays as it is: a row for each, and the number of the best.
    pub(super) fn levels(&self, mut tell: impl FnMut(&Row)) -> Result<(Vec<Row>, Option<usize>), Error> {
        let mut rows: Vec<Row> = Vec::new();
        let found = self.search(None, |clients| {
            let report = self.load(&self.plan, clients)?;
            let note = fault(&report, self.p99_max);
            let row = Row {
                note: note.clone().unwrap_or_default(),
                ..Row::new(format!("{clients} clients"), clients, &report)
            };
            tell(&row);
            rows.push(row);
            Ok((rows.len() - 1, note.is_none()))
        })?;
        if let Some(best) = found.seen {
            rows[best].at_max = found.at_max;
        }
        Ok((rows, found.seen))
    }

    fn search<T>(
        &self,
        guess: Option<usize>,
        mut level: impl FnMut(usize) -> Result<(T, bool), Error>,
    ) -> Result<Greatest<T>, Error> {
        let range =
            Range { start: guess.unwrap_or(FIRST_GUESS), max: self.clients_max, precision: self.precision };
        greatest(range, |clients| {
            if !self.has_time() {
                return Ok(Probe::Stop);
            }
            let (seen, passed) = level(clients)?;
            Ok(if passed { Probe::Passed(seen) } else { Probe::Failed })
        })
    }

    /// A load of so many clients; once more if it misses the target by little.
    fn load(&self, plan: &Plan, clients: usize) -> Result<Report, Error> {
        let plan = Plan { clients, ..plan.clone() };
        let report = load::make(&plan, self.shown)?;
        let near = self.p99_max.mul_f64(NEAR);
        if fault(&report, self.p99_max).is_some() && fault(&report, near).is_none() && self.has_time() {
            return load::make(&plan, self.shown);
        }
        Ok(report)
    }
}

/// Why a load does not meet the target; `None` if it does.
fn fault(report: &Report, p99_max: Duration) -> Option<String> {
    if let Some((kind, count)) = report.failures.iter().next() {
        return Some(format!("{kind} ({count} times)"));
    }
    if report.errors > 0 {
        return Some(format!("{} errors", report.errors));
    }
    if report.audio.discarded_s > 0.0 {
        return Some(format!("{:.1} s of audio discarded", report.audio.discarded_s));
    }
    if report.messages.answered == 0 || report.latency_ms.max == 0.0 {
        return Some("nothing was answered in a step; take a longer --step".into());
    }
    let p99_ms = report.latency_ms.p99;
    (p99_ms > p99_max.as_secs_f64() * 1e3).then(|| format!("p99 {p99_ms:.1} ms"))
}
