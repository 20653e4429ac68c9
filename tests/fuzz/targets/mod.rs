//! What is fuzzed: one function for each parser and one for the whole server. Each takes any bytes and panics only if
//! the code under it is at fault.
//!
//! Used twice: by libFuzzer through `fuzz_targets/`, and in every test run by `tests/it/fuzz_smoke.rs`. Nothing here
//! reads a clock, a file or randomness: the same bytes always do the same.

mod compress;
mod config;
mod credentials;
mod http;
mod input;
mod message;
mod models;
mod oip;
mod pcm;
mod peer;
mod proxy;
mod script;
mod server;
mod split;
mod wav;
mod websocket;

pub use compress::unpack;
pub use config::{config_file, config_value};
pub use credentials::credentials;
pub use http::{http_body, http_request, http_response};
pub use message::{client_message, server_message, stream_params};
pub use models::manifest;
pub use oip::{infer, repository_request};
pub use pcm::pcm;
pub use proxy::proxy_header;
pub use server::server;
pub use split::server_split;
pub use wav::wav;
pub use websocket::websocket;

/// A function that is fuzzed.
pub type Target = fn(&[u8]);

/// Every target under the name of its corpus folder and of its binary.
pub const TARGETS: &[(&str, Target)] = &[
    ("client_message", client_message),
    ("config_file", config_file),
    ("config_value", config_value),
    ("credentials", credentials),
    ("http_body", http_body),
    ("http_request", http_request),
    ("http_response", http_response),
    ("infer", infer),
    ("manifest", manifest),
    ("pcm", pcm),
    ("proxy_header", proxy_header),
    ("repository_request", repository_request),
    ("server", server),
    ("server_message", server_message),
    ("server_split", server_split),
    ("stream_params", stream_params),
    ("unpack", unpack),
    ("wav", wav),
    ("websocket", websocket),
];
