//! One TCP peer: what phase its conversation is in, bytes that wait in either direction, and its deadlines.
//!
//! Owns no policy about streams and never writes to another part: the server takes the phase out, works, and puts
//! the next phase in. An idle connection holds no buffer.

use crate::auth::Principal;
use crate::config::Config;
use crate::id::{CallId, SessionId};
use crate::reason::Reason;
use crate::server::access::Budget;
use crate::server::contract::AskId;
use crate::server::routes::Route;
use crate::server::spares::Spares;
use crate::server::upload::{Source, Upload};
use crate::time::Instant;
use crate::wire::compress::Coding;
use crate::wire::http::{BodyDecoder, RequestHead};
use crate::wire::websocket::{Decoder, Role};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a connection beyond the limit may take for its request's head. It holds one of the few places in which
/// health is told while the server is full.
const SURPLUS_PATIENCE: Duration = Duration::from_secs(1);

/// Where the conversation stands.
pub enum Phase {
    /// Requests and responses.
    Http(Http),
    /// Messages.
    WebSocket(WebSocket),
    /// A recording comes as a request's body, and its answer goes out.
    Upload(Box<Upload>),
    /// Nothing more is served: what is outgoing goes out, then the socket closes.
    Closing(Closing),
}

/// The HTTP phase.
pub struct Http {
    /// When the server began to wait for, or the peer began, the current request.
    pub since: Instant,
    /// A request whose body is still coming.
    pub body: Option<Box<PendingBody>>,
    /// A request that is here and will be answered later.
    pub waiting: Option<Box<Waiting>>,
    /// Requests served on this connection.
    pub served: u64,
}

/// A request whose head is here and whose body is not.
pub struct PendingBody {
    /// The head.
    pub head: RequestHead,
    /// Where it goes.
    pub route: Route,
    /// The request's name.
    pub request_id: String,
    /// Who makes it.
    pub principal: Arc<Principal>,
    /// Takes the framing off.
    pub decoder: BodyDecoder,
    /// The body so far.
    pub body: Vec<u8>,
}

/// A request that is answered later. Nothing more is read meanwhile.
pub struct Waiting {
    /// By whom.
    pub asked: Asked,
    /// The request's name.
    pub request_id: String,
    /// How the answer is written.
    pub manners: Manners,
}

/// Who has a request's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The workers.
    Call(CallId),
    /// The folder of models.
    Repository(AskId),
}

/// How an answer is written.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// The connection goes on after it.
    pub keep_alive: bool,
    /// It is without its body.
    pub head_only: bool,
    /// How its body is to be compressed if it is large.
    pub accept: Coding,
}

/// The WebSocket phase.
pub struct WebSocket {
    /// Takes frames apart.
    pub decoder: Decoder,
    /// Who gets the messages.
    pub endpoint: Endpoint,
    /// When the last ping went out unanswered.
    pub ping_sent: Option<Instant>,
    /// When the message began that is half there; None between messages.
    pub message_since: Option<Instant>,
    /// What comes is thrown away: the peer broke the protocol and waits for its end.
    pub deaf: bool,
}

/// Who gets the messages of a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A stream.
    Stream(SessionId),
    /// They are sent back as they came.
    Echo,
}

/// The end of a connection.
pub struct Closing {
    /// Since when.
    pub since: Instant,
    /// Looks for the peer's Close frame; None if none is expected any more.
    pub decoder: Option<Decoder>,
    /// What still comes is read until the peer has had time to read the answer.
    pub lingers: bool,
}

/// What a connection's clock says must happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing now.
    Nothing,
    /// Send a ping.
    Ping,
    /// Answer or close with this reason.
    GiveUp(Reason),
    /// Close without a word: nothing was asked, or nothing can be said any more.
    Drop(Reason),
}

/// One TCP peer.
pub struct Connection {
    /// Its address.
    pub peer: SocketAddr,
    /// Taken in beyond the limit, only to be refused politely (and to be told health and metrics).
    pub surplus: bool,
    /// Where the conversation stands.
    pub phase: Phase,
    /// Bytes that came and cannot be dealt with yet: half a request head, or what waits for room.
    pub parked: Vec<u8>,
    outgoing: Vec<u8>,
    sent: usize,
    /// Whether `Output::Flush` is on its way to the driver.
    pub flush_queued: bool,
    /// Whether the driver has been told to read.
    pub readable: bool,
    /// Whether there is no room for what the peer sends (then `parked` waits).
    pub blocked: bool,
    /// The peer will send nothing more.
    pub half_closed: bool,
    /// When a byte last came in.
    pub last_received: Instant,
    /// When a byte last went out, or the outgoing bytes began to wait.
    pub last_progress: Instant,
    /// Requests whose response has not left entirely: route, name, beginning, status.
    pub request: Option<RequestClock>,
    /// Whose WebSocket it is.
    pub owner: Option<Arc<Principal>>,
    /// Bytes charged to the server's budgets (incoming, outgoing).
    pub charged: (usize, usize),
}

/// The request whose response is on its way out.
pub struct RequestClock {
    /// Where it went.
    pub route: Route,
    /// When it began.
    pub began: Instant,
    /// Its name.
    pub request_id: String,
    /// The response's status.
    pub status: u16,
    /// What else its head tells, if anything.
    pub told: Option<Box<Told>>,
}

/// What the head of a response tells besides the answer.
#[derive(Default)]
pub struct Told {
    /// The origin whose pages may read it.
    pub origin: Option<String>,
    /// What is left of the requests that the principal may make.
    pub budget: Option<Budget>,
}

impl Connection {
    /// A fresh connection that has said nothing.
    pub fn new(peer: SocketAddr, surplus: bool, now: Instant) -> Self {
        Self {
            peer,
            surplus,
            phase: Phase::Http(Http { since: now, body: None, waiting: None, served: 0 }),
            parked: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            flush_queued: false,
            readable: true,
            blocked: false,
            half_closed: false,
            last_received: now,
            last_progress: now,
            request: None,
            owner: None,
            charged: (0, 0),
        }
    }

    /// Bytes that wait to be written.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// Appends to what waits to be written, into one of `spares` if nothing waits.
    pub fn write(&mut self, now: Instant, spares: &mut Spares, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.outgoing().is_empty() {
            self.last_progress = now;
            self.outgoing = spares.take();
        }
        encode(&mut self.outgoing);
    }

    /// `count` bytes were written. An emptied buffer goes to `spares` at once.
    pub fn sent(&mut self, count: usize, now: Instant, spares: &mut Spares) {
        assert!(count <= self.outgoing().len(), "the driver wrote no more than there was");
        self.sent += count;
        self.last_progress = now;
        if self.sent == self.outgoing.len() {
            spares.give(std::mem::take(&mut self.outgoing));
            self.sent = 0;
        } else if self.sent > self.outgoing.len() / 2 {
            self.outgoing.drain(..self.sent);
            self.outgoing.shrink_to(self.outgoing.len() * 2);
            self.sent = 0;
        }
    }

    /// Heap bytes held for what came in and for what goes out.
    pub fn held_bytes(&self) -> (usize, usize) {
        let (phase, answer) = match &self.phase {
            Phase::Http(http) => (http.body.as_ref().map_or(0, |pending| pending.body.capacity()), 0),
            Phase::WebSocket(ws) => (ws.decoder.held_bytes(), 0),
            Phase::Upload(upload) => match &upload.source {
                Source::Opening(opening) => (opening.held_bytes(), 0),
                Source::Stream(_, answer) => (0, answer.held_bytes()),
            },
            Phase::Closing(closing) => (closing.decoder.as_ref().map_or(0, Decoder::held_bytes), 0),
        };
        (phase + self.parked.capacity(), self.outgoing.capacity() + answer)
    }

    /// Whether the conversation is over and all has been said.
    pub fn is_done(&self) -> bool {
        match &self.phase {
            Phase::Closing(closing) => {
                let heard = closing.decoder.is_none() && !closing.lingers;
                self.outgoing().is_empty() && (heard || self.half_closed)
            }
            _ => false,
        }
    }

    /// The stream that this connection carries.
    pub fn session(&self) -> Option<SessionId> {
        match &self.phase {
            Phase::WebSocket(WebSocket { endpoint: Endpoint::Stream(session), .. }) => Some(*session),
            Phase::Upload(upload) => match &upload.source {
                Source::Stream(session, _) => Some(*session),
                Source::Opening(_) => None,
            },
            _ => None,
        }
    }

    /// Whether a recording comes and its answer goes out.
    pub fn is_upload(&self) -> bool {
        matches!(self.phase, Phase::Upload(_))
    }

    /// Whether it keeps the memory of a packer.
    pub fn packs(&self) -> bool {
        match &self.phase {
            Phase::Upload(upload) => match &upload.source {
                Source::Stream(_, answer) => answer.packs(),
                Source::Opening(_) => false,
            },
            _ => false,
        }
    }

    /// Takes the upload out: it is over, and nothing more is served unless another phase begins.
    pub fn take_upload(&mut self, now: Instant) -> Option<Box<Upload>> {
        if !self.is_upload() {
            return None;
        }
        let closing = Phase::Closing(Closing { since: now, decoder: None, lingers: false });
        match std::mem::replace(&mut self.phase, closing) {
            Phase::Upload(upload) => Some(upload),
            _ => None,
        }
    }

    /// Takes the WebSocket decoder out for as long as its events are looked at.
    pub fn take_decoder(&mut self) -> Option<Decoder> {
        let placeholder = Decoder::new(Role::Server, 0);
        match &mut self.phase {
            Phase::WebSocket(ws) => Some(std::mem::replace(&mut ws.decoder, placeholder)),
            Phase::Closing(closing) => closing.decoder.take(),
            Phase::Http(_) | Phase::Upload(_) => None,
        }
    }

    /// Puts the decoder back into whatever phase the connection is in now.
    pub fn put_decoder(&mut self, decoder: Decoder, now: Instant) {
        match &mut self.phase {
            Phase::WebSocket(ws) => {
                ws.message_since = decoder.is_half_way().then(|| ws.message_since.unwrap_or(now));
                ws.decoder = decoder;
            }
            Phase::Closing(closing) if closing.decoder.is_some() => closing.decoder = Some(decoder),
            Phase::Closing(_) | Phase::Http(_) | Phase::Upload(_) => {}
        }
    }

    /// What time it is for this connection. `stagger` spreads pings of connections that came together.
    pub fn check_deadlines(&self, now: Instant, config: &Config, stagger: Duration) -> Due {
        if !self.outgoing().is_empty() && now >= self.last_progress + config.write_timeout {
            return Due::Drop(Reason::SlowConsumer);
        }
        match &self.phase {
            Phase::Http(http) => self.check_http(http, now, config),
            Phase::WebSocket(ws) => self.check_websocket(ws, now, config, stagger),
            Phase::Upload(upload) => match upload.source {
                Source::Opening(_) if now >= upload.since + config.body_timeout => {
                    Due::GiveUp(Reason::RequestTimeout)
                }
                // From the first sample on the stream's own clocks hold.
                _ => Due::Nothing,
            },
            Phase::Closing(closing) if now >= closing.since + config.close_timeout => {
                if self.outgoing().is_empty() { Due::Drop(Reason::Finished) } else { Due::Nothing }
            }
            Phase::Closing(_) => Due::Nothing,
        }
    }

    fn check_http(&self, http: &Http, now: Instant, config: &Config) -> Due {
        if self.blocked {
            return Due::Nothing;
        }
        let waited = now - http.since;
        if http.body.is_some() {
            let late = waited >= config.body_timeout;
            return if late { Due::GiveUp(Reason::RequestTimeout) } else { Due::Nothing };
        }
        let began = !self.parked.is_empty();
        let head_timeout =
            if self.surplus { config.head_timeout.min(SURPLUS_PATIENCE) } else { config.head_timeout };
        match (began, http.served) {
            (false, 1..) if waited >= config.idle_timeout => Due::Drop(Reason::IdleTimeout),
            (false, 1..) => Due::Nothing,
            (true, _) | (false, 0) if waited >= head_timeout => Due::GiveUp(Reason::RequestTimeout),
            _ => Due::Nothing,
        }
    }

    fn check_websocket(&self, ws: &WebSocket, now: Instant, config: &Config, stagger: Duration) -> Due {
        // A socket that the server itself does not read cannot prove that its peer is alive, nor can one that
        // the peer has closed for writing.
        if !self.readable || ws.deaf || self.half_closed {
            return Due::Nothing;
        }
        // Whoever sends a byte now and then is alive, and holds what has come so far.
        if ws.message_since.is_some_and(|since| now >= since + config.body_timeout) {
            return Due::GiveUp(Reason::RequestTimeout);
        }
        match ws.ping_sent {
            Some(sent) if now >= sent + config.pong_timeout => Due::GiveUp(Reason::PongTimeout),
            Some(_) => Due::Nothing,
            None if now >= self.last_received + config.ping_interval.saturating_sub(stagger) => Due::Ping,
            None => Due::Nothing,
        }
    }
}
