//! Keys that come and go while streams run: who has a right key is served to the end, who has none is not, and whose key is
//! taken away ends with a balance.

use crate::frames::upgrade;
use crate::models;
use crate::peer::Peer;
use crate::rng::Rng;
use crate::seed::{MS, SECOND};
use crate::stream::{Ending, Step, StreamClient};
use crate::workers::{Troubles, Workers};
use crate::world::{World, now_at};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use suzu::auth::{Keyring, Scope, Scopes, key_entry};
use suzu::config::Config;
use suzu::server::{Input, Server};
use suzu::wire::message::StreamParams;

const CHUNK_BYTES: usize = 640;
/// Streams that one user may have.
const SESSIONS_MAX: u32 = 6;

/// A key that opens streams, but for `listener`, which is for metrics.
fn keyring(names: &[&str]) -> Keyring {
    let entry = |name: &&str| {
        let scope = if *name == "listener" { Scope::Metrics } else { Scope::Stream };
        key_entry(&key(name), Scopes::default().with(scope))
    };
    Keyring::of_text(&names.iter().map(entry).collect::<String>()).expect("the entries are right")
}

fn key(name: &str) -> String {
    format!("{name}.nothing-that-anyone-would-want-to-know")
}

fn client(rng: &mut Rng, name: &str, at: u64) -> StreamClient {
    let params = StreamParams { model: "choir".into(), ..StreamParams::default() };
    let head = match name {
        "nobody" => String::new(),
        // The right name with another secret.
        "thief" => "Authorization: Bearer constant.something-that-was-guessed-by-a-thief\r\n".to_owned(),
        _ => format!("Authorization: Bearer {}\r\n", key(name)),
    };
    let request = upgrade("/v1/stream?model=choir", rng, &head);
    let mut steps = Vec::new();
    for _ in 0..rng.range(5, 60) {
        let counts = rng.bytes(CHUNK_BYTES);
        steps.push(Step::Audio { message: counts.clone(), counts, fragments: false });
        steps.push(Step::Wait(20 * MS));
    }
    steps.push(Step::CloseStream);
    StreamClient::new(name.to_owned(), request, params, steps, at)
}

/// How each stream ended.
fn play(seed: u64) -> Vec<Ending> {
    let mut rng = Rng::new(seed);
    let config = Config {
        workers: 2,
        credentials_file: "told by the world".into(),
        address_failures_max: 0,
        principal_sessions_max: SESSIONS_MAX,
        capacity_percent: 0,
        memory_max: 1 << 40,
        ..Config::default()
    };
    let mut server = Server::new(config, models::registry(), rng.next(), now_at(0, 0)).expect("it fits");
    let first = keyring(&["constant", "dropped", "flapping", "listener"]);
    server.handle_input(Input::Credentials(Ok(Box::new(first))), now_at(0, 0));
    let workers =
        Workers::new(server.workers(), server.batches_in_flight_max(), Troubles::default(), rng.fork());
    let mut world = World::new(server, workers, rng.fork(), 0);
    world.keyrings = [
        Ok(keyring(&["constant", "dropped"])),
        Err("the file cannot be read".to_owned()),
        Ok(keyring(&["constant", "flapping", "late"])),
    ]
    .into();
    let mut times: Vec<_> = (0..3).map(|_| rng.range(200 * MS, 2 * SECOND)).collect();
    times.sort_unstable();
    world.reloads = times.into();
    let endings = Rc::new(RefCell::new(Vec::new()));
    let names = ["constant", "dropped", "flapping", "late", "listener", "nobody", "thief"];
    for number in 0..names.len() * 4 {
        let at = rng.below(3 * SECOND);
        let mut client = client(&mut rng, names[number % names.len()], at);
        client.endings = Some(Rc::clone(&endings));
        world.peers.push(Peer::new(Box::new(client), rng.fork(), at));
    }
    // One user has more than its share at once.
    for _ in 0..2 * SESSIONS_MAX {
        let mut client = client(&mut rng, "constant", 100 * MS);
        client.name = "crowd".to_owned();
        client.endings = Some(Rc::clone(&endings));
        world.peers.push(Peer::new(Box::new(client), rng.fork(), 100 * MS));
    }
    world.run().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    assert!(world.keyrings.is_empty(), "seed {seed}: every reload was read");
    endings.take()
}

#[test]
fn keys_come_and_go_and_nobody_is_served_but_by_a_right_one() {
    let mut seen: BTreeMap<(String, u16, String), usize> = BTreeMap::new();
    for seed in 0..30 {
        for ending in play(seed) {
            let Ending { name, status, reason, close } = ending.clone();
            let (status, reason) = (status.expect("an answer"), reason.unwrap_or_default());
            let expected: &[(u16, &str)] = match name.as_str() {
                // Its share may be taken by the crowd.
                "constant" | "crowd" => &[(101, "finished"), (429, "")],
                "dropped" | "flapping" => &[(101, "finished"), (101, "session_expired"), (401, "")],
                "late" => &[(101, "finished"), (401, "")],
                "listener" => &[(403, ""), (401, "")],
                _ => &[(401, "")],
            };
            assert!(expected.contains(&(status, reason.as_str())), "seed {seed}: {ending:?}");
            assert_eq!(close == Some(4410), reason == "session_expired", "seed {seed}: {ending:?}");
            *seen.entry((name, status, reason)).or_default() += 1;
        }
    }
    for (name, status, reason) in [
        ("constant", 101, "finished"),
        ("crowd", 429, ""),
        ("dropped", 101, "session_expired"),
        ("dropped", 401, ""),
        ("flapping", 101, "session_expired"),
        ("flapping", 401, ""),
        ("late", 401, ""),
        ("late", 101, "finished"),
        ("listener", 403, ""),
    ] {
        assert!(
            seen.contains_key(&(name.to_owned(), status, reason.to_owned())),
            "{name} {status}: {seen:#?}"
        );
    }
}
