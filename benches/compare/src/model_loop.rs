//! A model in a loop on one thread, and nothing else: what inference costs by itself, as no server could reach it.
//!
//! Time is CPU time of that thread. The states stay gathered from call to call; `vad` has one detector for each row,
//! asked in turn, as a server asks those of its streams.

use crate::engine::{Engine, Seats, Session};
use crate::inference::CONV_SAMPLES;
use crate::models::{RATE_HZ, dithered};
use clap::ValueEnum;
use earshot::Detector;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Calls before the first that counts, and between two looks at the clock.
const CALLS_BEFORE: usize = 20;
const CALLS_AT_A_TIME: usize = 10;

/// Models that can be run without a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Looped {
    Vad,
    Gru,
    Conv,
}

/// What a loop came to.
pub struct Cost {
    rows: usize,
    window: usize,
    windows: usize,
    cpu: Duration,
}

impl Cost {
    /// One object: rows of a call, windows in all, CPU in microseconds for a window and for a second of audio.
    pub fn to_json(&self) -> Value {
        let us = self.cpu.as_secs_f64() * 1e6 / self.windows as f64;
        json!({
            "rows": self.rows,
            "windows": self.windows,
            "cpu_us_per_window": us,
            "cpu_us_per_audio_s": us * f64::from(RATE_HZ) / self.window as f64,
        })
    }
}

/// Runs the model for so much CPU time. Panics where there is no folder of models and one is needed.
pub fn run(model: Looped, rows: usize, duration: Duration, models: Option<&Path>, engine: Engine) -> Cost {
    let open =
        |name: &str| Seats::open(engine, models.expect("--models says where this model is"), name).take();
    match model {
        Looped::Vad => vad(rows, duration),
        Looped::Gru => open("gru").at_home(|session| gru(session, rows, duration)),
        Looped::Conv => open("conv").at_home(|session| conv(session, rows, duration)),
    }
}

fn vad(rows: usize, duration: Duration) -> Cost {
    let mut ears: Vec<(Box<Detector>, u32)> = (0..rows).map(|_| (Detector::default_boxed(), 1)).collect();
    let audio: Vec<f32> = (0..100 * 256).map(noise).collect();
    let mut windows = audio.chunks_exact(256).cycle();
    let mut heard = 0.0;
    let cost = repeat(rows, 256, duration, || {
        let window = windows.next().expect("a cycle has no end");
        for (detector, seed) in &mut ears {
            heard += detector.predict_f32(&dithered(window, seed));
        }
    });
    assert!(heard.is_finite(), "probabilities are numbers");
    cost
}

fn gru(mut session: Session, rows: usize, duration: Duration) -> Cost {
    let audio: Vec<f32> = (0..rows * 512).map(noise).collect();
    let mut hidden = vec![0.0; rows * 224];
    repeat(rows, 512, duration, || {
        let inputs = [("audio", &[rows, 512][..], &audio[..]), ("h0", &[1, rows, 224][..], &hidden[..])];
        [_, _, hidden] = session.run(&inputs, ["speech", "embedding", "hn"]);
    })
}

fn conv(mut session: Session, rows: usize, duration: Duration) -> Cost {
    let audio: Vec<f32> = (0..rows * CONV_SAMPLES).map(noise).collect();
    repeat(rows, CONV_SAMPLES, duration, || {
        let [scores] = session.run(&[("audio", &[rows, CONV_SAMPLES], &audio)], ["scores"]);
        assert!(scores.iter().all(|score| score.is_finite()), "scores are numbers");
    })
}

fn repeat(rows: usize, window: usize, duration: Duration, mut call: impl FnMut()) -> Cost {
    (0..CALLS_BEFORE).for_each(|_| call());
    let (began, mut calls) = (thread_cpu(), 0);
    loop {
        (0..CALLS_AT_A_TIME).for_each(|_| call());
        calls += CALLS_AT_A_TIME;
        let cpu = thread_cpu() - began;
        if cpu >= duration {
            return Cost { rows, window, windows: calls * rows, cpu };
        }
    }
}

/// Noise within -0.1..0.1.
fn noise(index: usize) -> f32 {
    ((index.wrapping_mul(2_654_435_761) >> 8) & 0xffff) as f32 / 327_680.0 - 0.1
}

/// CPU time of the calling thread.
fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a valid timespec.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0, "Linux has it");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
