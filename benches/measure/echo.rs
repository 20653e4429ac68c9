//! `echo`: messages of 640 bytes (20 ms of speech) through the loop and back, without a model.
//!
//! Tells what a message costs the server in CPU time: receiving, unmasking, framing and sending, with the kernel's
//! share of it. One message on the way for each connection is the worst case: nothing can be gathered. Sixteen show
//! what a read and a write for several messages save. The rate is bounded by this program too, the CPU time is not.

use super::figures::{heading, line, us};
use super::peer::{self, Crowd, MASK};
use super::process::{DEADLINE, Server};
use std::time::Duration;
use suzu::driver::Clock;
use suzu::wire::websocket::{Event, encode_binary};

const MESSAGE_BYTES: usize = 640;

pub fn run(connections: usize, duration: Duration) {
    for on_the_way in [1, 16] {
        heading(&format!(
            "echo: {connections} connections, {on_the_way} messages of {MESSAGE_BYTES} bytes on the way"
        ));
        let server = Server::start(&[]);
        let streams = (0..connections).map(|_| peer::connect(server.addr, "/v1/echo")).collect();
        let mut crowd = Crowd::new(streams);
        let clock = Clock::new();
        let began = clock.instant();
        let (count, cpu) = play(&mut crowd, &server, MESSAGE_BYTES, on_the_way, duration, &clock);
        let took = clock.instant() - began;
        line(
            "messages",
            format!("{count} ({:.0} / s), none lost or changed", count as f64 / took.as_secs_f64()),
        );
        line("server CPU per message", us(cpu.div_f64(count as f64)));
        drop(crowd);
        server.stop();
    }
}

/// Sends each message that comes back once more until time is up, then awaits the last. Gives how many came back, and
/// the CPU time that the server used for them.
pub fn play(
    crowd: &mut Crowd,
    server: &Server,
    message_bytes: usize,
    on_the_way: usize,
    duration: Duration,
    clock: &Clock,
) -> (u64, Duration) {
    let payloads: Vec<_> = (0..crowd.len()).map(|number| vec![number as u8; message_bytes]).collect();
    let frames: Vec<_> = payloads
        .iter()
        .map(|payload| {
            let mut frame = Vec::new();
            encode_binary(&mut frame, payload, MASK);
            frame
        })
        .collect();
    let (began, cpu) = (clock.instant(), server.cpu());
    for (number, frame) in frames.iter().enumerate() {
        crowd.send(number, &frame.repeat(on_the_way));
    }
    let (mut missing, mut count) = (crowd.len() * on_the_way, 0);
    while missing > 0 {
        let elapsed = clock.instant() - began;
        assert!(elapsed < duration + DEADLINE, "{missing} messages did not come back");
        let again = elapsed < duration;
        crowd.turn(Duration::from_millis(100), |number, event, out| {
            let same = matches!(event, Event::Binary(message) if message == payloads[number]);
            assert!(same, "other bytes came back than were sent");
            count += 1;
            if again {
                out.extend_from_slice(&frames[number]);
            } else {
                missing -= 1;
            }
        });
    }
    (count, (server.cpu() - cpu).total)
}
