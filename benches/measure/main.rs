//! What the server costs and how fast it answers, measured from outside: the binary runs as a process of its own.
//!
//! ```text
//! cargo bench --bench measure                       # everything, with the defaults
//! cargo bench --bench measure -- idle               # 10,000 idle WebSockets: memory and CPU for each
//! cargo bench --bench measure -- ten                # ten clients at real time: added latency, CPU, memory
//! cargo bench --bench measure -- control            # pongs and health while every worker is busy
//! cargo bench --bench measure -- echo               # CPU for each message through the loop
//! cargo bench --bench measure -- fair               # a modest user alone and beside a greedy one
//! cargo bench --bench measure -- hostile            # streams and health beside slow peers and floods
//! cargo bench --bench measure -- gru                # streams through a GRU against the bare model
//! cargo bench --bench measure -- oip                # requests for inference against the bare model
//! cargo bench --bench measure -- pool               # borrowing a connection against opening one
//! cargo bench --bench measure -- start              # from exec to the first answer, and the size of the binary
//! cargo bench --bench measure -- smoke              # a minute's work in a second: does the binary serve at all?
//! ```
//!
//! Each subcommand has `--help`. Times are printed and never asserted; correctness always is: a missing answer, an
//! error, a wrong byte or a ledger that does not balance ends the program with a panic.
//!
//! Where there are two cores or more, the server is bound to the first and this program to the rest, so the two do
//! not take time from each other. The server starts with an empty environment and no file: what differs from the
//! defaults stands in its flags, which are printed. Linux only: CPU and memory are read from `/proc`.

mod bare;
mod control;
mod echo;
mod fair;
mod figures;
mod gru;
mod hostile;
mod idle;
mod oip;
mod peer;
mod pool;
mod process;
mod smoke;
mod start;
mod ten;

use clap::{Arg, ArgMatches, Command, value_parser};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn main() {
    let matches = command().get_matches();
    process::raise_descriptor_limit();
    match matches.subcommand() {
        Some(("smoke", _)) => return smoke::run(),
        _ => process::keep_off_the_servers_core(),
    }
    match matches.subcommand() {
        Some(("idle", matches)) => idle::run(number(matches, "connections"), seconds(matches)),
        Some(("ten", matches)) => {
            let model = matches.get_one::<String>("model").expect("has a default");
            ten::run(model, number(matches, "clients"), seconds(matches));
        }
        Some(("control", matches)) => control::run(number(matches, "streams"), seconds(matches)),
        Some(("echo", matches)) => echo::run(number(matches, "connections"), seconds(matches)),
        Some(("fair", matches)) => {
            let model = matches.get_one::<String>("model").expect("has a default");
            fair::run(model, number(matches, "modest"), number(matches, "greedy"), seconds(matches));
        }
        Some(("gru", matches)) => {
            let streams: Vec<usize> = matches.get_many("streams").expect("has a default").copied().collect();
            gru::run(folder(matches), &streams, seconds(matches));
        }
        Some(("hostile", matches)) => {
            hostile::run(number(matches, "streams"), number(matches, "slow"), seconds(matches));
        }
        Some(("start", matches)) => start::run(number(matches, "rounds")),
        Some(("oip", matches)) => oip::run(folder(matches), number(matches, "connections"), seconds(matches)),
        Some(("pool", matches)) => pool::run(seconds(matches)),
        _ => everything(),
    }
}

fn everything() {
    idle::run(10_000, Duration::from_secs(30));
    ten::run("vad", 10, Duration::from_secs(60));
    ten::run("denoise", 10, Duration::from_secs(60));
    control::run(16, Duration::from_secs(20));
    echo::run(100, Duration::from_secs(5));
    pool::run(Duration::from_secs(3));
}

fn command() -> Command {
    let model = Arg::new("model").long("model").default_value("vad").help("model of the streams");
    let fair_model = model.clone().default_value("denoise");
    Command::new("measure")
        .about(
            "Measures the server from outside; without a command everything that needs no models, one after the other",
        )
        // `cargo bench` says this to every benchmark.
        .arg(Arg::new("bench").long("bench").hide(true).num_args(0).global(true))
        .subcommand(
            Command::new("idle")
                .about("Idle WebSockets: memory, descriptors and CPU for each")
                .arg(count("connections", "10000"))
                .arg(duration("30", "how long they rest")),
        )
        .subcommand(
            Command::new("ten")
                .about("Clients at real time: added latency, CPU, memory")
                .arg(model)
                .arg(count("clients", "10"))
                .arg(duration("60", "how long each speaks")),
        )
        .subcommand(
            Command::new("control")
                .about("Pongs and health checks while every worker is busy")
                .arg(count("streams", "16"))
                .arg(duration("20", "how long the workers are kept busy")),
        )
        .subcommand(
            Command::new("echo")
                .about("CPU for each message of 640 bytes through the loop")
                .arg(count("connections", "100"))
                .arg(duration("5", "how long, for each number of messages on the way")),
        )
        .subcommand(
            Command::new("fair")
                .about("A user with few streams alone and beside one with many at full speed")
                .arg(fair_model)
                .arg(count("modest", "5"))
                .arg(count("greedy", "100"))
                .arg(duration("10", "how long, alone and again beside")),
        )
        .subcommand(hostile_command())
        .subcommand(
            Command::new("gru")
                .about("Streams through a GRU: whole server against the bare model in a loop")
                .arg(models())
                .arg(count("streams", "1,8,32,100").value_delimiter(','))
                .arg(duration("6", "how long each kind of load is measured")),
        )
        .subcommand(
            Command::new("oip")
                .about("Requests for inference: whole server against the bare model in a loop")
                .arg(models())
                .arg(count("connections", "8"))
                .arg(duration("6", "how long each kind of request is measured")),
        )
        .subcommand(
            Command::new("pool")
                .about("Borrowing a connection from the client's pool against opening one")
                .arg(duration("3", "how long each kind is measured")),
        )
        .subcommand(
            Command::new("start").about("From exec to the first answered request").arg(count("rounds", "20")),
        )
        .subcommand(Command::new("smoke").about("Does the binary serve at all? Asserts, measures nothing"))
}

fn hostile_command() -> Command {
    Command::new("hostile")
        .about("Streams and health alone and beside slow peers, a flood of connections and one of guesses")
        .arg(count("streams", "20"))
        .arg(count("slow", "500"))
        .arg(duration("20", "how long, alone and again beside"))
}

fn models() -> Arg {
    Arg::new("models")
        .long("models")
        .default_value("target/conformance/models")
        .value_parser(value_parser!(PathBuf))
        .help("where `tests/conformance/run --only-models` made the models")
}

fn folder(matches: &ArgMatches) -> &Path {
    matches.get_one::<PathBuf>("models").expect("has a default")
}

fn count(name: &'static str, default: &'static str) -> Arg {
    Arg::new(name).long(name).default_value(default).value_parser(value_parser!(usize)).help("how many")
}

fn duration(default: &'static str, help: &'static str) -> Arg {
    Arg::new("seconds").long("seconds").default_value(default).value_parser(value_parser!(u64)).help(help)
}

fn number(matches: &ArgMatches, name: &str) -> usize {
    *matches.get_one(name).expect("has a default")
}

fn seconds(matches: &ArgMatches) -> Duration {
    Duration::from_secs(*matches.get_one("seconds").expect("has a default"))
}
