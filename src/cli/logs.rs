//! The logger of the binary: readable lines or JSON lines on standard error.
//!
//! Lines are made by whoever logs and written by a thread of their own, so a terminal or a pipe that nobody reads
//! never holds up the poll loop: when [`LINES_WAITING_MAX`] lines wait, more are left out, and how many is logged once
//! there is room. A broken standard error loses lines and nothing else.
//!
//! Key-values of `log` (`info!(session = id; "...")`) become keys of the JSON object, or `key=value` in text.
//! Libraries are heard from `info` up only: below it they print payloads.

use super::Error;
use crate::config::{Config, LogFormat};
use crossbeam_channel::{Receiver, Sender, bounded};
use log::kv::{Key, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value as Json;
use simplelog::{CombinedLogger, SharedLogger};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Lines between the loggers and the thread that writes. A line is a few hundred bytes.
const LINES_WAITING_MAX: usize = 1024;

/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// The keys that every JSON line has. A key-value of such a name gets an underscore behind it.
const FIXED_KEYS: [&str; 4] = ["ts", "level", "target", "message"];

/// Installs the logger of the process. `clock` stamps the lines.
pub(super) fn install(config: &Config, clock: fn() -> SystemTime) -> Result<(), Error> {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let style = Style { format: config.log_format, colour };
    let failed = |error: &dyn std::fmt::Display| Error::failed(format!("cannot install the logger: {error}"));
    let logger =
        Logger::new(config.log_level, style, clock, std::io::stderr()).map_err(|error| failed(&error))?;
    CombinedLogger::init(vec![Box::new(logger)]).map_err(|error| failed(&error))
}

#[derive(Clone, Copy, Debug)]
struct Style {
    format: LogFormat,
    colour: bool,
}

enum Job {
    Line(String),
    /// Answered when everything before it has been written.
    Flush(Sender<()>),
}

struct Logger {
    level: LevelFilter,
    style: Style,
    clock: fn() -> SystemTime,
    jobs: Sender<Job>,
    left_out: Arc<AtomicU64>,
}

impl Logger {
    fn new(
        level: LevelFilter,
        style: Style,
        clock: fn() -> SystemTime,
        out: impl Write + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, waiting) = bounded(LINES_WAITING_MAX);
        let left_out = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&left_out);
        std::thread::Builder::new().name("logs".into()).spawn(move || {
            write_lines(out, &waiting, || {
                let count = counter.swap(0, Ordering::Relaxed);
                (count > 0).then(|| left_out_line(style, clock(), count))
            });
        })?;
        Ok(Self { level, style, clock, jobs, left_out })
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target() == "suzu" || metadata.target().starts_with("suzu::");
        metadata.level() <= self.level && (ours || metadata.level() <= Level::Info)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata())
            && self.jobs.try_send(Job::Line(line(self.style, (self.clock)(), record))).is_err()
        {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let (done, finished) = bounded(1);
        if self.jobs.send_timeout(Job::Flush(done), FLUSH_TIMEOUT).is_ok() {
            let _ = finished.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

impl SharedLogger for Logger {
    fn level(&self) -> LevelFilter {
        self.level
    }

    fn config(&self) -> Option<&simplelog::Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

/// Until the logger is gone. Nobody can be told that standard error is broken, so failures are passed over.
fn write_lines(mut out: impl Write, jobs: &Receiver<Job>, left_out: impl Fn() -> Option<String>) {
    for job in jobs {
        match job {
            Job::Line(line) => {
                let _ = out.write_all(line.as_bytes());
            }
            Job::Flush(done) => {
                let _ = done.send(());
            }
        }
        if let Some(line) = left_out() {
            let _ = out.write_all(line.as_bytes());
        }
        let _ = out.flush();
    }
}

fn left_out_line(style: Style, now: SystemTime, count: u64) -> String {
    let key_values = [("lines", count)];
    let message = format_args!("log lines were left out because standard error was not read");
    let record = Record::builder()
        .level(Level::Warn)
        .target("suzu::cli::logs")
        .args(message)
        .key_values(&key_values)
        .build();
    line(style, now, &record)
}

/// A whole line with its end.
fn line(style: Style, now: SystemTime, record: &Record<'_>) -> String {
    let stamp = humantime::format_rfc3339_millis(now).to_string();
    let pairs = pairs(record);
    let mut line = match style.format {
        LogFormat::Text => text_line(style.colour, &stamp, record, &pairs),
        LogFormat::Json => {
            serde_json::to_string(&JsonLine { stamp: &stamp, record, pairs: &pairs }).unwrap_or_default()
        }
    };
    line.push('\n');
    line
}

fn text_line(colour: bool, stamp: &str, record: &Record<'_>, pairs: &[(String, Json)]) -> String {
    let mut text = format!("{stamp} ");
    let level = record.level();
    let _ = match colour {
        true => write!(text, "\x1b[{}m{level:<5}\x1b[0m", ansi(level)),
        false => write!(text, "{level:<5}"),
    };
    // What a peer sent may stand behind here; it must not begin a line or command the terminal.
    for character in plain_text(record, pairs).chars() {
        match character.is_control() {
            true => text.extend(character.escape_default()),
            false => text.push(character),
        }
    }
    text
}

fn plain_text(record: &Record<'_>, pairs: &[(String, Json)]) -> String {
    let mut text = format!(" {}: {}", record.target(), record.args());
    for (key, value) in pairs {
        let _ = match value {
            Json::String(word) if is_plain(word) => write!(text, " {key}={word}"),
            value => write!(text, " {key}={value}"),
        };
    }
    text
}

fn ansi(level: Level) -> u8 {
    match level {
        Level::Error => 31,
        Level::Warn => 33,
        Level::Info => 32,
        Level::Debug => 36,
        Level::Trace => 90,
    }
}

/// Whether a word can stand without quotes.
fn is_plain(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| !c.is_whitespace() && c != '"' && c != '=')
}

struct JsonLine<'a> {
    stamp: &'a str,
    record: &'a Record<'a>,
    pairs: &'a [(String, Json)],
}

impl Serialize for JsonLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("ts", self.stamp)?;
        object.serialize_entry("level", &self.record.level().as_str().to_lowercase())?;
        object.serialize_entry("target", self.record.target())?;
        object.serialize_entry("message", &self.record.args().to_string())?;
        for (key, value) in self.pairs {
            match FIXED_KEYS.contains(&key.as_str()) {
                true => object.serialize_entry(&format!("{key}_"), value)?,
                false => object.serialize_entry(key, value)?,
            }
        }
        object.end()
    }
}

/// The key-values of a record in their order; of two with one key the last holds.
fn pairs(record: &Record<'_>) -> Vec<(String, Json)> {
    let mut pairs = Pairs(Vec::new());
    let _ = record.key_values().visit(&mut pairs);
    pairs.0
}

struct Pairs(Vec<(String, Json)>);

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let mut json = JsonValue(Json::Null);
        value.visit(&mut json)?;
        self.0.retain(|(other, _)| other != key.as_str());
        self.0.push((key.as_str().to_owned(), json.0));
        Ok(())
    }
}

struct JsonValue(Json);

impl VisitValue<'_> for JsonValue {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), log::kv::Error> {
        self.0 = value.to_string().into();
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), log::kv::Error> {
        self.0 = Json::Null;
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), log::kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), log::kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), log::kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), log::kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), log::kv::Error> {
        self.0 = value.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io;
    use std::sync::Mutex;
    use std::time::UNIX_EPOCH;

    const JSON: Style = Style { format: LogFormat::Json, colour: false };
    const TEXT: Style = Style { format: LogFormat::Text, colour: false };

    fn clock() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
    }

    fn record(message: &str, pairs: &[(&str, Value<'_>)], style: Style) -> String {
        let mut builder = Record::builder();
        builder.level(Level::Info).target("suzu::server").key_values(&pairs);
        line(style, clock(), &builder.args(format_args!("{message}")).build())
    }

    #[test]
    fn a_json_line_has_the_stable_keys_first_and_then_the_key_values() {
        let pairs =
            [("session", Value::from("1.2")), ("bytes", Value::from(7u64)), ("ok", Value::from(true))];
        assert_eq!(
            record("it \"began\"\nhere", &pairs, JSON),
            "{\"ts\":\"2023-11-14T22:13:20.123Z\",\"level\":\"info\",\"target\":\"suzu::server\",\
             \"message\":\"it \\\"began\\\"\\nhere\",\"session\":\"1.2\",\"bytes\":7,\"ok\":true}\n"
        );
    }

    #[test]
    fn a_text_line_reads_well() {
        let pairs =
            [("session", Value::from("1.2")), ("tag", Value::from("my tag")), ("ms", Value::from(1.5))];
        assert_eq!(
            record("began", &pairs, TEXT),
            "2023-11-14T22:13:20.123Z INFO  suzu::server: began session=1.2 tag=\"my tag\" ms=1.5\n"
        );
    }

    #[test]
    fn colour_is_on_the_level_only() {
        let coloured = record("began", &[], Style { colour: true, ..TEXT });
        assert!(coloured.contains(" \x1b[32mINFO \x1b[0m suzu::server"), "{coloured:?}");
        assert!(!record("began", &[], TEXT).contains('\x1b'));
    }

    #[test]
    fn a_key_value_cannot_take_the_place_of_a_stable_key() {
        let pairs = [("level", Value::from("none")), ("a", Value::from(1)), ("a", Value::from(2))];
        let parsed: Json = serde_json::from_str(&record("m", &pairs, JSON)).unwrap();
        assert_eq!(parsed["level"], "info");
        assert_eq!(parsed["level_"], "none");
        assert_eq!(parsed["a"], 2);
    }

    proptest! {
        #[test]
        fn whatever_is_logged_stays_one_line(message in "\\PC*[\n\r\u{1b}]?\\PC*", value in ".*", key in ".{1,8}") {
            let pairs = [(key.as_str(), Value::from(value.as_str()))];
            let json = record(&message, &pairs, JSON);
            prop_assert_eq!(json.matches('\n').count(), 1);
            let parsed: Json = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(parsed["message"].as_str(), Some(message.as_str()));
            let text = record(&message, &pairs, TEXT);
            prop_assert_eq!(text.trim_end_matches('\n').chars().filter(|c| c.is_control()).count(), 0);
        }
    }

    /// Keeps what is written where the test can see it, or refuses it all.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>, bool);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.1 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log_to(logger: &Logger, level: Level, target: &str, message: &str) {
        logger.log(&Record::builder().level(level).target(target).args(format_args!("{message}")).build());
    }

    #[test]
    fn lines_come_out_in_order_and_only_those_of_the_level() {
        let sink = Sink::default();
        let logger = Logger::new(LevelFilter::Debug, JSON, clock, sink.clone()).unwrap();
        log_to(&logger, Level::Info, "suzu::server", "one");
        log_to(&logger, Level::Trace, "suzu::server", "too fine");
        log_to(&logger, Level::Debug, "suzu", "two");
        log_to(&logger, Level::Debug, "tungstenite::protocol", "a payload");
        log_to(&logger, Level::Warn, "mio", "three");
        logger.flush();
        let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let messages: Vec<String> = written
            .lines()
            .map(|line| serde_json::from_str::<Json>(line).unwrap()["message"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(messages, ["one", "two", "three"]);
    }

    #[test]
    fn a_broken_output_harms_nobody() {
        let logger = Logger::new(LevelFilter::Info, TEXT, clock, Sink(Arc::default(), true)).unwrap();
        for _ in 0..LINES_WAITING_MAX * 2 {
            log_to(&logger, Level::Info, "suzu", "into the void");
        }
        logger.flush();
    }

    #[test]
    fn an_output_that_nobody_reads_holds_up_nobody_and_the_lines_left_out_are_counted() {
        let sink = Sink::default();
        let logger = Logger::new(LevelFilter::Info, JSON, clock, sink.clone()).unwrap();
        let nobody_reads = sink.0.lock().unwrap();
        // One line may be in the writer's hand besides those that wait.
        let sent = LINES_WAITING_MAX + 11;
        for _ in 0..sent {
            log_to(&logger, Level::Info, "suzu", "waiting");
        }
        drop(nobody_reads);
        logger.flush();
        let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Json> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let left_out: u64 = lines.iter().filter_map(|line| line["lines"].as_u64()).sum();
        let passed = lines.iter().filter(|line| line["message"] == "waiting").count();
        assert!(left_out >= 10, "{left_out}");
        assert_eq!(passed as u64 + left_out, sent as u64);
    }
}
