//! A stream's conversation in Suzu's order: Begin, for each chunk the Results of the windows that it completes, and
//! after CloseStream what is left, the Termination with its balance and close 1000.
//!
//! Knows no library: whoever owns a WebSocket lends it as a [`Wire`].

use crate::inference::Service;
use crate::models::{Job, Listener, RATE_HZ};
use crate::speech::Boundary;
use bytes::Bytes;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use suzu::driver::Clock;
use suzu::reason::{Fault, Reason};
use suzu::time::Instant;
use suzu::wire::message::{
    AudioAdded, Begin, ClientMessage, Configuration, ErrorMessage, Keepalive, Ledger, Limits, Pong, Results,
    ServerMessage, SpeechBoundary, StreamParams, Termination,
};
use suzu::wire::pcm::Decoder;

/// What clients are told that they may have on the way, milliseconds. Held by nothing: a chunk is inferred before the
/// next one is read.
const CREDIT_MS: f64 = 10_000.0;

/// What a client sent.
pub enum Heard {
    Audio(Bytes),
    Text(String),
}

/// A WebSocket of whichever library.
pub trait Wire: Send {
    /// Waits for a message, and takes those that are there besides if the server is made so. False when the client
    /// has gone.
    fn receive(&mut self, heard: &mut Vec<Heard>) -> impl Future<Output = bool> + Send;

    /// Sends texts and empties the list. False when the client has gone.
    fn send(&mut self, texts: &mut Vec<String>) -> impl Future<Output = bool> + Send;

    /// Closes with 1000 and waits for the other side.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// What a query asks for, if it is served.
///
/// # Errors
/// What is wrong with it, for the answer of status 400.
pub fn parse_query(query: &str, service: &Service) -> Result<StreamParams, String> {
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let params = StreamParams::parse(&pairs, StreamParams::default()).map_err(|fault| fault.message)?;
    let Some(listener) = Listener::new(&params.model) else {
        return Err(format!("no model {:?}", params.model));
    };
    if params.model != "echo" && params.sample_rate_hz != RATE_HZ {
        return Err(format!("this model hears {RATE_HZ} Hz only"));
    }
    if listener.needs_gru() && !service.has_files() {
        return Err("the server was started without a folder of models".into());
    }
    Ok(params)
}

/// Plays the server's part until the stream ends or the client goes.
pub async fn converse(wire: &mut impl Wire, params: StreamParams, service: &Service) {
    let (mut heard, mut texts) = (Vec::new(), Vec::new());
    let mut stream = Stream::new(params);
    stream.begin(&mut texts);
    while wire.send(&mut texts).await && wire.receive(&mut heard).await {
        for message in heard.drain(..) {
            match message {
                Heard::Audio(bytes) => {
                    if let Some(job) = stream.on_audio(&bytes) {
                        stream.on_home(service.hear(job).await, &mut texts);
                    }
                    stream.tell_audio_added(&mut texts);
                }
                Heard::Text(text) => match ClientMessage::parse(&text) {
                    Ok(ClientMessage::CloseStream) => {
                        if let Some(job) = stream.last_job() {
                            stream.on_home(service.hear(job).await, &mut texts);
                        }
                        stream.terminate(&mut texts);
                        if wire.send(&mut texts).await {
                            wire.close().await;
                        }
                        return;
                    }
                    Ok(message) => stream.on_message(message, &mut texts),
                    Err(fault) => stream.on_fault(&fault, &mut texts),
                },
            }
        }
    }
}

/// One stream: its counts and its listener, which is away while a job is.
struct Stream {
    params: StreamParams,
    decoder: Decoder,
    listener: Option<Listener>,
    window: usize,
    clock: Clock,
    chunks: u64,
    received: u64,
    processed: u64,
    message_seq: u64,
    results: u64,
    /// When the ledger was told last, and what stood in it.
    told: (Instant, u64),
    request_id: String,
}

impl Stream {
    fn new(params: StreamParams) -> Stream {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let listener = Listener::new(&params.model).expect("the query has been checked");
        let clock = Clock::new();
        Stream {
            decoder: Decoder::new(params.encoding, params.channels),
            window: listener.window(),
            listener: Some(listener),
            clock,
            chunks: 0,
            received: 0,
            processed: 0,
            message_seq: 0,
            results: 0,
            told: (clock.instant(), 0),
            request_id: format!("{:016x}", COUNT.fetch_add(1, Ordering::Relaxed)),
            params,
        }
    }

    fn begin(&self, texts: &mut Vec<String>) {
        let begin = Begin {
            session_id: self.request_id.clone(),
            request_id: self.request_id.clone(),
            resumed: false,
            resume_token: None,
            resume_ttl_s: 0.0,
            audio_seq: 0,
            audio_ms: 0.0,
            message_seq: 0,
            credit_ms: CREDIT_MS,
            keepalive: Keepalive { ping_s: 0.0, audio_idle_s: 0.0 },
            limits: Limits { max_frame_bytes: 1 << 20, max_session_s: 0.0 },
            configuration: Configuration::from(&self.params),
        };
        push(texts, &ServerMessage::Begin(Box::new(begin)));
    }

    /// What a chunk gives to infer, if it completes a window.
    fn on_audio(&mut self, bytes: &[u8]) -> Option<Job> {
        let mut samples = Vec::with_capacity(self.decoder.samples_in(bytes.len()));
        self.decoder.decode(bytes, &mut samples);
        self.chunks += 1;
        self.received += samples.len() as u64;
        let listener = self.listener.as_mut().expect("no job is away");
        if !listener.completes(samples.len()) {
            listener.keep(&samples);
            return None;
        }
        Some(Job::new(self.listener.take()?, samples, false))
    }

    fn last_job(&mut self) -> Option<Job> {
        let listener = self.listener.take().filter(|_| self.received > 0)?;
        Some(Job::new(listener, Vec::new(), true))
    }

    fn on_home(&mut self, job: Job, texts: &mut Vec<String>) {
        let findings = job.findings;
        self.listener = Some(job.listener);
        for boundary in findings.boundaries {
            let message_seq = self.next_seq();
            let at = |sample: u64| SpeechBoundary { message_seq, at_ms: self.ms(sample) };
            let message = match boundary {
                Boundary::Started(sample) => ServerMessage::SpeechStarted(at(sample)),
                Boundary::Ended(sample) => ServerMessage::SpeechEnded(at(sample)),
            };
            push(texts, &message);
        }
        if findings.windows == 0 {
            return;
        }
        let sample = |windows: u64| (windows * self.window as u64).min(self.received);
        let start = sample(findings.first_window);
        let end = sample(findings.first_window + findings.windows as u64);
        self.processed = end;
        self.results += 1;
        let results = Results {
            message_seq: self.next_seq(),
            start_ms: self.ms(start),
            duration_ms: self.ms(end - start),
            is_final: true,
            outputs: findings.outputs,
            speech_probability: findings.speech_probability,
            is_speech: findings.is_speech,
            ..Results::default()
        };
        push(texts, &ServerMessage::Results(results));
    }

    /// The ledger, at the interval that the client asked for.
    fn tell_audio_added(&mut self, texts: &mut Vec<String>) {
        let now = self.clock.instant();
        let (then, known) = self.told;
        if known == self.received || now.since(then) < Duration::from_millis(self.params.ack_interval_ms) {
            return;
        }
        self.told = (now, self.received);
        let added = AudioAdded {
            seq: self.chunks,
            audio_ms: self.ms(self.received),
            processed_ms: self.ms(self.processed),
            discarded_ms: 0.0,
            credit_ms: CREDIT_MS,
            lag_ms: self.ms(self.received - self.processed),
        };
        push(texts, &ServerMessage::AudioAdded(added));
    }

    fn on_message(&mut self, message: ClientMessage, texts: &mut Vec<String>) {
        match message {
            ClientMessage::KeepAlive | ClientMessage::Ack { .. } => {}
            ClientMessage::Ping { t } => {
                let server_ms = self.clock.now().unix_ms;
                push(texts, &ServerMessage::Pong(Pong { t, server_ms }));
            }
            ClientMessage::Finalize { id } => {
                self.results += 1;
                let results = Results {
                    message_seq: self.next_seq(),
                    start_ms: self.ms(self.received),
                    is_final: true,
                    from_finalize: true,
                    finalize_id: id,
                    ..Results::default()
                };
                push(texts, &ServerMessage::Results(results));
            }
            _ => self.on_fault(&Fault::new(Reason::InvalidValue, "this server does not know that"), texts),
        }
    }

    fn on_fault(&self, fault: &Fault, texts: &mut Vec<String>) {
        let error = ErrorMessage::new(fault, &self.request_id, false);
        push(texts, &ServerMessage::Error(Box::new(error)));
    }

    fn terminate(&mut self, texts: &mut Vec<String>) {
        let termination = Termination {
            audio_received_ms: self.ms(self.received),
            processed_ms: self.ms(self.received),
            discarded_ms: 0.0,
            results: self.results,
            reason: Reason::Finished.label().into(),
            ledger: Ledger { received: self.received, processed: self.received, discarded: 0, pending: 0 },
        };
        push(texts, &ServerMessage::Termination(Box::new(termination)));
    }

    fn next_seq(&mut self) -> u64 {
        self.message_seq += 1;
        self.message_seq
    }

    /// A position in samples as milliseconds.
    fn ms(&self, samples: u64) -> f64 {
        let ms = samples as f64 * 1000.0 / f64::from(self.params.sample_rate_hz);
        (ms * 1000.0).round() / 1000.0
    }
}

fn push(texts: &mut Vec<String>, message: &ServerMessage) {
    texts.push(serde_json::to_string(message).expect("messages are JSON"));
}
