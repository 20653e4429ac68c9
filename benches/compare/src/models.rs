//! What is remembered of a stream, and what its windows become: `echo`, `vad` and `gru`, as Suzu serves them.
//!
//! A [`Listener`] travels to whoever infers and home again by ownership. [`hear`] takes the jobs of several streams and
//! asks the GRU about all of them in one call; the others are cheaper one by one.

use crate::engine::Session;
use crate::speech::{Boundary, Speech};
use earshot::Detector;
use std::borrow::Cow;
use suzu::model::TensorData;
use suzu::wire::message::Tensor;

/// Sample rate of `vad` and `gru`, hertz; `echo` takes any.
pub const RATE_HZ: u32 = 16_000;
/// Elements of a row of the GRU's state.
const HIDDEN: usize = 224;
/// Elements of its second output.
const EMBEDDING: usize = 4;
/// Samples by which a probability of `vad` is late.
const VAD_LAG: u64 = 512;
/// Peak of the noise that `vad` hears besides.
const DITHER: f32 = 3e-4;

/// All that is remembered of one stream.
pub struct Listener {
    ear: Ear,
    /// Samples of the window that is not whole yet.
    carry: Vec<f32>,
    windows: u64,
}

enum Ear {
    Echo,
    Vad { detector: Box<Detector>, speech: Speech, seed: u32 },
    Gru { hidden: Vec<f32> },
}

/// Audio of one stream on its way through a model.
pub struct Job {
    pub listener: Listener,
    pub samples: Vec<f32>,
    /// The stream ends here: the last window is filled up with silence.
    last: bool,
    /// Where the stream ends after these samples, in samples since it began.
    end: u64,
    pub findings: Findings,
}

/// What became of it.
#[derive(Default)]
pub struct Findings {
    /// The first window, counted since the stream began.
    pub first_window: u64,
    pub windows: usize,
    pub outputs: Vec<Tensor>,
    pub speech_probability: Option<f32>,
    pub is_speech: Option<bool>,
    pub boundaries: Vec<Boundary>,
}

impl Listener {
    /// `None` if there is no such model for streams.
    pub fn new(model: &str) -> Option<Listener> {
        let ear = match model {
            "echo" => Ear::Echo,
            "vad" => Ear::Vad { detector: Detector::default_boxed(), speech: Speech::default(), seed: 1 },
            "gru" => Ear::Gru { hidden: vec![0.0; HIDDEN] },
            _ => return None,
        };
        Some(Listener { ear, carry: Vec::new(), windows: 0 })
    }

    /// Whether it is a stream of the GRU.
    pub fn needs_gru(&self) -> bool {
        matches!(self.ear, Ear::Gru { .. })
    }

    /// Samples of a window, which is the distance to the next one too.
    pub fn window(&self) -> usize {
        match self.ear {
            Ear::Echo => 320,
            Ear::Vad { .. } => 256,
            Ear::Gru { .. } => 512,
        }
    }

    /// Whether so many samples more would complete a window.
    pub fn completes(&self, samples: usize) -> bool {
        self.carry.len() + samples >= self.window()
    }

    /// Keeps samples that complete nothing.
    pub fn keep(&mut self, samples: &[f32]) {
        self.carry.extend_from_slice(samples);
    }
}

impl Job {
    pub fn new(listener: Listener, samples: Vec<f32>, last: bool) -> Job {
        Job { listener, samples, last, end: 0, findings: Findings::default() }
    }

    /// Puts what was kept before the samples, and keeps what is no whole window.
    fn cut(&mut self) {
        let window = self.listener.window();
        let mut samples = std::mem::take(&mut self.listener.carry);
        if samples.is_empty() {
            samples = std::mem::take(&mut self.samples);
        } else {
            samples.extend_from_slice(&self.samples);
        }
        let rest = samples.len() % window;
        self.end = self.listener.windows * window as u64 + samples.len() as u64;
        if self.last {
            samples.resize(samples.len().next_multiple_of(window), 0.0);
        } else {
            self.listener.carry = samples.split_off(samples.len() - rest);
        }
        self.findings.first_window = self.listener.windows;
        self.findings.windows = samples.len() / window;
        self.listener.windows += self.findings.windows as u64;
        self.samples = samples;
    }
}

/// Infers what the jobs bring, all of them of streams with the same model. `gru` is given for streams of that name only.
pub fn hear(jobs: &mut [&mut Job], gru: Option<&mut Session>) {
    jobs.iter_mut().for_each(|job| job.cut());
    match gru {
        Some(gru) => hear_gru(jobs, gru),
        None => jobs.iter_mut().for_each(|job| hear_one(job)),
    }
}

fn hear_one(job: &mut Job) {
    let Job { listener, samples, last, end, findings } = job;
    match &mut listener.ear {
        Ear::Echo => {
            let windows = || samples.chunks_exact(320);
            findings.outputs = vec![
                row("checksum", TensorData::Uint32(windows().map(checksum).collect())),
                row("rms", TensorData::Fp32(windows().map(rms).collect())),
                row("peak", TensorData::Fp32(windows().map(peak).collect())),
            ];
        }
        Ear::Vad { detector, speech, seed } => {
            let mut probabilities = Vec::with_capacity(findings.windows);
            let mut start = findings.first_window * 256;
            for window in samples.chunks_exact(256) {
                let probability = detector.predict_f32(&dithered(window, seed));
                let (heard, end) = (start.saturating_sub(VAD_LAG), (start + 256).saturating_sub(VAD_LAG));
                findings.boundaries.extend(speech.step(probability, heard, end));
                probabilities.push(probability);
                start += 256;
            }
            findings.speech_probability = probabilities.last().copied();
            findings.is_speech = findings.speech_probability.map(|_| speech.is_going_on());
            findings.outputs = vec![row("speech_probability", TensorData::Fp32(probabilities))];
            if *last {
                findings.boundaries.extend(speech.close(*end));
            }
        }
        Ear::Gru { .. } => unreachable!("the GRU is asked about all streams at once"),
    }
}

/// Window by window: the first of every stream in one call, then the second of those that have one.
fn hear_gru(jobs: &mut [&mut Job], gru: &mut Session) {
    let mut found: Vec<(Vec<f32>, Vec<f32>)> = jobs.iter().map(|_| Default::default()).collect();
    let most = jobs.iter().map(|job| job.findings.windows).max().unwrap_or(0);
    for step in 0..most {
        let taking: Vec<usize> = (0..jobs.len()).filter(|&n| jobs[n].findings.windows > step).collect();
        let (mut audio, mut before) = (Vec::new(), Vec::new());
        for &n in &taking {
            audio.extend_from_slice(&jobs[n].samples[step * 512..][..512]);
            before.extend_from_slice(hidden(jobs[n]));
        }
        let rows = taking.len();
        let inputs = [("audio", &[rows, 512][..], &audio[..]), ("h0", &[1, rows, HIDDEN][..], &before[..])];
        let [speech, embedding, after] = gru.run(&inputs, ["speech", "embedding", "hn"]);
        for (place, &n) in taking.iter().enumerate() {
            found[n].0.push(speech[place]);
            found[n].1.extend_from_slice(&embedding[place * EMBEDDING..][..EMBEDDING]);
            hidden(jobs[n]).copy_from_slice(&after[place * HIDDEN..][..HIDDEN]);
        }
    }
    for (job, (speech, embedding)) in jobs.iter_mut().zip(found) {
        let findings = &mut job.findings;
        findings.speech_probability = speech.last().copied();
        let shape = vec![findings.windows, EMBEDDING];
        findings.outputs = vec![
            row("speech", TensorData::Fp32(speech)),
            Tensor { name: Cow::Borrowed("embedding"), shape, data: TensorData::Fp32(embedding) },
        ];
    }
}

fn hidden(job: &mut Job) -> &mut [f32] {
    match &mut job.listener.ear {
        Ear::Gru { hidden } => hidden,
        _ => unreachable!("streams of one model only"),
    }
}

fn row(name: &'static str, data: TensorData) -> Tensor {
    Tensor { name: Cow::Borrowed(name), shape: vec![data.len()], data }
}

/// A window as `vad` hears it: with noise far below speech, from a fixed sequence.
pub fn dithered(window: &[f32], seed: &mut u32) -> [f32; 256] {
    let mut dithered = [0.0; 256];
    for (dithered, sample) in dithered.iter_mut().zip(window) {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (*seed >> 8) as f32 / (1 << 23) as f32 - 1.0;
        *dithered = (sample + DITHER * noise).clamp(-1.0, 1.0);
    }
    dithered
}

fn checksum(window: &[f32]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut bytes = [0; 4 * 320];
    for (bytes, sample) in bytes.chunks_exact_mut(4).zip(window) {
        bytes.copy_from_slice(&sample.to_le_bytes());
    }
    hasher.update(&bytes);
    hasher.finalize()
}

fn rms(window: &[f32]) -> f32 {
    let sum: f64 = window.iter().map(|&sample| f64::from(sample) * f64::from(sample)).sum();
    (sum / window.len() as f64).sqrt() as f32
}

fn peak(window: &[f32]) -> f32 {
    window.iter().fold(0.0, |peak, sample| peak.max(sample.abs()))
}
