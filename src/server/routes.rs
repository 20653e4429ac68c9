//! Which path leads where, and what may be done there.

use crate::auth::Scope;
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
    /// `/v1/admin/reload`: models, credentials and certificate are read again.
    Reload,
    /// `/v1/models/{model}`: what it is, or a recording to go through it.
    Model,
    /// `/v1/stream`
    Stream,
    /// `/audio`
    Audio,
    /// `/v1/echo`
    Echo,
    /// `/v2`: the server, as the Open Inference Protocol describes it. All that follow are of that protocol.
    V2Server,
    /// `/v2/health/live`
    V2Live,
    /// `/v2/health/ready`
    V2Ready,
    /// `/v2/models/{model}`
    V2Model,
    /// `/v2/models/{model}/ready`
    V2ModelReady,
    /// `/v2/models/{model}/config`
    V2Config,
    /// `/v2/models/{model}/stats`, and of all models.
    V2Stats,
    /// `/v2/models/{model}/infer`
    V2Infer,
    /// `/v2/repository/index`
    V2Index,
    /// `/v2/repository/models/{model}/load`
    V2Load,
    /// `/v2/repository/models/{model}/unload`
    V2Unload,
    /// Anything else under `/v2/`.
    V2Unknown,
    /// Anything else.
    Unknown,
}

/// Every path with its route; the first of a route names it.
pub const ROUTES: &[(&str, Route)] = &[
    ("/", Route::Index),
    ("/health/live", Route::Live),
    ("/health/ready", Route::Ready),
    ("/api/health", Route::Health),
    ("/metrics", Route::Metrics),
    ("/api/metrics", Route::ApiMetrics),
    ("/v1/status", Route::Status),
    ("/v1/admin/reload", Route::Reload),
    ("/v1/models", Route::Models),
    ("/v1/models/{model}", Route::Model),
    ("/v1/stream", Route::Stream),
    ("/audio", Route::Audio),
    ("/v1/echo", Route::Echo),
    ("/v2", Route::V2Server),
    ("/v2/", Route::V2Server),
    ("/v2/health/live", Route::V2Live),
    ("/v2/health/ready", Route::V2Ready),
    ("/v2/models/stats", Route::V2Stats),
    ("/v2/models/{model}", Route::V2Model),
    ("/v2/models/{model}/versions/{version}", Route::V2Model),
    ("/v2/models/{model}/ready", Route::V2ModelReady),
    ("/v2/models/{model}/versions/{version}/ready", Route::V2ModelReady),
    ("/v2/models/{model}/config", Route::V2Config),
    ("/v2/models/{model}/versions/{version}/config", Route::V2Config),
    ("/v2/models/{model}/stats", Route::V2Stats),
    ("/v2/models/{model}/versions/{version}/stats", Route::V2Stats),
    ("/v2/models/{model}/infer", Route::V2Infer),
    ("/v2/models/{model}/versions/{version}/infer", Route::V2Infer),
    ("/v2/repository/index", Route::V2Index),
    ("/v2/repository/models/{model}/load", Route::V2Load),
    ("/v2/repository/models/{model}/unload", Route::V2Unload),
];

/// Who passes where credentials are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Everybody: health, and what says where to go.
    Open,
    /// Whoever has credentials, with this scope if there is one.
    Guarded(Option<Scope>),
}

/// What the variable parts of a path say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captures<'a> {
    /// The model.
    pub model: Option<&'a str>,
    /// Its version, as it was written.
    pub version: Option<&'a str>,
}

impl Route {
    /// The route of a percent-decoded path.
    pub fn of(path: &str) -> Route {
        Self::of_with_captures(path).0
    }

    /// The route of a percent-decoded path, and what its variable parts say.
    pub fn of_with_captures(path: &str) -> (Route, Captures<'_>) {
        let matched = |(pattern, route): &(&str, Route)| Some((*route, captures(pattern, path)?));
        let unknown = if path.starts_with("/v2/") { Route::V2Unknown } else { Route::Unknown };
        ROUTES.iter().find_map(matched).unwrap_or((unknown, Captures::default()))
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
            Route::Live
                | Route::Ready
                | Route::Health
                | Route::Metrics
                | Route::ApiMetrics
                | Route::Status
                | Route::V2Live
                | Route::V2Ready
        )
    }

    /// Who may ask here.
    pub fn door(self, method: Method) -> Door {
        match self {
            Route::Index
            | Route::Live
            | Route::Ready
            | Route::Health
            | Route::V2Server
            | Route::V2Live
            | Route::V2Ready
            | Route::V2Unknown
            | Route::Unknown => Door::Open,
            Route::Metrics | Route::ApiMetrics | Route::Status => Door::Guarded(Some(Scope::Metrics)),
            Route::Stream | Route::Audio | Route::Echo => Door::Guarded(Some(Scope::Stream)),
            Route::V2Infer => Door::Guarded(Some(Scope::Infer)),
            Route::Model if method == Method::Post => Door::Guarded(Some(Scope::Infer)),
            Route::V2Load | Route::V2Unload | Route::Reload => Door::Guarded(Some(Scope::Admin)),
            Route::Models
            | Route::Model
            | Route::V2Model
            | Route::V2ModelReady
            | Route::V2Config
            | Route::V2Stats
            | Route::V2Index => Door::Guarded(None),
        }
    }

    /// Whether a WebSocket may be opened here.
    pub fn is_websocket(self) -> bool {
        matches!(self, Route::Stream | Route::Audio | Route::Echo)
    }

    /// Whether it belongs to the Open Inference Protocol, whose errors look different.
    pub fn is_v2(self) -> bool {
        self == Route::V2Unknown || self.path().starts_with("/v2")
    }

    /// Whether the method is served here.
    pub fn allows(self, method: Method) -> bool {
        self.methods().contains(&method)
    }

    fn methods(self) -> &'static [Method] {
        match self {
            Route::Stream | Route::Audio => &[Method::Get],
            Route::Echo => &[Method::Get, Method::Post],
            Route::Model | Route::V2Index => &[Method::Get, Method::Head, Method::Post],
            Route::V2Infer | Route::V2Load | Route::V2Unload | Route::Reload => &[Method::Post],
            _ => &[Method::Get, Method::Head],
        }
    }

    /// The `Allow` header.
    pub fn allow_header(self) -> String {
        let names: Vec<_> = self.methods().iter().map(|method| method.as_str()).collect();
        names.join(", ")
    }
}

/// What a path says where the pattern has `{model}` and `{version}`; `None` if it is another path.
fn captures<'a>(pattern: &str, path: &'a str) -> Option<Captures<'a>> {
    let mut captures = Captures::default();
    let mut segments = path.split('/');
    for expected in pattern.split('/') {
        let segment = segments.next()?;
        match expected {
            "{model}" if !segment.is_empty() => captures.model = Some(segment),
            "{version}" if !segment.is_empty() => captures.version = Some(segment),
            _ if segment == expected => {}
            _ => return None,
        }
    }
    segments.next().is_none().then_some(captures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_leads_to_its_own_route() {
        for (path, route) in ROUTES {
            let (found, captures) = Route::of_with_captures(path);
            assert_eq!(found, *route, "{path}");
            assert_eq!(captures.model, path.contains("{model}").then_some("{model}"), "{path}");
        }
    }

    #[test]
    fn variable_parts_are_told() {
        let (route, captures) = Route::of_with_captures("/v2/models/vad/versions/3/infer");
        assert_eq!(route, Route::V2Infer);
        assert_eq!(captures, Captures { model: Some("vad"), version: Some("3") });
        for unknown in ["/v2/models//infer", "/v2/models/vad/infer/", "/v2/models"] {
            assert_eq!(Route::of(unknown), Route::V2Unknown, "{unknown}");
        }
        for unknown in ["/v1/models/a/b", "//", "/v22"] {
            assert_eq!(Route::of(unknown), Route::Unknown, "{unknown}");
        }
    }

    #[test]
    fn only_the_paths_of_the_protocol_are_its_own() {
        assert!(Route::V2Infer.is_v2() && Route::V2Server.is_v2());
        assert!(!Route::Model.is_v2() && !Route::Unknown.is_v2());
    }
}
