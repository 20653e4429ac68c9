//! The arguments of `suzu tune` and what they come to.

use super::measure::Bench;
use crate::cli::load::options;
use crate::cli::{self, Error, Variables, args};
use crate::config::{Config, Sources, resolve};
use crate::driver::Clock;
use crate::load::{Ask, Length, Pace, Plan};
use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Options of `suzu load` that mean the same here; the others are what is searched for.
const OF_HOW_MUCH: [&str; 4] = ["in-flight", "think", "warm-up", "answer-timeout"];
/// Clients at most, against a server whose limits are not known.
const CLIENTS_MAX: usize = 10_000;

/// What was asked for.
pub(super) struct Asked {
    pub(super) bench: Bench,
    pub(super) quick: bool,
    /// What the server of one's own starts from.
    pub(super) base: Config,
    /// The same as arguments of `suzu serve`.
    pub(super) base_arguments: Vec<String>,
    pub(super) out: Option<PathBuf>,
    pub(super) report: Option<PathBuf>,
    pub(super) json: Option<PathBuf>,
    pub(super) quiet: bool,
}

fn time(name: &'static str, help: &'static str) -> Arg {
    let parse =
        |text: &str| humantime::parse_duration(text).map_err(|_| "expected a duration such as 100ms or 10s");
    Arg::new(name).long(name).value_name("TIME").help(help).value_parser(parse)
}

fn file(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("FILE").help(help).value_parser(ValueParser::path_buf())
}

/// The arguments, but for those that `suzu load` has too.
pub(super) fn own() -> [Arg; 9] {
    [
        time("p99-max", "99 % of the answers must come within this").default_value("100ms"),
        time("step", "Length of each measurement [default: 2s, 500ms with --quick]"),
        time("time-max", "Nothing new is begun after so long").default_value("10min"),
        Arg::new("clients-max")
            .long("clients-max")
            .value_name("N")
            .value_parser(value_parser!(u32).range(1..))
            .help("Clients at most [default: what the configuration admits]"),
        Arg::new("quick")
            .long("quick")
            .action(ArgAction::SetTrue)
            .help("Few values, short steps, and a rough search"),
        file("config", "What the server starts from [default: the defaults]")
            .short('c')
            .conflicts_with("url"),
        Arg::new("models-dir")
            .long("models-dir")
            .value_name("PATH")
            .help("The server's folder of models")
            .conflicts_with("url"),
        Arg::new("path")
            .long("path")
            .value_name("PATH")
            .value_parser(["/v1/stream", "/audio"])
            .default_value("/v1/stream")
            .help("Where streams go; /audio has settings of its own"),
        file("out", "Write the best setting as TOML instead of printing it").conflicts_with("url"),
    ]
}

/// Those of `suzu load`.
pub(super) fn shared() -> impl Iterator<Item = Arg> {
    let how_much = options::how_much().into_iter().filter(|arg| OF_HOW_MUCH.contains(&arg.get_id().as_str()));
    // Idle and heartbeat are no loads that a setting could be better at.
    options::whom().into_iter().chain(how_much).chain(options::content()).chain(options::output())
}

impl Asked {
    /// Whether standard output belongs to the JSON.
    pub(super) fn prints_json(&self) -> bool {
        self.json.as_deref() == Some(Path::new("-"))
    }

    /// Reads everything, the base configuration too.
    pub(super) fn read(matches: &ArgMatches, variables: &Variables) -> Result<Asked, Error> {
        let (base, base_arguments) = base(matches)?;
        let quick = matches.get_flag("quick");
        let of_own = options::url(matches, variables)?.is_none();
        let mut plan = options::plan(matches, variables)?;
        let brief = |quick_ms, ms| Duration::from_millis(if quick { quick_ms } else { ms });
        let given = |name: &str| matches.get_one::<Duration>(name).copied();
        plan.length = Length::For(given("step").unwrap_or_else(|| brief(500, 2_000)));
        plan.pool = None;
        if matches.get_one::<String>("warm-up").is_none() {
            plan.warm_up = brief(200, 500);
        }
        if let Ask::Stream { .. } = plan.target.ask {
            plan.pace = Pace::Every(chunk(&plan));
        }
        if of_own {
            plan.target.url.path = matches.get_one::<String>("path").cloned().unwrap_or_default();
        } else if matches.contains_id("out") && matches.get_one::<PathBuf>("out").is_some() {
            return Err(Error::usage(
                "a running server cannot be changed, so there is nothing for --out to hold",
            ));
        }
        let admitted = if of_own { base.sessions_max.min(base.connections_max) } else { CLIENTS_MAX };
        let clients_max =
            matches.get_one::<u32>("clients-max").map_or(admitted, |&most| admitted.min(most as usize));
        let clock = Clock::new();
        let bench = Bench {
            plan,
            p99_max: given("p99-max").unwrap_or_default(),
            clients_max,
            // What the search leaves open must not break a tie.
            precision: if quick { 0.25 } else { super::settings::NOISE / 2.0 },
            clock,
            until: clock.instant() + given("time-max").unwrap_or_default(),
            shown: !matches.get_flag("quiet") && !matches.get_flag("no-progress"),
        };
        let path = |name| matches.get_one::<PathBuf>(name).cloned();
        Ok(Asked {
            bench,
            quick,
            base,
            base_arguments,
            out: path("out"),
            report: path("report"),
            json: path("json"),
            quiet: matches.get_flag("quiet"),
        })
    }
}

/// How long a chunk of the plan's streams sounds: the interval of real time.
pub(super) fn chunk(plan: &Plan) -> Duration {
    Duration::from_secs_f64((plan.audio.millis(plan.message_bytes) / 1e3).max(1e-5))
}

/// The configuration of the file and of the flags, and these as arguments. The environment has no part in it.
fn base(matches: &ArgMatches) -> Result<(Config, Vec<String>), Error> {
    let path = matches.get_one::<PathBuf>("config");
    let models = matches.get_one::<String>("models-dir");
    let text = path.map(|path| args::read(path)).transpose()?;
    let name = path.map(|path| path.display().to_string()).unwrap_or_default();
    let flags: Vec<_> = models.iter().map(|folder| ("models_dir".to_owned(), (*folder).clone())).collect();
    let file = text.as_deref().map(|text| (name.as_str(), text));
    let config = resolve(Sources { file, flags: &flags, ..Sources::default() })?.config;
    cli::memory_lines(&config)?;
    let mut arguments = Vec::new();
    if !name.is_empty() {
        arguments.extend(["--config".to_owned(), name]);
    }
    arguments.extend(models.iter().flat_map(|folder| ["--models-dir".to_owned(), (*folder).clone()]));
    Ok((config, arguments))
}
