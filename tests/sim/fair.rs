//! A modest user beside a greedy one: in every world its runs wait no longer than for what is with the workers already, but for those
//! that come right after others of its own.

use crate::frames::upgrade;
use crate::models;
use crate::peer::Peer;
use crate::pipe::Micros;
use crate::rng::Rng;
use crate::seed::MS;
use crate::stream::{Step, StreamClient};
use crate::workers::{Troubles, Workers};
use crate::world::{World, now_at};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use suzu::auth::{Keyring, Scope, Scopes, key_entry};
use suzu::config::Config;
use suzu::server::{Input, Server};
use suzu::wire::message::StreamParams;

/// The longest batch of workers without troubles.
const BATCH_MS: f64 = 2.0;
const CHUNK_BYTES: usize = 640;
const MODEST: &str = "modest.nothing-that-anyone-would-want-to-know";
const GREEDY: &str = "greedy.nothing-that-anyone-would-want-to-know";

fn keyring() -> Keyring {
    let entry = |key: &str| key_entry(key, Scopes::default().with(Scope::Stream));
    Keyring::of_text(&[MODEST, GREEDY].map(entry).concat()).expect("the entries are right")
}

/// A stream of `key` that sends chunks of 20 ms, `pause` apart.
fn client(rng: &mut Rng, key: &str, model: &str, chunks: usize, pause: Micros, at: Micros) -> StreamClient {
    let params = StreamParams { model: model.to_owned(), timing: true, ..StreamParams::default() };
    let head = format!("Authorization: Bearer {key}\r\n");
    let request = upgrade(&format!("/v1/stream?model={model}&timing=true"), rng, &head);
    let mut steps = Vec::new();
    for _ in 0..chunks {
        let counts = rng.bytes(CHUNK_BYTES);
        steps.push(Step::Audio { message: counts.clone(), counts, fragments: false });
        if pause > 0 {
            steps.push(Step::Wait(pause));
        }
    }
    steps.push(Step::CloseStream);
    StreamClient::new(key.to_owned(), request, params, steps, at)
}

/// How long the runs of the modest user waited, milliseconds, the longest last. `as_one`: the greedy streams have the same key.
fn waits_ms(seed: u64, as_one: bool, greedy_model: &str) -> Vec<f64> {
    let mut rng = Rng::new(seed);
    let config = Config {
        workers: 1,
        batch_max: 4,
        run_max: Duration::from_millis(20),
        credentials_file: "told by the world".into(),
        queue_wait_target: Duration::from_secs(60),
        memory_max: 1 << 40,
        ..Config::default()
    };
    let mut server = Server::new(config, models::registry(), rng.next(), now_at(0, 0)).expect("it fits");
    server.handle_input(Input::Credentials(Ok(Box::new(keyring()))), now_at(0, 0));
    let workers =
        Workers::new(server.workers(), server.batches_in_flight_max(), Troubles::default(), rng.fork());
    let mut world = World::new(server, workers, rng.fork(), 0);
    for _ in 0..30 {
        let key = if as_one { MODEST } else { GREEDY };
        let client = client(&mut rng, key, greedy_model, 40, 0, 0);
        world.peers.push(Peer::new(Box::new(client), rng.fork(), 0));
    }
    let waits = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..2 {
        let at = 20 * MS + rng.below(10 * MS);
        let mut client = client(&mut rng, MODEST, "choir", 10, 20 * MS, at);
        client.waits = Some(Rc::clone(&waits));
        world.peers.push(Peer::new(Box::new(client), rng.fork(), at));
    }
    world.run().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    let mut waits = waits.take();
    assert!(waits.len() >= 18, "every chunk has its result");
    waits.sort_by(f64::total_cmp);
    waits
}

fn longest_ms(waits: &[f64]) -> f64 {
    waits.last().copied().unwrap_or_default()
}

#[test]
fn a_modest_user_waits_for_no_queue_of_a_greedy_one() {
    for seed in 0..20 {
        let waits = waits_ms(seed, false, "choir");
        let nearly_all = &waits[..waits.len() * 9 / 10];
        assert!(longest_ms(nearly_all) <= BATCH_MS, "seed {seed}: {waits:?} ms");
        // Whoever was served a moment ago waits for one batch of the other besides.
        assert!(longest_ms(&waits) <= 2.0 * BATCH_MS, "seed {seed}: {waits:?} ms");
    }
}

#[test]
fn neither_does_it_beside_streams_of_another_model() {
    for seed in 0..20 {
        // One batch of each queue may be due at the same time.
        let wait = longest_ms(&waits_ms(seed, false, "echo"));
        assert!(wait <= 2.0 * BATCH_MS, "seed {seed}: {wait} ms");
    }
}

#[test]
fn as_one_user_they_wait_for_each_other() {
    let longest = (0..5).map(|seed| longest_ms(&waits_ms(seed, true, "choir"))).fold(0.0, f64::max);
    assert!(longest > 2.0 * BATCH_MS, "or the others prove nothing: {longest} ms");
}
