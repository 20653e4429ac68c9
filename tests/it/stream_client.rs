//! A client of `/v1/stream` and `/audio` that knows only frames and JSON, so that it also says what the library's own
//! client never would.

use crate::answer::upgrade_request;
use crate::support::{BINARY, CLOSE, Client, PING, PONG, TEXT, frame};
use serde_json::{Value, json};
use std::net::SocketAddr;
use suzu::wire::message::Encoding;
use suzu::wire::pcm;

/// One thing that the server said.
#[derive(Debug)]
pub enum Heard {
    Message(Value),
    Audio(Vec<u8>),
    /// Code (0 if there is none) and words.
    Close(u16, String),
}

/// Everything that the server said until its Close.
#[derive(Debug, Default)]
pub struct Story {
    pub messages: Vec<Value>,
    pub audio: Vec<Vec<u8>>,
    pub close: u16,
}

impl Story {
    /// Every message of that type.
    pub fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.messages.iter().filter(move |message| message["type"] == kind)
    }

    /// The sum of a field over every message of that type.
    pub fn sum(&self, kind: &str, field: &str) -> f64 {
        self.all(kind).map(|message| message[field].as_f64().expect("a number")).sum()
    }

    /// The Termination, which must be the last message and balance.
    pub fn termination(&self) -> &Value {
        let last = self.messages.last().expect("messages");
        assert_eq!(last["type"], "Termination", "{:#?}", self.messages);
        let ledger = |name: &str| last["ledger"][name].as_u64().expect("a count");
        assert_eq!(ledger("received"), ledger("processed") + ledger("discarded"), "{last}");
        assert_eq!(ledger("pending"), 0, "{last}");
        assert_eq!(last["results"], self.all("Results").count(), "{:#?}", self.messages);
        last
    }

    /// The codes of the errors.
    pub fn errors(&self) -> Vec<&str> {
        self.all("Error").map(|error| error["code"].as_str().expect("a code")).collect()
    }

    /// The values of a tensor over all results.
    pub fn tensor(&self, name: &str) -> Vec<f64> {
        let of_result = |result: &Value| -> Vec<f64> {
            let outputs = result["outputs"].as_array().expect("outputs");
            let tensor = outputs.iter().find(|output| output["name"] == name);
            let data = tensor.map(|tensor| tensor["data"].as_array().expect("data").clone());
            data.unwrap_or_default().iter().map(|value| value.as_f64().expect("a number")).collect()
        };
        self.all("Results").flat_map(of_result).collect()
    }
}

/// An open stream.
pub struct StreamClient {
    pub client: Client,
    /// The first message.
    pub begin: Value,
    /// Messages taken on the way to others.
    story: Story,
}

impl StreamClient {
    /// Opens `target`, such as `/v1/stream?model=echo`, and takes `Begin`.
    pub fn open(addr: SocketAddr, target: &str) -> Self {
        Self::open_with(addr, target, "")
    }

    /// With further header lines.
    pub fn open_with(addr: SocketAddr, target: &str, extra: &str) -> Self {
        let mut client = Client::connect(addr);
        client.send(upgrade_request(target, extra));
        let head = client.read_until("\r\n\r\n");
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        Self::after_upgrade(client)
    }

    /// Takes `Begin` on a connection that is a WebSocket already.
    pub fn after_upgrade(client: Client) -> Self {
        let mut stream = Self { client, begin: Value::Null, story: Story::default() };
        let Heard::Message(begin) = stream.hear() else { panic!("no message to begin with") };
        assert_eq!(begin["type"], "Begin");
        stream.begin = begin;
        stream
    }

    /// Sends a chunk.
    pub fn audio(&mut self, chunk: &[u8]) {
        self.client.send_message(BINARY, chunk);
    }

    /// Sends a text message.
    pub fn say(&mut self, message: Value) {
        self.client.send_message(TEXT, message.to_string().as_bytes());
    }

    /// Takes the next thing, answering pings on the way. A Close is answered too.
    pub fn hear(&mut self) -> Heard {
        loop {
            match self.client.read_message() {
                (TEXT, text) => return Heard::Message(serde_json::from_slice(&text).expect("JSON")),
                (BINARY, audio) => return Heard::Audio(audio),
                (PING, payload) => self.client.send_message(PONG, &payload),
                (CLOSE, payload) => return self.on_close(&payload),
                (PONG, _) => {}
                (opcode, _) => panic!("a frame of opcode {opcode}"),
            }
        }
    }

    fn on_close(&mut self, payload: &[u8]) -> Heard {
        // Who broke the protocol is not listened to any more, so that this fails is no fault.
        let _ = std::io::Write::write_all(
            &mut self.client.stream,
            &frame(CLOSE, &payload[..payload.len().min(2)]),
        );
        let code = payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
        let words = String::from_utf8(payload.get(2..).unwrap_or_default().to_vec()).expect("UTF-8");
        Heard::Close(code, words)
    }

    /// Takes everything up to a message of this type and gives it. What came before stays for [`Self::rest`].
    pub fn await_message(&mut self, kind: &str) -> Value {
        loop {
            match self.hear() {
                Heard::Message(message) => {
                    self.story.messages.push(message.clone());
                    if message["type"] == kind {
                        return message;
                    }
                }
                Heard::Audio(audio) => self.story.audio.push(audio),
                Heard::Close(code, words) => {
                    panic!("closed with {code} {words:?} before {kind}: {:#?}", self.story)
                }
            }
        }
    }

    /// What has been taken so far by [`Self::await_message`].
    pub fn so_far(&self) -> &Story {
        &self.story
    }

    /// Takes everything up to the Close and the end of the connection.
    pub fn rest(mut self) -> Story {
        loop {
            match self.hear() {
                Heard::Message(message) => self.story.messages.push(message),
                Heard::Audio(audio) => self.story.audio.push(audio),
                Heard::Close(code, _) => {
                    self.story.close = code;
                    self.client.await_closed();
                    return self.story;
                }
            }
        }
    }

    /// Asks for the end and takes everything up to it.
    pub fn finish(mut self) -> Story {
        self.say(json!({"type": "CloseStream"}));
        self.rest()
    }

    /// A round trip: the server has dealt with everything sent before.
    pub fn round_trip(&mut self) {
        self.server_ms();
    }

    /// The server's wall clock, milliseconds, after a round trip.
    pub fn server_ms(&mut self) -> u64 {
        self.say(json!({"type": "Ping", "t": 1}));
        self.await_message("Pong")["server_ms"].as_u64().expect("milliseconds")
    }
}

/// A tone of `samples` samples at about `hz`, half as loud as can be, as the bytes of an encoding.
pub fn tone(encoding: Encoding, samples: usize, rate_hz: u32) -> Vec<u8> {
    let step = std::f32::consts::TAU * 440.0 / rate_hz as f32;
    let wave: Vec<f32> = (0..samples).map(|place| 0.5 * (place as f32 * step).sin()).collect();
    let mut bytes = Vec::new();
    pcm::encode(encoding, &wave, &mut bytes);
    bytes
}

/// So many milliseconds of a 16 kHz linear16 tone.
pub fn tone_ms(ms: usize) -> Vec<u8> {
    tone(Encoding::Linear16, ms * 16, 16_000)
}

/// So many milliseconds of 16 kHz linear16 with every sample at `level`.
pub fn level_ms(level: f32, ms: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    pcm::encode(Encoding::Linear16, &vec![level; ms * 16], &mut bytes);
    bytes
}
