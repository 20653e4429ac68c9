//! The whole server under a seeded world.
//!
//! `cargo test --test sim` plays some seeds. `SUZU_SIM_SEEDS=0..5000` plays more of them, `SUZU_SIM_SEED=7` plays one
//! again. Everything follows from the seed: a failure says how to see it again.

mod access;
mod echo;
mod fair;
mod faults;
mod frames;
mod hearing;
mod http;
mod models;
mod overload;
mod peer;
mod pipe;
mod plants;
mod receiver;
mod reference;
mod rng;
mod script;
mod seed;
mod stream;
#[path = "../talk/mod.rs"]
mod talk;
mod talks;
mod tensors;
mod upload;
mod workers;
mod world;

use faults::{INJECTED, REACHED, REACHED_SELDOM, Tally};
use plants::Plant;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics are a part of the play: their place is kept rather than printed.
fn quieten() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
            if place.starts_with("tests/sim/main.rs") {
                return usual(info);
            }
            LAST_PANIC.with_borrow_mut(|last| *last = place);
        }));
    });
}

struct Played {
    outcome: Result<(), String>,
    tally: Tally,
    trace: u32,
}

fn play(seed: u64, plant: Option<Plant>) -> Played {
    quieten();
    let mut world = seed::world(seed, plant);
    world.verbose = std::env::var("SUZU_SIM_SEED").is_ok();
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic at {}: {}", LAST_PANIC.with_borrow(Clone::clone), text.unwrap_or_default()))
    });
    Played { outcome, tally: std::mem::take(&mut world.tally), trace: world.trace.clone().finalize() }
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SUZU_SIM_SEEDS") else { return 0..128 };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.unwrap_or_else(|| panic!("SUZU_SIM_SEEDS={text:?} is not of the form 0..1000"))
}

fn failure(seed: u64, what: &str) -> String {
    format!(
        "seed {seed}: {what}\n  see it again: SUZU_SIM_SEED={seed} cargo test --test sim replay -- --nocapture"
    )
}

#[test]
fn the_server_keeps_its_promises_in_every_world() {
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    for seed in seeds() {
        let played = play(seed, None);
        tally.merge(&played.tally);
        if let Err(what) = played.outcome {
            failures.push(failure(seed, &what));
        }
    }
    println!("{:#?}", tally.0);
    let shown = failures.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} worlds fail:\n{shown}", failures.len());
    let missing = |names: &[&'static str]| -> Vec<&str> {
        names.iter().copied().filter(|name| !tally.0.contains_key(*name)).collect()
    };
    assert_eq!(missing(INJECTED), [""; 0], "faults that never fired");
    assert_eq!(missing(REACHED), [""; 0], "answers that the server was never driven to");
    if seeds().count() >= 1_000 {
        assert_eq!(missing(REACHED_SELDOM), [""; 0], "answers that the server was never driven to");
    }
}

#[test]
fn replay() {
    let Ok(seed) = std::env::var("SUZU_SIM_SEED") else { return };
    // A second logger is refused, and nobody minds.
    let _ = simplelog::SimpleLogger::init(log::LevelFilter::Debug, simplelog::Config::default());
    let seed = seed.parse().expect("SUZU_SIM_SEED is a number");
    let played = play(seed, None);
    println!("{:#?}", played.tally.0);
    if let Err(what) = played.outcome {
        panic!("{}", failure(seed, &what));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..12 {
        assert_eq!(play(seed, None).trace, play(seed, None).trace, "seed {seed}");
    }
    assert_ne!(play(0, None).trace, play(1, None).trace);
}

#[test]
fn planted_bugs_are_found() {
    for kind in plants::ALL {
        let outcome = |seed| play(seed, Some(Plant::new(*kind))).outcome.err().map(|what| (seed, what));
        let found = (0..300).find_map(outcome);
        println!("{kind:?} is found: {found:?}");
        assert!(found.is_some(), "nobody notices {kind:?}");
    }
}
