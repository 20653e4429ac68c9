//! The Open Inference Protocol over HTTP: what models there are, how they fare, and the way to `on_infer`.

use crate::auth::Principal;
use crate::batch::{Question, Reply};
use crate::id::ConnId;
use crate::reason::{Fault, Reason};
use crate::server::Server;
use crate::server::catalog::Entry;
use crate::server::connection::{Asked, Phase};
use crate::server::contract::RepositoryAsk;
use crate::server::fair::Tenant;
use crate::server::routes::{Captures, Route};
use crate::wire::compress::Coding;
use crate::wire::http::{Method, RequestHead, Response};
use crate::wire::oip;
use std::sync::Arc;

/// The length of the JSON at the beginning of a body with binary tensors.
const HEADER_LENGTH: &str = "Inference-Header-Content-Length";

/// How a request of the protocol is answered.
pub enum Answered {
    /// At once, by this JSON.
    Now(Vec<u8>),
    /// When somebody else has done his part.
    Later(Asked),
}

impl Server {
    /// A request of the protocol with its whole body.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn on_v2(
        &mut self,
        conn: ConnId,
        route: Route,
        head: &RequestHead,
        body: Vec<u8>,
        principal: &Principal,
    ) -> Result<Answered, Fault> {
        let (_, captures) = Route::of_with_captures(&head.path);
        let name = captures.model.unwrap_or_default();
        match route {
            Route::V2Infer => {
                let tenant = Tenant(Arc::clone(&principal.user));
                self.on_infer_request(conn, captures, head, body, tenant).map(Answered::Later)
            }
            Route::V2Index => self.on_index_request(conn, head, &body),
            Route::V2Load => {
                oip::parse_load(&body)?;
                self.check_name(name)?;
                self.ask_repository(RepositoryAsk::Load(name.to_owned()), Some(conn))
                    .map(|ask| Answered::Later(Asked::Repository(ask)))
            }
            Route::V2Unload => self.unload(name).map(|()| Answered::Now(Vec::new())),
            _ => self.v2_answer(route, captures).map(Answered::Now),
        }
    }

    /// What can be told at once.
    fn v2_answer(&self, route: Route, captures: Captures<'_>) -> Result<Vec<u8>, Fault> {
        match (route, captures.model) {
            (Route::V2Server, _) => Ok(oip::server_metadata(env!("CARGO_PKG_VERSION"))),
            (Route::V2Live, _) => Ok(oip::encode_live(true)),
            (Route::V2Ready, _) if self.is_ready() => Ok(oip::encode_ready(true)),
            (Route::V2Ready, _) => Err(Fault::new(Reason::Overloaded, "the server takes nobody now")),
            (Route::V2Stats, None) => {
                let all: Vec<_> =
                    self.catalog.iter().map(|(_, entry)| entry.stats.statistics(&entry.served)).collect();
                Ok(oip::encode_statistics(&all))
            }
            (_, name) => {
                let id = self.catalog.find_version(name.unwrap_or_default(), captures.version)?;
                self.v2_model_answer(route, self.catalog.get(id))
            }
        }
    }

    fn v2_model_answer(&self, route: Route, entry: &Entry) -> Result<Vec<u8>, Fault> {
        match route {
            Route::V2ModelReady if self.is_model_ready(entry) => {
                Ok(oip::encode_model_ready(entry.served.name(), true))
            }
            Route::V2ModelReady => {
                let message = format!("model `{}` is not ready", entry.served.name());
                Err(Fault::new(Reason::ModelUnavailable, message))
            }
            Route::V2Config => Ok(oip::model_config(&entry.served, self.config.batch_max)),
            Route::V2Stats => Ok(oip::encode_statistics(&[entry.stats.statistics(&entry.served)])),
            _ => Ok(oip::model_metadata(&entry.served)),
        }
    }

    fn on_infer_request(
        &mut self,
        conn: ConnId,
        captures: Captures<'_>,
        head: &RequestHead,
        body: Vec<u8>,
        tenant: Tenant,
    ) -> Result<Asked, Fault> {
        let model = self.catalog.find_version(captures.model.unwrap_or_default(), captures.version)?;
        let coding = Coding::parse(head.header("content-encoding").unwrap_or_default())?;
        let header_len = head.header(HEADER_LENGTH).map(parse_length).transpose()?;
        let accept = Coding::negotiate(head.header("accept-encoding").unwrap_or_default());
        self.on_infer(conn, model, Question::Raw { body, coding, header_len, accept }, tenant)
    }

    /// The index of models: at once, or after a look into their folder.
    fn on_index_request(&mut self, conn: ConnId, head: &RequestHead, body: &[u8]) -> Result<Answered, Fault> {
        let ready_only = head.method == Method::Post && oip::parse_index(body)?.ready;
        if ready_only || self.config.models_dir.is_empty() {
            return Ok(Answered::Now(oip::encode_index(&self.index(&[]))));
        }
        let ask = self.ask_repository(RepositoryAsk::Index, Some(conn))?;
        Ok(Answered::Later(Asked::Repository(ask)))
    }

    /// The workers' answer to a request.
    pub(super) fn answer_call(&mut self, conn: ConnId, reply: Result<Reply, Fault>) {
        let answer = reply.map(|reply| {
            let kind = match reply.header_len {
                Some(_) => "application/octet-stream",
                None => "application/json",
            };
            let mut response = Response::new(200).with_body(kind, reply.body);
            if let Some(length) = reply.header_len {
                response = response.with_header(HEADER_LENGTH, length.to_string());
            }
            if reply.coding != Coding::Identity {
                response = response.with_header("Content-Encoding", reply.coding.name());
            }
            response
        });
        self.answer_waiting(conn, answer);
    }

    /// The folder's answer to a request.
    pub(super) fn answer_ask(&mut self, conn: Option<ConnId>, answer: Result<Vec<u8>, Fault>) {
        let Some(conn) = conn else { return };
        let answer = answer.map(|body| Response::new(200).with_body("application/json", body));
        self.answer_waiting(conn, answer);
    }

    /// The connection is gone: whoever has its answer need not give it.
    pub(super) fn abandon_waiting(&mut self, phase: &Phase) {
        let Phase::Http(http) = phase else { return };
        match http.waiting.as_ref().map(|waiting| waiting.asked) {
            Some(Asked::Call(id)) => self.abandon_call(id),
            // A model that is being loaded is loaded all the same.
            Some(Asked::Repository(_)) | None => {}
        }
    }
}

fn parse_length(value: &str) -> Result<usize, Fault> {
    value.trim().parse().map_err(|_| {
        let message = format!("{HEADER_LENGTH} is a number of bytes");
        Fault::new(Reason::InvalidPayload, message).at(HEADER_LENGTH)
    })
}
