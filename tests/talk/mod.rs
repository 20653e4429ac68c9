//! Golden conversations: `tests/data/*.talk`, read and held against a server by whatever transport.
//!
//! One line is one event. `>` is sent, `<` must come next:
//!
//! ```text
//! ! sessions_max 1                  a setting of the server
//! @ 2                               from here on the second connection (opened at its first use)
//! ~ AudioAdded                      messages of this type may come anywhere
//! > GET /health/live                a request without a body; further headers after ` | `
//! > POST /v1/echo hello             a request with a body
//! > upgrade /v1/stream?model=echo   a request for a WebSocket
//! > text {"type":"CloseStream"}     a text message
//! > fragments 3 text hello          the same in so many frames
//! > audio 640 ramp                  a binary message of so many bytes: ramp, silence or noise
//! > chunk 1 640 ramp                the same with the header of framing=seq and that number
//! > ping x / > pong x / > close 1000 / > end
//! < 400 {"error":{"param":"x"}}     a response with that status and at least that in its JSON body
//! < body hello                      the body of the last response, exactly
//! < header retry-after: 2           a header of the last response; `*` is any value
//! < text Results {"message_seq":1}  a message of that type with at least these fields; "*" is any value
//! < says hello                      a text message, exactly
//! < audio 640 ramp                  a binary message, exactly
//! < ping / < pong x / < close 1000 / < end
//! ```

use serde_json::Value;
use std::collections::VecDeque;
use suzu::config::{Config, Setting};
use suzu::wire::http::{ResponseHead, parse_response_head};
use suzu::wire::pcm::{AudioHeader, AudioKind};
use suzu::wire::websocket::{self, Decoder, Event, Role};

/// How a conversation reaches its server.
pub trait Transport {
    /// Opens a connection; they are counted from 0.
    fn open(&mut self) -> Result<(), String>;
    /// Sends all of the bytes.
    fn send(&mut self, connection: usize, bytes: &[u8]) -> Result<(), String>;
    /// Says that nothing more will be sent.
    fn half_close(&mut self, connection: usize) -> Result<(), String>;
    /// The next bytes; none at the end of the connection. An error if nothing comes in good time.
    fn receive(&mut self, connection: usize) -> Result<Vec<u8>, String>;
}

/// A conversation, read.
pub struct Talk {
    pub name: String,
    lines: Vec<(usize, String)>,
}

impl Talk {
    /// Every conversation of `tests/data`, in the order of names.
    pub fn all() -> Vec<Talk> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut paths: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|end| end == "talk")).collect();
        paths.sort();
        let read = |path: std::path::PathBuf| {
            let text =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Talk::parse(&path.file_stem().unwrap_or_default().to_string_lossy(), &text)
        };
        paths.into_iter().map(read).collect()
    }

    pub fn parse(name: &str, text: &str) -> Talk {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_end().to_owned()));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
        Talk { name: name.to_owned(), lines }
    }

    /// The configuration that the conversation wants.
    pub fn config(&self) -> Config {
        let mut config = Config { workers: 1, ..Config::default() };
        for (number, line) in &self.lines {
            let Some(setting) = line.strip_prefix("! ") else { continue };
            let (name, value) = setting.split_once(' ').unwrap_or((setting, ""));
            let set = Setting::named(name).ok_or_else(|| "no such setting".to_owned());
            set.and_then(|setting| (setting.set)(&mut config, value))
                .unwrap_or_else(|what| panic!("{}:{number}: {line}: {what}", self.name));
        }
        config
    }

    /// Plays the conversation. An error names the line.
    pub fn play(&self, transport: &mut impl Transport) -> Result<(), String> {
        let mut player = Player { ends: Vec::new(), current: 0, ignored: Vec::new() };
        for (number, line) in &self.lines {
            player
                .on_line(line, transport)
                .map_err(|what| format!("tests/data/{}.talk:{number}: {line}\n  {what}", self.name))?;
        }
        Ok(())
    }
}

/// What the server said on a WebSocket.
#[derive(Debug)]
enum Said {
    Text(String),
    Binary(Vec<u8>),
    Ping,
    Pong(Vec<u8>),
    Close(Option<u16>),
}

/// One connection's end of the conversation.
struct End {
    held: Vec<u8>,
    decoder: Option<Decoder>,
    said: VecDeque<Said>,
    head: Option<ResponseHead>,
    body: Vec<u8>,
    ended: bool,
}

struct Player {
    ends: Vec<End>,
    current: usize,
    ignored: Vec<String>,
}

/// The mask of a client need only be unpredictable where proxies stand between; here it may be fixed.
const MASK: Option<[u8; 4]> = Some([0x11, 0x22, 0x33, 0x44]);

impl Player {
    fn on_line(&mut self, line: &str, transport: &mut impl Transport) -> Result<(), String> {
        let (kind, rest) = line.split_at_checked(2).ok_or("too short")?;
        match kind {
            "! " => Ok(()),
            "~ " => {
                self.ignored.push(rest.to_owned());
                Ok(())
            }
            "@ " => {
                self.current = rest.parse::<usize>().map_err(|error| error.to_string())? - 1;
                Ok(())
            }
            "> " => {
                self.connect(transport)?;
                self.send(rest, transport)
            }
            "< " => self.expect(rest, transport),
            _ => Err("a line begins with one of # ! @ ~ > < and a space".into()),
        }
    }

    fn connect(&mut self, transport: &mut impl Transport) -> Result<(), String> {
        while self.ends.len() <= self.current {
            transport.open()?;
            let (held, body) = (Vec::new(), Vec::new());
            self.ends.push(End {
                held,
                decoder: None,
                said: VecDeque::new(),
                head: None,
                body,
                ended: false,
            });
        }
        Ok(())
    }

    fn send(&mut self, what: &str, transport: &mut impl Transport) -> Result<(), String> {
        let mut out = Vec::new();
        let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
        match word {
            "GET" | "HEAD" | "DELETE" | "POST" => out = request(word, rest),
            "upgrade" => out = upgrade(rest),
            "text" => websocket::encode_text(&mut out, rest, MASK),
            "fragments" => fragments(rest, &mut out)?,
            "audio" => websocket::encode_binary(&mut out, &audio(rest)?, MASK),
            "chunk" => {
                let (seq, rest) = rest.split_once(' ').ok_or("a chunk has a number")?;
                let seq = seq.parse().map_err(|_| "a chunk has a number")?;
                let mut message = Vec::new();
                AudioHeader { kind: AudioKind::Input, flags: 0, channel: 0, seq, capture_time_us: 0 }
                    .encode(&mut message);
                message.extend(audio(rest)?);
                websocket::encode_binary(&mut out, &message, MASK);
            }
            "ping" => websocket::encode_ping(&mut out, rest.as_bytes(), MASK),
            "pong" => websocket::encode_pong(&mut out, rest.as_bytes(), MASK),
            "close" => websocket::encode_close(&mut out, rest.parse::<u16>().ok(), "", MASK),
            "end" => return transport.half_close(self.current),
            other => return Err(format!("{other} cannot be sent")),
        }
        transport.send(self.current, &out)
    }

    fn expect(&mut self, what: &str, transport: &mut impl Transport) -> Result<(), String> {
        let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
        if let Ok(status) = word.parse::<u16>() {
            return self.expect_response(status, rest, transport);
        }
        match word {
            "header" => return self.expect_header(rest),
            "body" => {
                let body = &self.end().body;
                let same = *body == rest.as_bytes();
                return if same { Ok(()) } else { Err(format!("came {:?}", String::from_utf8_lossy(body))) };
            }
            "end" => return self.expect_end(transport),
            _ => {}
        }
        let said = self.next_said(transport)?;
        match (word, &said) {
            ("text", Said::Text(text)) => expect_message(rest, text),
            ("says", Said::Text(text)) if text == rest => Ok(()),
            ("audio", Said::Binary(bytes)) if *bytes == audio(rest)? => Ok(()),
            ("ping", Said::Ping) => Ok(()),
            ("pong", Said::Pong(payload)) if payload == rest.as_bytes() => Ok(()),
            ("close", Said::Close(code)) if *code == rest.parse().ok() => Ok(()),
            _ => Err(format!("came {said:?}")),
        }
    }

    fn end(&mut self) -> &mut End {
        &mut self.ends[self.current]
    }

    /// Waits for more bytes; false at the end.
    fn pull(&mut self, transport: &mut impl Transport) -> Result<bool, String> {
        let current = self.current;
        let mut bytes = transport.receive(current)?;
        let end = self.end();
        end.ended |= bytes.is_empty();
        let Some(decoder) = &mut end.decoder else {
            end.held.append(&mut bytes);
            return Ok(!end.ended);
        };
        let mut rest = &mut bytes[..];
        while let Some(event) = decoder.next(&mut rest).map_err(|fault| fault.to_string())? {
            end.said.push_back(match event {
                Event::Text(text) => Said::Text(text.to_owned()),
                Event::Binary(bytes) => Said::Binary(bytes.to_vec()),
                Event::Ping(_) => Said::Ping,
                Event::Pong(bytes) => Said::Pong(bytes.to_vec()),
                Event::Close { code, .. } => Said::Close(code),
            });
        }
        Ok(!end.ended)
    }

    fn next_said(&mut self, transport: &mut impl Transport) -> Result<Said, String> {
        loop {
            while let Some(said) = self.end().said.pop_front() {
                let ignored = match &said {
                    Said::Text(text) => {
                        self.ignored.iter().any(|name| type_of(text).as_deref() == Some(name))
                    }
                    _ => false,
                };
                if !ignored {
                    return Ok(said);
                }
            }
            if !self.pull(transport)? {
                return Err("the connection ended".into());
            }
        }
    }

    fn expect_end(&mut self, transport: &mut impl Transport) -> Result<(), String> {
        while !self.end().ended {
            self.pull(transport)?;
        }
        let left = &self.end().said;
        if left.is_empty() { Ok(()) } else { Err(format!("before that came {left:?}")) }
    }

    fn expect_response(
        &mut self,
        status: u16,
        json: &str,
        transport: &mut impl Transport,
    ) -> Result<(), String> {
        let (head, taken) = loop {
            let parsed = parse_response_head(&self.end().held).map_err(|fault| fault.to_string())?;
            if let Some(parsed) = parsed {
                break parsed;
            }
            if !self.pull(transport)? {
                return Err("the connection ended".into());
            }
        };
        self.end().held.drain(..taken);
        let length: usize = head.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        while self.end().held.len() < length && head.status != 101 && self.pull(transport)? {}
        let got = head.status;
        let end = self.end();
        if got == 101 {
            end.decoder = Some(Decoder::new(Role::Client, 1 << 24));
            end.feed_held()?;
        } else {
            let length = length.min(end.held.len());
            end.body = end.held.drain(..length).collect();
        }
        end.head = Some(head);
        let body = String::from_utf8_lossy(&end.body).into_owned();
        if got != status {
            return Err(format!("came {got} {body}"));
        }
        if json.is_empty() { Ok(()) } else { expect_json(json, &body) }
    }

    fn expect_header(&mut self, wanted: &str) -> Result<(), String> {
        let (name, value) = wanted.split_once(": ").ok_or("a header has a name and a value")?;
        let got = self.end().head.as_ref().and_then(|head| head.header(name).map(str::to_owned));
        match got {
            Some(got) if value == "*" || got == value => Ok(()),
            got => Err(format!("came {got:?}")),
        }
    }
}

impl End {
    /// Bytes that came behind the upgrade's answer are frames already.
    fn feed_held(&mut self) -> Result<(), String> {
        let mut bytes = std::mem::take(&mut self.held);
        let Some(decoder) = &mut self.decoder else { return Ok(()) };
        let mut rest = &mut bytes[..];
        while let Some(event) = decoder.next(&mut rest).map_err(|fault| fault.to_string())? {
            self.said.push_back(match event {
                Event::Text(text) => Said::Text(text.to_owned()),
                Event::Binary(bytes) => Said::Binary(bytes.to_vec()),
                Event::Ping(_) => Said::Ping,
                Event::Pong(bytes) => Said::Pong(bytes.to_vec()),
                Event::Close { code, .. } => Said::Close(code),
            });
        }
        Ok(())
    }
}

fn request(method: &str, rest: &str) -> Vec<u8> {
    let mut parts = rest.split(" | ");
    let (target, body) = parts.next().unwrap_or_default().split_once(' ').unwrap_or((rest, ""));
    let target = target.split(" | ").next().unwrap_or_default();
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: talk\r\n");
    if method == "POST" {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    parts.for_each(|header| text.push_str(&format!("{header}\r\n")));
    format!("{text}\r\n{body}").into_bytes()
}

fn upgrade(rest: &str) -> Vec<u8> {
    let mut parts = rest.split(" | ");
    let target = parts.next().unwrap_or_default();
    let headers: String = parts.map(|header| format!("{header}\r\n")).collect();
    format!(
        "GET {target} HTTP/1.1\r\nHost: talk\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
    .into_bytes()
}

/// `3 text hello`: a text message in three frames.
fn fragments(rest: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let (count, payload) = rest.split_once(" text ").ok_or("fragments are `COUNT text PAYLOAD`")?;
    let count: usize = count.parse().map_err(|_| "not a count")?;
    let size = payload.len().div_ceil(count).max(1);
    let parts: Vec<&[u8]> = payload.as_bytes().chunks(size).collect();
    for (index, part) in parts.iter().enumerate() {
        let start = out.len();
        websocket::encode_text(out, &String::from_utf8_lossy(part), MASK);
        // The first byte is FIN and the opcode: text at first, then continuation.
        let (first, last) = (index == 0, index + 1 == parts.len());
        out[start] = u8::from(first) | if last { 0x80 } else { 0 };
    }
    Ok(())
}

/// `640 ramp`: so many bytes of a pattern.
fn audio(rest: &str) -> Result<Vec<u8>, String> {
    let (count, pattern) = rest.split_once(' ').ok_or("audio has a length and a pattern")?;
    let count: usize = count.parse().map_err(|_| "not a count of bytes")?;
    match pattern {
        "ramp" => Ok((0..count).map(|index| index as u8).collect()),
        "silence" => Ok(vec![0; count]),
        "noise" => {
            let mut state = 1u32;
            let next = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            Ok((0..count).map(next).collect())
        }
        other => Err(format!("{other} is none of ramp, silence, noise")),
    }
}

fn type_of(text: &str) -> Option<String> {
    let value: Value = serde_json::from_str(text).ok()?;
    value["type"].as_str().map(str::to_owned)
}

fn expect_message(wanted: &str, text: &str) -> Result<(), String> {
    let (name, fields) = wanted.split_once(' ').unwrap_or((wanted, "{}"));
    if type_of(text).as_deref() != Some(name) {
        return Err(format!("came {text}"));
    }
    expect_json(fields, text)
}

fn expect_json(wanted: &str, text: &str) -> Result<(), String> {
    let wanted: Value =
        serde_json::from_str(wanted).map_err(|error| format!("the line is not JSON: {error}"))?;
    let got: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
    if includes(&got, &wanted) { Ok(()) } else { Err(format!("came {text}")) }
}

/// Whether `got` has at least what is `wanted`.
fn includes(got: &Value, wanted: &Value) -> bool {
    match (got, wanted) {
        (_, Value::String(any)) if any == "*" => !got.is_null(),
        (Value::Object(got), Value::Object(wanted)) => {
            wanted.iter().all(|(name, wanted)| got.get(name).is_some_and(|got| includes(got, wanted)))
        }
        (Value::Array(got), Value::Array(wanted)) => {
            got.len() == wanted.len() && got.iter().zip(wanted).all(|(got, wanted)| includes(got, wanted))
        }
        (Value::Number(got), Value::Number(wanted)) => got.as_f64() == wanted.as_f64(),
        _ => got == wanted,
    }
}
