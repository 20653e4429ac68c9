//! `suzu models check`: loads a model as the server would, explains it, and runs it once.
//!
//! The server runs the same command, with `--quiet` and `--memory-max`, before it loads a model of its folder.

use super::super::{Error, print};
use super::{explain, memory};
use crate::driver::Clock;
use crate::model::onnx::EngineKind;
use crate::model::{IndexEntry, MODEL_FILE, Repository, RepositoryOptions, version_of};
use bytesize::ByteSize;
use clap::builder::{PossibleValuesParser, ValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ABOUT: &str = "\
Load models of a folder, explain them and run them once

DIR is a version's folder, a model's folder, or a folder of models. Prints inputs, outputs, states,
batching and memory of each model and what it makes of a second of audio, or of zeros if it is one of
tensors. Exits with 1 if something is wrong, and says what and where.";

const EXAMPLES: &str = "\
Examples:
  suzu models check models
  suzu models check models/keyword
  suzu models check models/keyword/1 --engine onnxruntime";

pub(super) fn command() -> Command {
    let (about, _) = ABOUT.split_once('\n').unwrap_or((ABOUT, ""));
    Command::new("check").about(about).long_about(ABOUT).after_help(EXAMPLES).args([
        Arg::new("dir")
            .value_name("DIR")
            .required(true)
            .value_parser(ValueParser::path_buf())
            .help("The folder to check"),
        Arg::new("memory-max")
            .long("memory-max")
            .value_name("SIZE")
            .value_parser(|text: &str| text.parse::<ByteSize>())
            .help("Memory that loading and trying may take, such as 512MiB; more ends the process"),
        Arg::new("engine")
            .long("engine")
            .value_name("ENGINE")
            .value_parser(PossibleValuesParser::new(EngineKind::ALL.iter().map(|kind| kind.name())))
            .default_value(EngineKind::default().name())
            .help("What runs models whose model.toml names no platform"),
        Arg::new("onnxruntime-library")
            .long("onnxruntime-library")
            .value_name("PATH")
            .value_parser(ValueParser::path_buf())
            .help("libonnxruntime.so; left out: where the system looks for libraries"),
        Arg::new("quiet")
            .long("quiet")
            .action(ArgAction::SetTrue)
            .help("Print nothing but what is wrong, and measure no times"),
    ])
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Error> {
    if let Some(size) = matches.get_one::<ByteSize>("memory-max") {
        memory::limit(size.as_u64())
            .map_err(|error| Error::failed(format!("--memory-max {size} cannot be kept: {error}")))?;
    }
    let quiet = matches.get_flag("quiet");
    let clock = Clock::new();
    let now = move || clock.instant().since(Default::default());
    let engine = matches.get_one::<String>("engine").and_then(|name| EngineKind::parse(name));
    let options = RepositoryOptions {
        engine: engine.unwrap_or_default(),
        library: matches.get_one::<PathBuf>("onnxruntime-library").cloned(),
        clock: (!quiet).then_some(Arc::new(now)),
        ..RepositoryOptions::default()
    };
    let Some(dir) = matches.get_one::<PathBuf>("dir") else {
        return Err(Error::usage("no folder to check; name one, as in `suzu models check models`"));
    };
    let (repository, entries, mut problems) = find(dir, options).map_err(Error::failed)?;
    for entry in entries {
        match check(&repository, &entry, quiet, &now) {
            Ok(text) if !quiet => print(&text)?,
            Ok(_) => {}
            Err(why) => problems.push(why),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::failed(problems.join("\n"))) }
}

fn check(
    repository: &Repository,
    entry: &IndexEntry,
    quiet: bool,
    now: &dyn Fn() -> std::time::Duration,
) -> Result<String, String> {
    let loaded = repository.load_entry(entry)?;
    let ran = explain::run_once(&loaded, now);
    let ran = ran.map_err(|why| format!("`{}`: {why}", entry.folder.join(MODEL_FILE).display()))?;
    Ok(if quiet { String::new() } else { explain::text(entry, &loaded) + &ran + "\n" })
}

/// The models that a folder means, with what is wrong besides.
fn find(
    dir: &Path,
    options: RepositoryOptions,
) -> Result<(Repository, Vec<IndexEntry>, Vec<String>), String> {
    let cannot = |error: std::io::Error| format!("cannot read `{}`: {error}", dir.display());
    let file = dir.file_name().is_some_and(|name| name == MODEL_FILE);
    let dir = if file && dir.is_file() { dir.parent().unwrap_or(dir) } else { dir };
    if !dir.is_dir() {
        return Err(format!("`{}` is no folder; name a folder of models, or one of a model", dir.display()));
    }
    // Its own name is needed, which `.` and `..` do not tell.
    let named = std::path::absolute(dir).map_err(cannot)?;
    let named = if named.file_name().is_some() { named } else { dir.canonicalize().map_err(cannot)? };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if dir.join(MODEL_FILE).exists() {
        let (Some(model), Some(root)) = (named.parent(), named.ancestors().nth(2)) else {
            return Err(layout(dir));
        };
        let version = version_of(&name(&named)).ok_or_else(|| layout(dir))?;
        let root = shortest(dir, root, 2);
        let repository = Repository::new(root, options);
        let entry = repository.version(&name(model), version)?;
        return Ok((repository, vec![entry], Vec::new()));
    }
    let versions = std::fs::read_dir(dir).map_err(cannot)?.filter_map(|entry| {
        let entry = entry.ok()?;
        let version = version_of(entry.file_name().to_str()?)?;
        entry.path().join(MODEL_FILE).exists().then_some(version)
    });
    if let (Some(version), Some(root)) = (versions.max(), named.parent()) {
        let repository = Repository::new(shortest(dir, root, 1), options);
        let entry = repository.version(&name(&named), version)?;
        return Ok((repository, vec![entry], Vec::new()));
    }
    let repository = Repository::new(dir, options);
    let survey = repository.survey()?;
    if survey.entries.is_empty() && survey.ignored.is_empty() {
        return Err(layout(dir));
    }
    Ok((repository, survey.entries, survey.ignored))
}

/// The root as the caller wrote it, if what was written goes up so far.
fn shortest(dir: &Path, root: &Path, levels: usize) -> PathBuf {
    let plain = dir.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    match dir.ancestors().nth(levels) {
        Some(written) if plain && !written.as_os_str().is_empty() => written.to_path_buf(),
        _ => root.to_path_buf(),
    }
}

fn layout(dir: &Path) -> String {
    format!(
        "`{}` holds no model: models are in `<folder of models>/<name>/<version>/{MODEL_FILE}`, where the version is 1 or \
         more",
        dir.display()
    )
}
