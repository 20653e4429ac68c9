//! Who asks: the door as requests, WebSockets and streams meet it, and what answers tell of it.

use crate::auth::{Keyring, Principal, QUERY_NAMES};
use crate::id::{ConnId, SessionId};
use crate::reason::{Fault, Reason};
use crate::server::Server;
use crate::server::access::check_scope;
use crate::server::connection::{Endpoint, Phase, Told};
use crate::server::routes::{Door, Route};
use crate::wire::http::{Method, RequestHead, Response};
use std::sync::Arc;

/// Header fields that a page may send: those of requests, and those of the Open Inference Protocol.
const CORS_REQUEST_HEADERS: &str = "Authorization, Content-Type, Content-Encoding, X-API-Key, X-Client-ID, X-Request-ID, \
     Inference-Header-Content-Length";
/// Those of answers that a page may read besides the usual ones.
const CORS_ANSWER_HEADERS: &str =
    "X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, Inference-Header-Content-Length";

impl Server {
    /// Who makes the request, if the door lets them in; what is secret in the query is gone from `head` then.
    pub(super) fn admit_request(
        &mut self,
        conn: ConnId,
        route: Route,
        head: &mut RequestHead,
    ) -> Result<Arc<Principal>, Fault> {
        let peer = self.connections.get(conn).map(|connection| connection.peer.ip());
        let (Door::Guarded(scope), Some(peer)) = (route.door(head.method), peer) else {
            return Ok(self.access.anyone());
        };
        let address = self.access.address(peer, head);
        if route.is_websocket() && head.method == Method::Get {
            self.access.check_origin(head)?;
        }
        let principal = self.access.authenticate(&self.config, address, head, self.now)?;
        head.query.retain(|(name, _)| !QUERY_NAMES.contains(&&name[..]));
        check_scope(&principal, scope)?;
        let budget = self.access.take_request(&self.config, address, &principal, self.now.instant)?;
        if budget.is_some() {
            self.tell_later(conn, |told| told.budget = budget);
        }
        Ok(principal)
    }

    /// The WebSocket of a connection is this principal's.
    pub(super) fn own(&mut self, conn: ConnId, principal: &Arc<Principal>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.owner = Some(Arc::clone(principal));
        self.access.hold(principal, 1, 0);
    }

    /// Samples of a stream came: takes them from what its principal may send.
    pub(super) fn take_audio(&mut self, id: SessionId, samples: usize) -> Result<(), Fault> {
        let Some(session) = self.sessions.get(id) else { return Ok(()) };
        let seconds = samples as f64 / f64::from(session.params.sample_rate_hz);
        self.access.take_audio(&self.config, &session.principal, seconds, self.now.instant)
    }

    /// Why a principal may not go on with what it began, if so.
    pub(super) fn lost_credentials(&self, principal: &Principal) -> Option<Fault> {
        let ended = principal.expires_unix_ms.is_some_and(|expires| self.now.unix_ms >= expires);
        let message = if ended {
            "the credentials have ended; connect again with new ones"
        } else if !self.access.vouches_for(principal) {
            "the credentials are not taken any more; connect again with others"
        } else {
            return None;
        };
        Some(Fault::new(Reason::SessionExpired, message))
    }

    /// Ends a WebSocket without a stream whose credentials have ended. Streams are looked at themselves.
    pub(super) fn has_lost_credentials(&mut self, conn: ConnId) -> bool {
        let Some(connection) = self.connections.get(conn) else { return false };
        let Some(owner) = &connection.owner else { return false };
        let echoes = matches!(&connection.phase, Phase::WebSocket(ws) if ws.endpoint == Endpoint::Echo);
        if !echoes {
            return false;
        }
        let Some(fault) = self.lost_credentials(owner) else { return false };
        self.begin_closing(conn, Some(&fault));
        true
    }

    /// The file of credentials has been read.
    pub(super) fn on_credentials(&mut self, keyring: Result<Box<Keyring>, String>) {
        match keyring {
            Ok(keyring) => {
                let (tokens, keys, signers) = keyring.counts();
                log::info!("credentials: {tokens} keys of tokens, {keys} API keys, {signers} signers");
                self.access.set_keyring(*keyring);
            }
            Err(problem) => {
                log::error!("the credentials stay as they were, for the file cannot be used: {problem}");
            }
        }
    }

    /// Remembers the origin of the page that asks, if it may read the answer.
    pub(super) fn note_origin(&mut self, conn: ConnId, head: &RequestHead) {
        if let Some(origin) = self.access.readable_by(head) {
            self.tell_later(conn, |told| told.origin = Some(origin));
        }
    }

    /// Whether a browser asks if a page may ask. It shows no credentials for that.
    pub(super) fn is_preflight(&self, conn: ConnId, head: &RequestHead) -> bool {
        let connection = self.connections.get(conn);
        let told = connection.and_then(|connection| connection.request.as_ref()?.told.as_ref());
        let allowed = told.is_some_and(|told| told.origin.is_some());
        allowed && head.method == Method::Options && head.header("access-control-request-method").is_some()
    }

    fn tell_later(&mut self, conn: ConnId, tell: impl FnOnce(&mut Told)) {
        let connection = self.connections.get_mut(conn);
        if let Some(clock) = connection.and_then(|connection| connection.request.as_mut()) {
            tell(clock.told.get_or_insert_default());
        }
    }

    /// The answer with what its head tells besides.
    pub(super) fn tell_in_head<'a>(&mut self, conn: ConnId, response: Response<'a>) -> Response<'a> {
        let connection = self.connections.get_mut(conn);
        let told = connection.and_then(|connection| connection.request.as_mut()?.told.take());
        let Some(told) = told else { return response };
        let mut response = response;
        if let Some(origin) = told.origin {
            response = response
                .with_header("Access-Control-Allow-Origin", origin)
                .with_header("Access-Control-Expose-Headers", CORS_ANSWER_HEADERS)
                .with_header("Vary", "Origin");
        }
        if let Some(budget) = told.budget {
            // draft-ietf-httpapi-ratelimit-headers-10: the quota in its window, what remains, and when all is back.
            let (burst, window) = (budget.rate.burst, budget.rate.burst / budget.rate.per_second);
            let remaining = budget.level.remaining.max(0.0).floor();
            let reset = budget.level.full_in.as_secs_f64().ceil();
            response = response
                .with_header("RateLimit-Policy", format!("\"requests\";q={burst};w={}", window.ceil()))
                .with_header("RateLimit", format!("\"requests\";r={remaining};t={reset}"));
        }
        response
    }
}

/// What a browser is told before a page's request.
pub(super) fn preflight(route: Route) -> Response<'static> {
    Response::new(204)
        .with_header("Access-Control-Allow-Methods", route.allow_header())
        .with_header("Access-Control-Allow-Headers", CORS_REQUEST_HEADERS)
        .with_header("Access-Control-Max-Age", "600")
}

/// What is asked of whoever showed no credentials, or wrong ones (RFC 6750, section 3).
pub(super) fn challenge(reason: Reason) -> &'static str {
    match reason {
        Reason::TokenExpired => "Bearer realm=\"suzu\", error=\"invalid_token\"",
        _ => "Bearer realm=\"suzu\"",
    }
}
