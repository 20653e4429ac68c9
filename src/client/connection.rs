//! A WebSocket to any path of a server, for whole messages both ways.
//!
//! Owns one connection. Unlike [`super::Stream`] it does not look into messages, and belongs to one thread at a time.

use super::inbox::Inbox;
use super::link::Link;
use super::random::Random;
use super::{Error, Options, Url, handshake};
use crate::wire::message::Framing;
use crate::wire::websocket::Event;

/// An open WebSocket, such as to `/v1/echo`. Dropping it closes it with code 1000.
pub struct Connection {
    link: Link,
    inbox: Inbox,
    ended: bool,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// The end. Nothing comes after it.
    Closed {
        /// Why, if the server said so.
        code: Option<u16>,
        /// For people; often empty.
        reason: String,
    },
}

/// What an event asks for.
enum Step {
    Give(Message),
    Pong(Vec<u8>),
    Nothing,
}

impl Connection {
    /// Connects to a URL with its path, such as `ws://127.0.0.1:8080/v1/echo`. [`Options::params`] join its query; the
    /// default ones add nothing.
    ///
    /// # Errors
    /// As for [`super::Stream::connect`].
    pub fn open(url: &str, options: &Options) -> Result<Connection, Error> {
        let mut random = Random::default();
        let (pipe, left) = handshake::connect(&Url::parse(url)?, options, &mut random)?;
        let inbox = Inbox::new(left, options.message_bytes_max);
        Ok(Connection { link: Link::new(pipe, random, Framing::Raw), inbox, ended: false })
    }

    /// Sends a binary message. Waits while the server does not read.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Closed`] or that the connection broke: nothing can be sent afterwards.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        self.link.send_binary(message)
    }

    /// Sends a text message. Errors as for [`Connection::send`].
    pub fn send_text(&mut self, message: &str) -> Result<(), Error> {
        self.link.send_text(message)
    }

    /// Begins the end: what the server still says can be received, up to [`Message::Closed`].
    ///
    /// # Errors
    /// As for [`Connection::send`].
    pub fn close(&mut self, code: u16, reason: &str) -> Result<(), Error> {
        self.link.send_close(code, reason)
    }

    /// Waits for the next message; `None` after [`Message::Closed`]. Pings are answered on the way.
    ///
    /// # Errors
    /// [`Error::TimedOut`] (waiting may be tried again), [`Error::Disconnected`], or a server that breaks RFC 6455.
    pub fn recv(&mut self) -> Result<Option<Message>, Error> {
        while !self.ended {
            match self.step()? {
                Step::Give(message) => return Ok(Some(message)),
                Step::Pong(payload) => self.link.answer_ping(&payload),
                Step::Nothing if self.inbox.is_empty() => {
                    let result = self.inbox.fill(&self.link.pipe);
                    self.ended = !matches!(result, Ok(()) | Err(Error::TimedOut(_)));
                    result?;
                }
                Step::Nothing => {}
            }
        }
        Ok(None)
    }

    /// Whether the next one can use it, without waiting: it is open, and nothing is left over that they would take for
    /// an answer to their own message. Pings that came meanwhile are answered. A message that is there is lost by asking.
    ///
    /// That it breaks right afterwards cannot be known.
    pub fn is_usable(&mut self) -> bool {
        while !self.ended && self.link.is_open() {
            match self.step() {
                Ok(Step::Pong(payload)) => self.link.answer_ping(&payload),
                Ok(Step::Nothing) if self.inbox.is_empty() => match self.inbox.fill_now(&self.link.pipe) {
                    Ok(true) => {}
                    Ok(false) => return self.inbox.is_between_messages(),
                    Err(_) => self.ended = true,
                },
                Ok(Step::Nothing) => {}
                Ok(Step::Give(_)) | Err(_) => return false,
            }
        }
        false
    }

    /// Decodes one event of what has been received.
    fn step(&mut self) -> Result<Step, Error> {
        let step = match self.inbox.next() {
            Ok(None | Some(Event::Pong(_))) => Step::Nothing,
            Ok(Some(Event::Text(text))) => Step::Give(Message::Text(text.to_owned())),
            Ok(Some(Event::Binary(message))) => Step::Give(Message::Binary(message.to_owned())),
            Ok(Some(Event::Ping(payload))) => Step::Pong(payload.to_owned()),
            Ok(Some(Event::Close { code, reason })) => {
                let reason = reason.to_owned();
                self.end(code);
                Step::Give(Message::Closed { code, reason })
            }
            Err(fault) => {
                self.end(Some(fault.reason.close_code()));
                return Err(fault.into());
            }
        };
        Ok(step)
    }

    fn end(&mut self, code: Option<u16>) {
        self.ended = true;
        self.link.close_now(code);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.ended {
            self.link.close_now(Some(1000));
        }
    }
}
