//! A stream from its beginning to its Termination: messages, audio, the credit and the ledger.
//!
//! Here a chunk becomes samples in the stream's buffer, and here a stream ends. Inference is `on_batch.rs`.

use crate::auth::Principal;
use crate::id::{ConnId, SessionId};
use crate::model::{Model, StreamState, unit};
use crate::reason::{Fault, Reason};
use crate::server::Server;
use crate::server::batcher::{Member, Queue};
use crate::server::buffer::{Ledger, StreamBuffer, Stretch, stale_before};
use crate::server::catalog::Entry;
use crate::server::connection::{Connection, Endpoint, Phase};
use crate::server::limits::samples_in;
use crate::server::routes::Route;
use crate::server::session::{FAULTS_MAX, FINALIZES_MAX, Finalize, Session, Stage, samples_to_ms};
use crate::wire::message::{
    AudioAdded, Begin, ClientMessage, Configuration, DiscardReason, Discarded, ErrorMessage, Framing,
    Keepalive, Limits, Overflow, Pong, ServerMessage, StreamParams, Termination, Warning,
};
use crate::wire::wav::{Decoder, Layout};
use crate::wire::{message, pcm};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

impl Server {
    /// Whether a stream with these parameters could begin now.
    pub(super) fn check_stream(&self, params: &StreamParams) -> Result<(), Fault> {
        let id = self.catalog.find_audio(&params.model)?;
        let entry = self.catalog.get(id);
        unit(audio_model(entry).spec(), params.sample_rate_hz)?;
        if self.sessions.len() >= self.config.sessions_max {
            let message = format!("all {} streams are taken; try again later", self.config.sessions_max);
            return Err(Fault::new(Reason::TooManySessions, message));
        }
        if self.batcher.is_stuck() {
            return Err(Fault::new(Reason::Overloaded, "every worker hangs; try again later"));
        }
        self.check_pressure()?;
        self.check_capacity(id)
    }

    /// The largest message that a stream may send: as much audio as the server holds, within `message_bytes_max`.
    pub(super) fn stream_message_max(&self, params: &StreamParams) -> usize {
        let held = samples_in(self.config.audio_held_max, params.sample_rate_hz as usize);
        let audio =
            held * params.encoding.sample_bytes() * usize::from(params.channels) + pcm::AUDIO_HEADER_BYTES;
        audio.min(self.config.message_bytes_max)
    }

    /// The WebSocket is open: begins the stream. Everything that could refuse it has been asked already.
    pub(super) fn begin_session(
        &mut self,
        conn: ConnId,
        route: Route,
        params: StreamParams,
        request_id: String,
        principal: Arc<Principal>,
    ) {
        let decoder = Decoder::new(Layout::Native(params.encoding), params.channels, None);
        match self.make_session(conn, route, params, decoder, request_id.clone(), principal) {
            Ok(session) => self.introduce(conn, session),
            Err(fault) => self.fail_websocket(conn, &fault, &request_id),
        }
    }

    /// A stream that has heard nothing. Places are not counted here.
    ///
    /// # Errors
    /// The model has gone or keeps failing, or the rate is not served.
    pub(super) fn make_session(
        &mut self,
        conn: ConnId,
        route: Route,
        params: StreamParams,
        decoder: Decoder,
        request_id: String,
        principal: Arc<Principal>,
    ) -> Result<Session, Fault> {
        let now = self.now.instant;
        let model_id = self.catalog.find_audio(&params.model)?;
        self.admit_to(model_id)?;
        let model = Arc::clone(audio_model(self.catalog.get(model_id)));
        let unit = unit(model.spec(), params.sample_rate_hz)?;
        let state = StreamState::new(&*model, params.sample_rate_hz)?;
        let (chunks_per_run, flush_timeout) = match route {
            Route::Audio => (self.config.batch_size, self.config.flush_timeout),
            _ => (self.config.stream_batch_size, self.config.stream_flush_timeout),
        };
        Ok(Session {
            name: self.random.uuid(self.now.unix_ms),
            request_id,
            principal,
            conn: Some(conn),
            model_id,
            model,
            chunks_per_run,
            flush_timeout,
            stage: Stage::Open,
            buffer: StreamBuffer::new(unit, now),
            decoder,
            state: Some(Box::new(state)),
            run: None,
            queued: false,
            flush: false,
            finalizes: VecDeque::new(),
            message_seq: 0,
            audio_seq: 0,
            results: 0,
            failures: 0,
            faults: 0,
            began: now,
            last_heard: now,
            ack_due: now + Duration::from_millis(params.ack_interval_ms),
            acked: Ledger::default(),
            credit_low: false,
            blocked_since: None,
            timer: None,
            charged: 0,
            measured: 0,
            credit_max: None,
            warned_final_only: false,
            warned_not_finite: false,
            whole_audio: false,
            params,
        })
    }

    /// The stream takes its place.
    pub(super) fn enter(&mut self, session: Session) -> SessionId {
        let (name, model, user) =
            (session.name.as_str(), session.params.model.as_str(), &*session.principal.user);
        log::info!(session = name, request = session.request_id.as_str(), model = model, user = user; "stream begins");
        self.access.hold(&session.principal, 0, 1);
        self.catalog.acquire(session.model_id);
        let cost = self.catalog.get(session.model_id).cost.cost();
        self.capacity.admit(cost, self.now.instant - self.process_at);
        self.metrics.counters.sessions_began += 1;
        self.sessions.insert(session)
    }

    fn introduce(&mut self, conn: ConnId, session: Session) {
        let begin = self.begin_message(&session);
        let wants_resume = session.params.resume.is_some();
        let id = self.enter(session);
        if let Some(connection) = self.connections.get_mut(conn)
            && let Phase::WebSocket(ws) = &mut connection.phase
        {
            ws.endpoint = Endpoint::Stream(id);
        }
        self.send(conn, &ServerMessage::Begin(Box::new(begin)));
        if wants_resume {
            let message = "this server keeps no sessions; a new stream begins".to_owned();
            self.send(conn, &ServerMessage::Warning(Warning { code: "resume_failed".into(), message }));
        }
        self.warn_final_only(id);
    }

    fn begin_message(&self, session: &Session) -> Begin {
        Begin {
            session_id: session.name.clone(),
            request_id: session.request_id.clone(),
            resumed: false,
            resume_token: None,
            resume_ttl_s: 0.0,
            audio_seq: 0,
            audio_ms: 0.0,
            message_seq: 0,
            credit_ms: self.credit_ms(session),
            keepalive: Keepalive {
                ping_s: self.config.ping_interval.as_secs_f64(),
                audio_idle_s: self.config.audio_idle_timeout.as_secs_f64(),
            },
            limits: Limits {
                max_frame_bytes: self.stream_message_max(&session.params) as u64,
                max_session_s: self.config.session_duration_max.as_secs_f64(),
            },
            configuration: Configuration::from(&session.params),
        }
    }

    /// A text message of a stream.
    pub(super) fn on_text(&mut self, id: SessionId, text: &str) {
        match ClientMessage::parse(text) {
            Ok(message) => self.on_message(id, message),
            Err(fault) => self.on_message_fault(id, fault),
        }
    }

    /// A message at fault is answered and the stream goes on, up to a limit.
    fn on_message_fault(&mut self, id: SessionId, fault: Fault) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.faults += 1;
        if session.faults >= FAULTS_MAX {
            return self.fail_session(id, fault);
        }
        let error = ErrorMessage::new(&fault, &session.request_id, false);
        self.tell(id, &ServerMessage::Error(Box::new(error)));
    }

    fn on_message(&mut self, id: SessionId, message: ClientMessage) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return };
        match message {
            ClientMessage::Ping { t } => {
                self.tell(id, &ServerMessage::Pong(Pong { t, server_ms: now.unix_ms }));
            }
            ClientMessage::Ack { .. } => {}
            ClientMessage::KeepAlive => session.last_heard = now.instant,
            _ if session.stage != Stage::Open => {
                let fault =
                    Fault::new(Reason::InvalidState, "the stream is ending; nothing more can be asked of it");
                self.on_message_fault(id, fault);
            }
            ClientMessage::Configure { interim_results, deadline_ms } => {
                session.params.interim_results = interim_results.unwrap_or(session.params.interim_results);
                session.params.deadline_ms = deadline_ms.or(session.params.deadline_ms);
                let configuration = Box::new(Configuration::from(&session.params));
                self.tell(id, &ServerMessage::Configured { configuration });
                self.warn_final_only(id);
            }
            ClientMessage::Finalize { id: name } => self.on_finalize(id, name),
            ClientMessage::CloseStream => self.finish(id, None),
            ClientMessage::Discarded { duration_ms, .. } => {
                session.last_heard = now.instant;
                let skipped =
                    session.samples(duration_ms.min(self.config.session_duration_max.as_millis() as f64));
                session.buffer.skip(skipped);
            }
        }
    }

    /// Everything so far is to be inferred, and the last of it marked.
    fn on_finalize(&mut self, id: SessionId, name: Option<String>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.finalizes.len() >= FINALIZES_MAX {
            let message = format!("{FINALIZES_MAX} Finalize messages wait already; wait for their results");
            return self.on_message_fault(id, Fault::new(Reason::InvalidState, message));
        }
        let position = session.buffer.ledger().received;
        session.finalizes.push_back(Finalize { id: name, position });
        session.flush = session.buffer.has_unit();
        self.advance(id);
    }

    /// A chunk of audio.
    pub(super) fn on_chunk(&mut self, id: SessionId, bytes: &[u8]) {
        let now = self.now.instant;
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.stage != Stage::Open {
            return;
        }
        session.last_heard = now;
        let payload = match payload(session, bytes) {
            Ok(Some(payload)) => payload,
            Ok(None) => return,
            Err(fault) => return self.fail_session(id, fault),
        };
        if session.acked == session.buffer.ledger() {
            session.ack_due = now + Duration::from_millis(session.params.ack_interval_ms);
        }
        let decoder = &mut session.decoder;
        let mut not_finite = 0;
        let count = session.buffer.push(now, |out| not_finite = decoder.decode(payload, out));
        session.audio_seq += 1;
        let rate = session.params.sample_rate_hz;
        self.metrics.counters.chunks += 1;
        self.metrics.counters.samples_received += count as u64;
        self.metrics.counters.audio_received += Duration::from_secs_f64(count as f64 / f64::from(rate));
        self.charge_audio(id);
        if let Err(fault) = self.take_audio(id, count) {
            return self.fail_session(id, fault);
        }
        if not_finite > 0 {
            self.warn_not_finite(id);
        }
        self.flush_if_crowded(id);
        self.limit_audio(id);
        self.tell_low_credit(id);
        self.advance(id);
    }

    /// A buffer that is half full waits for no more chunks: they might not fit, and a batch would never be whole.
    fn flush_if_crowded(&mut self, id: SessionId) {
        let held_max = self.config.audio_held_max;
        let crowded = self.budgets.audio >= self.config.audio_bytes_total_max;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let half_full = session.buffer.held() >= session.held_max(held_max) / 2;
        session.flush |= (half_full || crowded) && session.buffer.has_unit();
    }

    fn warn_not_finite(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if !std::mem::replace(&mut session.warned_not_finite, true) {
            let message = "some samples are not numbers; they are taken as silence".to_owned();
            self.tell(id, &ServerMessage::Warning(Warning { code: "invalid_audio".into(), message }));
        }
    }

    /// Applies the stream's own choice to audio that is too much or too old.
    fn limit_audio(&mut self, id: SessionId) {
        self.discard_stale(id);
        let crowded = self.budgets.audio > self.config.audio_bytes_total_max;
        let held_max = self.config.audio_held_max;
        let Some(session) = self.sessions.get_mut(id) else { return };
        // Who asked to be closed is not closed for credit that it has not been told yet.
        let held_max = match session.params.overflow {
            _ if crowded => 0,
            Overflow::Close => session.samples_in(held_max),
            Overflow::Block | Overflow::DiscardOldest => session.held_max(held_max),
        };
        if session.buffer.held() <= held_max {
            return;
        }
        match session.params.overflow {
            Overflow::Block => {}
            Overflow::DiscardOldest => {
                if let Some(stretch) = session.buffer.discard_oldest(held_max) {
                    self.report_discarded(id, stretch, Reason::BufferOverflow);
                }
            }
            Overflow::Close => {
                let message =
                    "audio came faster than it is processed, and the stream asked to be closed then";
                self.fail_session(id, Fault::new(Reason::BufferOverflow, message));
            }
        }
        self.charge_audio(id);
    }

    /// Discards audio past the stream's deadline.
    pub(super) fn discard_stale(&mut self, id: SessionId) {
        let now = self.now.instant;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(deadline_ms) = session.params.deadline_ms else { return };
        let Some(limit) = stale_before(now, Duration::from_millis(deadline_ms)) else { return };
        if let Some(stretch) = session.buffer.discard_before(limit) {
            self.report_discarded(id, stretch, Reason::DeadlineExceeded);
            self.charge_audio(id);
        }
    }

    /// Whether a stream's socket should be left alone until there is room.
    pub(super) fn is_full(&self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        if session.stage != Stage::Open || session.params.overflow != Overflow::Block {
            return false;
        }
        let held = session.buffer.held();
        let full = held >= session.samples_in(self.config.audio_held_max);
        // A stream with less than a unit could not go on by itself.
        let goes_on = session.run.is_some() || session.buffer.has_unit();
        let cut = goes_on && session.credit_max.is_some_and(|max| held >= max);
        full || cut || (self.budgets.audio >= self.config.audio_bytes_total_max && session.buffer.held() > 0)
    }

    /// Remembers since when a stream's socket has not been read.
    pub(super) fn note_blocked(&mut self, conn: ConnId, blocked: bool) {
        let now = self.now.instant;
        let Some(session) = self.connections.get(conn).and_then(|connection| connection.session()) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(session) else { return };
        if !blocked {
            if session.blocked_since.take().is_some() {
                // Its silence so far was our doing.
                session.last_heard = now;
            }
        } else if session.blocked_since.is_none() {
            session.blocked_since = Some(now);
        }
    }

    /// Does what has become possible: a run, an answer to a Finalize, the end.
    pub(super) fn advance(&mut self, id: SessionId) {
        self.answer_finalizes(id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let heard = session.buffer.ledger().received > 0;
        match &session.stage {
            Stage::Finishing(_) if !heard => return self.terminate(id),
            Stage::Ending(_) if session.run.is_none() => return self.terminate(id),
            _ => {}
        }
        self.admit_if_ready(id);
        self.arm(id);
    }

    /// Queues the stream for a batch if it has a run to make and room for its results.
    pub(super) fn admit_if_ready(&mut self, id: SessionId) {
        let now = self.now.instant;
        let Some(session) = self.sessions.get(id) else { return };
        let room =
            session.conn.and_then(|conn| self.connections.get(conn)).is_some_and(|conn| self.has_room(conn));
        if session.queued || !session.wants_run() || !room {
            return;
        }
        let queue = Queue::Streams(session.model_id);
        self.batcher.admit(queue, &session.tenant(), Member::Session(id), now);
        if let Some(session) = self.sessions.get_mut(id) {
            session.queued = true;
        }
    }

    /// Sets the stream's timer to when it next has something to do.
    pub(super) fn arm(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let moved = session.acked != session.buffer.ledger() && session.stage == Stage::Open;
        let ack = moved.then_some(session.ack_due);
        let due = [session.flush_due(), ack].into_iter().flatten().min();
        let before = std::mem::replace(&mut session.timer, due);
        if before != due {
            if let Some(before) = before {
                self.timers.remove(&(before, id));
            }
            if let Some(due) = due {
                self.timers.insert((due, id));
            }
        }
    }

    /// The input is over without a CloseStream: finishes as if there had been one.
    pub(super) fn on_end_of_input(&mut self, id: SessionId) {
        self.finish(id, None);
    }

    /// No more audio: infers what is there, then terminates.
    pub(super) fn finish(&mut self, id: SessionId, fault: Option<Fault>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.stage != Stage::Open {
            return;
        }
        session.stage = Stage::Finishing(fault);
        self.wake(id);
        self.advance(id);
    }

    /// Ends a stream by a fault: the client is told at once, and gets what it is owed.
    pub(super) fn fail_session(&mut self, id: SessionId, fault: Fault) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.stage != Stage::Open {
            return;
        }
        let mut error = ErrorMessage::new(&fault, &session.request_id, true);
        if fault.reason.retryable() {
            error.retry_after_ms = Some(self.config.retry_after.as_millis() as u64);
        }
        self.tell(id, &ServerMessage::Error(Box::new(error)));
        match fault.reason {
            Reason::BufferOverflow | Reason::BlockedTooLong | Reason::InferenceFailed => self.end(id, fault),
            _ => self.finish(id, Some(fault)),
        }
    }

    /// Ends a stream without inferring what waits: that is discarded, and the client told.
    pub(super) fn end(&mut self, id: SessionId, fault: Fault) {
        self.discard_waiting(id, fault.reason);
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.stage = Stage::Ending(fault);
        self.wake(id);
        self.advance(id);
    }

    fn discard_waiting(&mut self, id: SessionId, reason: Reason) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if let Some(stretch) = session.buffer.discard_all() {
            self.report_discarded(id, stretch, reason);
        }
        self.charge_audio(id);
    }

    /// The connection is gone. The stream goes on only until its run is home.
    pub(super) fn on_detached(&mut self, id: SessionId, reason: Reason) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.conn = None;
        self.end(id, Fault::new(reason, "the connection is gone"));
    }

    /// Everything is said: the balance, the close, and the stream is gone.
    fn terminate(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        assert!(session.run.is_none(), "a stream outlives its run");
        let fault = match &session.stage {
            Stage::Open | Stage::Finishing(None) => None,
            Stage::Finishing(Some(fault)) | Stage::Ending(fault) => Some(fault.clone()),
        };
        let reason = fault.as_ref().map_or(Reason::Finished, |fault| fault.reason);
        self.discard_waiting(id, reason);
        self.tell_half_sample(id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let termination = termination(session, reason);
        self.tell_all(id, &ServerMessage::Termination(Box::new(termination)));
        let Some(session) = self.remove_session(id) else { return };
        self.metrics.counters.sessions_ended[reason as usize] += 1;
        let ledger = session.buffer.ledger();
        log::info!(
            session = session.name.as_str(), request = session.request_id.as_str(), reason = reason.label(),
            received = ledger.received, processed = ledger.processed, discarded = ledger.discarded;
            "stream ends"
        );
        let Some(conn) = session.conn else { return };
        match self.is_upload(conn) {
            true => self.finish_upload(conn, fault.as_ref()),
            false => self.begin_closing(conn, fault.as_ref()),
        }
    }

    fn tell_half_sample(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let partial = session.decoder.partial_bytes();
        if partial > 0 {
            let message =
                format!("the audio ends with {partial} bytes that are not a whole sample; they are left out");
            let fault = Fault::new(Reason::InvalidAudio, message);
            let error = ErrorMessage::new(&fault, &session.request_id, false);
            self.tell(id, &ServerMessage::Error(Box::new(error)));
        }
    }

    fn remove_session(&mut self, id: SessionId) -> Option<Session> {
        let session = self.sessions.remove(id)?;
        self.access.release(&session.principal, 0, 1);
        self.charge_budget(session.charged, 0);
        if session.queued {
            self.batcher.forget(Queue::Streams(session.model_id), &session.tenant(), Member::Session(id));
        }
        let cost = self.catalog.get(session.model_id).cost.cost();
        self.capacity.leave(cost, self.now.instant - self.process_at);
        self.leave_model(session.model_id);
        if let Some(due) = session.timer {
            self.timers.remove(&(due, id));
        }
        Some(session)
    }

    /// Sends a message to a stream's client, if it is still there.
    pub(super) fn tell(&mut self, id: SessionId, message: &ServerMessage) {
        let Some(conn) = self.sessions.get(id).and_then(|session| session.conn) else { return };
        match self.is_upload(conn) {
            true => self.tell_upload(conn, id, message),
            false => self.send(conn, message),
        }
    }

    /// Whether a connection's stream is a request's body, and its results the answer.
    pub(super) fn is_upload(&self, conn: ConnId) -> bool {
        self.connections.get(conn).is_some_and(Connection::is_upload)
    }

    /// Counts a discarded stretch and tells the client.
    pub(super) fn report_discarded(&mut self, id: SessionId, stretch: Stretch, reason: Reason) {
        self.metrics.counters.samples_discarded[reason as usize] += stretch.len;
        self.wake(id);
        let Some(session) = self.sessions.get(id) else { return };
        let message = Discarded {
            start_ms: session.ms(stretch.start),
            duration_ms: session.ms(stretch.len),
            reason: match reason {
                Reason::DeadlineExceeded => DiscardReason::Deadline,
                Reason::Draining => DiscardReason::Drain,
                Reason::InferenceFailed => DiscardReason::InferenceFailed,
                _ => DiscardReason::Overflow,
            },
        };
        self.tell(id, &ServerMessage::Discarded(message));
    }

    /// Brings the audio budget up to date with what the stream holds.
    pub(super) fn charge_audio(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let held = session.buffer.bytes() + session.buffer.in_flight() as usize * size_of::<f32>();
        let before = std::mem::replace(&mut session.charged, held);
        self.charge_budget(before, held);
        if held < before {
            self.wake(id);
        }
    }

    /// A stream held `before` bytes of audio and holds `after`. Whoever waited for the room of all may have it now.
    fn charge_budget(&mut self, before: usize, after: usize) {
        let was_full = self.budgets.audio >= self.config.audio_bytes_total_max;
        self.budgets.charge_audio(before, after);
        if was_full && self.budgets.audio < self.config.audio_bytes_total_max {
            self.awake.extend(self.sessions.iter().filter_map(|(_, session)| session.conn));
        }
    }

    /// There may be room for what the stream's socket holds back, or no room needed any more.
    pub(super) fn wake(&mut self, id: SessionId) {
        self.awake.extend(self.sessions.get(id).and_then(|session| session.conn));
    }

    fn credit_ms(&self, session: &Session) -> f64 {
        let held_max = session.held_max(self.config.audio_held_max);
        session.ms(held_max.saturating_sub(session.buffer.held()))
    }

    fn tell_low_credit(&mut self, id: SessionId) {
        let half_ms = self.config.audio_held_max.as_secs_f64() * 500.0;
        let Some(session) = self.sessions.get(id) else { return };
        let low = self.credit_ms(session) < half_ms;
        let Some(session) = self.sessions.get_mut(id) else { return };
        if low && !std::mem::replace(&mut session.credit_low, low) {
            self.tell_audio_added(id);
        } else {
            session.credit_low = low;
        }
    }

    /// Tells the client how its audio stands.
    pub(super) fn tell_audio_added(&mut self, id: SessionId) {
        let now = self.now.instant;
        let Some(session) = self.sessions.get(id) else { return };
        let ledger = session.buffer.ledger();
        let message = AudioAdded {
            seq: session.audio_seq,
            audio_ms: session.ms(ledger.received),
            processed_ms: session.ms(ledger.processed),
            discarded_ms: session.ms(ledger.discarded),
            credit_ms: self.credit_ms(session),
            lag_ms: session.ms(ledger.pending()),
        };
        self.tell(id, &ServerMessage::AudioAdded(message));
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.acked = ledger;
        session.ack_due = now + Duration::from_millis(session.params.ack_interval_ms);
    }
}

/// The model of an entry that was found among those that hear streams.
fn audio_model(entry: &Entry) -> &Arc<dyn Model> {
    entry.served.audio().expect("it was looked for among those that hear streams")
}

/// The audio in a binary message; None if it has been received before.
fn payload<'a>(session: &Session, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Fault> {
    if session.params.framing == Framing::Raw {
        return Ok(Some(bytes));
    }
    let (header, payload) = pcm::AudioHeader::parse(bytes)?;
    if header.kind != pcm::AudioKind::Input || header.channel != 0 {
        let message =
            format!("a chunk has type 1 and channel 0, not {:?} and {}", header.kind, header.channel);
        return Err(Fault::new(Reason::InvalidPayload, message));
    }
    let expected = session.audio_seq as u32 + 1;
    match header.seq {
        seq if seq == expected => Ok(Some(payload)),
        seq if seq < expected => Ok(None),
        seq => {
            let message = format!("chunk {expected} is missing: chunk {seq} came instead");
            Err(Fault::new(Reason::InvalidState, message).at("seq"))
        }
    }
}

fn termination(session: &Session, reason: Reason) -> Termination {
    let ledger = session.buffer.ledger();
    let rate = session.params.sample_rate_hz;
    let received_ms = samples_to_ms(ledger.received, rate);
    let processed_ms = samples_to_ms(ledger.processed, rate);
    Termination {
        audio_received_ms: received_ms,
        processed_ms,
        // The difference, not a rounding of its own: what is written must balance to the last digit.
        discarded_ms: crate::server::session::round_ms(received_ms - processed_ms),
        results: session.results,
        reason: reason.label().into(),
        ledger: message::Ledger {
            received: ledger.received,
            processed: ledger.processed,
            discarded: ledger.discarded,
            pending: ledger.pending(),
        },
    }
}
