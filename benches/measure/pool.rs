//! `pool`: what it costs to borrow a connection that is open already, against opening one.
//!
//! The pool by itself lends numbers; lending connections adds the look at the socket that finds broken ones. Four threads
//! that do nothing but borrow and return are the worst case for the lock; they have a connection each, so nobody stands
//! in line. Times are by the wall clock, so with fewer cores than threads they hold the others' turns too. The server
//! rests meanwhile, and its core is used as well.

use super::figures::{heading, line, ratio, us};
use super::process::{Server, use_every_core};
use std::time::Duration;
use suzu::client::{Connection, Message, Options, Pool, PoolSettings};
use suzu::driver::Clock;

/// Rounds of each kind, of which the fastest and the slowest are shown beside the mean.
const ROUNDS: usize = 3;

pub fn run(duration: Duration) {
    heading(&format!("pool: borrowing against opening, {} s of each kind", duration.as_secs()));
    let server = Server::start(&[]);
    let url = format!("ws://{}/v1/echo", server.addr);
    let stretch = duration / ROUNDS as u32;
    let settings = PoolSettings { max_connections: 4, ..PoolSettings::default() };
    let numbers = Pool::new(settings.clone(), || Ok(0u64), |_| true);
    let (from, options) = (url.clone(), Options::default());
    let connections = Pool::new(settings, move || Connection::open(&from, &options), Connection::is_usable);

    let mut opening = Vec::new();
    let mut borrowing = [(); 4].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        opening.push(open(&url, stretch));
        borrowing[0].push(borrow(&numbers, 1, stretch));
        borrowing[1].push(borrow(&numbers, 4, stretch));
        borrowing[2].push(borrow(&connections, 1, stretch));
        borrowing[3].push(borrow(&connections, 4, stretch));
    }
    let mean = |times: &[Duration]| times.iter().sum::<Duration>() / times.len() as u32;
    line("opening a WebSocket, without its first message", us(mean(&opening)));
    let names = [
        "get and put, the pool by itself, 1 thread",
        "the same, 4 threads, for each call",
        "get and put of a WebSocket, 1 thread",
        "the same, 4 threads, for each call",
    ];
    for (name, times) in names.into_iter().zip(&borrowing) {
        line(name, format!("{} ns", mean(times).as_nanos()));
        let ratios = opening.iter().zip(times).map(|(open, borrow)| open.div_duration_f64(*borrow)).collect();
        ratio("  opening is so many times as long", mean(&opening), mean(times), ratios);
    }
    let stats = connections.stats();
    assert_eq!((stats.broken, stats.timed_out, stats.active), (0, 0, 0), "nothing broke: {stats:?}");
    drop(connections);
    server.stop();
}

/// The time to open a connection. That it works is checked outside that time.
fn open(url: &str, duration: Duration) -> Duration {
    let (clock, options) = (Clock::new(), Options::default());
    let (began, mut count, mut spent) = (clock.instant(), 0, Duration::ZERO);
    while clock.instant() - began < duration {
        let before = clock.instant();
        let mut connection = Connection::open(url, &options).expect("the server listens");
        spent += clock.instant() - before;
        count += 1;
        echo(&mut connection);
    }
    spent / count
}

fn echo(connection: &mut Connection) {
    connection.send(b"still there?").expect("the server reads");
    let answer = connection.recv().expect("the server answers");
    assert_eq!(answer, Some(Message::Binary(b"still there?".to_vec())));
}

/// The time of a thread for borrowing and returning, with a connection open for each thread.
fn borrow<C: Send>(pool: &Pool<C>, threads: u32, duration: Duration) -> Duration {
    /// Calls between two looks at the clock.
    const CALLS: u32 = 1_000;
    let get = || pool.get().expect("a connection for each");
    drop((0..threads).map(|_| get()).collect::<Vec<_>>());
    let clock = Clock::new();
    let began = clock.instant();
    let keep_on = || {
        use_every_core();
        let mut count = 0u64;
        while clock.instant() - began < duration {
            for _ in 0..CALLS {
                drop(std::hint::black_box(get()));
            }
            count += u64::from(CALLS);
        }
        (clock.instant() - began).div_f64(count as f64)
    };
    let times: Duration = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(keep_on)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    times / threads
}
