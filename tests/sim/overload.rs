//! More streams than the workers keep up with: every rung of the ladder is reached, nothing is lost silently, and all is normal
//! within a second after the load has gone.

use crate::frames::upgrade;
use crate::models;
use crate::peer::Peer;
use crate::rng::Rng;
use crate::seed::{MS, SECOND};
use crate::stream::{Step, StreamClient};
use crate::workers::{Troubles, Workers};
use crate::world::{World, now_at};
use std::time::Duration;
use suzu::config::Config;
use suzu::server::{ProcessFigures, Server};
use suzu::wire::message::StreamParams;

const CHUNK_BYTES: usize = 640;

fn world(seed: u64, capacity_percent: u32) -> World {
    let mut rng = Rng::new(seed);
    let config = Config {
        workers: 1,
        batch_max: 2,
        run_max: Duration::from_millis(20),
        queue_wait_target: Duration::from_millis(100),
        capacity_percent,
        memory_max: 1 << 40,
        ..Config::default()
    };
    let server = Server::new(config, models::registry(), rng.next(), now_at(0, 0)).expect("it fits");
    let troubles = Troubles { slow: 100, slow_max: 10 * MS, lost: 0 };
    let workers = Workers::new(server.workers(), server.batches_in_flight_max(), troubles, rng.fork());
    let mut world = World::new(server, workers, rng.fork(), 0);
    // One after the other: late ones come to a server that refuses them, and at last to one that has recovered.
    for number in 0..100 {
        let at = number * 30 * MS;
        let params = StreamParams { model: "choir".into(), interim_results: true, ..StreamParams::default() };
        let request = upgrade("/v1/stream?model=choir&interim_results=true", &mut rng, "");
        let chunk = |rng: &mut Rng| {
            let counts = rng.bytes(CHUNK_BYTES);
            Step::Audio { message: counts.clone(), counts, fragments: false }
        };
        let mut steps: Vec<_> = (0..50).flat_map(|_| [chunk(&mut rng), Step::Wait(10 * MS)]).collect();
        steps.push(Step::CloseStream);
        let client = StreamClient::new(format!("stream {number}"), request, params, steps, at);
        world.peers.push(Peer::new(Box::new(client), rng.fork(), at));
    }
    world
}

#[test]
fn the_ladder_is_climbed_and_left() {
    for seed in 0..5 {
        let mut world = world(seed, 0);
        world.run().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        for name in [
            "rung refusing",
            "refused overloaded",
            "told of no interim results",
            "stream ended by Termination",
        ] {
            assert!(world.tally.0.contains_key(name), "seed {seed}: {name}: {:#?}", world.tally.0);
        }
        let figures = world.server.figures();
        let count = |pointer: &str| figures.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let (began, refused) = (count("/sessions/began"), count("/refusals/overloaded"));
        assert_eq!(began + refused, 100, "everybody is told: {figures}");
        assert!(began > 10, "it goes on serving: {began}");
        assert!(world.now < 60 * SECOND, "and comes to an end");
    }
}

#[test]
fn who_would_be_too_much_is_refused_before_anybody_waits() {
    for seed in 0..5 {
        let mut world = world(seed, 80);
        let figures = |_| ProcessFigures { cores: 1, ..ProcessFigures::default() };
        world.strains = (1..20).map(|number| (number * SECOND / 2, figures(number))).collect();
        world.run().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert!(world.tally.0.contains_key("refused overloaded"), "seed {seed}: {:#?}", world.tally.0);
        for name in ["rung refusing", "rung cutting", "rung closing"] {
            assert!(!world.tally.0.contains_key(name), "seed {seed}: {name}: {:#?}", world.tally.0);
        }
        let figures = world.server.figures();
        let began = figures.pointer("/sessions/began").and_then(serde_json::Value::as_u64).unwrap_or(0);
        assert!(began > 10, "seed {seed}: it goes on serving: {began}");
    }
}
