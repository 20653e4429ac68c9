//! Bytes to values and back, without policy: HTTP/1.1, WebSocket, the protocol's messages, PCM, WAV.

pub mod http;
pub mod message;
pub mod pcm;
pub mod wav;
pub mod websocket;
