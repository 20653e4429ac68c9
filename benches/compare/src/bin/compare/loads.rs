//! The loads, and which servers bear them.

use crate::figures::{Figures, Report, Shown};
use crate::servers::{Places, Program, args, path_option};
use std::ffi::OsString;
use std::path::Path;

/// How much of everything.
pub struct Size {
    echoes: usize,
    streams: usize,
    windowed: usize,
    askers: usize,
    idle: usize,
    /// What is given to the generator for closed loops, for those at real time and for rest, and before what counts.
    closed: &'static str,
    real_time: &'static str,
    rest: &'static str,
    warm_up: &'static str,
    /// For one number of streams, and the numbers that are tried.
    step: &'static str,
    steps: Steps,
    loop_s: &'static str,
}

/// Numbers of streams among which the greatest that a server holds is sought: `from`, `from + by`, ... up to `to`.
#[derive(Clone, Copy)]
struct Steps {
    from: usize,
    by: usize,
    to: usize,
}

/// A server holds as many streams as it answers within this, 99 of 100 times, in milliseconds.
const HELD_P99_MS: f64 = 100.0;

/// One kind of work.
pub struct Load {
    /// For `--only`.
    pub name: String,
    pub title: String,
    pub contenders: Vec<Contender>,
    /// What is asked for at a server.
    path: String,
    args: Vec<OsString>,
    /// If the number of streams is sought and not given.
    sought: Option<Steps>,
    shown: Shown,
}

/// A server, or a loop without one.
pub struct Contender {
    pub name: String,
    program: Program,
    args: Vec<OsString>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    WebSocket,
    Tcp,
    Http,
    /// No server: a model in a loop, and what one message is in what the loop tells.
    Loop {
        field: &'static str,
        times: f64,
    },
}

impl Size {
    pub fn full() -> Size {
        Size {
            echoes: 100,
            streams: 200,
            windowed: 100,
            askers: 8,
            idle: 10_000,
            closed: "5s",
            real_time: "10s",
            rest: "10s",
            warm_up: "1s",
            step: "4s",
            steps: Steps { from: 100, by: 100, to: 4_000 },
            loop_s: "3",
        }
    }

    pub fn quick() -> Size {
        Size {
            echoes: 8,
            streams: 8,
            windowed: 8,
            askers: 2,
            idle: 50,
            closed: "300ms",
            real_time: "500ms",
            rest: "300ms",
            warm_up: "100ms",
            step: "300ms",
            steps: Steps { from: 4, by: 4, to: 12 },
            loop_s: "0.05",
        }
    }
}

/// All loads; those that need models only where there are some.
pub fn all(size: &Size, places: &Places) -> Vec<Load> {
    let mut loads = vec![echo(size, 1), echo(size, 16), vad(size), most_vad(size)];
    if let Some(models) = &places.models {
        loads.push(gru(size, models, places.library.as_deref()));
        loads.push(most_gru(size, models, places.library.as_deref()));
        loads.extend(["json", "binary"].map(|form| infer(size, form, models, places.library.as_deref())));
    }
    loads.push(idle(size));
    loads
}

fn suzu(name: &str, more: impl IntoIterator<Item = OsString>) -> Contender {
    let args = args("serve --port 0 --capacity-percent 0").into_iter().chain(more).collect();
    Contender { name: name.into(), program: Program::Suzu, args, kind: Kind::WebSocket }
}

fn rival(name: &str, words: &str) -> Contender {
    Contender { name: name.into(), program: Program::Rival, args: args(words), kind: Kind::WebSocket }
}

impl Contender {
    fn of(self, kind: Kind) -> Contender {
        Contender { kind, ..self }
    }

    fn with(mut self, more: impl IntoIterator<Item = OsString>) -> Contender {
        self.args.extend(more);
        self
    }
}

/// The WebSocket servers that differ in how they move bytes.
fn sockets() -> Vec<Contender> {
    vec![
        suzu("Suzu", []),
        rival("tokio, tuned", "tokio --tuned"),
        rival("tokio", "tokio"),
        rival("tokio, many threads", "tokio --runtime multi"),
        rival("axum", "axum"),
        rival("fastwebsockets", "fastwebsockets"),
    ]
}

fn echo(size: &Size, in_flight: usize) -> Load {
    let mut contenders = sockets();
    contenders.push(rival("bare TCP", "bare").of(Kind::Tcp));
    let connections = size.echoes;
    let words = format!(
        "--connections {connections} --in-flight {in_flight} --chunk-bytes 640 --duration {} --warm-up {}",
        size.closed, size.warm_up
    );
    Load {
        name: format!("echo-{in_flight}"),
        title: format!("echo of 640 bytes, {connections} connections, {in_flight} on the way"),
        contenders,
        path: "/v1/echo".into(),
        args: args(&words),
        sought: None,
        shown: Shown::CLOSED,
    }
}

fn vad(size: &Size) -> Load {
    let streams = size.streams;
    let words = format!(
        "--connections {streams} --model vad --interval 100ms --chunk-bytes 3200 --duration {}",
        size.real_time
    );
    let alone = format!("loop --model vad --rows {streams} --seconds {}", size.loop_s);
    Load {
        name: "vad".into(),
        title: format!("`vad`, {streams} streams at real time, chunks of 100 ms"),
        contenders: vec![
            suzu("Suzu", []),
            rival("tokio, tuned, inline", "tokio --tuned --inference inline"),
            rival("tokio, tuned, spawn_blocking", "tokio --tuned"),
            rival("tokio, spawn_blocking", "tokio"),
            rival("axum, spawn_blocking", "axum"),
            rival("fastwebsockets, spawn_blocking", "fastwebsockets"),
            rival("the model alone", &alone).of(Kind::Loop { field: "cpu_us_per_audio_s", times: 0.1 }),
        ],
        path: "/v1/stream".into(),
        args: args(&format!("{words} --warm-up {}", size.warm_up)),
        sought: None,
        shown: Shown::OPEN,
    }
}

/// As many streams as are answered in time: more are tried until a server falls behind.
fn most(size: &Size, job: &str, title: &str, words: &str, contenders: Vec<Contender>) -> Load {
    let Size { step, warm_up, .. } = size;
    Load {
        name: format!("most-{job}"),
        title: format!("most streams of `{job}`, {title}, p99 under {HELD_P99_MS} ms"),
        contenders,
        path: "/v1/stream".into(),
        args: args(&format!("--model {job} {words} --duration {step} --warm-up {warm_up}")),
        sought: Some(size.steps),
        shown: Shown::MOST,
    }
}

/// Suzu has a limit on streams, which is not what is sought.
fn many() -> Vec<OsString> {
    args("--sessions-max 4000 --memory-max 1GiB")
}

fn most_vad(size: &Size) -> Load {
    let contenders = vec![
        suzu("Suzu", many()),
        rival("tokio, tuned, inline", "tokio --tuned --inference inline"),
        rival("tokio, tuned, spawn_blocking", "tokio --tuned"),
        rival("tokio, spawn_blocking", "tokio"),
        rival("axum, spawn_blocking", "axum"),
    ];
    most(size, "vad", "chunks of 100 ms", "--interval 100ms --chunk-bytes 3200", contenders)
}

fn most_gru(size: &Size, models: &Path, library: Option<&Path>) -> Load {
    let rivals = [
        ("tokio, tuned, batched", "tokio --tuned --inference batched".into()),
        ("axum, batched", "axum --inference batched".into()),
    ];
    let contenders = with_engines(models, library, &rivals).into_iter();
    // All wait as long for company.
    let patient = contenders.map(|contender| match contender.program {
        Program::Suzu => contender.with(many()).with(args("--queue-delay-max 5ms")),
        Program::Rival => contender,
    });
    most(size, "gru", "chunks of 32 ms", "--interval 32ms --chunk-bytes 1024", patient.collect())
}

/// Suzu and the rivals with each engine that there is; `rivals` are words of the command line with their names.
fn with_engines(models: &Path, library: Option<&Path>, rivals: &[(&str, String)]) -> Vec<Contender> {
    let folder = path_option("--models-dir", models);
    let mut contenders = vec![suzu("Suzu, rten", folder.clone())];
    if let Some(library) = library {
        let engine =
            args("--engine onnxruntime").into_iter().chain(path_option("--onnxruntime-library", library));
        contenders.push(suzu("Suzu, ONNX Runtime", folder.into_iter().chain(engine)));
    }
    let engines = [("rten", "rten"), ("ONNX Runtime", "ort")];
    for (name, words) in rivals {
        for (engine, word) in engines.into_iter().filter(|(_, word)| *word == "rten" || library.is_some()) {
            let contender = rival(&format!("{name}, {engine}"), &format!("{words} --engine {word}"));
            contenders.push(contender.with(path_option("--models", models)));
        }
    }
    contenders
}

fn gru(size: &Size, models: &Path, library: Option<&Path>) -> Load {
    let streams = size.windowed;
    let per_window = Kind::Loop { field: "cpu_us_per_window", times: 1.0 };
    let alone = |rows: usize| format!("loop --model gru --rows {rows} --seconds {}", size.loop_s);
    let mut contenders = with_engines(
        models,
        library,
        &[
            ("tokio, tuned, batched", "tokio --tuned --inference batched".into()),
            ("tokio, tuned, spawn_blocking", "tokio --tuned".into()),
            ("the model alone, one row", alone(1)),
            ("the model alone, 32 rows", alone(32)),
        ],
    );
    // The rivals that batch wait for company; by itself Suzu does not.
    let patient = path_option("--models-dir", models).into_iter().chain(args("--queue-delay-max 5ms"));
    contenders.insert(1, suzu("Suzu, rten, 5 ms for company", patient));
    for contender in &mut contenders {
        if contender.name.starts_with("the model") {
            contender.kind = per_window;
        }
    }
    let words = format!(
        "--connections {streams} --model gru --interval 32ms --chunk-bytes 1024 --duration {}",
        size.real_time
    );
    Load {
        name: "gru".into(),
        title: format!("`gru`, {streams} streams at real time, chunks of 32 ms"),
        contenders,
        path: "/v1/stream".into(),
        args: args(&format!("{words} --warm-up {}", size.warm_up)),
        sought: None,
        shown: Shown::OPEN,
    }
}

fn infer(size: &Size, form: &str, models: &Path, library: Option<&Path>) -> Load {
    let connections = size.askers;
    let alone = format!("loop --model conv --seconds {}", size.loop_s);
    let mut contenders = with_engines(
        models,
        library,
        &[
            ("axum, batched", "axum --inference batched".into()),
            ("axum, spawn_blocking", "axum".into()),
            ("the model alone, one row", alone),
        ],
    );
    for contender in &mut contenders {
        contender.kind = match contender.name.starts_with("the model") {
            true => Kind::Loop { field: "cpu_us_per_window", times: 1.0 },
            false => Kind::Http,
        };
    }
    let words = format!("--connections {connections} --in-flight 1 --form {form} --duration {}", size.closed);
    Load {
        name: format!("infer-{form}"),
        title: format!("requests of 16,000 floats as {form}, {connections} connections"),
        contenders,
        path: "/v2/models/conv/infer".into(),
        args: args(&format!("{words} --warm-up {}", size.warm_up)),
        sought: None,
        shown: Shown::CLOSED,
    }
}

fn idle(size: &Size) -> Load {
    let connections = size.idle;
    Load {
        name: "idle".into(),
        title: format!("{connections} WebSockets at rest, each after a message"),
        contenders: sockets(),
        path: "/v1/echo".into(),
        args: args(&format!("--connections {connections} --idle --chunk-bytes 640 --duration {}", size.rest)),
        sought: None,
        shown: Shown::IDLE,
    }
}

impl Load {
    /// One turn of one contender.
    ///
    /// # Errors
    /// It could not be started or asked, or something went wrong on the way.
    pub fn run(&self, contender: &Contender, places: &Places) -> Result<Figures, String> {
        if let Kind::Loop { field, times } = contender.kind {
            let told = places.ask(contender.program, &contender.args)?;
            let cost = told[field].as_f64().ok_or_else(|| format!("no {field} in {told}"))?;
            return Ok(Figures::of_loop(cost * times));
        }
        let Some(steps) = self.sought else {
            let report = self.ask(contender, places, &[])?;
            report.check()?;
            return Ok(report.figures(self.shown));
        };
        let mut held = Figures::of_none();
        // Of the steps, all before `low` are held, and none from `high` on is.
        let (mut low, mut high) = (0, (steps.to - steps.from) / steps.by + 1);
        while low < high {
            let middle = low.midpoint(high);
            let streams = steps.from + middle * steps.by;
            let report = self.ask(contender, places, &args(&format!("--connections {streams}")))?;
            let p99 = report.p99_ms();
            let fault = match report.check() {
                Ok(()) if p99 > HELD_P99_MS => Some(format!("p99 is {p99:.0} ms")),
                checked => checked.err(),
            };
            eprintln!("  {streams} streams: {}", fault.as_deref().unwrap_or("held"));
            if fault.is_none() {
                (held, low) = (report.figures(self.shown), middle + 1);
            } else {
                high = middle;
            }
        }
        Ok(held)
    }

    /// What the generator tells of a server of its own.
    fn ask(&self, contender: &Contender, places: &Places, more: &[OsString]) -> Result<Report, String> {
        let server = places.start(contender.program, &contender.args)?;
        let url = match contender.kind {
            Kind::Tcp => format!("tcp://{}", server.authority),
            Kind::Http => format!("http://{}{}", server.authority, self.path),
            _ => format!("ws://{}{}", server.authority, self.path),
        };
        let words: Vec<OsString> = self.args.iter().chain(more).cloned().collect();
        places.generate(&server, &url, &words)
    }
}
