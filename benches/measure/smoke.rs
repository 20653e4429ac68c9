//! `smoke`: does the binary serve at all? Starts it without any configuration but a free port, asks for its health,
//! sends the sample through a model and checks what comes back.

use super::figures::{heading, line};
use super::process::Server;
use super::ten::{drain, open, sample};

pub fn run() {
    heading("smoke");
    let server = Server::start(&[]);
    for path in ["/health/live", "/health/ready", "/api/health", "/api/metrics"] {
        server.get(path);
        line(path, "200");
    }
    let audio = sample();
    let (sender, receiver) = open(server.addr, "denoise");
    let mut covered_ms = 0.0;
    let (outcome, end) = std::thread::scope(|scope| {
        let listening =
            scope.spawn(|| drain(receiver, |results| covered_ms = results.start_ms + results.duration_ms));
        for chunk in audio.chunks(3_200) {
            sender.send_audio(chunk).expect("the server reads");
        }
        sender.close_stream().expect("the server reads");
        listening.join().expect("the stream ends well")
    });
    assert_eq!(end.ledger.received as usize, audio.len() / 2, "all audio was received");
    assert_eq!(outcome.audio_bytes, audio.len(), "as much audio came back as was sent");
    assert!((covered_ms - end.audio_received_ms).abs() < 1.0, "results up to {covered_ms} ms");
    line("audio", format!("{} ms in, as much out, {} results, balanced", end.audio_received_ms, end.results));
    assert_eq!(server.metric("suzu_sessions"), 0.0, "the stream is gone");
    server.stop();
    line("SIGTERM", "ended with 0");
}
