//! The arguments of `suzu load`, the environment behind them, and the plan that they make.

use crate::cli::stream::{self, wav::WavReader};
use crate::cli::{Error, Variables, args};
use crate::load::{Ask, Audio, Form, Length, Pace, Plan, Pooling, Report, infer_request};
use crate::wire::message::{Encoding, StreamParams};
use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Where the load goes unless told otherwise.
const URL: &str = "ws://127.0.0.1:8080/v1/stream";
/// Audio read of a WAV at most, seconds: the rest would only fill the memory.
const WAV_S_MAX: usize = 600;

/// Variables of an earlier test client: the option that each stands for, and the unit of a bare number.
const VARIABLES: &[(&str, &str, &str)] = &[
    ("SERVER_URL", "url", ""),
    ("CLIENT_COUNT", "connections", ""),
    ("CHUNKS_PER_CLIENT", "chunks", ""),
    ("CHUNK_INTERVAL", "interval", "ms"),
    ("CHUNK_SIZE", "chunk-bytes", ""),
    ("TEST_DURATION", "duration", "s"),
    ("USE_CONNECTION_POOL", "pool", ""),
    ("POOL_SIZE", "pool-size", ""),
    ("CONNECT_TIMEOUT", "connect-timeout", "s"),
    ("IDLE_TIMEOUT", "pool-idle", "s"),
];

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn file(name: &'static str, help: &'static str) -> Arg {
    option(name, "FILE", help).value_parser(ValueParser::path_buf())
}

/// Where the load goes.
pub(in crate::cli) fn whom() -> [Arg; 3] {
    [
        option(
            "url",
            "URL",
            "ws://host/v1/stream, ws://host/v1/echo, http://host/path, by TLS wss:// and https://, or tcp://host:port [default: the stream of 127.0.0.1:8080]",
        ),
        option("server-pid", "PID", "Tell CPU time and memory of this process of the same machine")
            .value_parser(value_parser!(u32)),
        file("ca-file", "With TLS: whom to trust, PEM [default: whom browsers trust]"),
    ]
}

/// How many, how fast, how long.
pub(in crate::cli) fn how_much() -> [Arg; 10] {
    let group = |arg: Arg| arg.help_heading("How much");
    [
        option("connections", "N", "Clients at once [default: 10]").short('c'),
        option("duration", "TIME", "How long, after all are connected [default: 10s]").short('d'),
        option("chunks", "N", "Messages of each client instead, from its first on"),
        option("interval", "TIME", "Open loop: a message is due each interval, and its latency counts from then [default: 100ms for streams]")
            .conflicts_with_all(["in-flight", "idle"]),
        option("in-flight", "N", "Closed loop: so many messages of each client are on the way [default: 1 but for streams]"),
        option("think", "TIME", "Closed loop: time between an answer and the next message [default: 0s]"),
        flag("idle", "One message at the beginning, one at the end, and rest in between").conflicts_with("in-flight"),
        flag("heartbeat", "Streams: send `Ping` messages instead of audio"),
        option("warm-up", "TIME", "Time before anything counts, after all are connected [default: 500ms]"),
        option("answer-timeout", "TIME", "A message without an answer for so long is lost [default: 30s]"),
    ]
    .map(group)
}

/// How connections are made.
pub(in crate::cli) fn connections() -> [Arg; 6] {
    let group = |arg: Arg| arg.help_heading("Connections");
    [
        option("connect-rate", "N", "Connections opened in a second [default: as fast as they are taken]"),
        option(
            "try-again",
            "TIME",
            "Who is refused (HTTP 429 or 503) comes again after about that time; no failure then",
        ),
        option("connect-timeout", "TIME", "For a connection to be open [default: 10s]"),
        flag("pool", "Clients take turns on a pool of connections; with --chunks"),
        option("pool-size", "N", "Connections of that pool [default: a tenth of the clients]"),
        option("pool-idle", "TIME", "A connection that nobody wants for so long is closed [default: 30s]"),
    ]
    .map(group)
}

/// What is sent.
pub(in crate::cli) fn content() -> [Arg; 12] {
    let group = |arg: Arg| arg.help_heading("What is sent");
    [
        option("chunk-bytes", "N", "Bytes of each message [default: 100 ms of audio, or 640]"),
        option("model", "NAME", "Streams: the model [default: vad]").short('m'),
        option("encoding", "NAME", "Streams: linear16, f32le, mulaw or alaw [default: linear16]")
            .value_parser(|text: &str| Encoding::parse(text).map_err(|fault| fault.message)),
        option("sample-rate", "HZ", "Streams: the rate of the synthetic audio [default: 16000]"),
        file("wav", "Streams: this WAV, round and round, instead of synthetic audio"),
        option("param", "NAME=VALUE", "Streams: another parameter, such as overflow=close")
            .action(ArgAction::Append),
        option("method", "NAME", "HTTP: the method [default: GET, or POST with a body]"),
        option("header", "NAME=VALUE", "A header field of requests and of WebSockets' handshakes")
            .action(ArgAction::Append),
        args::token(),
        file("body", "HTTP: what is sent"),
        option("content-type", "TYPE", "HTTP: the body's type"),
        option(
            "form",
            "FORM",
            "HTTP: for a path that ends in /infer, a request made of the model's own metadata",
        )
        .value_parser(["json", "binary"]),
    ]
    .map(group)
}

/// What must hold.
pub(in crate::cli) fn bounds() -> [Arg; 5] {
    let group = |arg: Arg| arg.help_heading("Bounds, for scripts");
    [
        option("p50-max", "TIME", "Fail if the median latency is above"),
        option("p95-max", "TIME", "Fail if 5 % of the latencies are above"),
        option("p99-max", "TIME", "Fail if 1 % of the latencies are above"),
        option("error-rate-max", "SHARE", "Fail if more than this share went wrong, 0 to 1"),
        option("throughput-min", "N", "Fail if fewer answers came in a second"),
    ]
    .map(group)
}

/// What is told.
pub(in crate::cli) fn output() -> [Arg; 4] {
    let group = |arg: Arg| arg.help_heading("Output");
    [
        file(
            "json",
            "Write the figures as JSON; without a file name to standard output, in place of the table",
        )
        .num_args(0..=1)
        .default_missing_value("-"),
        file("report", "Write a page with plots"),
        flag("quiet", "Print nothing but errors").short('q'),
        flag("no-progress", "Do not tell how far it is (without a terminal it is not told either)"),
    ]
    .map(group)
}

/// What was said, on the command line or else in the environment.
struct Said<'a> {
    matches: &'a ArgMatches,
    variables: &'a Variables,
}

impl Said<'_> {
    /// The text of an option with the place it came from. Options that a command does not have are not said.
    fn text(&self, name: &str) -> Result<Option<(String, String)>, Error> {
        if let Ok(Some(text)) = self.matches.try_get_one::<String>(name) {
            return Ok(Some((text.clone(), format!("--{name}"))));
        }
        let Some((variable, _, unit)) = VARIABLES.iter().find(|(_, option, _)| *option == name) else {
            return Ok(None);
        };
        let Some((_, value)) =
            self.variables.iter().find(|(known, value)| known == variable && !value.is_empty())
        else {
            return Ok(None);
        };
        let text = value.to_str().ok_or_else(|| Error::usage(format!("{variable} is not UTF-8")))?;
        let bare = text.bytes().all(|byte| byte.is_ascii_digit());
        Ok(Some((if bare { format!("{text}{unit}") } else { text.to_owned() }, (*variable).to_owned())))
    }

    fn parsed<T>(
        &self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some((text, place)) = self.text(name)? else { return Ok(None) };
        match parse(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::usage(format!("{place}: {text:?} is not {expected}"))),
        }
    }

    fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Error> {
        self.parsed(name, "a number that is possible here", |text| text.parse().ok())
    }

    fn time(&self, name: &str) -> Result<Option<Duration>, Error> {
        self.parsed(name, "a duration such as 100ms or 10s", |text| humantime::parse_duration(text).ok())
    }

    fn flag(&self, name: &str) -> Result<bool, Error> {
        if self.matches.try_get_one::<bool>(name).ok().flatten() == Some(&true) {
            return Ok(true);
        }
        if !VARIABLES.iter().any(|(_, option, _)| *option == name) {
            return Ok(false);
        }
        let Some((variable, ..)) = VARIABLES.iter().find(|(_, option, _)| *option == name) else {
            return Ok(false);
        };
        let value = self.variables.iter().find(|(known, _)| known == variable).map(|(_, value)| value);
        match value.map(|value| value.to_string_lossy().to_ascii_lowercase()).as_deref() {
            None | Some("" | "0" | "false" | "no" | "off") => Ok(false),
            Some("1" | "true" | "yes" | "on") => Ok(true),
            Some(other) => Err(Error::usage(format!("{variable}: {other:?} is neither true nor false"))),
        }
    }
}

/// The URL that was given, if any.
pub(in crate::cli) fn url(matches: &ArgMatches, variables: &Variables) -> Result<Option<String>, Error> {
    Ok(Said { matches, variables }.text("url")?.map(|(url, _)| url))
}

/// The plan that arguments and environment make.
pub(in crate::cli) fn plan(matches: &ArgMatches, variables: &Variables) -> Result<Plan, Error> {
    let said = Said { matches, variables };
    let url = url(matches, variables)?.unwrap_or_else(|| URL.to_owned());
    let mut plan = Plan::new(&url).map_err(|error| Error::usage(error.to_string()))?;
    plan.target.ca_file = matches.get_one::<PathBuf>("ca-file").cloned();
    plan.clients = said.number("connections")?.unwrap_or(plan.clients);
    plan.connect_rate = said.number("connect-rate")?;
    plan.try_again = said.time("try-again")?;
    plan.connect_timeout = said.time("connect-timeout")?.unwrap_or(plan.connect_timeout);
    plan.answer_timeout = said.time("answer-timeout")?.unwrap_or(plan.answer_timeout);
    plan.warm_up = said.time("warm-up")?.unwrap_or(plan.warm_up);
    plan.server_pid = matches.try_get_one::<u32>("server-pid").ok().flatten().copied();
    plan.pace = pace(&said, plan.pace)?;
    plan.length = length(&said, plan.length)?;
    plan.pool = pool(&said, plan.clients)?;
    content_of(&said, &mut plan)?;
    plan.message_bytes = said.number("chunk-bytes")?.unwrap_or(plan.message_bytes);
    Ok(plan)
}

fn pace(said: &Said, default: Pace) -> Result<Pace, Error> {
    let think = said.time("think")?;
    if said.flag("idle")? {
        return Ok(Pace::Idle);
    }
    if let Some(count) = said.number("in-flight")? {
        return Ok(Pace::InFlight { count, think: think.unwrap_or_default() });
    }
    match (said.time("interval")?, default, think) {
        (Some(interval), ..) => Ok(Pace::Every(interval)),
        (None, Pace::InFlight { count, .. }, Some(think)) => Ok(Pace::InFlight { count, think }),
        (None, _, Some(_)) => Err(Error::usage("--think belongs to a closed loop; say --in-flight too")),
        (None, default, None) => Ok(default),
    }
}

fn length(said: &Said, default: Length) -> Result<Length, Error> {
    let time = said.time("duration")?;
    Ok(match (said.number("chunks")?, time) {
        (Some(count), time_max) => Length::Messages { count, time_max },
        (None, Some(time)) => Length::For(time),
        (None, None) => default,
    })
}

fn pool(said: &Said, clients: usize) -> Result<Option<Pooling>, Error> {
    let size = said.number("pool-size")?;
    if !said.flag("pool")? {
        return Ok(None);
    }
    let idle_max = said.time("pool-idle")?.unwrap_or(Duration::from_secs(30));
    Ok(Some(Pooling { connections: size.unwrap_or(clients.div_ceil(10)), idle_max }))
}

fn content_of(said: &Said, plan: &mut Plan) -> Result<(), Error> {
    let matches = said.matches;
    plan.target.headers = args::pairs(matches, "header")?;
    plan.target.headers.extend(args::authorization(matches, said.variables));
    match &mut plan.target.ask {
        Ask::Stream { heartbeat } => {
            *heartbeat = said.flag("heartbeat")?;
            let audio = audio(said)?;
            let frame = audio.params.encoding.sample_bytes() * usize::from(audio.params.channels);
            // 100 ms, unless told otherwise.
            plan.message_bytes = audio.params.sample_rate_hz as usize / 10 * frame;
            plan.audio = Arc::new(audio);
        }
        Ask::Http(request) => {
            if let Some((form, _)) = said.text("form")? {
                let form = if form == "json" { Form::Json } else { Form::Binary };
                let (url, headers) = (&plan.target.url, &plan.target.headers);
                *request = infer_request(url, headers, plan.target.ca_file.as_deref(), form)
                    .map_err(|error| Error::failed(error.to_string()))?;
            }
            if let Some(path) = matches.get_one::<PathBuf>("body") {
                request.body = std::fs::read(path)
                    .map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))?;
                request.method = "POST".into();
            }
            if let Some((kind, _)) = said.text("content-type")? {
                request.headers.push(("Content-Type".into(), kind));
            }
            if let Some((method, _)) = said.text("method")? {
                request.method = method;
            }
        }
        Ask::Echo | Ask::Bytes => {}
    }
    Ok(())
}

/// The WAV, or synthetic audio.
fn audio(said: &Said) -> Result<Audio, Error> {
    let matches = said.matches;
    let wav = matches.get_one::<PathBuf>("wav");
    let source = wav.map(|path| stream::open(path)).transpose()?;
    let mut defaults = StreamParams {
        model: said.text("model")?.map_or_else(|| "vad".to_owned(), |(model, _)| model),
        encoding: matches.get_one::<Encoding>("encoding").copied().unwrap_or(Encoding::Linear16),
        sample_rate_hz: said.number("sample-rate")?.unwrap_or(16_000),
        ..StreamParams::default()
    };
    if let Some(source) = &source {
        defaults.sample_rate_hz = source.sample_rate_hz();
        defaults.channels = source.channels();
    }
    let pairs = args::pairs(matches, "param")?;
    let params = StreamParams::parse(&pairs, defaults)
        .map_err(|fault| Error::usage(format!("--param: {}", fault.message)))?;
    match (source, wav) {
        (Some(source), Some(path)) => Ok(Audio::new(params, &samples(source, path)?)),
        _ => Ok(Audio::synthetic_for(params)),
    }
}

fn samples(mut source: WavReader<impl Read>, path: &std::path::Path) -> Result<Vec<f32>, Error> {
    let mut samples = Vec::new();
    let frames = source.sample_rate_hz() as usize * WAV_S_MAX;
    source
        .read(frames, &mut samples)
        .map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))?;
    Ok(samples)
}

/// The bounds that the report misses, as sentences.
pub(in crate::cli) fn missed(matches: &ArgMatches, report: &Report) -> Vec<String> {
    let said = Said { matches, variables: &[] };
    let mut missed = Vec::new();
    let latency = &report.latency_ms;
    for (name, what, value) in
        [("p50-max", "p50", latency.p50), ("p95-max", "p95", latency.p95), ("p99-max", "p99", latency.p99)]
    {
        match said.time(name) {
            Ok(Some(max)) if report.messages.answered == 0 => {
                missed.push(format!("nothing was answered, so no {what} is within {max:?}"));
            }
            Ok(Some(max)) if value > max.as_secs_f64() * 1e3 => {
                missed.push(format!("{what} is {value:.2} ms, above --{name} {max:?}"));
            }
            Ok(_) => {}
            Err(error) => missed.push(error.to_string()),
        }
    }
    match said.number::<f64>("error-rate-max") {
        Ok(Some(max)) if report.error_rate > max => {
            missed.push(format!(
                "{:.4} of everything went wrong, above --error-rate-max {max}",
                report.error_rate
            ));
        }
        Ok(_) => {}
        Err(error) => missed.push(error.to_string()),
    }
    match said.number::<f64>("throughput-min") {
        Ok(Some(min)) if report.throughput_per_second < min => {
            missed.push(format!(
                "{:.1} answers came in a second, below --throughput-min {min}",
                report.throughput_per_second
            ));
        }
        Ok(_) => {}
        Err(error) => missed.push(error.to_string()),
    }
    missed
}
