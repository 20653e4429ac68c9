//! HTTP: from bytes to requests to answers, and the door to the WebSocket phase.
//!
//! Requests are answered in order, one at a time; what is pipelined behind waits in `parked`. A fault in the framing
//! ends the connection after its answer, because what follows cannot be trusted.

use crate::auth::Principal;
use crate::id::ConnId;
use crate::reason::{Fault, Reason};
use crate::server::catalog::Entry;
use crate::server::connection::{
    Asked, Closing, Endpoint, Http, Manners, PendingBody, Phase, RequestClock, Waiting, WebSocket,
};
use crate::server::metrics::{Served, pressure_json, rounded, webhooks_json};
use crate::server::on_access::{challenge, preflight};
use crate::server::on_v2::Answered;
use crate::server::routes::Route;
use crate::server::{Server, session};
use crate::wire::compress::{self, Coding};
use crate::wire::http::{self, BodyDecoder, BodyFraming, HeadLimits, Method, RequestHead, Response};
use crate::wire::message::{StreamParams, encode_http_error};
use crate::wire::oip;
use crate::wire::websocket::{Decoder, Role};
use serde_json::json;
use std::sync::Arc;

/// The subprotocol of the native stream.
const SUBPROTOCOL: &str = "suzu.v1";

/// JSON of these lengths is packed on the loop if the client likes it: less is not worth it, more would hold others up.
const PACKED_BYTES: std::ops::RangeInclusive<usize> = 1024..=64 * 1024;

/// A JSON answer.
fn json_response(status: u16, value: &serde_json::Value) -> Response<'static> {
    Response::new(status).with_body("application/json", value.to_string().into_bytes())
}

impl Server {
    /// Deals with bytes in the HTTP phase; returns how many it took. Fewer than all: more must come first, or the
    /// connection is in another phase now.
    pub(super) fn on_http(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let Some(connection) = self.connections.get_mut(conn) else { return bytes.len() };
        let Phase::Http(http) = &mut connection.phase else { return 0 };
        match http.body.take() {
            Some(pending) => self.on_body(conn, pending, bytes),
            None => self.on_head(conn, bytes),
        }
    }

    fn on_head(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let limits = HeadLimits {
            head_bytes_max: self.config.head_bytes_max,
            target_bytes_max: self.config.target_bytes_max,
            headers_max: self.config.headers_max,
        };
        match http::parse_head(bytes, &limits) {
            Ok(None) => 0,
            Ok(Some((head, taken))) => {
                self.on_request(conn, head);
                taken
            }
            Err(fault) => {
                let request_id = self.random.uuid(self.now.unix_ms);
                self.begin_request(conn, Route::Unknown, &request_id);
                self.refuse(conn, &fault, &request_id, None);
                bytes.len()
            }
        }
    }

    /// A whole head is here: refuse, upgrade, answer, or wait for the body.
    fn on_request(&mut self, conn: ConnId, mut head: RequestHead) {
        let route = Route::of(&head.path);
        let request_id = request_id(&head).unwrap_or_else(|| self.random.uuid(self.now.unix_ms));
        self.begin_request(conn, route, &request_id);
        self.note_origin(conn, &head);
        if self.is_preflight(conn, &head) {
            return self.respond(conn, manners_before_body(&head), &request_id, preflight(route));
        }
        let admitted =
            self.check_request(conn, route, &head).and_then(|()| self.admit_request(conn, route, &mut head));
        let principal = match admitted {
            Ok(principal) => principal,
            Err(fault) => return self.refuse(conn, &fault, &request_id, manners_before_body(&head)),
        };
        if route.is_websocket() && head.method == Method::Get {
            return self.on_upgrade(conn, route, &head, request_id, principal);
        }
        if route == Route::Model && head.method == Method::Post {
            return self.on_upload_head(conn, &head, request_id, principal);
        }
        let body_bytes_max = match route {
            Route::V2Infer => self.config.infer_body_bytes_max,
            _ => self.config.body_bytes_max,
        };
        match BodyDecoder::new(&head.body, body_bytes_max) {
            Err(fault) => self.refuse(conn, &fault, &request_id, manners_before_body(&head)),
            Ok(_) if matches!(head.body, BodyFraming::None) => {
                self.answer(conn, route, &head, &request_id, Vec::new(), &principal)
            }
            Ok(decoder) => {
                if head.expect_continue {
                    self.write(conn, |out| out.extend_from_slice(http::CONTINUE));
                }
                let pending = PendingBody { head, route, request_id, principal, decoder, body: Vec::new() };
                self.set_pending(conn, Box::new(pending));
            }
        }
    }

    fn set_pending(&mut self, conn: ConnId, pending: Box<PendingBody>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if let Phase::Http(http) = &mut connection.phase {
            http.body = Some(pending);
        }
    }

    fn on_body(&mut self, conn: ConnId, mut pending: Box<PendingBody>, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        let PendingBody { decoder, body, .. } = &mut *pending;
        match decoder.decode(&mut rest, body) {
            Ok(false) => self.set_pending(conn, pending),
            Ok(true) => {
                let PendingBody { head, route, request_id, principal, body, .. } = *pending;
                self.answer(conn, route, &head, &request_id, body, &principal);
            }
            Err(fault) => {
                self.refuse(conn, &fault, &pending.request_id, None);
                return bytes.len();
            }
        }
        bytes.len() - rest.len()
    }

    fn check_request(&self, conn: ConnId, route: Route, head: &RequestHead) -> Result<(), Fault> {
        let surplus = self.connections.get(conn).is_some_and(|connection| connection.surplus);
        if surplus && !route.is_control() {
            let message = match self.check_pressure() {
                Err(fault) => fault.message,
                Ok(()) => {
                    format!("all {} connections are taken; try again later", self.config.connections_max)
                }
            };
            return Err(Fault::new(Reason::Overloaded, message));
        }
        if matches!(route, Route::Unknown | Route::V2Unknown) {
            let message = format!("there is nothing at {}; GET / lists what is served", head.path);
            return Err(Fault::new(Reason::NotFound, message));
        }
        if !route.allows(head.method) {
            let message = format!("{} takes {}", route.path(), route.allow_header());
            return Err(Fault::new(Reason::MethodNotAllowed, message));
        }
        Ok(())
    }

    /// Opens a WebSocket, or refuses with an HTTP status.
    fn on_upgrade(
        &mut self,
        conn: ConnId,
        route: Route,
        head: &RequestHead,
        request_id: String,
        principal: Arc<Principal>,
    ) {
        let accept = match http::websocket_key(head) {
            Ok(accept) => accept,
            Err(fault) => return self.refuse(conn, &fault, &request_id, manners_before_body(head)),
        };
        let browser = head.query.iter().any(|(name, value)| name == "browser_errors" && value == "1");
        let held = self.access.check_holdings(&self.config, &principal, route != Route::Echo);
        let params = held.and_then(|()| self.check_upgrade(route, head));
        if let (Err(fault), false) = (&params, browser) {
            return self.refuse(conn, &fault.clone(), &request_id, manners_before_body(head));
        }
        let protocol = offered_protocols(head).any(|name| name == SUBPROTOCOL).then_some(SUBPROTOCOL);
        let protocol = protocol.filter(|_| route != Route::Echo);
        let id_header = [("x-request-id", request_id.as_str())];
        self.write(conn, |out| http::encode_switching_protocols(out, &accept, protocol, &id_header));
        self.set_status(conn, 101);
        self.metrics.counters.websockets_opened += 1;
        self.own(conn, &principal);
        let limit = match &params {
            Ok(params) if route != Route::Echo => self.stream_message_max(params),
            _ => self.config.echo_message_bytes_max,
        };
        let decoder = Decoder::new(Role::Server, limit);
        self.set_phase(
            conn,
            Phase::WebSocket(WebSocket {
                decoder,
                endpoint: Endpoint::Echo,
                ping_sent: None,
                message_since: None,
                deaf: false,
            }),
        );
        match params {
            Err(fault) => self.fail_websocket(conn, &fault, &request_id),
            Ok(_) if route == Route::Echo => {}
            Ok(params) => self.begin_session(conn, route, params, request_id, principal),
        }
    }

    /// Everything that can be refused before a WebSocket opens.
    fn check_upgrade(&self, route: Route, head: &RequestHead) -> Result<StreamParams, Fault> {
        if self.drain.is_some() {
            return Err(Fault::new(Reason::Draining, "the server is shutting down; connect to another"));
        }
        let mut defaults =
            StreamParams { model: self.config.model_default.clone(), ..StreamParams::default() };
        defaults.ack_interval_ms = self.config.ack_interval.as_millis() as u64;
        if route == Route::Echo {
            return Ok(defaults);
        }
        if route == Route::Audio
            && let Some(id) = head.header("x-client-id").filter(|id| !id.is_empty())
        {
            // Kept as the tag, so what holds for a tag holds for it.
            let tag = [("tag".to_owned(), id.to_owned())];
            defaults = StreamParams::parse(&tag, defaults).map_err(|fault| fault.at("X-Client-ID"))?;
        }
        let params = StreamParams::parse(&head.query, defaults)?;
        self.check_stream(&params)?;
        Ok(params)
    }

    /// Answers a request whose body, if any, is whole.
    fn answer(
        &mut self,
        conn: ConnId,
        route: Route,
        head: &RequestHead,
        request_id: &str,
        body: Vec<u8>,
        principal: &Principal,
    ) {
        let manners = manners(head);
        let answer = match route {
            Route::Echo => {
                let kind = head.header("content-type").unwrap_or("application/octet-stream").to_owned();
                Response { body: body.into(), ..Response::new(200).with_header("Content-Type", kind) }
            }
            Route::Model => match self.model_json(head) {
                Ok(json) => json_response(200, &json),
                Err(fault) => return self.refuse(conn, &fault, request_id, Some(manners)),
            },
            route if route.is_v2() => match self.on_v2(conn, route, head, body, principal) {
                Ok(Answered::Now(body)) => Response::new(200).with_body("application/json", body),
                Ok(Answered::Later(asked)) => return self.wait_for(conn, asked, request_id, manners),
                Err(fault) => return self.refuse(conn, &fault, request_id, Some(manners)),
            },
            Route::Reload => {
                self.on_reload();
                json_response(202, &json!({ "reloading": true }))
            }
            _ => self.answer_of(route),
        };
        self.respond(conn, Some(manners), request_id, answer);
    }

    /// The answer comes later; until then nothing more is read.
    fn wait_for(&mut self, conn: ConnId, asked: Asked, request_id: &str, manners: Manners) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if let Phase::Http(http) = &mut connection.phase {
            http.waiting = Some(Box::new(Waiting { asked, request_id: request_id.to_owned(), manners }));
        }
    }

    /// The answer that a connection waits for has come.
    pub(super) fn answer_waiting(&mut self, conn: ConnId, answer: Result<Response<'_>, Fault>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Phase::Http(http) = &mut connection.phase else { return };
        let Some(waiting) = http.waiting.take() else { return };
        let Waiting { request_id, manners, .. } = *waiting;
        match answer {
            Ok(response) => self.respond(conn, Some(manners), &request_id, response),
            Err(fault) => self.refuse(conn, &fault, &request_id, Some(manners)),
        }
        self.awake.push_back(conn);
    }

    fn answer_of(&self, route: Route) -> Response<'static> {
        let health = |status: &str| {
            let uptime_s = (self.now.instant - self.began).as_secs_f64();
            json!({ "status": status, "timestamp": self.now.unix_ms, "uptime": session::round_ms(uptime_s) })
        };
        match route {
            Route::Live | Route::Health => json_response(200, &health("ok")),
            Route::Ready if self.is_ready() => json_response(200, &health("ok")),
            Route::Ready if self.drain.is_some() => json_response(503, &health("draining")),
            Route::Ready => {
                json_response(503, &health("overloaded")).with_header("Retry-After", self.retry_after())
            }
            Route::Metrics => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Response::new(200).with_body(kind, self.metrics.exposition(&self.gauges()).into_bytes())
            }
            Route::ApiMetrics => json_response(200, &self.metrics.json(&self.gauges())),
            Route::Status => json_response(200, &self.status()),
            Route::Models => json_response(200, &self.models_json()),
            Route::Index => page(index_text()),
            // The others have been answered, upgraded or refused before.
            _ => json_response(404, &json!({})),
        }
    }

    /// What `/v1/status` says: the places that are taken and free.
    fn status(&self) -> serde_json::Value {
        let gauges = self.gauges();
        json!({
            "ready": gauges.ready,
            "draining": self.drain.is_some(),
            "streams": { "running": gauges.sessions, "remaining": gauges.sessions_max - gauges.sessions },
            "streams_remaining": gauges.streams_remaining,
            "capacity_taken": rounded(gauges.capacity_taken),
            "pressure": pressure_json(&gauges),
            "connections": {
                "open": gauges.connections,
                "remaining": gauges.connections_max.saturating_sub(gauges.connections),
            },
            "queue": { "length": gauges.queued, "wait_ms": gauges.queue_wait.as_secs_f64() * 1000.0 },
            "webhooks": webhooks_json(&gauges),
        })
    }

    fn models_json(&self) -> serde_json::Value {
        let models = self.catalog.iter().map(|(_, entry)| self.entry_json(entry));
        json!({ "models": models.collect::<Vec<_>>() })
    }

    fn model_json(&self, head: &RequestHead) -> Result<serde_json::Value, Fault> {
        let (_, captures) = Route::of_with_captures(&head.path);
        let id = self.catalog.find(captures.model.unwrap_or_default())?;
        Ok(self.entry_json(self.catalog.get(id)))
    }

    fn entry_json(&self, entry: &Entry) -> serde_json::Value {
        let mut json = entry.served.to_json();
        json["default"] = (**entry.served.name() == *self.config.model_default).into();
        json["ready"] = self.is_model_ready(entry).into();
        json
    }

    /// Answers with the fault. After a fault of framing, or when a body is still on its way, the connection ends.
    pub(super) fn refuse(&mut self, conn: ConnId, fault: &Fault, request_id: &str, manners: Option<Manners>) {
        self.metrics.counters.refusals[fault.reason as usize] += 1;
        log::debug!("request {request_id} refused: {fault}");
        let request = self.connections.get(conn).and_then(|connection| connection.request.as_ref());
        let route = request.map_or(Route::Unknown, |request| request.route);
        let mut body = Vec::new();
        match route.is_v2() {
            true => body = oip::encode_error(fault),
            false => encode_http_error(fault, request_id, &mut body),
        }
        let mut answer = Response::new(fault.reason.status()).with_body("application/json", body);
        match fault.reason {
            Reason::MethodNotAllowed => {
                answer = answer.with_header("Allow", route.allow_header());
            }
            Reason::Unauthorized | Reason::TokenExpired => {
                answer = answer.with_header("WWW-Authenticate", challenge(fault.reason));
            }
            reason if reason.retryable() && matches!(reason.status(), 429 | 503) => {
                let wait = fault.retry_after.map(|wait| wait.as_secs_f64().ceil().max(1.0).to_string());
                answer = answer.with_header("Retry-After", wait.unwrap_or_else(|| self.retry_after()));
            }
            _ => {}
        }
        self.respond(conn, manners, request_id, answer);
    }

    fn retry_after(&self) -> String {
        self.config.retry_after.as_secs().max(1).to_string()
    }

    /// Writes the answer. Without manners the connection ends with it.
    pub(super) fn respond(
        &mut self,
        conn: ConnId,
        manners: Option<Manners>,
        request_id: &str,
        response: Response<'_>,
    ) {
        let surplus = self.connections.get(conn).is_some_and(|connection| connection.surplus);
        let keep_alive =
            manners.is_some_and(|manners| manners.keep_alive) && !surplus && self.drain.is_none();
        let head_only = manners.is_some_and(|manners| manners.head_only);
        let response =
            response.with_header("X-Request-Id", request_id).with_header("Cache-Control", "no-store");
        let response = match manners {
            Some(manners) if manners.accept != Coding::Identity => pack(response, manners.accept),
            _ => response,
        };
        let response = self.tell_in_head(conn, response);
        let unix_ms = self.now.unix_ms;
        self.write(conn, |out| response.encode(out, head_only, keep_alive, unix_ms));
        self.set_status(conn, response.status);
        let since = self.now.instant;
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let served = match &connection.phase {
            Phase::Http(http) => http.served + 1,
            _ => 1,
        };
        connection.phase = if keep_alive {
            Phase::Http(Http { since, body: None, waiting: None, served })
        } else {
            Phase::Closing(Closing { since, decoder: None, lingers: false })
        };
        // A body that had begun to come is gone with the phase.
        self.charge(conn);
    }

    fn set_phase(&mut self, conn: ConnId, phase: Phase) {
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.phase = phase;
        }
    }

    fn begin_request(&mut self, conn: ConnId, route: Route, request_id: &str) {
        self.end_request(conn);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let began = match &connection.phase {
            Phase::Http(http) if !connection.parked.is_empty() => http.since,
            _ => self.now.instant,
        };
        connection.request =
            Some(RequestClock { route, began, request_id: request_id.to_owned(), status: 0, told: None });
    }

    pub(super) fn set_status(&mut self, conn: ConnId, status: u16) {
        if let Some(clock) = self.connections.get_mut(conn).and_then(|connection| connection.request.as_mut())
        {
            clock.status = status;
        }
    }

    /// The response has left, or the next request began: the request is counted.
    pub(super) fn end_request(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Some(clock) = connection.request.take_if(|clock| clock.status != 0) else { return };
        let took = self.now.instant - clock.began;
        let RequestClock { route, request_id, status, .. } = clock;
        let unix_ms = self.now.unix_ms;
        self.metrics.served(Served { route, request_id: &request_id, status, took, unix_ms });
    }

    /// The head or the body did not come in time.
    pub(super) fn on_request_late(&mut self, conn: ConnId) {
        let request_id = self.random.uuid(self.now.unix_ms);
        self.begin_request(conn, Route::Unknown, &request_id);
        let fault = Fault::new(Reason::RequestTimeout, "the request did not arrive whole in time");
        self.refuse(conn, &fault, &request_id, None);
        self.close_if_done(conn);
    }
}

/// Packs the JSON that the loop itself made, if that is worth it: tens of kilobytes at most. What workers made comes
/// packed.
fn pack(mut response: Response<'_>, coding: Coding) -> Response<'_> {
    let named = |name: &str| response.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
    let json = named("content-type").is_some_and(|(_, value)| value == "application/json");
    if !json || named("content-encoding").is_some() || !PACKED_BYTES.contains(&response.body.len()) {
        return response;
    }
    response.body = compress::compress(coding, &response.body, 1).into();
    response.with_header("Content-Encoding", coding.name())
}

/// How the answer to a request is written.
pub(super) fn manners(head: &RequestHead) -> Manners {
    Manners {
        keep_alive: head.keep_alive,
        head_only: head.method == Method::Head,
        accept: Coding::negotiate(head.header("accept-encoding").unwrap_or_default()),
    }
}

/// The same before its body is here: with a body on its way the connection ends, for nobody will read that.
fn manners_before_body(head: &RequestHead) -> Option<Manners> {
    matches!(head.body, BodyFraming::None).then(|| manners(head))
}

/// The client's own name for the request, if it is short and harmless.
fn request_id(head: &RequestHead) -> Option<String> {
    let id = head.header("x-request-id")?;
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!id.is_empty() && id.len() <= 64 && id.chars().all(harmless)).then(|| id.to_owned())
}

/// What people look at: nothing in it may be run, framed or guessed.
fn page(text: String) -> Response<'static> {
    Response::new(200)
        .with_body("text/plain; charset=utf-8", text.into_bytes())
        .with_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        .with_header("X-Content-Type-Options", "nosniff")
        .with_header("Referrer-Policy", "no-referrer")
}

fn offered_protocols(head: &RequestHead) -> impl Iterator<Item = &str> {
    let values = head.headers.iter().filter(|(name, _)| name == "sec-websocket-protocol");
    values.flat_map(|(_, value)| value.split(',').map(str::trim))
}

fn index_text() -> String {
    let mut text = format!("suzu {}: streaming audio inference\n\n", env!("CARGO_PKG_VERSION"));
    for (path, what) in [
        ("/v1/stream", "WebSocket: audio in, results out (?model=vad&sample_rate=16000&encoding=linear16)"),
        ("/audio", "WebSocket: the same, in batches of chunks"),
        ("/v1/echo", "WebSocket or POST: sends back what came"),
        ("/v1/models", "the models"),
        ("/v1/models/{model}", "POST: a WAV or raw samples in, results or processed audio out"),
        ("/v2", "Open Inference Protocol: models, infer, repository"),
        ("/v1/status", "places taken and free"),
        ("/v1/admin/reload", "POST: read models, credentials and certificate again"),
        ("/health/live, /health/ready, /api/health", "health"),
        ("/metrics, /api/metrics", "figures for Prometheus, and as JSON"),
    ] {
        text.push_str(&format!("{path:42} {what}\n"));
    }
    text
}
