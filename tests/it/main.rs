//! Tests over real sockets and of the real binary, in one test binary.

mod access;
mod answer;
#[cfg(feature = "tls")]
mod bridge;
mod cli;
mod driver;
mod embedding;
mod faults;
mod fuzz_smoke;
mod health;
#[cfg(feature = "tls")]
mod hostile;
mod http;
mod http_faults;
mod limits;
#[cfg(feature = "tools")]
mod load;
mod models_check;
mod overflow;
mod overload;
mod pool;
mod proxy;
mod regressions;
mod shutdown;
mod stream_client;
mod streams;
mod support;
mod talks;
mod test_models;
mod tidy;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tools")]
mod tune;
mod uploads;
mod v2;
mod webhooks;
mod websocket;
