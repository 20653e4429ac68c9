//! What is said on a connection: the handshake, if there is one, and then messages and their answers.

use super::echo::Echo;
use super::http::Http;
use super::plan::Plan;
use super::stream::{Said, Stream};
use super::tally::Tally;
use super::target::Ask;
use crate::client::{Options, Random, check_upgrade, upgrade_request};
use crate::time::Instant;
use crate::wire::http::parse_response_head;
use crate::wire::message::ClientMessage;
use crate::wire::websocket::{
    Decoder, Event, Role, client_key, encode_binary, encode_close, encode_pong, encode_text,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// Greatest message that is received, bytes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A conversation.
pub(super) enum Talk {
    Bytes { echo: Echo, partial: Vec<u8> },
    WebSocket(Box<WebSocket>),
    Http(Http),
}

/// A WebSocket and what goes over it.
pub(super) struct WebSocket {
    random: Random,
    stage: Stage,
    over: Over,
}

enum Stage {
    /// The answer to the handshake has not come whole.
    Upgrading {
        key: String,
        head: Vec<u8>,
    },
    Open(Decoder),
    Closed,
    /// The server has no room, or not for this client, and said so.
    Refused,
}

enum Over {
    Echo(Echo),
    Stream(Box<Stream>),
}

impl Talk {
    /// The conversation of the connection with that number. `request` is what HTTP asks.
    pub(super) fn new(plan: &Plan, number: usize, request: &Arc<[u8]>) -> Talk {
        let over = match &plan.target.ask {
            Ask::Bytes => {
                return Talk::Bytes { echo: Echo::new(number, plan.message_bytes), partial: Vec::new() };
            }
            Ask::Http(_) => return Talk::Http(Http::new(Arc::clone(request))),
            Ask::Echo => Over::Echo(Echo::new(number, plan.message_bytes)),
            Ask::Stream { heartbeat } => {
                let audio = Arc::clone(&plan.audio);
                Over::Stream(Box::new(Stream::new(number, audio, plan.message_bytes, *heartbeat)))
            }
        };
        let mut random = Random::default();
        let key = client_key(random.key());
        let stage = Stage::Upgrading { key, head: Vec::new() };
        Talk::WebSocket(Box::new(WebSocket { random, stage, over }))
    }

    /// What is said first. The error is the kind of failure.
    pub(super) fn greet(&mut self, plan: &Plan, out: &mut Vec<u8>) -> Result<(), String> {
        let Talk::WebSocket(socket) = self else { return Ok(()) };
        let Stage::Upgrading { key, .. } = &socket.stage else { return Ok(()) };
        let mut options = Options { headers: plan.target.headers.clone(), ..Options::default() };
        if let Over::Stream(_) = socket.over {
            options.params = plan.audio.params.clone();
        }
        let request = upgrade_request(&plan.target.url, &options, key).map_err(|error| error.to_string())?;
        out.extend_from_slice(request.as_bytes());
        Ok(())
    }

    /// Whether messages may be sent.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Talk::Bytes { .. } | Talk::Http(_) => true,
            Talk::WebSocket(socket) => match (&socket.stage, &socket.over) {
                (Stage::Upgrading { .. }, _) => false,
                (_, Over::Echo(_)) => true,
                (_, Over::Stream(stream)) => stream.is_open(),
            },
        }
    }

    /// Says the next message, which is due at `due`.
    pub(super) fn ask(&mut self, due: Instant, out: &mut Vec<u8>, tally: &mut Tally) {
        tally.messages.sent += 1;
        match self {
            Talk::Bytes { echo, .. } => out.extend_from_slice(echo.ask(due)),
            Talk::Http(http) => http.ask(due, out),
            Talk::WebSocket(socket) => {
                let mask = Some(socket.random.mask());
                match &mut socket.over {
                    Over::Echo(echo) => encode_binary(out, echo.ask(due), mask),
                    Over::Stream(stream) => match stream.ask(due, tally) {
                        Said::Binary(chunk) => encode_binary(out, chunk, mask),
                        Said::Text(message) => push_text(&message, out, mask),
                    },
                }
            }
        }
    }

    /// When each message was due that has no answer yet, the oldest first.
    pub(super) fn dues(&self) -> &VecDeque<Instant> {
        match self {
            Talk::Bytes { echo, .. } => echo.dues(),
            Talk::Http(http) => http.dues(),
            Talk::WebSocket(socket) => match &socket.over {
                Over::Echo(echo) => echo.dues(),
                Over::Stream(stream) => stream.dues(),
            },
        }
    }

    /// Bytes came. The error is the kind of failure; the connection is then of no use.
    pub(super) fn hear(
        &mut self,
        bytes: &mut [u8],
        now: Instant,
        out: &mut Vec<u8>,
        tally: &mut Tally,
    ) -> Result<(), String> {
        match self {
            Talk::Http(http) => http.hear(bytes, now, out, tally),
            Talk::WebSocket(socket) => socket.hear(bytes, now, out, tally),
            Talk::Bytes { echo, partial } => {
                let whole = echo.message_bytes();
                partial.extend_from_slice(bytes);
                let length = partial.len() / whole * whole;
                partial[..length].chunks_exact(whole).for_each(|message| echo.hear(message, now, tally));
                partial.drain(..length);
                Ok(())
            }
        }
    }

    /// Says what ends the conversation properly.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) {
        let Talk::WebSocket(socket) = self else { return };
        if !matches!(socket.stage, Stage::Open(_)) {
            return;
        }
        let mask = Some(socket.random.mask());
        match &mut socket.over {
            Over::Echo(_) => encode_close(out, 1000, "", mask),
            Over::Stream(stream) => push_text(&stream.end(), out, mask),
        }
    }

    /// Whether everything is said: nothing is awaited, and where there is a proper end it has come.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Talk::Bytes { .. } | Talk::Http(_) => self.dues().is_empty(),
            Talk::WebSocket(_) => self.is_closed(),
        }
    }

    /// Whether the other side has closed by the protocol.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Talk::WebSocket(socket) if matches!(socket.stage, Stage::Closed))
    }

    /// Whether the server has said that it has no room now.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Talk::WebSocket(socket) if matches!(socket.stage, Stage::Refused))
    }

    /// Nothing more will come: what is missing is lost.
    pub(super) fn settle(&mut self, tally: &mut Tally) {
        match self {
            Talk::Bytes { echo, .. } => echo.settle(tally),
            Talk::Http(http) => http.settle(tally),
            Talk::WebSocket(socket) => match &mut socket.over {
                Over::Echo(echo) => echo.settle(tally),
                Over::Stream(stream) => stream.settle(tally),
            },
        }
    }
}

impl WebSocket {
    fn hear(
        &mut self,
        bytes: &mut [u8],
        now: Instant,
        out: &mut Vec<u8>,
        tally: &mut Tally,
    ) -> Result<(), String> {
        if let Stage::Upgrading { key, head } = &mut self.stage {
            head.extend_from_slice(bytes);
            let Some((answer, length)) = parse_response_head(head).map_err(|fault| fault.message)? else {
                return Ok(());
            };
            if answer.status != 101 {
                if matches!(answer.status, 429 | 503) {
                    self.stage = Stage::Refused;
                }
                return Err(format!("refused with HTTP {}", answer.status));
            }
            check_upgrade(&answer, key).map_err(|error| error.to_string())?;
            let mut left = head.split_off(length);
            self.stage = Stage::Open(Decoder::new(Role::Client, MESSAGE_BYTES_MAX));
            return self.decode(&mut left, now, out, tally);
        }
        self.decode(bytes, now, out, tally)
    }

    fn decode(
        &mut self,
        mut bytes: &mut [u8],
        now: Instant,
        out: &mut Vec<u8>,
        tally: &mut Tally,
    ) -> Result<(), String> {
        while let Stage::Open(decoder) = &mut self.stage {
            let Some(event) = decoder.next(&mut bytes).map_err(|fault| fault.message)? else { break };
            match (event, &mut self.over) {
                (Event::Binary(message), Over::Echo(echo)) => echo.hear(message, now, tally),
                (Event::Text(text), Over::Stream(stream)) => stream.hear(text, now, tally)?,
                // Processed audio; its results tell of it.
                (Event::Binary(_), Over::Stream(_)) => {}
                (Event::Text(_), Over::Echo(_)) => tally.wrong(),
                (Event::Ping(payload), _) => encode_pong(out, payload, Some(self.random.mask())),
                (Event::Pong(_), _) => {}
                (Event::Close { code, .. }, over) => {
                    let well = match over {
                        Over::Echo(_) => code.is_none_or(|code| code == 1000),
                        Over::Stream(stream) => stream.is_terminated() && code == Some(1000),
                    };
                    encode_close(out, code, "", Some(self.random.mask()));
                    self.stage = Stage::Closed;
                    if !well {
                        return Err(format!("closed with {}", code.unwrap_or_default()));
                    }
                }
            }
        }
        Ok(())
    }
}

fn push_text(message: &ClientMessage, out: &mut Vec<u8>, mask: Option<[u8; 4]>) {
    let mut text = Vec::new();
    message.encode(&mut text);
    // serde_json writes UTF-8 only.
    encode_text(out, std::str::from_utf8(&text).unwrap_or_default(), mask);
}
