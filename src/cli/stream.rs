//! `suzu stream`: a WAV through a model, at the pace of a microphone or as fast as the server takes it.
//!
//! Parses the arguments, opens the source and the stream, and turns the outcome into a verdict: it checks the server's
//! balance against what was sent and says what to do where something failed.

mod pace;
mod report;
mod session;
pub(super) mod wav;

use super::{Error, Variables, args};
use crate::client::{self, Options, Received, Retry, Stream};
use crate::wire::message::{Begin, Encoding, Framing, Overflow, ServerMessage, StreamParams};
use crate::wire::pcm::AUDIO_HEADER_BYTES;
use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use pace::Speed;
use report::{Report, Style, balance, level, progress_bar};
use session::{Outcome, Plan};
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use wav::{WavReader, WavWriter};

/// Where `suzu serve` listens unless told otherwise.
const URL: &str = "ws://127.0.0.1:8080";

const EXAMPLES: &str = "\
Examples:
  suzu stream speech.wav                                    speech and silence, in real time
  suzu stream speech.wav --model denoise --out clean.wav --speed max
  suzu stream speech.wav --json | jq .type                  every message of the server
  arecord -f S16_LE -r 16000 -t wav | suzu stream -         a microphone";

/// The command and its arguments.
pub(super) fn command() -> Command {
    Command::new("stream")
        .about("Stream a WAV through a model and show what comes back")
        .after_help(EXAMPLES)
        .args(what())
        .args(how())
        .args(shown())
}

fn what() -> [Arg; 5] {
    [
        Arg::new("file")
            .value_name("FILE")
            .required(true)
            .value_parser(ValueParser::path_buf())
            .help("The WAV to stream; `-` reads it from standard input"),
        Arg::new("url").long("url").value_name("URL").default_value(URL).help("The server"),
        Arg::new("model")
            .long("model")
            .short('m')
            .value_name("NAME")
            .default_value("vad")
            .help("The model; `suzu models` lists them"),
        Arg::new("out")
            .long("out")
            .short('o')
            .value_name("FILE")
            .value_parser(ValueParser::path_buf())
            .help("Write the audio that comes back to this WAV"),
        Arg::new("param")
            .long("param")
            .value_name("NAME=VALUE")
            .action(ArgAction::Append)
            .help("Set another parameter of the stream, such as overflow=close"),
    ]
}

fn how() -> [Arg; 6] {
    [
        args::token(),
        Arg::new("ca-file")
            .long("ca-file")
            .value_name("FILE")
            .value_parser(ValueParser::path_buf())
            .help("Trust the authorities in this PEM file, for a URL with wss://"),
        Arg::new("speed")
            .long("speed")
            .value_name("FACTOR")
            .default_value("1")
            .value_parser(Speed::parse)
            .help("1 is real time, 2 twice as fast, `max` as fast as the server takes it"),
        Arg::new("chunk")
            .long("chunk")
            .value_name("DURATION")
            .default_value("100ms")
            .value_parser(parse_chunk)
            .help("How much audio goes into one message"),
        Arg::new("encoding")
            .long("encoding")
            .value_name("NAME")
            .default_value("linear16")
            .value_parser(|text: &str| Encoding::parse(text).map_err(|fault| fault.message))
            .help("How samples are sent: linear16, f32le, mulaw or alaw"),
        Arg::new("retry").long("retry").value_name("DURATION").value_parser(humantime::parse_duration).help(
            "Go on trying to connect for so long, such as 30s; a stream that breaks later is not resumed",
        ),
    ]
}

fn shown() -> [Arg; 3] {
    [
        Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .help("Print each message of the server as one line of JSON"),
        Arg::new("quiet")
            .long("quiet")
            .short('q')
            .action(ArgAction::SetTrue)
            .conflicts_with("json")
            .help("Print nothing but errors"),
        Arg::new("no-progress")
            .long("no-progress")
            .action(ArgAction::SetTrue)
            .help("Show no progress bar (there is none without a terminal either)"),
    ]
}

fn parse_chunk(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(1)..=Duration::from_secs(10);
    match humantime::parse_duration(text) {
        Ok(duration) if range.contains(&duration) => Ok(duration),
        _ => Err("expected a duration from 1ms to 10s".into()),
    }
}

/// The value of an argument that has a default.
fn given<'m, T: Clone + Send + Sync + 'static>(matches: &'m ArgMatches, name: &str) -> &'m T {
    matches.get_one(name).expect("the argument is required or has a default")
}

/// Streams, and succeeds only if the server accounts for every sample.
pub(super) fn run(matches: &ArgMatches, variables: &Variables) -> Result<(), Error> {
    let path: &PathBuf = given(matches, "file");
    let out: Option<&PathBuf> = matches.get_one("out");
    if out.is_some_and(|out| same_file(path, out)) {
        return Err(Error::usage("--out names the file that is read; write to another"));
    }
    let source = open(path)?;
    let params = params(matches, &source)?;
    let url: &String = given(matches, "url");
    let headers = args::authorization(matches, variables).into_iter().collect();
    let ca_file = matches.get_one::<PathBuf>("ca-file").cloned();
    let options = Options { params, headers, ca_file, ..Options::default() };
    let mut stream = connect(url, &options, matches).map_err(|error| refused(&error, url))?;
    let (begin, text) = receive_begin(&mut stream)?;

    let plan = plan(matches, &options.params, &begin)?;
    let encoding = plan.encoding;
    let mut output = match out {
        Some(path) => Some(create(path, encoding, plan.sample_rate_hz)?),
        None => None,
    };
    let mut report = report(matches, &source);
    report.on_message(&ServerMessage::Begin(begin), &text);
    let channels = source.channels();
    let interrupted = interruptible();
    let mut outcome = session::run(&plan, stream.split(), source, output.as_mut(), &mut report, &interrupted);
    report.finish();

    summarise(&outcome, &plan, &mut report);
    let energy_in = (outcome.sent.energy, outcome.sent.frames * u64::from(channels));
    let written = match (output, out) {
        (Some(output), Some(path)) => finish(output, path, energy_in, &mut outcome, &mut report),
        _ => Ok(()),
    };
    verdict(outcome, path).and(written)
}

/// Whether both names lead to one file. A name that does not exist yet is another's.
fn same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Opens a WAV; `-` is standard input.
pub(super) fn open(path: &Path) -> Result<WavReader<Box<dyn Read + Send>>, Error> {
    let reader: Box<dyn Read + Send> = if path == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err(Error::usage("standard input is a terminal; pipe a WAV into it, or name a file"));
        }
        Box::new(BufReader::new(io::stdin()))
    } else {
        let file = File::open(path)
            .map_err(|error| Error::failed(format!("cannot open {}: {error}", path.display())))?;
        Box::new(BufReader::new(file))
    };
    WavReader::new(reader).map_err(|why| Error::failed(format!("cannot read {}: {why}", path.display())))
}

fn params<R: Read>(matches: &ArgMatches, source: &WavReader<R>) -> Result<StreamParams, Error> {
    let speed: &Speed = given(matches, "speed");
    let defaults = StreamParams {
        model: given::<String>(matches, "model").clone(),
        encoding: *given(matches, "encoding"),
        sample_rate_hz: source.sample_rate_hz(),
        channels: source.channels(),
        // Who runs on credit hears of it sooner.
        ack_interval_ms: if *speed == Speed::Max { 100 } else { StreamParams::default().ack_interval_ms },
        ..StreamParams::default()
    };
    let pairs = args::pairs(matches, "param")?;
    for (name, _) in &pairs {
        if matches!(name.as_str(), "model" | "encoding") {
            return Err(Error::usage(format!("--param {name}: there is --{name} for that")));
        }
        if matches!(name.as_str(), "sample_rate" | "channels") {
            return Err(Error::usage(format!("--param {name}: the WAV says that")));
        }
    }
    StreamParams::parse(&pairs, defaults).map_err(|fault| Error::usage(format!("--param: {}", fault.message)))
}

/// Connects, with `--retry` more than once. There is nothing to lose yet, so Ctrl-C just ends the program.
fn connect(url: &str, options: &Options, matches: &ArgMatches) -> Result<Stream, client::Error> {
    let Some(&time_max) = matches.get_one::<Duration>("retry") else {
        return Stream::connect(url, options);
    };
    let quiet = matches.get_flag("quiet");
    let wait = |error: &client::Error, delay: Duration| {
        if !quiet {
            // Nobody reads it: no reason to give up.
            let _ = writeln!(io::stderr(), "{error}; trying again in {:.1} s", delay.as_secs_f64());
        }
        std::thread::sleep(delay);
        true
    };
    Retry { time_max, ..Retry::default() }.run(|| Stream::connect(url, options), wait)
}

/// The first message, with its text.
fn receive_begin(stream: &mut Stream) -> Result<(Box<Begin>, String), Error> {
    loop {
        match stream.recv() {
            Ok(Some(Received::Message(ServerMessage::Begin(begin)))) => {
                return Ok((begin, stream.text().to_owned()));
            }
            Ok(Some(Received::Message(ServerMessage::Error(error)))) => {
                return Err(Error::failed(format!(
                    "the server refused the stream: {} ({})",
                    error.message, error.code
                )));
            }
            Ok(Some(Received::Closed { code, reason })) => return Err(Error::failed(closed(code, &reason))),
            Ok(Some(_)) => {}
            Ok(None) => return Err(Error::failed("the stream ended before it began")),
            Err(error) => return Err(Error::failed(format!("the stream did not begin: {error}"))),
        }
    }
}

fn plan(matches: &ArgMatches, params: &StreamParams, begin: &Begin) -> Result<Plan, Error> {
    let held = &begin.configuration;
    let chunk: &Duration = given(matches, "chunk");
    let frames = |seconds: f64| (seconds * f64::from(held.sample_rate)).round().max(1.0) as usize;
    // With `block` the server just stops reading, and the connection holds us up by itself.
    let credit_ms = (held.overflow != Overflow::Block).then_some(begin.credit_ms);
    // A chunk that is greater than all the credit would wait for ever.
    let chunk_max_s = credit_ms.map_or(f64::INFINITY, |credit_ms| credit_ms / 2_000.0);
    let chunk_frames = frames(chunk.as_secs_f64().min(chunk_max_s));
    let header = if held.framing == Framing::Seq { AUDIO_HEADER_BYTES } else { 0 };
    let chunk_bytes = chunk_frames * held.encoding.sample_bytes() * usize::from(params.channels) + header;
    if chunk_bytes as u64 > begin.limits.max_frame_bytes {
        return Err(Error::usage(format!(
            "a chunk of {} has {chunk_bytes} bytes and the server takes at most {}; use a shorter --chunk",
            humantime::format_duration(*chunk),
            begin.limits.max_frame_bytes,
        )));
    }
    Ok(Plan {
        encoding: held.encoding,
        sample_rate_hz: held.sample_rate,
        chunk_frames,
        speed: *given(matches, "speed"),
        credit_ms,
    })
}

fn create(path: &Path, encoding: Encoding, sample_rate_hz: u32) -> Result<WavWriter, Error> {
    WavWriter::create(path, encoding, sample_rate_hz)
        .map_err(|error| Error::failed(format!("cannot write {}: {error}", path.display())))
}

fn report<R: Read>(matches: &ArgMatches, source: &WavReader<R>) -> Report<io::Stdout> {
    let style = match (matches.get_flag("json"), matches.get_flag("quiet")) {
        (true, _) => Style::Json,
        (_, true) => Style::Quiet,
        _ => Style::Lines,
    };
    let length_ms = source.frames().map(|frames| frames * 1_000 / u64::from(source.sample_rate_hz().max(1)));
    let wanted = style != Style::Quiet && !matches.get_flag("no-progress");
    let bar = if wanted { progress_bar(length_ms) } else { None };
    Report::new(style, io::stdout(), bar)
}

/// The first Ctrl-C ends the stream properly, so that its results and its file are whole; the second ends the program.
fn interruptible() -> Arc<AtomicBool> {
    use signal_hook::consts::SIGINT;
    let interrupted = Arc::new(AtomicBool::new(false));
    // The order matters: the second one looks at what the first one has set. If the system refuses, Ctrl-C ends the
    // program at once, as it always did.
    let _ = signal_hook::flag::register_conditional_default(SIGINT, Arc::clone(&interrupted));
    let _ = signal_hook::flag::register(SIGINT, Arc::clone(&interrupted));
    interrupted
}

fn summarise<W: Write>(outcome: &Outcome, plan: &Plan, report: &mut Report<W>) {
    let Some(end) = &outcome.heard.termination else { return };
    let mut text = balance(end);
    let latency = &outcome.latency;
    // Sent faster than in real time, results wait for each other and not for their audio.
    if let (Speed::Factor(_), Some(p50), Some(p99)) =
        (plan.speed, latency.quantile_ms(0.5), latency.quantile_ms(0.99))
    {
        text.push_str(&format!("; latency p50 {p50:.1} ms, p99 {p99:.1} ms"));
    }
    report.summary(&text);
}

/// Completes the file and says what is in it.
fn finish<W: Write>(
    output: WavWriter,
    path: &Path,
    energy_in: (f64, u64),
    outcome: &mut Outcome,
    report: &mut Report<W>,
) -> Result<(), Error> {
    let shown = path.display();
    let (count, energy_out) = (output.count, output.energy);
    let result = output.finish();
    if let Some(error) = outcome.heard.output.take().or(result.err()) {
        return Err(Error::failed(format!("cannot write {shown}: {error}")));
    }
    if count == 0 && outcome.sent.frames > 0 {
        return Err(Error::failed(format!(
            "no audio came back, so {shown} is empty; `suzu models` tells which models give audio back"
        )));
    }
    let levels = (level(energy_in.0, energy_in.1), level(energy_out, count));
    report.summary(&format!("{shown}: {count} samples, {} in, {} out", levels.0, levels.1));
    Ok(())
}

/// Whether all is well, and if not, the first cause.
fn verdict(outcome: Outcome, path: &Path) -> Result<(), Error> {
    let Outcome { sent, heard, .. } = outcome;
    if let Some(error) = heard.fatal {
        let again = if error.retryable { "; try again later" } else { "" };
        return Err(Error::failed(format!(
            "the server ended the stream: {} ({}){again}",
            error.message, error.code
        )));
    }
    let Some(end) = heard.termination else {
        let why = match (heard.close, heard.failure, sent.failure) {
            (Some((code, reason)), ..) => closed(code, &reason),
            (None, Some(error), _) | (None, None, Some(error)) => error.to_string(),
            (None, None, None) => "the stream ended".into(),
        };
        return Err(Error::failed(format!("{why}; there is no balance, so results may be missing")));
    };
    if let Some(error) = sent.source {
        return Err(Error::failed(format!("cannot read {} to its end: {error}", path.display())));
    }
    let ledger = end.ledger;
    if !ledger.balances() || ledger.pending != 0 {
        return Err(Error::failed(format!("the server's balance is wrong, please report this: {ledger:?}")));
    }
    if ledger.received != sent.frames {
        let message = format!(
            "{} samples were sent and the server received {} ({})",
            sent.frames, ledger.received, end.reason
        );
        return Err(Error::failed(message));
    }
    match heard.close {
        Some((Some(1000), _)) => Ok(()),
        Some((code, reason)) => Err(Error::failed(closed(code, &reason))),
        None => Err(Error::failed("the connection ended without a close, after the balance")),
    }
}

fn closed(code: Option<u16>, reason: &str) -> String {
    let code = code.map_or_else(|| "without a code".to_owned(), |code| format!("with code {code}"));
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("the server closed the stream {code}{reason}")
}

/// Why there is no stream, and what to do.
fn refused(error: &client::Error, url: &str) -> Error {
    let advice = match error {
        client::Error::Url(_) => return Error::usage(format!("--url: {error}")),
        client::Error::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
            ". Is the server running? Start it with `suzu serve`."
        }
        client::Error::Refused { code: Some(code), .. } if code == "model_not_found" => {
            ". `suzu models` lists the models."
        }
        client::Error::Refused { code: Some(code), .. } if code == "invalid_audio_format" => {
            ". Convert the file, for example with `ffmpeg -i INPUT -ac 1 -ar 16000 OUTPUT.wav`."
        }
        client::Error::Refused { status: 404 | 426, .. } | client::Error::Protocol(_) => {
            return Error::failed(format!("{error}. Is {url} a Suzu server?"));
        }
        _ => "",
    };
    Error::failed(format!("{error}{advice}"))
}

#[cfg(test)]
mod tests;
