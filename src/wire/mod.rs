//! Bytes to values and back, without policy: HTTP/1.1, WebSocket, the protocol's messages, PCM, WAV, the Open Inference
//! Protocol, compressed bodies, the header of a proxy.

pub mod compress;
pub mod http;
pub mod message;
pub mod oip;
pub mod pcm;
pub mod proxy;
pub mod wav;
pub mod websocket;
