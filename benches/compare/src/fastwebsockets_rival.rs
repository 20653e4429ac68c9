//! fastwebsockets on hyper's upgrade, as its example of an echo server shows it.

use crate::inference::Service;
use crate::stream::{Heard, Wire, converse, parse_query};
use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, WebSocketError, upgrade};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

type Collector = FragmentCollector<TokioIo<Upgraded>>;

/// Serves for ever.
pub async fn serve(listener: TcpListener, service: Arc<Service>) {
    loop {
        // Out of descriptors, or the client has gone already: the next one may fare better.
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(connection(stream, Arc::clone(&service)));
    }
}

async fn connection(stream: TcpStream, service: Arc<Service>) {
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { route(request, service) }
    });
    // An error is the end of the connection, however it came about.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).with_upgrades().await;
}

fn route(
    mut request: Request<Incoming>,
    service: Arc<Service>,
) -> Result<Response<Full<Bytes>>, WebSocketError> {
    let refuse = |status, text: String| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        Ok(response)
    };
    let is_stream = match request.uri().path() {
        "/v1/echo" => false,
        "/v1/stream" => true,
        _ => return refuse(StatusCode::NOT_FOUND, "nothing is here".into()),
    };
    let params = match is_stream.then(|| parse_query(request.uri().query().unwrap_or_default(), &service)) {
        None => None,
        Some(Ok(params)) => Some(params),
        Some(Err(text)) => return refuse(StatusCode::BAD_REQUEST, text),
    };
    if !upgrade::is_upgrade_request(&request) {
        return refuse(StatusCode::UPGRADE_REQUIRED, "a WebSocket is here".into());
    }
    let (response, upgraded) = upgrade::upgrade(&mut request)?;
    tokio::spawn(async move {
        let Ok(socket) = upgraded.await else { return };
        let socket = FragmentCollector::new(socket);
        match params {
            Some(params) => converse(&mut Socket(socket), params, &service).await,
            None => drop(echo(socket).await),
        }
    });
    Ok(response.map(|_| Full::default()))
}

async fn echo(mut socket: Collector) -> Result<(), WebSocketError> {
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}

/// A WebSocket for a stream.
struct Socket(Collector);

impl Wire for Socket {
    async fn receive(&mut self, heard: &mut Vec<Heard>) -> bool {
        loop {
            let Ok(frame) = self.0.read_frame().await else { return false };
            match frame.opcode {
                OpCode::Binary => heard.push(Heard::Audio(owned(frame.payload))),
                OpCode::Text => match String::from_utf8(frame.payload.to_vec()) {
                    Ok(text) => heard.push(Heard::Text(text)),
                    Err(_) => return false,
                },
                OpCode::Close => return false,
                _ => continue,
            }
            return true;
        }
    }

    async fn send(&mut self, texts: &mut Vec<String>) -> bool {
        for text in texts.drain(..) {
            let frame = Frame::text(Payload::Owned(text.into_bytes()));
            if self.0.write_frame(frame).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn close(&mut self) {
        if self.0.write_frame(Frame::close(1000, b"")).await.is_ok() {
            while matches!(self.0.read_frame().await, Ok(frame) if frame.opcode != OpCode::Close) {}
        }
    }
}

/// Without copying where it is bytes of its own already, as it always is when read from a socket.
fn owned(payload: Payload<'_>) -> Bytes {
    match payload {
        Payload::Bytes(bytes) => bytes.freeze(),
        Payload::Owned(bytes) => bytes.into(),
        other => other.to_vec().into(),
    }
}
