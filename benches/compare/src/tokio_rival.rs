//! tokio and tokio-tungstenite, a task for each connection: the usual WebSocket server in Rust, and a tuned one.
//!
//! As usually written: default buffers (128 KiB for reading), Nagle's algorithm on, each answer by `send`, which
//! flushes. Tuned: a read buffer of 4 KiB, `TCP_NODELAY`, and whatever messages are there are taken before all answers
//! go out by one flush.

use crate::inference::Service;
use crate::stream::{Heard, Wire, converse, parse_query};
use futures_util::{FutureExt, SinkExt, StreamExt};
use std::sync::Arc;
use suzu::wire::message::StreamParams;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

/// Bytes of the tuned server's read buffers.
const READ_BUFFER_BYTES: usize = 4096;

/// Serves for ever.
pub async fn serve(listener: TcpListener, service: Arc<Service>, tuned: bool) {
    loop {
        // Out of descriptors, or the client has gone already: the next one may fare better.
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(connection(stream, Arc::clone(&service), tuned));
    }
}

enum Path {
    Echo,
    Stream(StreamParams),
}

async fn connection(stream: TcpStream, service: Arc<Service>, tuned: bool) {
    let config = tuned.then(|| {
        let _ = stream.set_nodelay(true);
        WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES)
    });
    let mut path = Path::Echo;
    // Large, but the type is the library's.
    #[allow(clippy::result_large_err)]
    let route = |request: &Request, response: Response| match request.uri().path() {
        "/v1/echo" => Ok(response),
        "/v1/stream" => match parse_query(request.uri().query().unwrap_or_default(), &service) {
            Ok(params) => {
                path = Path::Stream(params);
                Ok(response)
            }
            Err(text) => Err(refusal(StatusCode::BAD_REQUEST, text)),
        },
        _ => Err(refusal(StatusCode::NOT_FOUND, "nothing is here".into())),
    };
    // Whoever cannot shake hands has been told why, or has gone.
    let Ok(socket) = accept_hdr_async_with_config(stream, route, config).await else { return };
    let mut socket = Socket { socket, tuned };
    match path {
        Path::Stream(params) => converse(&mut socket, params, &service).await,
        // An error is the end of the connection, however it came about.
        Path::Echo if tuned => drop(echo_tuned(socket.socket).await),
        Path::Echo => drop(echo(socket.socket).await),
    }
}

fn refusal(status: StatusCode, text: String) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(text));
    *response.status_mut() = status;
    response
}

async fn echo(mut socket: WebSocketStream<TcpStream>) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_binary() || message.is_text() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn echo_tuned(mut socket: WebSocketStream<TcpStream>) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        let mut message = message?;
        loop {
            if message.is_binary() || message.is_text() {
                socket.feed(message).await?;
            }
            match socket.next().now_or_never().flatten() {
                Some(next) => message = next?,
                None => break,
            }
        }
        socket.flush().await?;
    }
    Ok(())
}

/// A WebSocket for a stream.
struct Socket {
    socket: WebSocketStream<TcpStream>,
    tuned: bool,
}

impl Wire for Socket {
    async fn receive(&mut self, heard: &mut Vec<Heard>) -> bool {
        while heard.is_empty() {
            match self.socket.next().await {
                Some(Ok(message)) => take(message, heard),
                Some(Err(_)) | None => return false,
            }
        }
        // What fails here fails again at the next call.
        while self.tuned
            && let Some(Some(Ok(message))) = self.socket.next().now_or_never()
        {
            take(message, heard);
        }
        true
    }

    async fn send(&mut self, texts: &mut Vec<String>) -> bool {
        for text in texts.drain(..) {
            let message = Message::text(text);
            let sent =
                if self.tuned { self.socket.feed(message).await } else { self.socket.send(message).await };
            if sent.is_err() {
                return false;
            }
        }
        !self.tuned || self.socket.flush().await.is_ok()
    }

    async fn close(&mut self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        if self.socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = self.socket.next().await {}
        }
    }
}

fn take(message: Message, heard: &mut Vec<Heard>) {
    match message {
        Message::Binary(bytes) => heard.push(Heard::Audio(bytes)),
        Message::Text(text) => heard.push(Heard::Text(text.as_str().to_owned())),
        // Pings are answered by the library, and a close ends the stream of messages.
        _ => {}
    }
}
