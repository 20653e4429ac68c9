//! Which path leads where, and what may be done there.

use crate::wire::http::Method;

/// What a path stands for. Also the `route` label of the metrics, so there is a bounded number of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// `/`: what this is and where to go.
    Index,
    /// `/health/live`
    Live,
    /// `/health/ready`
    Ready,
    /// `/api/health`
    Health,
    /// `/metrics`
    Metrics,
    /// `/api/metrics`
    ApiMetrics,
    /// `/v1/status`
    Status,
    /// `/v1/models`
    Models,
    /// `/v1/stream`
    Stream,
    /// `/audio`
    Audio,
    /// `/v1/echo`
    Echo,
    /// Anything else.
    Unknown,
}

/// Every route with its path.
pub const ROUTES: &[(&str, Route)] = &[
    ("/", Route::Index),
    ("/health/live", Route::Live),
    ("/health/ready", Route::Ready),
    ("/api/health", Route::Health),
    ("/metrics", Route::Metrics),
    ("/api/metrics", Route::ApiMetrics),
    ("/v1/status", Route::Status),
    ("/v1/models", Route::Models),
    ("/v1/stream", Route::Stream),
    ("/audio", Route::Audio),
    ("/v1/echo", Route::Echo),
];

impl Route {
    /// The route of a percent-decoded path.
    pub fn of(path: &str) -> Route {
        ROUTES.iter().find(|(known, _)| *known == path).map_or(Route::Unknown, |(_, route)| *route)
    }

    /// The path, or what the metrics call it.
    pub fn path(self) -> &'static str {
        ROUTES.iter().find(|(_, route)| *route == self).map_or("other", |(path, _)| *path)
    }

    /// Its place among all routes, `Unknown` last.
    pub fn index(self) -> usize {
        ROUTES.iter().position(|(_, route)| *route == self).unwrap_or(ROUTES.len())
    }

    /// Whether it is served even when the server is full: control traffic must not feel the load.
    pub fn is_control(self) -> bool {
        matches!(
            self,
            Route::Live | Route::Ready | Route::Health | Route::Metrics | Route::ApiMetrics | Route::Status
        )
    }

    /// Whether a WebSocket may be opened here.
    pub fn is_websocket(self) -> bool {
        matches!(self, Route::Stream | Route::Audio | Route::Echo)
    }

    /// Whether the method is served here.
    pub fn allows(self, method: Method) -> bool {
        match self {
            Route::Stream | Route::Audio => method == Method::Get,
            Route::Echo => matches!(method, Method::Get | Method::Post),
            _ => matches!(method, Method::Get | Method::Head),
        }
    }

    /// The `Allow` header.
    pub fn allow_header(self) -> &'static str {
        match self {
            Route::Stream | Route::Audio => "GET",
            Route::Echo => "GET, POST",
            _ => "GET, HEAD",
        }
    }
}
