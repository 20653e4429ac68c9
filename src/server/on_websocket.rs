//! Bytes of a connection in whatever phase, and WebSocket messages up to the point where a stream takes over.
//!
//! What cannot be dealt with yet stays in `parked`, and the driver is told not to read: bytes already here raise no
//! further readiness event, so they are looked at again when the way is free ([`Server::on_awake`]).

use crate::id::ConnId;
use crate::reason::{Fault, Reason};
use crate::server::Server;
use crate::server::connection::{Closing, Connection, Endpoint, Phase};
use crate::server::upload::Body;
use crate::wire::message::{ErrorMessage, ServerMessage};
use crate::wire::websocket::{self, Decoder, Event, Role};

/// What to do with an event's connection after the event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

impl Server {
    /// Bytes came from a peer.
    pub(super) fn on_received(&mut self, conn: ConnId, bytes: &mut [u8]) {
        let now = self.now.instant;
        let Some(connection) = self.connections.get_mut(conn) else { return };
        self.metrics.counters.bytes_in += bytes.len() as u64;
        connection.last_received = now;
        if let Phase::WebSocket(ws) = &mut connection.phase {
            ws.ping_sent = None;
        }
        if connection.parked.is_empty() {
            if let Phase::Http(http) = &mut connection.phase
                && http.body.is_none()
            {
                http.since = now;
            }
            self.consume(conn, bytes);
        } else {
            connection.parked.extend_from_slice(bytes);
            if !connection.blocked {
                self.consume_parked(conn);
            }
        }
        self.after_receiving(conn);
    }

    /// The peer will send nothing more. It may still wait for its last result.
    pub(super) fn on_half_closed(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.half_closed = true;
        if !connection.blocked {
            self.on_all_received(conn);
        }
    }

    /// The peer sends nothing more and all it sent has been looked at.
    fn on_all_received(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        match &connection.phase {
            Phase::Http(http) if http.waiting.is_some() => {}
            Phase::Http(_) if connection.outgoing().is_empty() => self.close(conn, Reason::HungUp),
            Phase::Http(_) => {
                let since = self.now.instant;
                connection.phase = Phase::Closing(Closing { since, decoder: None, lingers: false });
                // The rest of the request that this may be a part of will never come.
                connection.parked = Vec::new();
                self.charge(conn);
            }
            Phase::WebSocket(ws) => match ws.endpoint {
                Endpoint::Stream(session) => self.on_end_of_input(session),
                Endpoint::Echo => self.begin_closing(conn, None),
            },
            Phase::Upload(_) => self.on_upload_cut(conn),
            Phase::Closing(_) => self.close_if_done(conn),
        }
    }

    /// The way of a connection is free again: looks at its parked bytes.
    pub(super) fn on_awake(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if !connection.blocked || self.is_blocked(conn) {
            return;
        }
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.blocked = false;
        }
        self.consume_parked(conn);
        self.after_receiving(conn);
        self.after_waking(conn);
    }

    fn after_waking(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get(conn) else { return };
        if !connection.blocked && connection.half_closed {
            self.on_all_received(conn);
        }
    }

    /// Bytes left for the peer: perhaps the way is free, the request is done, or the connection is.
    pub(super) fn on_sent(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get(conn) else { return };
        if connection.outgoing().is_empty() {
            self.end_request(conn);
        }
        self.close_if_done(conn);
        let Some(connection) = self.connections.get(conn) else { return };
        if connection.blocked {
            self.awake.push_back(conn);
        }
        if let Some(session) = connection.session() {
            self.admit_if_ready(session);
        }
    }

    fn consume_parked(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let mut bytes = std::mem::take(&mut connection.parked);
        self.consume(conn, &mut bytes);
    }

    /// Deals with bytes in the connection's phase, phase after phase, and parks what is left.
    fn consume(&mut self, conn: ConnId, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let Some(connection) = self.connections.get(conn) else { return };
            let closing = matches!(connection.phase, Phase::Closing(_));
            if !closing && self.is_blocked(conn) {
                break;
            }
            match &connection.phase {
                Phase::Http(_) => {
                    let taken = self.on_http(conn, bytes);
                    if taken == 0 {
                        break;
                    }
                    bytes = &mut bytes[taken..];
                }
                Phase::Upload(_) => {
                    let taken = self.on_upload(conn, bytes);
                    bytes = &mut bytes[taken..];
                }
                Phase::WebSocket(_) => {
                    if self.on_frames(conn, &mut bytes) == Next::Stop {
                        break;
                    }
                }
                Phase::Closing(_) => {
                    self.on_frames_while_closing(conn, bytes);
                    return;
                }
            }
        }
        self.park(conn, bytes);
    }

    fn park(&mut self, conn: ConnId, bytes: &[u8]) {
        let blocked = !bytes.is_empty() && self.is_blocked(conn);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if matches!(connection.phase, Phase::Closing(_)) {
            return;
        }
        connection.parked.extend_from_slice(bytes);
        connection.blocked = blocked;
    }

    /// Whether what the peer sends cannot be dealt with now: its answers or its stream have no room.
    pub(super) fn is_blocked(&self, conn: ConnId) -> bool {
        let Some(connection) = self.connections.get(conn) else { return false };
        if connection.outgoing().len() >= self.config.outgoing_bytes_max {
            return true;
        }
        match &connection.phase {
            Phase::Http(http) if http.waiting.is_some() => return true,
            // What follows is the next request, or nothing that could be understood.
            Phase::Upload(upload) if upload.body != Body::Coming => return true,
            _ => {}
        }
        connection.session().is_some_and(|session| self.is_full(session))
    }

    /// After bytes were dealt with: budgets, and whether to go on reading.
    fn after_receiving(&mut self, conn: ConnId) {
        self.charge(conn);
        if self.budgets.incoming > self.config.incoming_bytes_total_max {
            return self.on_incoming_overload(conn);
        }
        let blocked = self.is_blocked(conn);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.blocked |= blocked;
        let readable = !connection.blocked;
        self.set_readable(conn, readable);
        self.note_blocked(conn, !readable);
        self.close_if_done(conn);
    }

    /// Incomplete messages of all connections together have met their limit: the one that met it goes.
    fn on_incoming_overload(&mut self, conn: ConnId) {
        let limit = self.config.incoming_bytes_total_max;
        let message =
            format!("the server holds {limit} bytes of incomplete messages and takes no more; try again");
        let fault = Fault::new(Reason::Overloaded, message);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.parked = Vec::new();
        match &connection.phase {
            Phase::Http(_) => {
                let request_id = self.random.uuid(self.now.unix_ms);
                self.refuse(conn, &fault, &request_id, None);
            }
            Phase::WebSocket(_) => self.on_websocket_fault(conn, &fault),
            Phase::Upload(_) => self.fail_upload(conn, fault),
            Phase::Closing(_) => self.close(conn, Reason::Overloaded),
        }
        self.charge(conn);
        self.close_if_done(conn);
    }

    /// Takes frames apart until the bytes are used up or the connection is blocked or elsewhere.
    fn on_frames(&mut self, conn: ConnId, bytes: &mut &mut [u8]) -> Next {
        let Some(connection) = self.connections.get_mut(conn) else { return Next::Stop };
        if matches!(&connection.phase, Phase::WebSocket(ws) if ws.deaf) {
            *bytes = &mut [];
            return Next::Stop;
        }
        let Some(mut decoder) = connection.take_decoder() else { return Next::Stop };
        let next = self.on_events(conn, &mut decoder, bytes);
        // A large message met no room for its answer: it has been dealt with and must not be kept until more comes.
        decoder.forget_delivered();
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.put_decoder(decoder, self.now.instant);
        }
        next
    }

    fn on_events(&mut self, conn: ConnId, decoder: &mut Decoder, bytes: &mut &mut [u8]) -> Next {
        loop {
            // The decoder gives what it returns the lifetime of the bytes, so it gets them for good.
            match decoder.next(bytes) {
                Ok(None) => return Next::Stop,
                Ok(Some(event)) => {
                    if self.on_event(conn, event) == Next::Stop {
                        return Next::Stop;
                    }
                    if !self.is_websocket(conn) {
                        // What is left belongs to the next phase: it may hold the peer's Close.
                        return Next::Go;
                    }
                }
                Err(fault) => {
                    self.on_websocket_fault(conn, &fault);
                    *bytes = &mut [];
                    return Next::Stop;
                }
            }
            if self.is_blocked(conn) {
                return Next::Stop;
            }
        }
    }

    fn is_websocket(&self, conn: ConnId) -> bool {
        self.connections.get(conn).is_some_and(|connection| matches!(connection.phase, Phase::WebSocket(_)))
    }

    fn on_event(&mut self, conn: ConnId, event: Event<'_>) -> Next {
        let Some(connection) = self.connections.get_mut(conn) else { return Next::Stop };
        let Phase::WebSocket(ws) = &mut connection.phase else { return Next::Go };
        if matches!(event, Event::Text(_) | Event::Binary(_)) {
            ws.message_since = None;
        }
        match (event, ws.endpoint) {
            (Event::Ping(payload), _) => {
                self.write(conn, |out| websocket::encode_pong(out, payload, None));
            }
            (Event::Pong(_), _) => {}
            (Event::Close { code, .. }, endpoint) => self.on_close_frame(conn, code, endpoint),
            (Event::Text(text), Endpoint::Echo) => {
                self.metrics.counters.echoes += 1;
                self.write(conn, |out| websocket::encode_text(out, text, None));
            }
            (Event::Binary(bytes), Endpoint::Echo) => {
                self.metrics.counters.echoes += 1;
                self.write(conn, |out| websocket::encode_binary(out, bytes, None));
            }
            (Event::Text(text), Endpoint::Stream(session)) => self.on_text(session, text),
            (Event::Binary(bytes), Endpoint::Stream(session)) => self.on_chunk(session, bytes),
        }
        Next::Go
    }

    /// The peer closes: the close goes back, the stream ends without it.
    fn on_close_frame(&mut self, conn: ConnId, code: Option<u16>, endpoint: Endpoint) {
        self.write(conn, |out| websocket::encode_close(out, code, "", None));
        let since = self.now.instant;
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.phase = Phase::Closing(Closing { since, decoder: None, lingers: false });
        }
        if let Endpoint::Stream(session) = endpoint {
            self.on_detached(session, Reason::HungUp);
        }
    }

    /// What waits to be written has met the limit of all connections together: those for whom most waits go.
    pub(super) fn shed_outgoing(&mut self) {
        while self.budgets.outgoing > self.config.outgoing_bytes_total_max {
            let held = |(id, connection): (ConnId, &Connection)| (connection.charged.1, id);
            let Some((bytes, conn)) = self.connections.iter().map(held).max() else { return };
            log::warn!(
                "connection {conn} closed with {bytes} bytes unread: all together met outgoing_bytes_total_max"
            );
            self.close(conn, Reason::SlowConsumer);
        }
    }

    /// A frame breaks the protocol, or there is no room for it. A stream still gets what it is owed.
    pub(super) fn on_websocket_fault(&mut self, conn: ConnId, fault: &Fault) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Phase::WebSocket(ws) = &mut connection.phase else { return };
        ws.deaf = true;
        // Half a message is of no use any more, and its room belongs to the others.
        ws.decoder = Decoder::new(Role::Server, 0);
        match ws.endpoint {
            Endpoint::Stream(session) => self.fail_session(session, fault.clone()),
            Endpoint::Echo => self.begin_closing(conn, Some(fault)),
        }
        self.charge(conn);
    }

    /// Tells a WebSocket that never became a stream why, and closes it.
    pub(super) fn fail_websocket(&mut self, conn: ConnId, fault: &Fault, request_id: &str) {
        self.metrics.counters.refusals[fault.reason as usize] += 1;
        let mut error = ErrorMessage::new(fault, request_id, true);
        if fault.reason.retryable() {
            error.retry_after_ms = Some(self.config.retry_after.as_millis() as u64);
        }
        self.send(conn, &ServerMessage::Error(Box::new(error)));
        self.begin_closing(conn, Some(fault));
    }

    /// Sends a Close frame and waits for the peer's.
    pub(super) fn begin_closing(&mut self, conn: ConnId, fault: Option<&Fault>) {
        let code = fault.map_or(Reason::Finished, |fault| fault.reason).close_code();
        let text = fault.map_or("", |fault| fault.message.as_str());
        self.write(conn, |out| websocket::encode_close(out, code, text, None));
        let since = self.now.instant;
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let deaf = matches!(&connection.phase, Phase::WebSocket(ws) if ws.deaf);
        let decoder = connection.take_decoder().filter(|_| !deaf && !connection.half_closed);
        connection.phase = Phase::Closing(Closing { since, decoder, lingers: false });
        // They may end in the middle of a frame, which the decoder must see to find the peer's Close behind it.
        let mut parked = std::mem::take(&mut connection.parked);
        connection.blocked = false;
        self.on_frames_while_closing(conn, &mut parked);
        self.charge(conn);
        self.set_readable(conn, true);
    }

    /// After our Close only the peer's matters.
    fn on_frames_while_closing(&mut self, conn: ConnId, bytes: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Phase::Closing(closing) = &mut connection.phase else { return };
        let Some(decoder) = &mut closing.decoder else { return };
        let mut bytes = bytes;
        let closed = loop {
            match decoder.next(&mut bytes) {
                Ok(None) => break false,
                Ok(Some(Event::Close { .. })) | Err(_) => break true,
                Ok(Some(_)) => {}
            }
        };
        if closed {
            closing.decoder = None;
        }
    }

    /// Sends a message to a connection in the WebSocket phase.
    pub(super) fn send(&mut self, conn: ConnId, message: &ServerMessage) {
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        message.encode(&mut text);
        // The encoder writes JSON, which is UTF-8.
        if let Ok(json) = std::str::from_utf8(&text) {
            self.write(conn, |out| websocket::encode_text(out, json, None));
        }
        self.scratch = text;
    }

    /// Sends a ping to see whether the peer is there.
    pub(super) fn ping(&mut self, conn: ConnId) {
        let now = self.now.instant;
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Phase::WebSocket(ws) = &mut connection.phase else { return };
        ws.ping_sent = Some(now);
        self.write(conn, |out| websocket::encode_ping(out, b"suzu", None));
    }

    /// Whether results for this connection have room: if not, its stream makes no new run.
    pub(super) fn has_room(&self, connection: &Connection) -> bool {
        connection.outgoing().len() < self.config.outgoing_bytes_max / 2
    }
}
