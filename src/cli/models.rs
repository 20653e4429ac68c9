//! `suzu models`: what the binary can do to audio.

use super::{Error, print};
use crate::model::{ModelSpec, Registry};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

pub(super) fn command() -> Command {
    let as_json = Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Print one JSON array instead of a table");
    Command::new("models")
        .about("List the models inside this binary")
        .after_help("Examples:\n  suzu models\n  suzu models --json | jq '.[].name'")
        .arg(as_json)
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Error> {
    let specs = specs();
    print(&if matches.get_flag("json") { json_text(&specs) } else { table(&specs) })
}

fn specs() -> Vec<ModelSpec> {
    Registry::builtin().audio().map(|model| model.spec().clone()).collect()
}

/// `480 samples (10 ms)`, or samples alone for a model that takes every rate.
fn window(spec: &ModelSpec) -> String {
    match spec.sample_rate_hz {
        Some(rate) => format!("{} ({:.3} ms)", spec.window, spec.window as f64 * 1e3 / f64::from(rate))
            .replace(".000 ms", " ms"),
        None => spec.window.to_string(),
    }
}

fn table(specs: &[ModelSpec]) -> String {
    let head = ["NAME", "RATE", "WINDOW", "OUTPUTS", "DESCRIPTION"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(specs.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(spec: &ModelSpec) -> [String; 5] {
    let rate = spec.sample_rate_hz.map_or_else(|| "any".into(), |rate| format!("{rate} Hz"));
    let audio = spec.audio_out.then_some("audio");
    let outputs: Vec<_> = audio.into_iter().chain(spec.outputs.iter().map(|output| &*output.name)).collect();
    [spec.name.to_string(), rate, window(spec), outputs.join(", "), spec.description.to_string()]
}

fn json_text(specs: &[ModelSpec]) -> String {
    let models: Vec<Value> = specs.iter().map(ModelSpec::to_json).collect();
    format!("{:#}\n", Value::Array(models))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_has_a_row_and_the_columns_stand_in_line() {
        let specs = specs();
        let text = table(&specs);
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
        let parsed: Vec<Value> = serde_json::from_str(&json_text(&specs)).unwrap();
        let names: Vec<_> = parsed.iter().map(|model| model["name"].as_str().unwrap()).collect();
        assert_eq!(names, specs.iter().map(|spec| &*spec.name).collect::<Vec<_>>());
    }
}
