//! What the clients of streams do: parameters, audio, questions, mistakes and an end.

use crate::faults::Tally;
use crate::frames::{frame, upgrade};
use crate::models::POISON;
use crate::pipe::Micros;
use crate::rng::Rng;
use crate::seed::{MS, SECOND, Swarm};
use crate::stream::{Step, StreamClient};
use suzu::config::Config;
use suzu::wire::message::{ClientMessage, Encoding, Framing, Overflow, StreamParams};
use suzu::wire::pcm;

pub fn stream(
    rng: &mut Rng,
    config: &Config,
    swarm: &Swarm,
    at: Micros,
    never_reads: bool,
    tally: &mut Tally,
) -> StreamClient {
    let audio_route = rng.chance(15);
    let params = params(rng, config, swarm, audio_route);
    let mut query = query(&params, audio_route);
    if swarm.protocol && rng.chance(10) {
        tally.fire("wrong parameters");
        let wrong = [
            "colour=blue",
            "model=nobody",
            "sample_rate=1",
            "framing=odd",
            "deadline_ms=0",
            "channels=1&channels=1",
        ];
        query = format!("?{}{}", rng.pick(&wrong), if rng.chance(50) { "&browser_errors=1" } else { "" });
    }
    let path = if audio_route { "/audio" } else { "/v1/stream" };
    let extra = if rng.chance(50) { "Sec-WebSocket-Protocol: suzu.v1\r\n" } else { "" };
    let request = upgrade(&format!("{path}{query}"), rng, extra);
    let mut writer = Writer { rng, params: params.clone(), swarm, seq: 0, steps: Vec::new(), tally };
    writer.write(config, never_reads);
    let steps = writer.steps;
    let name = format!("{path}{query}");
    let mut client = StreamClient::new(name, request, params, steps, at);
    client.eager = never_reads || rng.chance(15);
    client
}

fn params(rng: &mut Rng, config: &Config, swarm: &Swarm, audio_route: bool) -> StreamParams {
    let mut params = StreamParams { model: config.model_default.clone(), ..StreamParams::default() };
    params.ack_interval_ms = config.ack_interval.as_millis() as u64;
    if audio_route {
        return params;
    }
    params.model = rng.pick(&["echo", "echo", "vad", "denoise", "glass", "choir", "choir"]).to_owned();
    params.encoding = rng.pick(Encoding::ALL);
    params.sample_rate_hz = rng.pick(&[8_000, 16_000, 16_000, 22_050, 44_100, 48_000, 11_025]);
    params.channels = rng.pick(&[1, 1, 1, 2, 3]);
    params.framing = rng.pick(Framing::ALL);
    params.overflow = rng.pick(&[Overflow::Block, Overflow::Block, Overflow::DiscardOldest, Overflow::Close]);
    params.timing = rng.chance(30);
    if rng.chance(15) {
        params.deadline_ms = Some(rng.pick(&[1, 20, 200]));
    }
    if swarm.crowd && rng.chance(70) {
        params.model = rng.pick(&["choir", "denoise"]).to_owned();
        params.encoding = Encoding::F32le;
        params.sample_rate_hz = 48_000;
    }
    if swarm.poison && rng.chance(60) {
        params.model = "glass".into();
        params.encoding = Encoding::Linear16;
        params.channels = 1;
    }
    params
}

fn query(params: &StreamParams, audio_route: bool) -> String {
    if audio_route {
        return String::new();
    }
    let deadline = params.deadline_ms.map(|ms| format!("&deadline_ms={ms}")).unwrap_or_default();
    format!(
        "?model={}&encoding={}&sample_rate={}&channels={}&framing={}&overflow={}&timing={}{deadline}",
        params.model,
        params.encoding,
        params.sample_rate_hz,
        params.channels,
        params.framing,
        params.overflow,
        params.timing,
    )
}

struct Writer<'a> {
    rng: &'a mut Rng,
    params: StreamParams,
    swarm: &'a Swarm,
    seq: u32,
    steps: Vec<Step>,
    tally: &'a mut Tally,
}

impl Writer<'_> {
    fn write(&mut self, config: &Config, never_reads: bool) {
        let chunks = self.rng.range(0, if self.swarm.big_audio { 12 } else { 25 });
        let chunk_ms = self.rng.pick(&[1, 10, 20, 50]);
        // From a tenth of real time to all at once.
        let pause = chunk_ms * MS * self.rng.pick(&[0, 0, 1, 10, 20]) / 10;
        for _ in 0..chunks {
            self.chunk(config, chunk_ms);
            self.aside();
            if pause > 0 {
                self.steps.push(Step::Wait(pause));
            }
        }
        if never_reads {
            self.steps.push(Step::Wait(self.rng.range(0, 60 * SECOND)));
            return self.steps.push(Step::Reset);
        }
        self.end();
    }

    fn chunk(&mut self, config: &Config, chunk_ms: u64) {
        let rate = u64::from(self.params.sample_rate_hz);
        let frame_bytes = self.params.encoding.sample_bytes() * usize::from(self.params.channels);
        let fits = config
            .message_bytes_max
            .min((config.audio_held_max.as_millis() as usize * rate as usize / 1000) * frame_bytes + 16)
            - 16;
        let chunk_ms = if self.swarm.big_audio { 1_500 } else { chunk_ms };
        let jitter = if self.rng.chance(30) { self.rng.below(100) } else { 0 };
        let samples = ((rate * chunk_ms / 1000 + jitter) as usize).min(fits / frame_bytes);
        if self.rng.chance(3) {
            self.tally.fire("empty chunk");
            return self.push_chunk(Vec::new());
        }
        let mut bytes = self.audio(samples * usize::from(self.params.channels));
        if self.swarm.protocol && self.rng.chance(5) && bytes.len() > 3 && self.params.framing == Framing::Raw
        {
            self.tally.fire("half sample");
            let cut = bytes.len() - self.rng.range(1, 3) as usize;
            bytes.truncate(cut);
        }
        self.push_chunk(bytes);
    }

    /// Noise that changes its level, so that there is something to detect.
    fn audio(&mut self, count: usize) -> Vec<u8> {
        let level = self.rng.pick(&[0.0, 0.02, 0.3, 1.0]);
        let values: Vec<f32> =
            (0..count).map(|_| level * (self.rng.below(65_536) as f32 / 32_768.0 - 1.0)).collect();
        let mut bytes = Vec::new();
        pcm::encode(self.params.encoding, &values, &mut bytes);
        if self.params.model == "glass" && self.swarm.poison && count > 0 && self.rng.chance(15) {
            self.tally.fire("model panic");
            bytes[..2].copy_from_slice(&POISON.to_le_bytes());
        }
        if self.params.encoding == Encoding::F32le && count > 0 && self.rng.chance(5) {
            self.tally.fire("not a number");
            bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        bytes
    }

    fn push_chunk(&mut self, counts: Vec<u8>) {
        self.seq += 1;
        let fragments = self.rng.chance(10);
        if self.params.framing == Framing::Raw {
            let message = counts.clone();
            return self.steps.push(Step::Audio { message, counts, fragments });
        }
        if self.swarm.protocol && self.rng.chance(2) {
            self.tally.fire("seq gap");
            self.seq += 1;
        }
        let mut message = Vec::new();
        let kind = pcm::AudioKind::Input;
        pcm::AudioHeader { kind, flags: 0, channel: 0, seq: self.seq, capture_time_us: 0 }
            .encode(&mut message);
        message.extend_from_slice(&counts);
        if self.swarm.protocol && self.rng.chance(5) {
            self.tally.fire("seq repeated");
            let again = Step::Audio { message: message.clone(), counts: Vec::new(), fragments: false };
            self.steps.push(Step::Audio { message, counts, fragments });
            return self.steps.push(again);
        }
        self.steps.push(Step::Audio { message, counts, fragments });
    }

    /// What else a client may say between two chunks.
    fn aside(&mut self) {
        match self.rng.below(40) {
            0 | 1 => {
                let id = self.rng.chance(70).then(|| format!("f{}", self.rng.below(1_000)));
                self.steps.push(Step::Message(ClientMessage::Finalize { id }));
            }
            2 => self.steps.push(Step::Message(ClientMessage::KeepAlive)),
            3 | 4 => {
                let t = serde_json::Number::from(self.rng.below(1 << 40));
                self.steps.push(Step::Message(ClientMessage::Ping { t }));
            }
            5 => {
                let duration_ms = self.rng.range(1, 3_000) as f64;
                self.steps.push(Step::Message(ClientMessage::Discarded { start_ms: 0.0, duration_ms }));
            }
            6 => self.steps.push(Step::Message(ClientMessage::Ack { message_seq: 1 })),
            7 => {
                let deadline_ms = self.rng.chance(20).then_some(500);
                let interim_results = Some(true);
                self.steps.push(Step::Message(ClientMessage::Configure { interim_results, deadline_ms }));
            }
            8 if self.swarm.protocol => self.mistake(),
            9 if self.rng.chance(30) => self.steps.push(Step::Wait(self.rng.range(MS, SECOND))),
            _ => {}
        }
    }

    fn mistake(&mut self) {
        let mut bytes = Vec::new();
        match self.rng.below(6) {
            0 | 1 => {
                self.tally.fire("unknown message");
                let texts =
                    [&br#"{"type":"Dance"}"#[..], b"{", br#"{"type":"Finalize","x":1}"#, b"[]", b"\"\""];
                return self.steps.push(Step::Text(self.rng.pick(&texts).to_vec()));
            }
            2 => {
                self.tally.fire("oversized message");
                // Its header is enough.
                bytes = vec![0x82, 0xff, 0, 0, 0, 0, 0, 0x20, 0, 0, 1, 2, 3, 4, 5, 6];
            }
            3 => {
                self.tally.fire("invalid utf-8");
                frame(&mut bytes, 0x81, b"\xff\xfe", self.rng.mask());
            }
            4 => {
                self.tally.fire("damaged frames");
                frame(&mut bytes, 0xf3, b"reserved", self.rng.mask());
            }
            _ => {
                self.tally.fire("garbage");
                bytes = vec![0xff; 40];
            }
        }
        self.steps.push(Step::Raw(bytes));
    }

    fn end(&mut self) {
        if self.rng.chance(30) {
            self.steps.push(Step::Wait(self.rng.range(0, SECOND)));
        }
        self.steps.push(match self.rng.below(20) {
            0 | 1 => Step::CloseFrame,
            2 | 3 => Step::HalfClose,
            4 if self.swarm.resets => Step::Reset,
            5 | 6 => Step::Silence,
            _ => Step::CloseStream,
        });
    }
}
