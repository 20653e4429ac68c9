//! A recording by HTTP: `POST /v1/models/{model}`. The conversation is a request and its answer; the stream is one as any
//! other, so what comes goes into its buffer, and what its client is told goes into the answer.
//!
//! When the buffer is full the socket is not read. The answer begins with the first result; a fault before that has a
//! status of its own.

use crate::auth::Principal;
use crate::id::{ConnId, SessionId};
use crate::reason::{Fault, Reason};
use crate::server::Server;
use crate::server::connection::{Connection, Http, Manners, Phase};
use crate::server::limits::PACKERS_MAX;
use crate::server::on_http::manners;
use crate::server::routes::Route;
use crate::server::session::Stage;
use crate::server::upload::{Answer, Body, Opened, Opening, Source, Upload, Wish};
use crate::wire::compress::{Coding, Packer};
use crate::wire::http::{self, BodyDecoder, BodyFraming, RequestHead, Response};
use crate::wire::message::{ErrorMessage, ServerMessage, StreamParams, Warning};
use std::sync::Arc;

/// Bytes of a body looked at between two looks at the stream's buffer: a quarter of a second of the fastest audio that
/// is common, so that a buffer is never much fuller than full.
const PIECE_BYTES: usize = 8 * 1024;

impl Server {
    /// The head of a request whose body is a recording: refuses it, or waits for the body.
    pub(super) fn on_upload_head(
        &mut self,
        conn: ConnId,
        head: &RequestHead,
        request_id: String,
        principal: Arc<Principal>,
    ) {
        let held = self.access.check_holdings(&self.config, &principal, true);
        let decoder = held.and_then(|()| self.check_upload(head)).and_then(|wish| {
            let decoder = BodyDecoder::new(&head.body, usize::MAX)?;
            Ok((Opening::new(wish, &head.body), decoder))
        });
        let (opening, decoder) = match decoder {
            Ok(ready) => ready,
            Err(fault) => {
                let bodiless = matches!(head.body, BodyFraming::None | BodyFraming::Length(0));
                self.refuse(conn, &fault, &request_id, bodiless.then(|| manners(head)));
                if !bodiless {
                    self.linger(conn);
                }
                return;
            }
        };
        if head.expect_continue {
            self.write(conn, |out| out.extend_from_slice(http::CONTINUE));
        }
        let since = self.now.instant;
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.phase = Phase::Upload(Box::new(Upload {
            since,
            request_id,
            principal,
            // HTTP/1.0 has no chunks: there an answer may end with its connection only.
            manners: Manners { keep_alive: head.keep_alive && !head.http_1_0, ..manners(head) },
            http_1_0: head.http_1_0,
            decoder,
            body: Body::Coming,
            source: Source::Opening(Box::new(opening)),
        }));
        self.charge(conn);
    }

    /// Everything that can be refused before the body comes.
    fn check_upload(&self, head: &RequestHead) -> Result<Wish, Fault> {
        if self.drain.is_some() {
            return Err(Fault::new(Reason::Draining, "the server is shutting down; connect to another"));
        }
        let (_, captures) = Route::of_with_captures(&head.path);
        let model = captures.model.unwrap_or_default().to_owned();
        let wish = Wish::parse(head, StreamParams { model, ..StreamParams::default() })?;
        self.check_stream(&wish.params)?;
        if wish.audio {
            self.check_gives_audio(&wish.params.model)?;
        }
        if matches!(head.body, BodyFraming::None | BodyFraming::Length(0)) {
            let message = "the request has no body: send a WAV, or raw samples as application/octet-stream";
            return Err(Fault::new(Reason::InvalidAudio, message));
        }
        Ok(wish)
    }

    fn check_gives_audio(&self, name: &str) -> Result<(), Fault> {
        let gives = |id| self.catalog.get(id).served.audio().is_some_and(|model| model.spec().audio_out);
        if gives(self.catalog.find_audio(name)?) {
            return Ok(());
        }
        let names: Vec<_> = self
            .catalog
            .iter()
            .filter(|(id, _)| gives(*id))
            .map(|(_, entry)| &**entry.served.name())
            .collect();
        let message = format!("model `{name}` gives no audio back; models that do: {}", names.join(", "));
        Err(Fault::new(Reason::InvalidValue, message).at("output"))
    }

    /// Bytes of a body; returns how many were taken.
    pub(super) fn on_upload(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let Some(connection) = self.connections.get_mut(conn) else { return bytes.len() };
        let Phase::Upload(upload) = &mut connection.phase else { return 0 };
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        let mut rest = piece;
        let mut content = std::mem::take(&mut self.scratch);
        content.clear();
        let decoded = upload.decoder.decode(&mut rest, &mut content);
        if let Ok(true) = decoded {
            upload.body = Body::Whole;
        }
        self.on_content(conn, &content);
        self.scratch = content;
        match decoded {
            Ok(false) => {}
            Ok(true) => self.on_content_end(conn),
            Err(fault) => {
                self.fail_upload(conn, fault);
                return bytes.len();
            }
        }
        piece.len() - rest.len()
    }

    /// What a body holds, without its framing.
    fn on_content(&mut self, conn: ConnId, content: &[u8]) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Phase::Upload(upload) = &mut connection.phase else { return };
        let mut rest = content;
        match &mut upload.source {
            Source::Stream(session, _) => {
                let session = *session;
                self.on_chunk(session, content);
            }
            Source::Opening(opening) => match opening.read(&mut rest) {
                Ok(None) => self.charge(conn),
                Ok(Some(opened)) => {
                    if let Some(session) = self.open_upload(conn, opened) {
                        self.on_chunk(session, rest);
                    }
                }
                Err(fault) => self.fail_upload(conn, fault),
            },
        }
    }

    /// The body is whole: the stream ends with what is here.
    fn on_content_end(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Phase::Upload(upload) = &mut connection.phase else { return };
        let session = match &mut upload.source {
            Source::Stream(session, _) => Some(*session),
            Source::Opening(opening) => match opening.finish() {
                Ok(opened) => self.open_upload(conn, opened),
                Err(fault) => return self.fail_upload(conn, fault),
            },
        };
        let Some(session) = session else { return };
        self.warn_cut_off(session);
        self.finish(session, None);
    }

    /// It is known what the body is: its stream begins, unless it is refused after all.
    fn open_upload(&mut self, conn: ConnId, opened: Opened) -> Option<SessionId> {
        let Opened { params, decoder, audio, float, samples, first } = opened;
        let Phase::Upload(upload) = &self.connections.get(conn)?.phase else { return None };
        let (request_id, principal) = (upload.request_id.clone(), Arc::clone(&upload.principal));
        let made = self.check_stream(&params).and_then(|()| {
            self.access.check_holdings(&self.config, &principal, true)?;
            let session =
                self.make_session(conn, Route::Model, params, decoder, request_id.clone(), principal)?;
            Ok(self.enter(session))
        });
        let id = match made {
            Ok(id) => id,
            Err(fault) => {
                self.fail_upload(conn, fault);
                return None;
            }
        };
        let session = self.sessions.get_mut(id)?;
        session.whole_audio = audio;
        let answer = match audio {
            true => Answer::audio(float, session.params.sample_rate_hz, samples),
            false => Answer::json(&session.params.model, session.model.spec().version, &request_id),
        };
        if let Phase::Upload(upload) = &mut self.connections.get_mut(conn)?.phase {
            upload.source = Source::Stream(id, Box::new(answer));
        }
        self.charge(conn);
        if !first.is_empty() {
            self.on_chunk(id, &first);
        }
        Some(id)
    }

    fn warn_cut_off(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let missing = session.decoder.remaining().unwrap_or(0);
        if missing > 0 {
            let message =
                format!("the body ends {missing} bytes before the audio that the WAV's head promised");
            self.tell(id, &ServerMessage::Warning(Warning { code: "invalid_audio".into(), message }));
        }
    }

    /// The request itself is at fault, so nothing that follows on its connection can be trusted. A stream that has begun
    /// still infers what it got.
    pub(super) fn fail_upload(&mut self, conn: ConnId, fault: Fault) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Phase::Upload(upload) = &mut connection.phase else { return };
        match &upload.source {
            Source::Stream(session, _) => {
                let session = *session;
                upload.body = Body::Broken;
                self.fail_session(session, fault);
            }
            Source::Opening(_) => {
                let manners = (upload.body == Body::Whole).then_some(upload.manners);
                let request_id = upload.request_id.clone();
                self.refuse(conn, &fault, &request_id, manners);
                if manners.is_none() {
                    self.linger(conn);
                }
                self.awake.push_back(conn);
            }
        }
    }

    /// The peer sends nothing more, and the body is not whole.
    pub(super) fn on_upload_cut(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get(conn) else { return };
        let Phase::Upload(upload) = &connection.phase else { return };
        match (&upload.source, upload.body) {
            (_, Body::Whole | Body::Broken) => {}
            (Source::Opening(_), Body::Coming) => self.close(conn, Reason::HungUp),
            (Source::Stream(..), Body::Coming) => {
                self.fail_upload(conn, Fault::new(Reason::BadRequest, "the body ended before it was whole"));
            }
        }
    }

    /// What a stream's client is told: as much of it as belongs into the answer.
    pub(super) fn tell_upload(&mut self, conn: ConnId, id: SessionId, message: &ServerMessage) {
        if let ServerMessage::Termination(_) = message {
            return self.tell_upload_end(conn, id, message);
        }
        let fatal = matches!(message, ServerMessage::Error(error) if error.fatal);
        let result = matches!(
            message,
            ServerMessage::Results(_) | ServerMessage::SpeechStarted(_) | ServerMessage::SpeechEnded(_)
        );
        let told = matches!(
            message,
            ServerMessage::Discarded(_) | ServerMessage::Warning(_) | ServerMessage::Error(_)
        );
        let Some(answer) = self.upload_answer(conn) else { return };
        // A fault before the first result is told by the status alone, and nothing after it is.
        let silent = answer.told && !answer.has_begun();
        answer.told |= fatal;
        if silent || !(result || told) {
            return;
        }
        answer.push_message(message);
        let begins = result && !answer.is_audio();
        self.write_answer(conn, id, begins);
    }

    /// Processed audio goes into an answer that is audio.
    pub(super) fn tell_upload_audio(&mut self, conn: ConnId, id: SessionId, audio: &[f32]) {
        let Some(answer) = self.upload_answer(conn) else { return };
        if answer.is_audio() && (answer.has_begun() || !answer.told) {
            answer.push_audio(audio);
            self.write_answer(conn, id, true);
        }
    }

    fn tell_upload_end(&mut self, conn: ConnId, id: SessionId, termination: &ServerMessage) {
        let Some(session) = self.sessions.get(id) else { return };
        let fault = match &session.stage {
            Stage::Finishing(Some(fault)) | Stage::Ending(fault) if fault.reason != Reason::Finished => {
                Some(fault)
            }
            _ => None,
        };
        let error = fault.map(|fault| ErrorMessage::new(fault, &session.request_id, true));
        let Some(answer) = self.upload_answer(conn) else { return };
        if let Some(error) = error.filter(|_| !answer.told) {
            answer.push_message(&ServerMessage::Error(Box::new(error)));
        }
        answer.push_termination(termination);
        self.charge(conn);
    }

    fn upload_answer(&mut self, conn: ConnId) -> Option<&mut Answer> {
        match &mut self.connections.get_mut(conn)?.phase {
            Phase::Upload(upload) => match &mut upload.source {
                Source::Stream(_, answer) => Some(answer),
                Source::Opening(_) => None,
            },
            _ => None,
        }
    }

    /// Writes what waits if the answer has begun, or if it begins with that. What comes last of all may wait for the
    /// balance, which follows at once: a short answer is then written whole.
    fn write_answer(&mut self, conn: ConnId, id: SessionId, begins: bool) {
        let Some(session) = self.sessions.get(id) else { return };
        let last = session.stage != Stage::Open && session.run.is_none() && session.buffer.waiting() == 0;
        let Some(answer) = self.upload_answer(conn) else { return };
        if !answer.has_begun() && begins && !last {
            self.begin_answer(conn);
        }
        let Some(answer) = self.upload_answer(conn) else { return };
        if !answer.has_begun() {
            return self.charge(conn);
        }
        let mut bytes = Vec::new();
        answer.write(&mut bytes);
        if !bytes.is_empty() {
            self.write(conn, |out| out.extend_from_slice(&bytes));
        }
    }

    fn begin_answer(&mut self, conn: ConnId) {
        let unix_ms = self.now.unix_ms;
        let draining = self.drain.is_some();
        let packers = self.connections.iter().filter(|(_, connection)| connection.packs()).count();
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Phase::Upload(upload) = &mut connection.phase else { return };
        let Manners { keep_alive, accept, .. } = upload.manners;
        let (http_1_0, request_id) = (upload.http_1_0, upload.request_id.clone());
        let Source::Stream(_, answer) = &mut upload.source else { return };
        let coding = if answer.is_audio() || packers >= PACKERS_MAX { Coding::Identity } else { accept };
        let mut head = Response::new(200)
            .with_header("Content-Type", answer.content_type())
            .with_header("X-Request-Id", request_id)
            .with_header("Cache-Control", "no-store");
        if coding != Coding::Identity {
            head = head.with_header("Content-Encoding", coding.name());
        }
        let length = answer.begin(http_1_0, Packer::new(coding));
        self.write(conn, |out| head.encode_head(out, length, keep_alive && !draining, unix_ms));
        self.set_status(conn, 200);
    }

    /// The stream is over and its balance told: the answer ends, and with it perhaps the connection.
    pub(super) fn finish_upload(&mut self, conn: ConnId, fault: Option<&Fault>) {
        // A stream that ends as it should has a reason too.
        let fault = fault.filter(|fault| fault.reason != Reason::Finished);
        let now = self.now.instant;
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Some(upload) = connection.take_upload(now) else { return };
        let Upload { request_id, manners, body, source, .. } = *upload;
        let Source::Stream(_, mut answer) = source else { return };
        let whole = body == Body::Whole;
        match fault {
            _ if answer.has_begun() => {
                let mut bytes = Vec::new();
                let mut proper = fault.is_none() && whole;
                match proper || !answer.is_audio() {
                    true => proper &= answer.finish(&mut bytes),
                    // Audio that is cut off must not look whole: its end is not written.
                    false => answer.write(&mut bytes),
                }
                self.write(conn, |out| out.extend_from_slice(&bytes));
                if proper && manners.keep_alive && self.drain.is_none() {
                    self.serve_on(conn);
                }
            }
            Some(fault) => self.refuse(conn, fault, &request_id, whole.then_some(manners)),
            None => {
                let kind = answer.content_type();
                let response = Response::new(200).with_body(kind, answer.into_body());
                self.respond(conn, Some(manners), &request_id, response);
            }
        }
        if !whole {
            self.linger(conn);
        }
        self.charge(conn);
        self.awake.push_back(conn);
    }

    /// The answer has been written, and the connection goes on with the next request.
    fn serve_on(&mut self, conn: ConnId) {
        let since = self.now.instant;
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.phase = Phase::Http(Http { since, body: None, waiting: None, served: 1 });
        }
    }

    /// The connection closes while a body is on its way: what still comes is read and forgotten until the client has
    /// had time to see the answer. A socket that is closed with unread bytes would take the answer with it (RFC 9112,
    /// section 9.6).
    fn linger(&mut self, conn: ConnId) {
        if let Some(Connection { phase: Phase::Closing(closing), .. }) = self.connections.get_mut(conn) {
            closing.lingers = true;
        }
    }
}
