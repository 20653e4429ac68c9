//! The client's end of a connection: reads what the server writes, and holds it to the protocol.

use suzu::wire::http::parse_response_head;
use suzu::wire::message::ServerMessage;
use suzu::wire::websocket::{Decoder, Event, Role};

/// What a client has understood so far.
pub enum Peer {
    /// Nothing has been sent yet.
    Fresh,
    /// A handshake was the first that was sent; what came back so far.
    Asked { is_stream: bool, answer: Vec<u8> },
    /// The WebSocket is open.
    Open(Conversation),
    /// Something was sent whose answer cannot be foretold.
    Opaque,
}

/// What came over an open WebSocket.
pub struct Conversation {
    decoder: Decoder,
    is_stream: bool,
    messages: u64,
    message_seq: u64,
    results: u64,
    /// The stream has said its last word.
    is_over: bool,
    closed: bool,
}

impl Peer {
    /// A handshake or something else is about to be sent.
    pub fn sends(&mut self, handshake: Option<bool>) {
        if let Peer::Fresh = self {
            *self = match handshake {
                Some(is_stream) => Peer::Asked { is_stream, answer: Vec::new() },
                None => Peer::Opaque,
            };
        }
    }

    /// Bytes came from the server.
    pub fn receive(&mut self, bytes: &[u8]) {
        match self {
            Peer::Fresh | Peer::Opaque => {}
            Peer::Asked { is_stream, answer } => {
                answer.extend_from_slice(bytes);
                let Some((head, taken)) = parse_response_head(answer).expect("the server writes HTTP") else {
                    return;
                };
                let (is_stream, rest) = (*is_stream, answer.split_off(taken));
                *self =
                    if head.status == 101 { Peer::Open(Conversation::new(is_stream)) } else { Peer::Opaque };
                self.receive(&rest);
            }
            Peer::Open(conversation) => conversation.receive(bytes),
        }
    }
}

impl Conversation {
    fn new(is_stream: bool) -> Self {
        let decoder = Decoder::new(Role::Client, 1 << 30);
        Self { decoder, is_stream, messages: 0, message_seq: 0, results: 0, is_over: false, closed: false }
    }

    fn receive(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let mut rest = &mut bytes[..];
        assert!(!self.closed || rest.is_empty(), "the server writes behind its Close frame");
        loop {
            let text = match self.decoder.next(&mut rest).expect("the server keeps RFC 6455") {
                None => return,
                Some(Event::Text(text)) => text.to_owned(),
                Some(Event::Close { .. }) => {
                    self.closed = true;
                    return assert!(rest.is_empty(), "the server writes behind its Close frame");
                }
                Some(Event::Binary(_)) => {
                    assert!(!self.is_over, "audio behind the Termination");
                    continue;
                }
                Some(_) => continue,
            };
            if self.is_stream {
                let message = ServerMessage::parse(&text).expect("the server keeps its own protocol");
                self.on_message(message, &text);
            }
        }
    }

    fn on_message(&mut self, message: ServerMessage, text: &str) {
        assert!(!self.is_over, "behind the last word: {text}");
        let first = self.messages == 0;
        self.messages += 1;
        match message {
            ServerMessage::Begin(_) => assert!(first, "{text}"),
            // Told to a browser instead of an HTTP status.
            ServerMessage::Error(error) if first => self.is_over = error.fatal,
            _ if first => panic!("before Begin: {text}"),
            ServerMessage::Results(results) => {
                self.results += 1;
                self.number(results.message_seq, text);
            }
            ServerMessage::SpeechStarted(boundary) | ServerMessage::SpeechEnded(boundary) => {
                self.number(boundary.message_seq, text);
            }
            ServerMessage::AudioAdded(added) => {
                let sum = added.processed_ms + added.discarded_ms + added.lag_ms;
                assert!((added.audio_ms - sum).abs() < 0.01 && added.credit_ms >= 0.0, "{text}");
            }
            ServerMessage::Termination(end) => {
                assert!(end.ledger.balances() && end.ledger.pending == 0, "{text}");
                assert_eq!(end.results, self.results, "{text}");
                self.is_over = true;
            }
            _ => {}
        }
    }

    /// Numbers have no holes.
    fn number(&mut self, message_seq: u64, text: &str) {
        self.message_seq += 1;
        assert_eq!(message_seq, self.message_seq, "{text}");
    }
}
