//! The sweep over servers of one's own, and the recommendation that comes of it.
//!
//! Invariant: nothing is recommended whose results were not compared with unbatched ones.

use super::arguments::{Asked, chunk};
use super::measure::Row;
use super::sameness::{Audio, Transcript};
use super::server::{Server, Ward};
use super::settings::{Point, Scope, Space, Tried, choose, descend};
use super::{document, table};
use crate::cli::{self, Error};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Streams that are compared at once: as many as share a batch, within these.
const COMPANY: RangeInclusive<usize> = 16..=64;
/// Audio of each of them.
const COMPARED: Duration = Duration::from_secs(2);

/// A sweep that goes on.
pub(super) struct Sweep<'a> {
    asked: &'a Asked,
    space: Space,
    ward: Ward,
    tell: &'a dyn Fn(&str),
    /// In the order of the table; each belongs to the point of the same number.
    rows: Vec<Row>,
    /// There was no time for everything.
    cut: bool,
    /// What streams get alone, by their number.
    alone: Vec<Transcript>,
}

/// What a sweep came to.
pub(super) struct Outcome {
    pub(super) rows: Vec<Row>,
    /// What is to be said besides, line by line.
    pub(super) words: Vec<String>,
    /// The number of the best row, and its file.
    pub(super) best: Option<(usize, String)>,
}

impl<'a> Sweep<'a> {
    /// `tell` is given a line whenever there is something new.
    pub(super) fn new(asked: &'a Asked, tell: &'a dyn Fn(&str)) -> Result<Self, Error> {
        let bench = &asked.bench;
        let scope = Scope {
            to_audio: bench.plan.target.url.path == "/audio",
            cores: crate::server::cores(),
            p99_max: bench.p99_max,
            chunk: chunk(&bench.plan),
            quick: asked.quick,
        };
        let space = Space::new(&asked.base, scope);
        Ok(Self {
            asked,
            space,
            ward: Ward::on_signals()?,
            tell,
            rows: Vec::new(),
            cut: false,
            alone: Vec::new(),
        })
    }

    /// Measures, compares, and recommends.
    pub(super) fn run(mut self) -> Result<Outcome, Error> {
        let space = self.space.clone();
        let tried = descend(&space, |point, guess| self.measure(point, guess))?;
        let mut words = Vec::new();
        if self.cut {
            words.push("--time-max was over before everything was swept".to_owned());
        }
        let mut excluded = Vec::new();
        while let Some(best) = choose(&space, &tried, &excluded) {
            let Some(how) = self.compare(&tried[best].point)? else {
                words.push(self.praise(&tried, best));
                let file = document::toml(&space.config(&tried[best].point), &self.comments(best));
                return Ok(Outcome { rows: self.rows, words, best: Some((best, file)) });
            };
            let line = format!(
                "row {}, {}, is not recommended: its results differ from unbatched ones: {how}",
                best + 1,
                self.rows[best].setting
            );
            (self.tell)(&line);
            words.push(line);
            self.rows[best].note = "results differ".into();
            excluded.push(best);
        }
        Ok(Outcome { rows: self.rows, words, best: None })
    }

    fn start(&self, flags: Vec<String>) -> Result<Server, Error> {
        let arguments: Vec<_> = self.asked.base_arguments.iter().cloned().chain(flags).collect();
        Server::start(&arguments, &self.ward)
    }

    /// Adds a row. `None`: there was no time for it.
    fn measure(&mut self, point: &Point, guess: Option<usize>) -> Result<Option<usize>, Error> {
        let bench = &self.asked.bench;
        let setting = self.space.label(point);
        let wait = self.space.wait(point);
        let not_tried = |why: String| Row {
            setting: setting.clone(),
            note: format!("not tried: {why}"),
            ..Row::default()
        };
        let row = if wait >= bench.p99_max {
            Some(not_tried(format!("chunks wait {wait:?} for each other")))
        } else if let Err(why) = cli::memory_lines(&self.space.config(point)) {
            Some(not_tried(brief(&why.to_string())))
        } else if bench.has_time() {
            let server = self.start(self.space.flags(point))?;
            let row = bench.most(setting, &server, guess)?;
            server.stop();
            row
        } else {
            None
        };
        self.cut |= row.is_none();
        let Some(row) = row else { return Ok(None) };
        (self.tell)(&table::line(self.rows.len(), &row));
        let clients = row.clients;
        self.rows.push(row);
        Ok(Some(clients))
    }

    /// How results at that point differ from those that streams get alone; `None`: they do not.
    fn compare(&mut self, point: &Point) -> Result<Option<String>, Error> {
        let config = self.space.config(point);
        let plan = &self.asked.bench.plan;
        let count = config.batch_max.clamp(*COMPANY.start(), *COMPANY.end()).min(config.sessions_max);
        let chunks = (COMPARED.as_secs_f64() / chunk(plan).as_secs_f64()).ceil().max(1.0) as u64;
        let audio = Audio {
            params: plan.audio.params.clone(),
            source: &plan.audio,
            chunk_bytes: plan.message_bytes,
            chunks,
        };
        let url = |server: &Server| format!("ws://{}{}", server.addr, plan.target.url.path);
        (self.tell)(&format!("comparing the results of {count} streams at once with those of each alone"));
        if self.alone.len() < count {
            let flags = ["--batch-max", "1", "--queue-delay-max", "0ms", "--workers", "1"];
            let server = self.start(flags.map(str::to_owned).to_vec())?;
            let more = audio.one_by_one(&url(&server), self.alone.len()..count);
            self.alone.extend(
                more.map_err(|why| Error::failed(format!("a stream alone and unbatched failed: {why}")))?,
            );
            server.stop();
        }
        let server = self.start(self.space.flags(point))?;
        let told = match audio.together(&url(&server), count) {
            Err(why) => Some(format!("a stream failed: {why}")),
            Ok(heard) => self.alone.iter().zip(&heard).enumerate().find_map(|(number, (right, it))| {
                right.difference(it).map(|how| format!("stream {} of {count}, {how}", number + 1))
            }),
        };
        if let (None, Some((batches, runs))) = (&told, server.batches()) {
            (self.tell)(&format!("all alike, in batches of {:.1} runs", runs / batches.max(1.0)));
        }
        server.stop();
        Ok(told)
    }

    fn praise(&self, tried: &[Tried], best: usize) -> String {
        let row = &self.rows[best];
        let mut text = format!(
            "best: {}; {} streams with a p99 of {:.1} ms, results the same as unbatched ones",
            row.setting, row.clients, row.p99_ms
        );
        if row.at_max {
            text.push_str("; more were not tried (--clients-max, sessions_max, connections_max)");
        }
        let idle = self.space.idle_axes(&tried[best].point);
        if !idle.is_empty() {
            text.push_str(&format!(
                "; {} not swept: without effect while runs have one chunk",
                idle.join(", ")
            ));
        }
        text
    }

    fn comments(&self, best: usize) -> Vec<String> {
        let (row, bench) = (&self.rows[best], &self.asked.bench);
        let params = &bench.plan.audio.params;
        #[expect(clippy::disallowed_methods, reason = "the date of a file decides nothing")]
        let date = httpdate::fmt_http_date(std::time::SystemTime::now());
        let mut lines = vec![
            format!("Found by `suzu tune` on {date}"),
            format!("host: {}", document::host()),
            format!(
                "streams: model {}, {} at {} Hz, chunks of {:?} to {}",
                params.model,
                params.encoding,
                params.sample_rate_hz,
                chunk(&bench.plan),
                bench.plan.target.url.path
            ),
            format!(
                "held: {}{} streams with p99 {:.1} ms (target {:?}), p50 {:.1} ms",
                row.clients,
                if row.at_max { " or more" } else { "" },
                row.p99_ms,
                bench.p99_max,
                row.p50_ms
            ),
        ];
        if let (Some(us), Some(share)) = (row.cpu_us_per_message, row.cpu_share) {
            lines.push(format!("server: {us:.0} us of CPU a message, {:.0} % of a core", share * 100.0));
        }
        lines
    }
}

/// The first clause of what is wrong.
fn brief(why: &str) -> String {
    why.split([';', '\n']).next().unwrap_or_default().trim().to_owned()
}
