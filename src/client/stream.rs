//! A stream and its two halves.

use super::inbox::Inbox;
use super::link::Link;
use super::random::Random;
use super::{Error, Url, handshake};
use crate::reason::Reason;
use crate::wire::message::{ClientMessage, Framing, ServerMessage, StreamParams};
use crate::wire::pcm::AudioHeader;
use crate::wire::websocket::Event;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How to connect, and what to ask for.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the stream is to be; what equals the protocol's default is not sent.
    pub params: StreamParams,
    /// Header fields of the handshake, such as credentials.
    pub headers: Vec<(String, String)>,
    /// With `wss://`: a PEM file with the certificates of the authorities that are trusted. Without one those are that
    /// browsers trust too.
    pub ca_file: Option<PathBuf>,
    /// For connecting, and for each step of the handshake. 10 s.
    pub connect_timeout: Duration,
    /// Silence after which [`Receiver::recv`] gives up; `None` never. 60 s: the server pings every 25 s.
    pub read_timeout: Option<Duration>,
    /// How long a send may be held up by the server; `None` for ever. 60 s.
    pub write_timeout: Option<Duration>,
    /// Greatest message that is received, bytes. 16 MiB.
    pub message_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            params: StreamParams::default(),
            headers: Vec::new(),
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Some(Duration::from_secs(60)),
            write_timeout: Some(Duration::from_secs(60)),
            message_bytes_max: 16 << 20,
        }
    }
}

/// What the server sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// A message.
    Message(ServerMessage),
    /// A message of a type that this version does not know; [`Receiver::text`] has it.
    Unknown,
    /// Processed audio in the stream's encoding, mono.
    Audio {
        /// Which result it belongs to, with `framing=seq`.
        header: Option<AudioHeader>,
        /// Whole samples.
        samples: Vec<u8>,
    },
    /// The end. Nothing comes after it.
    Closed {
        /// 1000 after a `Termination`.
        code: Option<u16>,
        /// For people; often empty.
        reason: String,
    },
}

/// An open stream.
pub struct Stream {
    sender: Sender,
    receiver: Receiver,
}

impl Stream {
    /// Connects and opens the stream. The first message received is `Begin`.
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::Connect`], [`Error::Refused`], or that the other side is no such server.
    pub fn connect(url: &str, options: &Options) -> Result<Stream, Error> {
        let url = Url::parse(url)?;
        let mut random = Random::default();
        let (pipe, left) = handshake::connect(&url, options, &mut random)?;
        let framing = options.params.framing;
        let link = Arc::new(Link::new(pipe, random, framing));
        let receiver = Receiver {
            link: Arc::clone(&link),
            inbox: Inbox::new(left, options.message_bytes_max),
            text: String::new(),
            framing,
            ended: false,
        };
        Ok(Stream { sender: Sender { link }, receiver })
    }

    /// Hands the halves to two threads.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// See [`Sender::send_audio`]. Sending much without receiving holds both sides up: see [`Stream::split`].
    pub fn send_audio(&self, samples: &[u8]) -> Result<(), Error> {
        self.sender.send_audio(samples)
    }

    /// See [`Sender::send`].
    pub fn send(&self, message: &ClientMessage) -> Result<(), Error> {
        self.sender.send(message)
    }

    /// See [`Sender::finalize`].
    pub fn finalize(&self, id: Option<&str>) -> Result<(), Error> {
        self.sender.finalize(id)
    }

    /// See [`Sender::close_stream`].
    pub fn close_stream(&self) -> Result<(), Error> {
        self.sender.close_stream()
    }

    /// See [`Receiver::recv`].
    pub fn recv(&mut self) -> Result<Option<Received>, Error> {
        self.receiver.recv()
    }

    /// See [`Receiver::text`].
    pub fn text(&self) -> &str {
        self.receiver.text()
    }
}

/// The half that speaks. Clones speak on the same stream; messages never mix.
#[derive(Clone)]
pub struct Sender {
    link: Arc<Link>,
}

impl Sender {
    /// Sends a chunk of interleaved samples in the stream's encoding; with `framing=seq` the header is put before it.
    /// Waits while the server does not read.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Closed`] or that the connection broke. The stream cannot be used for sending
    /// afterwards; what the server said of it can still be received.
    pub fn send_audio(&self, samples: &[u8]) -> Result<(), Error> {
        self.link.send_audio(samples, 0)
    }

    /// The same with the time of recording of the first sample (the client's clock, microseconds), which only
    /// `framing=seq` carries.
    pub fn send_audio_at(&self, samples: &[u8], capture_time_us: u64) -> Result<(), Error> {
        self.link.send_audio(samples, capture_time_us)
    }

    /// Sends a message. Errors as for [`Sender::send_audio`].
    pub fn send(&self, message: &ClientMessage) -> Result<(), Error> {
        self.link.send_message(message)
    }

    /// Asks for the results of everything sent so far.
    pub fn finalize(&self, id: Option<&str>) -> Result<(), Error> {
        self.send(&ClientMessage::Finalize { id: id.map(str::to_owned) })
    }

    /// Ends the stream the proper way: the rest of the results comes, then `Termination`, then the close.
    pub fn close_stream(&self) -> Result<(), Error> {
        self.send(&ClientMessage::CloseStream)
    }

    /// Ends the connection without waiting for results.
    pub fn close(&self, code: u16, reason: &str) -> Result<(), Error> {
        self.link.send_close(code, reason)
    }
}

/// The half that listens. It answers pings and the close by itself.
pub struct Receiver {
    link: Arc<Link>,
    inbox: Inbox,
    text: String,
    framing: Framing,
    ended: bool,
}

/// What an event asks for.
enum Step {
    Give(Received),
    Pong(Vec<u8>),
    Nothing,
}

impl Receiver {
    /// The next thing that the server sent; `None` after [`Received::Closed`].
    ///
    /// # Errors
    /// [`Error::TimedOut`] (waiting may be tried again), [`Error::Disconnected`], or a server that breaks the protocol.
    pub fn recv(&mut self) -> Result<Option<Received>, Error> {
        while !self.ended {
            match self.decode() {
                Ok(Step::Give(received)) => {
                    if let Received::Closed { code, .. } = received {
                        self.ended = true;
                        self.link.close_now(code);
                    }
                    return Ok(Some(received));
                }
                Ok(Step::Pong(payload)) => self.link.answer_ping(&payload),
                Ok(Step::Nothing) if self.inbox.is_empty() => {
                    let result = self.inbox.fill(&self.link.pipe);
                    self.ended = !matches!(result, Ok(()) | Err(Error::TimedOut(_)));
                    result?;
                }
                Ok(Step::Nothing) => {}
                Err(error) => {
                    self.ended = true;
                    if let Error::Protocol(fault) = &error {
                        self.link.close_now(Some(fault.reason.close_code()));
                    }
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// The JSON text of the message that was received last.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Decodes one event of what has been received.
    fn decode(&mut self) -> Result<Step, Error> {
        let Some(event) = self.inbox.next()? else { return Ok(Step::Nothing) };
        Ok(match event {
            Event::Text(text) => {
                self.text.clear();
                self.text.push_str(text);
                match ServerMessage::parse(text) {
                    Ok(message) => Step::Give(Received::Message(message)),
                    Err(fault) if fault.reason == Reason::UnknownEvent => Step::Give(Received::Unknown),
                    Err(fault) => return Err(fault.into()),
                }
            }
            Event::Binary(message) => {
                let (header, samples) = match self.framing {
                    Framing::Raw => (None, message),
                    Framing::Seq => {
                        AudioHeader::parse(message).map(|(header, samples)| (Some(header), samples))?
                    }
                };
                Step::Give(Received::Audio { header, samples: samples.to_owned() })
            }
            Event::Ping(payload) => Step::Pong(payload.to_owned()),
            Event::Pong(_) => Step::Nothing,
            Event::Close { code, reason } => Step::Give(Received::Closed { code, reason: reason.to_owned() }),
        })
    }
}
