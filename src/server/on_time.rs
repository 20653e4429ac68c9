//! What happens because time passed: timers of streams, deadlines of connections, and the shutdown.

use crate::id::{ConnId, SessionId};
use crate::reason::{Fault, Reason};
use crate::server::connection::{Due, Endpoint, Phase};
use crate::server::session::Stage;
use crate::server::upload::Source;
use crate::server::{Drain, Output, Server};
use crate::time::Instant;
use crate::wire::message::{Reconnect, ServerMessage};
use std::time::Duration;

/// How long the last goodbyes may take after the drain's deadline.
const FAREWELL: Duration = Duration::from_millis(500);

impl Server {
    /// Streams whose timer is due: a flush, or a report of how the audio stands.
    pub(super) fn on_session_timers(&mut self) {
        let now = self.now.instant;
        while let Some(&(due, id)) = self.timers.first() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            let Some(session) = self.sessions.get_mut(id) else { continue };
            session.timer = None;
            session.flush |= session.flush_due().is_some_and(|due| due <= now);
            if session.acked != session.buffer.ledger() && session.ack_due <= now {
                self.tell_audio_added(id);
            }
            self.advance(id);
        }
    }

    /// Looks at every deadline of connections and streams.
    pub(super) fn sweep(&mut self) {
        for conn in self.connections.keys() {
            self.check_connection(conn);
        }
        for session in self.sessions.keys() {
            self.check_session(session);
        }
        self.sweep_sequences();
    }

    fn check_connection(&mut self, conn: ConnId) {
        let now = self.now.instant;
        if self.has_lost_credentials(conn) {
            return;
        }
        let Some(connection) = self.connections.get(conn) else { return };
        // Connections that came in the same instant do not all ping in the same instant.
        let stagger = self.config.ping_interval / 4 * (conn.slot % 16) / 16;
        match connection.check_deadlines(now, &self.config, stagger) {
            Due::Nothing => {}
            Due::Ping => self.ping(conn),
            Due::Drop(reason) => self.close(conn, reason),
            Due::GiveUp(reason) => self.give_up(conn, reason),
        }
    }

    fn give_up(&mut self, conn: ConnId, reason: Reason) {
        let Some(connection) = self.connections.get(conn) else { return };
        match &connection.phase {
            Phase::Http(_) => self.on_request_late(conn),
            Phase::WebSocket(ws) => {
                let message = match reason {
                    Reason::PongTimeout => "a ping was not answered in time",
                    _ => "a message did not arrive whole in time",
                };
                let fault = Fault::new(reason, message);
                match ws.endpoint {
                    Endpoint::Stream(session) => self.fail_session(session, fault),
                    Endpoint::Echo => self.begin_closing(conn, Some(&fault)),
                }
            }
            Phase::Upload(_) => {
                self.fail_upload(conn, Fault::new(reason, "the body did not begin in time"));
                self.close_if_done(conn);
            }
            Phase::Closing(_) => self.close(conn, reason),
        }
    }

    fn check_session(&mut self, id: SessionId) {
        let now = self.now.instant;
        let Some(session) = self.sessions.get(id) else { return };
        if session.stage != Stage::Open {
            return;
        }
        let config = &self.config;
        let blocked = session.blocked_since.map(|since| now - since);
        let fault = if blocked.is_some_and(|blocked| blocked >= config.blocked_max) {
            let message = "the stream's buffer was full for too long; send at the pace of the credit";
            Fault::new(Reason::BlockedTooLong, message)
        } else if blocked.is_none() && now >= session.last_heard + config.audio_idle_timeout {
            let message = "no audio came for too long; send KeepAlive while there is none";
            Fault::new(Reason::IdleTimeout, message)
        } else if let Some(fault) = self.lost_credentials(&session.principal) {
            fault
        } else if now >= session.began + config.session_duration_max {
            Fault::new(Reason::SessionExpired, "the stream has reached its greatest length; open another")
        } else {
            return;
        };
        self.fail_session(id, fault);
    }

    /// Begins to shut down.
    pub(super) fn on_drain(&mut self) {
        if self.drain.is_some() {
            return;
        }
        let deadline = self.now.instant + self.config.drain_timeout;
        self.drain = Some(Drain { deadline, forced: false, told: false });
        self.hurry_webhooks(deadline);
        log::info!("draining: {} connections, {} streams", self.connections.len(), self.sessions.len());
        let reconnect = Reconnect {
            after_ms: self.config.retry_after.as_millis() as u64,
            within_ms: self.config.drain_timeout.as_millis() as u64,
            reason: Reason::Draining.code().into(),
            resume_token: None,
        };
        let reconnect = ServerMessage::Reconnect(Box::new(reconnect));
        for session in self.sessions.keys() {
            self.tell(session, &reconnect);
            self.finish(session, Some(draining()));
        }
        for conn in self.connections.keys() {
            self.dismiss(conn);
        }
        self.sweep_due.get_or_insert(self.now.instant);
    }

    /// Ends what a connection does besides streams: an idle one at once, a request after its answer.
    fn dismiss(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get(conn) else { return };
        let idle = connection.parked.is_empty() && connection.outgoing().is_empty();
        match &connection.phase {
            Phase::Http(http) if http.body.is_none() && http.waiting.is_none() && idle => {
                self.close(conn, Reason::Draining)
            }
            Phase::WebSocket(ws) if ws.endpoint == Endpoint::Echo => {
                self.begin_closing(conn, Some(&draining()))
            }
            Phase::Upload(upload) if matches!(upload.source, Source::Opening(_)) => {
                self.fail_upload(conn, draining());
            }
            _ => {}
        }
    }

    /// The drain's deadline has passed: first what waits is given up and goodbye said, then the sockets close.
    pub(super) fn check_drain(&mut self) {
        let now = self.now.instant;
        let Some(drain) = self.drain.as_mut().filter(|drain| drain.deadline <= now && !drain.told) else {
            return;
        };
        drain.deadline = now + FAREWELL;
        if std::mem::replace(&mut drain.forced, true) {
            for conn in self.connections.keys() {
                self.close(conn, Reason::Draining);
            }
            return;
        }
        while let Some(overdue) = self.batcher.pop_any() {
            self.give_up_batch(overdue, Reason::Draining);
        }
        for session in self.sessions.keys() {
            self.end(session, draining());
        }
        self.give_up_calls();
        self.close_webhooks();
    }

    /// Tells the driver, once, that nothing is left to wait for.
    pub(super) fn poll_drained(&mut self) -> Option<Output> {
        let idle = self.is_idle();
        let drain = self.drain.as_mut().filter(|drain| idle && !drain.told)?;
        drain.told = true;
        Some(Output::Drained)
    }

    /// The earliest of what this file waits for.
    pub(super) fn drain_due(&self) -> Option<Instant> {
        self.drain.as_ref().filter(|drain| !drain.told).map(|drain| drain.deadline)
    }
}

fn draining() -> Fault {
    Fault::new(Reason::Draining, "the server is shutting down; connect to another")
}
