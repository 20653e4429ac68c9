//! From a seed to a world: limits, faults and clients. Each seed switches on some faults only, so that rare
//! combinations come up and the others get far.

use crate::echo::{EchoClient, Vandal};
use crate::faults::Tally;
use crate::frames::upgrade;
use crate::http::{Ask, HttpClient};
use crate::models;
use crate::peer::{Actor, Pace, Peer};
use crate::pipe::{Micros, Pipe};
use crate::plants::Plant;
use crate::receiver;
use crate::rng::Rng;
use crate::script;
use crate::tensors;
use crate::workers::{Troubles, Workers};
use crate::world::{World, now_at};
use std::collections::VecDeque;
use std::time::Duration;
use suzu::config::Config;
use suzu::server::{ProcessFigures, Server};

pub const MS: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

/// Which kinds of trouble this seed has.
#[derive(Clone, Copy)]
pub struct Swarm {
    pub links: bool,
    pub resets: bool,
    pub readers: bool,
    pub workers: bool,
    pub hangs: bool,
    pub protocol: bool,
    pub poison: bool,
    pub vandals: bool,
    pub tight: bool,
    pub impatient: bool,
    pub big_audio: bool,
    /// Many that send much and read nothing.
    pub crowd: bool,
    /// Many that ask for inference at once.
    pub callers: bool,
    /// Nothing is forgotten for being idle.
    pub patient: bool,
}

impl Swarm {
    fn new(rng: &mut Rng) -> Self {
        Self {
            links: rng.chance(50),
            resets: rng.chance(25),
            readers: rng.chance(30),
            workers: rng.chance(60),
            hangs: rng.chance(25),
            protocol: rng.chance(35),
            poison: rng.chance(25),
            vandals: rng.chance(30),
            tight: rng.chance(60),
            impatient: rng.chance(35),
            big_audio: rng.chance(10),
            crowd: rng.chance(10),
            callers: rng.chance(20),
            patient: false,
        }
    }
}

pub fn world(seed: u64, plant: Option<Plant>) -> World {
    let mut rng = Rng::new(seed);
    let mut swarm = Swarm::new(&mut rng);
    let mut config = config(&mut rng, &swarm);
    // Drawn apart, so that the worlds stay what they were without it.
    let mut strain = Rng::new(!seed.rotate_left(17));
    config.queue_wait_target = pick_ms(&mut strain, &[20, 200, 1_000, 60_000]);
    let mut hooks = Rng::new(!seed.rotate_left(31));
    let trouble = receiver::configure(&mut config, &mut hooks);
    let began = rng.pick(&[0, SECOND, 1_000_000 * SECOND]);
    let server = Server::new(config.clone(), models::registry(), rng.next(), now_at(began, 0))
        .unwrap_or_else(|error| panic!("seed {seed} drew limits that do not fit together: {error}"));
    let troubles = Troubles {
        slow: if swarm.workers { rng.pick(&[5, 30, 100]) } else { 0 },
        slow_max: rng.pick(&[20 * MS, 300 * MS, 3 * SECOND]),
        lost: if swarm.hangs { rng.pick(&[3, 15]) } else { 0 },
    };
    let workers = Workers::new(server.workers(), server.batches_in_flight_max(), troubles, rng.fork());
    let mut world = World::new(server, workers, rng.fork(), began);
    world.plant = plant;
    world.receiver.trouble = trouble;
    world.late_events = rng.chance(50);
    if rng.chance(25) {
        let most = rng.pick(&[60 * MS, 3 * SECOND]);
        world.drain_at = Some(began + rng.range(0, most));
    }
    if rng.chance(15) {
        world.jumps =
            vec![(began + rng.range(0, 2 * SECOND), rng.pick(&[100 * MS, 40 * SECOND, 1800 * SECOND]))];
    }
    swarm.patient = world.jumps.is_empty() && config.sequence_idle_timeout >= Duration::from_secs(60);
    if strain.chance(25) {
        world.strains = strains(&mut strain, &config, began);
    }
    let most = if swarm.tight { 8 } else { 14 };
    let count = rng.range(1, if swarm.crowd { 20 } else { most });
    for _ in 0..count {
        let at = began + if rng.chance(60) { rng.below(30 * MS) } else { rng.below(2 * SECOND) };
        let peer = peer(&mut rng, &config, &swarm, at, world.plant.clone(), &mut world.tally);
        world.peers.push(peer);
    }
    if swarm.callers {
        for _ in 0..rng.range(4, 10) {
            let asks = tensors::asks(&mut rng, false, swarm.patient, &mut world.tally);
            let client = HttpClient::new("caller", asks, began + rng.below(2) * MS);
            world.peers.push(Peer::new(Box::new(client), rng.fork(), began));
        }
    }
    world.peers.push(probe(&mut rng, began));
    // Drawn apart, so that the worlds stay what they were without them.
    let mut rng = Rng::new(!seed);
    for _ in 0..rng.pick(&[0, 0, 1, 2, 3]) {
        let at = began + rng.below(SECOND);
        let peer = crate::upload::peer(&mut rng, at, &mut world.tally);
        world.peers.push(peer);
    }
    world
}

/// Times at which memory is short or the loop late, and at last neither.
fn strains(rng: &mut Rng, config: &Config, began: Micros) -> VecDeque<(Micros, ProcessFigures)> {
    let mut strains = VecDeque::new();
    let mut at = began + rng.below(500 * MS);
    let (memory, lag) = rng.pick(&[(true, false), (false, true), (true, true)]);
    for _ in 0..rng.range(1, 5) {
        let part = rng.pick(&[0.3, 0.72, 0.82, 0.92, 0.97]);
        let resident_bytes = if memory { (config.memory_max as f64 * part) as u64 } else { 0 };
        let loop_turn_max = if lag { config.loop_lag_target.mul_f64(part) } else { Duration::ZERO };
        strains
            .push_back((at, ProcessFigures { resident_bytes, loop_turn_max, ..ProcessFigures::default() }));
        at += rng.pick(&[100 * MS, SECOND]);
    }
    strains.push_back((at, ProcessFigures::default()));
    strains
}

fn pick_ms(rng: &mut Rng, of: &[u64]) -> Duration {
    Duration::from_millis(rng.pick(of))
}

fn config(rng: &mut Rng, swarm: &Swarm) -> Config {
    let roomy = Config { workers: rng.range(1, 3) as usize, memory_max: 1 << 40, ..Config::default() };
    let roomy = Config {
        queue_delay_max: pick_ms(rng, &[0, 0, 5, 50]),
        batch_max: rng.pick(&[1, 2, 3, 32]),
        batch_size: rng.pick(&[1, 2, 10]),
        stream_batch_size: rng.pick(&[1, 1, 4]),
        infer_timeout: pick_ms(rng, &[100, 1_000, 10_000]),
        infer_failures_max: rng.pick(&[1, 2, 3]),
        model_failures_max: rng.pick(&[1, 3, 10]),
        model_retry_after: pick_ms(rng, &[50, 5_000]),
        load_timeout: pick_ms(rng, &[1_000, 120_000]),
        sequence_idle_timeout: pick_ms(rng, &[20, 60_000, 60_000]),
        model_default: rng.pick(&["vad", "echo"]).to_owned(),
        drain_timeout: pick_ms(rng, &[0, 200, 5_000]),
        ..roomy
    };
    let config = if swarm.impatient { impatient(rng, roomy) } else { roomy };
    let mut config = if swarm.tight { tight(rng, swarm, config) } else { config };
    if swarm.big_audio {
        config.audio_bytes_total_max = 1 << 20;
        config.audio_held_max = Duration::from_secs(5);
        config.message_bytes_max = 1 << 20;
        config.incoming_bytes_total_max = 64 << 20;
    }
    config
}

/// Limits that are met.
fn tight(rng: &mut Rng, swarm: &Swarm, roomy: Config) -> Config {
    let connections_max = rng.pick(&[1, 2, 4, 16]);
    let audio_held_max = pick_ms(rng, &[100, 100, 200, 1_000]);
    Config {
        connections_max: if swarm.crowd { 16 } else { connections_max },
        sessions_max: if swarm.crowd { 12 } else { rng.pick(&[1, 2, 8]).min(connections_max) },
        run_max: pick_ms(rng, &[10, 50, 1_000]).min(audio_held_max),
        audio_held_max,
        audio_bytes_total_max: 1 << 20,
        outgoing_bytes_max: rng.pick(&[16, 64]) << 10,
        outgoing_bytes_total_max: rng.pick(&[64, 256]) << 10,
        message_bytes_max: rng.pick(&[8, 64]) << 10,
        echo_message_bytes_max: rng.pick(&[1, 16, 64]) << 10,
        body_bytes_max: rng.pick(&[1, 32]) << 10,
        infer_body_bytes_max: 1 << 10,
        calls_bytes_total_max: rng.pick(&[1, 2, 16]) << 10,
        calls_max: rng.pick(&[1, 2, 16]),
        sequences_max: rng.pick(&[1, 2, 16]),
        incoming_bytes_total_max: rng.pick(&[64, 128]) << 10,
        flush_timeout: pick_ms(rng, &[1, 50, 2_000]),
        stream_flush_timeout: pick_ms(rng, &[1, 20, 200]),
        ..roomy
    }
}

/// Deadlines that pass.
fn impatient(rng: &mut Rng, roomy: Config) -> Config {
    let ping_interval = pick_ms(rng, &[50, 300, 25_000]);
    Config {
        head_timeout: pick_ms(rng, &[50, 1_000]),
        body_timeout: pick_ms(rng, &[50, 1_000]),
        idle_timeout: pick_ms(rng, &[50, 1_000]),
        write_timeout: pick_ms(rng, &[100, 2_000]),
        close_timeout: pick_ms(rng, &[50, 1_000]),
        ping_interval,
        pong_timeout: pick_ms(rng, &[50, 300]).min(ping_interval),
        audio_idle_timeout: pick_ms(rng, &[300, 3_000]),
        session_duration_max: pick_ms(rng, &[300, 2_000, 60_000]),
        blocked_max: pick_ms(rng, &[100, 1_000]),
        ack_interval: pick_ms(rng, &[100, 1_000]),
        ..roomy
    }
}

fn peer(
    rng: &mut Rng,
    config: &Config,
    swarm: &Swarm,
    at: Micros,
    plant: Option<Plant>,
    tally: &mut Tally,
) -> Peer {
    let quick = !swarm.links || rng.chance(40);
    let pace = match rng.below(10) {
        0..6 if swarm.crowd => Pace::Never,
        0 if swarm.readers => Pace::Never,
        1 | 2 if swarm.readers => {
            Pace::Slow { bytes: rng.range(20, 2_000) as usize, every: rng.range(MS, 300 * MS) }
        }
        _ => Pace::Eager,
    };
    let actor: Box<dyn Actor> = match rng.below(100) {
        0..65 => {
            let mut client = script::stream(rng, config, swarm, at, pace == Pace::Never, tally);
            client.quick = quick && pace == Pace::Eager;
            client.plant = plant;
            Box::new(client)
        }
        65..78 => Box::new(EchoClient::new(rng, at, config.echo_message_bytes_max)),
        78..90 if swarm.vandals => Box::new(vandal(rng, at, tally)),
        _ => Box::new(http(rng, config, swarm, at, tally)),
    };
    let mut peer = Peer::new(actor, rng.fork(), at);
    peer.pace = pace;
    match pace {
        Pace::Never => tally.fire("never reads"),
        Pace::Slow { .. } => tally.fire("slow reader"),
        Pace::Eager => {}
    }
    peer.read_max = rng.pick(&[61, 1_460, 16 * 1024, 64 * 1024]);
    if !quick {
        harm(&mut peer, rng, at, tally);
        peer.slow = swarm.impatient;
    }
    if swarm.resets && rng.chance(30) {
        peer.reset_at = Some(at + rng.range(0, 2 * SECOND));
    }
    peer
}

fn harm(peer: &mut Peer, rng: &mut Rng, at: Micros, tally: &mut Tally) {
    tally.fire("delay");
    let delay = (rng.below(2 * MS), rng.range(2 * MS, 80 * MS));
    let sizes = [512, 4096, 64 * 1024];
    let (up, down) = (rng.pick(&sizes), rng.pick(&sizes));
    if up.min(down) < 64 * 1024 {
        tally.fire("small socket buffer");
    }
    peer.up = Pipe::new(up, delay);
    peer.down = Pipe::new(down, delay);
    if rng.chance(40) {
        let begins = at + rng.range(0, SECOND);
        peer.stall = Some((begins, begins + rng.range(MS, 3 * SECOND)));
    }
}

/// Asks for health all the time over a perfect link.
fn probe(rng: &mut Rng, began: Micros) -> Peer {
    let paths = ["/health/live", "/api/health", "/health/ready", "/metrics", "/api/metrics", "/v1/status"];
    let asks = (0..6).map(|_| Ask::get(rng.pick(&paths), &[200, 503])).collect();
    let mut client = HttpClient::new("probe", asks, began);
    client.probe = true;
    client.pause = rng.range(MS, 40 * MS);
    Peer::new(Box::new(client), rng.fork(), began)
}

fn http(rng: &mut Rng, config: &Config, swarm: &Swarm, at: Micros, tally: &mut Tally) -> HttpClient {
    let asks = if rng.chance(60) {
        tensors::asks(rng, swarm.poison, swarm.patient, tally)
    } else {
        let count = rng.range(1, 8);
        (0..count).map(|_| ask(rng, config, tally)).collect()
    };
    let mut client = HttpClient::new("http client", asks, at);
    client.pipelined = rng.chance(50);
    client.hasty = client.pipelined && rng.chance(40);
    client.lingers = rng.chance(20);
    client.pause = rng.pick(&[0, MS, 100 * MS]);
    client
}

fn ask(rng: &mut Rng, config: &Config, tally: &mut Tally) -> Ask {
    match rng.below(10) {
        0 => Ask::get("/nowhere", &[404]),
        1 => Ask::get("/v1/stream", &[426]),
        2 => Ask {
            bytes: b"HEAD /health/live HTTP/1.1\r\nHost: sim\r\n\r\n".to_vec(),
            head_only: true,
            ..Ask::get("/", &[200])
        },
        3 => Ask {
            bytes: b"DELETE /v1/models HTTP/1.1\r\nHost: sim\r\n\r\n".to_vec(),
            ..Ask::get("/", &[405])
        },
        4..7 => post(rng, config, tally),
        7 => Ask::get("/v1/models", &[200]),
        8 => Ask::get("/metrics", &[200]),
        _ => Ask::get("/", &[200]),
    }
}

fn post(rng: &mut Rng, config: &Config, tally: &mut Tally) -> Ask {
    let largest = config.body_bytes_max.min(60_000) as u64;
    let size = if rng.chance(50) { rng.below(largest + 1) } else { rng.below(200) } as usize;
    let body = rng.bytes(size);
    let mut bytes = b"POST /v1/echo HTTP/1.1\r\nHost: sim\r\n".to_vec();
    if rng.chance(50) {
        tally.fire("chunked body");
        bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        let mut rest = &body[..];
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rng.range(1, rest.len() as u64) as usize);
            bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
            rest = after;
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    } else {
        bytes.extend_from_slice(format!("Content-Length: {size}\r\n\r\n").as_bytes());
        bytes.extend_from_slice(&body);
    }
    Ask { bytes, statuses: vec![200], body: Some(body), ..Ask::get("/", &[]) }
}

fn vandal(rng: &mut Rng, at: Micros, tally: &mut Tally) -> Vandal {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    match rng.below(5) {
        3 => {
            tally.fire("slow request");
            parts.extend(upgrade("/v1/stream", rng, "").chunks(20).map(<[u8]>::to_vec));
        }
        0 => {
            tally.fire("garbage");
            parts.push(rng.bytes(300));
        }
        1 => {
            tally.fire("malformed request");
            let requests: [&[u8]; 5] = [
                b"GET / HTTP/1.1\r\n\r\n",
                b"GET /a b HTTP/1.1\r\nHost: sim\r\n\r\n",
                b"POST /v1/echo HTTP/1.1\r\nHost: sim\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"POST /v1/echo HTTP/1.1\r\nHost: sim\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"GET / HTTP/3.7\r\nHost: sim\r\n\r\n",
            ];
            parts.push(rng.pick(&requests).to_vec());
        }
        2 => {
            tally.fire("truncated request");
            let whole = b"POST /v1/echo HTTP/1.1\r\nHost: sim\r\nContent-Length: 400\r\n\r\nabc".to_vec();
            let cut = rng.below(whole.len() as u64 + 1) as usize;
            parts.extend(whole[..cut].chunks(7).map(<[u8]>::to_vec));
        }
        _ => {
            tally.fire("damaged frames");
            let path = rng.pick(&["/v1/stream", "/v1/echo", "/audio?model=echo"]);
            parts.push(upgrade(path, rng, ""));
            let size = rng.range(1, 200) as usize;
            parts.push(rng.bytes(size));
        }
    }
    let pause = rng.pick(&[MS, 30 * MS, 200 * MS]);
    Vandal {
        bytes: parts.into(),
        due: Some(at),
        pause,
        stays: rng.pick(&[0, 100 * MS, 20 * SECOND]),
        over: false,
    }
}
