//! axum's WebSocket and HTTP with their defaults, as the documentation shows them.

use crate::inference::Service;
use crate::oip;
use crate::stream::{Heard, Wire, converse, parse_query};
use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{any, get, post};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Greatest body of a request for inference, bytes: 16,000 floats as JSON are a third of a megabyte.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Serves for ever.
pub async fn serve(listener: TcpListener, service: Arc<Service>) {
    let router = Router::new()
        .route("/v1/echo", any(upgrade_echo))
        .route("/v1/stream", any(upgrade_stream))
        .route("/v2/models/{model}", get(oip::metadata))
        .route("/v2/models/{model}/infer", post(oip::infer))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(service);
    axum::serve(listener, router).await.expect("it goes on after every error of a connection");
}

async fn upgrade_echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo)
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let returned = matches!(message, Message::Binary(_) | Message::Text(_));
        if returned && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn upgrade_stream(
    State(service): State<Arc<Service>>,
    RawQuery(query): RawQuery,
    upgrade: WebSocketUpgrade,
) -> Result<Response, (StatusCode, String)> {
    let params = parse_query(query.as_deref().unwrap_or_default(), &service)
        .map_err(|text| (StatusCode::BAD_REQUEST, text))?;
    Ok(upgrade.on_upgrade(async move |socket| converse(&mut Socket(socket), params, &service).await))
}

/// A WebSocket for a stream.
struct Socket(WebSocket);

impl Wire for Socket {
    async fn receive(&mut self, heard: &mut Vec<Heard>) -> bool {
        loop {
            match self.0.recv().await {
                Some(Ok(Message::Binary(bytes))) => heard.push(Heard::Audio(bytes)),
                Some(Ok(Message::Text(text))) => heard.push(Heard::Text(text.as_str().to_owned())),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return false,
            }
            return true;
        }
    }

    async fn send(&mut self, texts: &mut Vec<String>) -> bool {
        for text in texts.drain(..) {
            if self.0.send(Message::text(text)).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn close(&mut self) {
        let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        if self.0.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = self.0.recv().await {}
        }
    }
}
