//! `suzu models`: the models inside the binary and those of a folder; `suzu models check` explains the latter.

mod check;
mod explain;
mod memory;

use super::{Error, print};
use crate::model::onnx::Manifest;
use crate::model::onnx::manifest::OutputKind;
use crate::model::{IndexEntry, ModelSpec, Registry, Repository, RepositoryOptions, read_manifest};
use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

pub(super) fn command() -> Command {
    let as_json = Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Print one JSON array instead of a table");
    let folder = Arg::new("models-dir")
        .long("models-dir")
        .value_name("DIR")
        .default_value("models")
        .value_parser(ValueParser::path_buf())
        .help("The folder of models; it need not be there");
    Command::new("models")
        .about("List the models inside this binary and those of a folder, or check the latter")
        .after_help(
            "Examples:\n  suzu models\n  suzu models --json | jq '.[].name'\n  suzu models check models/keyword/1",
        )
        .args_conflicts_with_subcommands(true)
        .args([folder, as_json])
        .subcommand(check::command())
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Error> {
    if let Some(("check", matches)) = matches.subcommand() {
        return check::run(matches);
    }
    let folder = matches.get_one::<PathBuf>("models-dir").cloned().unwrap_or_default();
    let survey = Repository::new(folder, RepositoryOptions::default()).survey().map_err(Error::failed)?;
    let mut listed: Vec<Listed> = specs().iter().map(Listed::inside).collect();
    let mut problems = survey.ignored;
    for entry in survey.entries {
        match read_manifest(&entry.folder) {
            Ok((manifest, _)) => listed.push(Listed::of_folder(&entry, &manifest)),
            Err(why) => problems.push(why),
        }
    }
    for problem in problems {
        let _ = writeln!(std::io::stderr(), "warning: {problem}");
    }
    print(&if matches.get_flag("json") { json_text(listed) } else { table(&listed) })
}

fn specs() -> Vec<ModelSpec> {
    Registry::builtin().audio().map(|model| model.spec().clone()).collect()
}

/// A model as it is listed: without loading it.
struct Listed {
    /// What stands in the table.
    row: [String; 6],
    /// What stands in the JSON.
    json: Value,
}

impl Listed {
    fn inside(spec: &ModelSpec) -> Self {
        let rate = spec.sample_rate_hz.map_or_else(|| "any".into(), |rate| format!("{rate} Hz"));
        let audio = spec.audio_out.then_some("audio");
        let outputs = audio.into_iter().chain(spec.outputs.iter().map(|output| &*output.name));
        let row = [
            spec.name.to_string(),
            spec.version.to_string(),
            rate,
            window(spec.window, spec.sample_rate_hz),
            outputs.collect::<Vec<_>>().join(", "),
            spec.description.to_string(),
        ];
        Self { row, json: spec.to_json() }
    }

    fn of_folder(entry: &IndexEntry, manifest: &Manifest) -> Self {
        let mut json = json!({
            "name": entry.name,
            "version": entry.version,
            "description": manifest.description,
            "folder": entry.folder.display().to_string(),
        });
        let audio = manifest.audio.as_ref();
        if let Some(audio) = audio {
            json["sample_rate_hz"] = audio.sample_rate.into();
            json["window"] = audio.window().into();
            json["hop"] = audio.hop.into();
            json["latency"] = audio.latency.into();
        }
        let outputs = manifest.outputs.iter().filter(|output| output.kind != OutputKind::Unused);
        let row = [
            entry.name.clone(),
            entry.version.to_string(),
            audio.map_or_else(|| "tensors".into(), |audio| format!("{} Hz", audio.sample_rate)),
            audio.map_or_else(|| "-".into(), |audio| window(audio.window(), Some(audio.sample_rate))),
            outputs.map(|output| output.name.as_str()).collect::<Vec<_>>().join(", "),
            match manifest.description.as_str() {
                "" => format!("see `suzu models check {}`", entry.folder.display()),
                description => description.to_owned(),
            },
        ];
        Self { row, json }
    }
}

/// `480 samples (10 ms)`, or samples alone for a model that takes every rate.
fn window(samples: usize, rate_hz: Option<u32>) -> String {
    match rate_hz {
        Some(rate) => {
            format!("{samples} ({:.3} ms)", samples as f64 * 1e3 / f64::from(rate)).replace(".000 ms", " ms")
        }
        None => samples.to_string(),
    }
}

fn table(listed: &[Listed]) -> String {
    let head = ["NAME", "VERSION", "RATE", "WINDOW", "OUTPUTS", "DESCRIPTION"].map(str::to_owned);
    let rows: Vec<&[String; 6]> = std::iter::once(&head).chain(listed.iter().map(|one| &one.row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn json_text(listed: Vec<Listed>) -> String {
    format!("{:#}\n", Value::Array(listed.into_iter().map(|one| one.json).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_has_a_row_and_the_columns_stand_in_line() {
        let specs = specs();
        let text = table(&specs.iter().map(Listed::inside).collect::<Vec<_>>());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), specs.len() + 1);
        let column = lines[0].find("DESCRIPTION").unwrap();
        for (line, spec) in lines[1..].iter().zip(&specs) {
            assert!(
                line.starts_with(&*spec.name) && line[column..].starts_with(&*spec.description),
                "{line}"
            );
        }
    }

    #[test]
    fn the_json_parses_and_names_every_model() {
        let specs = specs();
        let parsed: Vec<Value> =
            serde_json::from_str(&json_text(specs.iter().map(Listed::inside).collect())).unwrap();
        let names: Vec<_> = parsed.iter().map(|model| model["name"].as_str().unwrap()).collect();
        assert_eq!(names, specs.iter().map(|spec| &*spec.name).collect::<Vec<_>>());
    }
}
