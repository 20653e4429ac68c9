//! Suzu beside the rivals: the same loads against each, in turns, and one table of the ratios.
//!
//! Builds nothing; `benches/compare/run` builds what is needed and starts this. Each server runs as a process of its
//! own on the first core, the generator (`suzu load`) on the others. Every server of a load has its turn before the
//! first has its second, so that what the machine does meanwhile hits all; the table shows medians.
//!
//! Whatever is lost, wrong or refused ends in exit code 1, whichever server it was. Times are never judged.

mod figures;
mod loads;
mod machine;
mod servers;

use clap::Parser;
use figures::{Figures, Section};
use loads::{Load, Size};
use servers::Places;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Between these the table stands in the document.
const BEGIN: &str = "<!-- what follows is written by benches/compare/run --write -->";
const END: &str = "<!-- end of what is written -->";

/// Measures Suzu beside the rivals.
#[derive(Parser)]
struct Options {
    /// The binary of Suzu: server and generator.
    #[arg(long)]
    suzu: PathBuf,
    /// The generator, if it is another binary.
    #[arg(long)]
    generator: Option<PathBuf>,
    /// The binary of the rivals; beside this one if not given.
    #[arg(long)]
    rival: Option<PathBuf>,
    /// Where `tests/conformance/run --only-models` made the models; loads that need them are left out without.
    #[arg(long)]
    models: Option<PathBuf>,
    /// Tiny loads, one round: does everything work?
    #[arg(long)]
    quick: bool,
    /// Only loads whose names begin so: echo, vad, gru, infer, idle, most.
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
    /// How often each server has its turn.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Writes the table into docs/compare.md too.
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    machine::keep_off_the_servers_core();
    let beside = |name| std::env::current_exe().expect("this program is a file").with_file_name(name);
    let places = Places {
        generator: options.generator.clone().unwrap_or_else(|| options.suzu.clone()),
        rival: options.rival.clone().unwrap_or_else(|| beside("rival")),
        library: rivals::engine::library(),
        models: options.models.clone(),
        suzu: options.suzu.clone(),
    };
    let size = if options.quick { Size::quick() } else { Size::full() };
    let rounds = if options.quick { 1 } else { options.rounds };
    let wanted = |load: &Load| {
        options.only.is_empty() || options.only.iter().any(|only| load.name.starts_with(only.as_str()))
    };
    let (mut sections, mut problems) = (Vec::new(), Vec::new());
    for load in loads::all(&size, &places).into_iter().filter(wanted) {
        sections.push(measure(&load, &places, rounds, &mut problems));
    }
    let table = figures::table(&sections);
    println!("\n{table}\n{}", machine::description(rounds));
    if options.write {
        write(&table, rounds);
    }
    problems.iter().for_each(|problem| eprintln!("wrong: {problem}"));
    if sections.is_empty() {
        eprintln!("nothing was measured; is there a load of that name, and are the models made?");
    }
    if problems.is_empty() && !sections.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One load against each of its servers, in turns.
fn measure(load: &Load, places: &Places, rounds: usize, problems: &mut Vec<String>) -> Section {
    let mut measured: Vec<Vec<Figures>> = load.contenders.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        for (contender, measured) in load.contenders.iter().zip(&mut measured) {
            eprintln!("{} (round {round} of {rounds}): {}", load.title, contender.name);
            match load.run(contender, places) {
                Ok(figures) => measured.push(figures),
                Err(problem) => problems.push(format!("{}, {}: {problem}", load.name, contender.name)),
            }
        }
    }
    let names = load.contenders.iter().map(|contender| contender.name.clone());
    let rows = names.zip(measured.iter().map(|rounds| Figures::median(rounds))).collect();
    Section { title: load.title.clone(), rows }
}

fn write(table: &str, rounds: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compare.md");
    let text = std::fs::read_to_string(&path).expect("docs/compare.md is part of the repository");
    let (head, rest) = text.split_once(BEGIN).expect("docs/compare.md has the marker of the beginning");
    let (_, tail) = rest.split_once(END).expect("docs/compare.md has the marker of the end");
    let machine = machine::description(rounds);
    let text = format!("{head}{BEGIN}\n\n{machine}\n\n{table}\n{END}{tail}");
    std::fs::write(&path, text).expect("docs/compare.md can be written");
}
