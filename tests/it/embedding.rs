//! What the library leaves alone in the process that embeds it.

use crate::stream_client::{StreamClient, tone_ms};
use crate::support::TestServer;
use std::process::Command;

/// In a process of its own, since all of it is the whole process's.
#[test]
fn the_library_sets_no_logger_no_signal_handler_and_no_environment() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedding::a_quiet_guest", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// What each signal does now.
fn signal_actions() -> Vec<usize> {
    let action = |signal| {
        // SAFETY: all zero is a valid `sigaction`; a null new action only asks for the present one.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action);
            action.sa_sigaction
        }
    };
    (1..=31).map(action).collect()
}

fn environment() -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    std::env::vars_os().collect()
}

#[test]
#[ignore = "run by its parent test in a process of its own"]
fn a_quiet_guest() {
    let folder = std::env::current_dir().unwrap();
    let (signals, variables) = (signal_actions(), environment());
    assert_eq!(log::max_level(), log::LevelFilter::Off);

    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=vad");
    stream.audio(&tone_ms(100));
    assert_eq!(stream.finish().close, 1000);
    server.handle.drain();
    server.join();

    assert_eq!(log::max_level(), log::LevelFilter::Off);
    assert_eq!((signal_actions(), environment()), (signals, variables));
    assert_eq!(std::env::current_dir().unwrap(), folder);
    let mine = simplelog::SimpleLogger::init(log::LevelFilter::Off, simplelog::Config::default());
    assert!(mine.is_ok(), "the place of the logger is free");
}
