//! The three usual ways to run a model beside an async runtime.
//!
//! `Inline` computes on the runtime's own thread, `Blocking` moves each chunk to the runtime's pool for blocking work
//! (a core's worth of threads, as computing needs), `Batched` sends it to one thread that gathers what several streams
//! or requests bring.

use crate::engine::{Engine, Seats, Session};
use crate::models::{Job, hear};
use clap::ValueEnum;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use suzu::driver::Clock;
use tokio::sync::oneshot;

/// Rows of one call at most, and how long the first waits for others.
const ROWS_MAX: usize = 32;
const GATHER_MAX: Duration = Duration::from_millis(5);

/// Samples that the classifier hears at a time, and how many scores it gives.
pub const CONV_SAMPLES: usize = 16_000;
pub const CONV_SCORES: usize = 10;

/// Where models are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Inference {
    Inline,
    Blocking,
    Batched,
}

/// The models of a server, and who runs them.
pub struct Service {
    files: Option<Arc<Files>>,
    inference: Inference,
    /// To the thread that gathers.
    asks: Option<Sender<Ask>>,
}

/// The ONNX files served besides the models inside.
struct Files {
    gru: Seats,
    conv: Seats,
}

/// Something to infer, and where to tell the result.
enum Ask {
    Hear(Job, oneshot::Sender<Job>),
    Classify(Vec<f32>, oneshot::Sender<Vec<f32>>),
}

impl Service {
    /// With a folder of models, `gru` and `conv` are loaded from it; without, `echo` and `vad` are served.
    pub fn start(models: Option<&Path>, engine: Engine, inference: Inference) -> Service {
        let files = models.map(|models| {
            let open = |name| Seats::open(engine, models, name);
            Arc::new(Files { gru: open("gru"), conv: open("conv") })
        });
        let asks = (inference == Inference::Batched).then(|| {
            let (asks, asked) = channel();
            let files = files.clone();
            std::thread::spawn(move || match files {
                None => gather(&asked, None),
                Some(files) => files.gru.take().at_home(move |gru| {
                    let conv = files.conv.take().beside(&gru);
                    gather(&asked, Some((gru, conv)));
                }),
            });
            asks
        });
        Service { files, inference, asks }
    }

    /// Whether there is a folder of models.
    pub fn has_files(&self) -> bool {
        self.files.is_some()
    }

    /// Infers the job; its listener and findings come back.
    pub async fn hear(&self, mut job: Job) -> Job {
        match (self.inference, &self.asks) {
            (Inference::Inline, _) => {
                hear_alone(self.files.as_deref(), &mut job);
                job
            }
            (Inference::Batched, Some(asks)) => {
                let (tell, told) = oneshot::channel();
                asks.send(Ask::Hear(job, tell)).expect("the thread gathers for ever");
                told.await.expect("every job is told")
            }
            _ => {
                let files = self.files.clone();
                let work = move || {
                    hear_alone(files.as_deref(), &mut job);
                    job
                };
                tokio::task::spawn_blocking(work).await.expect("models do not panic")
            }
        }
    }

    /// The classifier's scores of one or more seconds of audio, row after row.
    pub async fn classify(&self, audio: Vec<f32>) -> Vec<f32> {
        match (self.inference, &self.asks) {
            (Inference::Inline, _) => classify_alone(self.files.as_deref(), &audio),
            (Inference::Batched, Some(asks)) => {
                let (tell, told) = oneshot::channel();
                asks.send(Ask::Classify(audio, tell)).expect("the thread gathers for ever");
                told.await.expect("every request is told")
            }
            _ => {
                let files = self.files.clone();
                let work = move || classify_alone(files.as_deref(), &audio);
                tokio::task::spawn_blocking(work).await.expect("models do not panic")
            }
        }
    }
}

fn hear_alone(files: Option<&Files>, job: &mut Job) {
    let gru = files.filter(|_| job.listener.needs_gru()).map(|files| &files.gru);
    let mut session = gru.map(Seats::take);
    hear(&mut [job], session.as_mut());
    if let (Some(gru), Some(session)) = (gru, session) {
        gru.give_back(session);
    }
}

fn classify_alone(files: Option<&Files>, audio: &[f32]) -> Vec<f32> {
    let files = files.expect("requests for inference are served with a folder of models");
    let mut session = files.conv.take();
    let scores = classify(&mut session, audio);
    files.conv.give_back(session);
    scores
}

fn classify(conv: &mut Session, audio: &[f32]) -> Vec<f32> {
    let rows = audio.len() / CONV_SAMPLES;
    let [scores] = conv.run(&[("audio", &[rows, CONV_SAMPLES], audio)], ["scores"]);
    scores
}

/// Gathers what comes within a moment, runs each model once and tells the results; until nobody can ask any more.
fn gather(asked: &Receiver<Ask>, mut sessions: Option<(Session, Session)>) {
    let clock = Clock::new();
    while let Ok(first) = asked.recv() {
        let until = clock.instant() + GATHER_MAX;
        let (mut rows, mut asks) = (first.rows(), vec![first]);
        while rows < ROWS_MAX {
            // Time that is over is no time: what is there already is still taken.
            let Ok(next) = asked.recv_timeout(until.since(clock.instant())) else { break };
            rows += next.rows();
            asks.push(next);
        }
        answer(asks, sessions.as_mut());
    }
}

fn answer(asks: Vec<Ask>, sessions: Option<&mut (Session, Session)>) {
    let (mut recurrent, mut others, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    for ask in asks {
        match ask {
            Ask::Hear(job, tell) if job.listener.needs_gru() => recurrent.push((job, tell)),
            Ask::Hear(job, tell) => others.push((job, tell)),
            Ask::Classify(audio, tell) => seconds.push((audio, tell)),
        }
    }
    for (mut job, tell) in others {
        hear(&mut [&mut job], None);
        // Whoever asked may have gone.
        let _ = tell.send(job);
    }
    let Some((gru, conv)) = sessions else { return };
    if !recurrent.is_empty() {
        hear(&mut recurrent.iter_mut().map(|(job, _)| job).collect::<Vec<_>>(), Some(gru));
        for (job, tell) in recurrent {
            let _ = tell.send(job);
        }
    }
    if !seconds.is_empty() {
        let scores = match &seconds[..] {
            [(alone, _)] => classify(conv, alone),
            many => classify(conv, &many.iter().flat_map(|(audio, _)| audio).copied().collect::<Vec<_>>()),
        };
        let mut scores = &scores[..];
        for (audio, tell) in seconds {
            let (own, rest) = scores.split_at(audio.len() / CONV_SAMPLES * CONV_SCORES);
            let _ = tell.send(own.to_vec());
            scores = rest;
        }
    }
}

impl Ask {
    fn rows(&self) -> usize {
        match self {
            Ask::Hear(..) => 1,
            Ask::Classify(audio, _) => audio.len() / CONV_SAMPLES,
        }
    }
}
