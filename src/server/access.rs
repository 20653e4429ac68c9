//! The door: who asks, whether they may, and whether it is not too much. What it remembers is bounded.
//!
//! Owns the keyring, what was used once, and the buckets and counts of principals and addresses. Knows no connection and no
//! session; the server asks and tells.

use crate::auth::{Authenticated, Keyring, Lifetimes, Once, Principal, Scope};
use crate::config::Config;
use crate::reason::{Fault, Reason};
use crate::server::limiter::{Level, Limiters, Rate};
use crate::time::{Instant, Now};
use crate::wire::http::RequestHead;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Requests, and seconds of audio, of a principal.
const REQUESTS: usize = 0;
const AUDIO: usize = 1;
/// Wrong credentials of an address; its requests are [`REQUESTS`].
const FAILURES: usize = 1;

/// Seconds of audio at once: what a client has recorded while it had no network.
const AUDIO_BURST_S: f64 = 10.0;
/// Requests at once, in seconds of the rate.
const BURST_S: f64 = 2.0;

/// What a principal has now.
#[derive(Clone, Copy, Debug, Default)]
struct Holdings {
    connections: u32,
    sessions: u32,
}

/// The level of the bucket that a request was taken from, with its rate.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// The rate.
    pub rate: Rate,
    /// What is left.
    pub level: Level,
}

/// The door.
pub struct Access {
    /// None until the file has been read; nobody passes a door that wants credentials meanwhile.
    keyring: Option<Keyring>,
    /// Whether credentials are wanted at all.
    closed: bool,
    anyone: Arc<Principal>,
    trusted: Vec<IpNet>,
    origins: Origins,
    used: BTreeSet<Once>,
    principals: Limiters<Arc<str>, 2>,
    addresses: Limiters<IpAddr, 2>,
    holdings: BTreeMap<Arc<str>, Holdings>,
    /// Connections of each address, counted only if they are limited.
    peers: BTreeMap<IpAddr, u32>,
}

/// Pages that may connect.
enum Origins {
    /// Nothing was said: WebSockets from all, requests of pages from none.
    Unsaid,
    All,
    These(Vec<String>),
}

impl Access {
    /// The door of that configuration, which has been validated.
    pub fn new(config: &Config) -> Access {
        let origins: Vec<_> =
            config.allowed_origins.split_whitespace().map(str::to_ascii_lowercase).collect();
        let origins = match &origins[..] {
            [] => Origins::Unsaid,
            origins if origins.iter().any(|origin| origin == "*") => Origins::All,
            _ => Origins::These(origins),
        };
        Access {
            keyring: None,
            closed: !config.credentials_file.is_empty(),
            anyone: Arc::new(Principal::anyone()),
            trusted: config.trusted_networks(),
            origins,
            used: BTreeSet::new(),
            principals: Limiters::new(config.limiters_max),
            addresses: Limiters::new(config.limiters_max),
            holdings: BTreeMap::new(),
            peers: BTreeMap::new(),
        }
    }

    /// Whoever comes where no credentials are wanted.
    pub fn anyone(&self) -> Arc<Principal> {
        Arc::clone(&self.anyone)
    }

    /// From now on these credentials are taken.
    pub fn set_keyring(&mut self, keyring: Keyring) {
        self.keyring = Some(keyring);
    }

    /// Whether what vouched for the principal is still there.
    pub fn vouches_for(&self, principal: &Principal) -> bool {
        !self.closed || self.keyring.as_ref().is_some_and(|keyring| keyring.knows(&principal.source))
    }

    /// Where the request comes from: the peer, or whom a trusted proxy names.
    pub fn address(&self, peer: IpAddr, head: &RequestHead) -> IpAddr {
        let mut address = peer.to_canonical();
        if self.trusted.is_empty() {
            return address;
        }
        let hops: Vec<_> = head.header_list("x-forwarded-for").collect();
        for hop in hops.into_iter().rev() {
            if !self.trusts(address) {
                break;
            }
            let Ok(named) = hop.parse::<IpAddr>() else { break };
            address = named.to_canonical();
        }
        address
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Who makes the request; the principal of everyone where credentials are not wanted.
    ///
    /// # Errors
    /// `Unauthorized`, `TokenExpired`, `BadRequest`; `RateLimited` for an address that has failed too often, whatever it shows.
    pub fn authenticate(
        &mut self,
        config: &Config,
        address: IpAddr,
        head: &RequestHead,
        now: Now,
    ) -> Result<Arc<Principal>, Fault> {
        if !self.closed {
            return Ok(self.anyone());
        }
        let address = group(address);
        self.check_failures(config, address, now.instant)?;
        let outcome = self.look_at(config, head, now);
        let guessed = matches!(&outcome, Err(fault) if fault.reason == Reason::Unauthorized);
        if guessed && let Some(rate) = per_minute(config.address_failures_max) {
            // That it fits was seen before.
            let _ = self.addresses.take(&address, FAILURES, rate, 1.0, now.instant);
        }
        outcome?.ok_or_else(|| {
            let message = "credentials are missing; send `Authorization: Bearer <token or key>`";
            Fault::new(Reason::Unauthorized, message)
        })
    }

    fn check_failures(&mut self, config: &Config, address: IpAddr, now: Instant) -> Result<(), Fault> {
        let Some(rate) = per_minute(config.address_failures_max) else { return Ok(()) };
        let mut failures = self.addresses.peek(&address)[FAILURES];
        failures.take(rate, 1.0, now).map(drop).map_err(|wait| {
            let message = "too many wrong credentials came from this address; wait";
            Fault::new(Reason::RateLimited, message).after(wait)
        })
    }

    fn look_at(
        &mut self,
        config: &Config,
        head: &RequestHead,
        now: Now,
    ) -> Result<Option<Arc<Principal>>, Fault> {
        let lifetimes = Lifetimes {
            query_token: config.query_token_lifetime_max,
            signed_request: config.signed_request_lifetime_max,
        };
        let Some(keyring) = &self.keyring else {
            return Err(Fault::new(Reason::Overloaded, "the credentials have not been read yet"));
        };
        let Some(Authenticated { principal, once }) = keyring.authenticate(head, now.unix_ms, lifetimes)?
        else {
            return Ok(None);
        };
        if let Some(once) = once {
            self.use_once(once, config.signed_requests_max, now)?;
        }
        Ok(Some(Arc::new(principal)))
    }

    fn use_once(&mut self, once: Once, max: usize, now: Now) -> Result<(), Fault> {
        while self.used.first().is_some_and(|used| used.expires_unix_ms <= now.unix_ms) {
            self.used.pop_first();
        }
        if self.used.contains(&once) {
            let message = "this signed request has been made already; sign another";
            return Err(Fault::new(Reason::Unauthorized, message).at("signature"));
        }
        if self.used.len() >= max {
            let message = "more signed requests came than can be remembered; try again later";
            return Err(Fault::new(Reason::RateLimited, message));
        }
        self.used.insert(once);
        Ok(())
    }

    /// Takes a request from the buckets of its address and its principal. Gives what is left of the principal's.
    ///
    /// # Errors
    /// `RateLimited`.
    pub fn take_request(
        &mut self,
        config: &Config,
        address: IpAddr,
        principal: &Principal,
        now: Instant,
    ) -> Result<Option<Budget>, Fault> {
        let refuse = |whose: &str, wait| {
            let message = format!("{whose} asks more often than it may; wait");
            Fault::new(Reason::RateLimited, message).after(wait)
        };
        if let Some(rate) = per_second(config.address_requests_per_second_max) {
            let taken = self.addresses.take(&group(address), REQUESTS, rate, 1.0, now);
            taken.map_err(|wait| refuse("this address", wait))?;
        }
        let limit = principal.allowance.requests_per_second.unwrap_or(config.requests_per_second_max);
        let Some(rate) = per_second(limit).filter(|_| self.closed) else { return Ok(None) };
        let taken = self.principals.take(&principal.user, REQUESTS, rate, 1.0, now);
        let level = taken.map_err(|wait| refuse("this user", wait))?;
        Ok(Some(Budget { rate, level }))
    }

    /// Takes seconds of audio from the principal's bucket.
    ///
    /// # Errors
    /// `RateLimited`.
    pub fn take_audio(
        &mut self,
        config: &Config,
        principal: &Principal,
        seconds: f64,
        now: Instant,
    ) -> Result<(), Fault> {
        let limit = principal.allowance.audio_per_second.unwrap_or(config.principal_audio_per_second_max);
        if limit == 0 || !self.closed {
            return Ok(());
        }
        let rate = Rate { per_second: f64::from(limit), burst: AUDIO_BURST_S * f64::from(limit) };
        let taken = self.principals.take(&principal.user, AUDIO, rate, seconds, now);
        taken.map(drop).map_err(|wait| {
            let message = format!("this user sends more than {limit} seconds of audio in a second");
            Fault::new(Reason::RateLimited, message).after(wait)
        })
    }

    /// Whether a connection of that peer may be taken in; then it counts.
    ///
    /// # Errors
    /// The address has all that it may have.
    pub fn enter(&mut self, config: &Config, peer: IpAddr) -> Result<(), Reason> {
        if let Some(address) = self.counted(config, peer) {
            let connections = self.peers.entry(address).or_default();
            if *connections >= config.address_connections_max {
                return Err(Reason::QuotaReached);
            }
            *connections += 1;
        }
        Ok(())
    }

    /// A connection of that peer is gone.
    pub fn leave(&mut self, config: &Config, peer: IpAddr) {
        let Some(address) = self.counted(config, peer) else { return };
        if let Some(connections) = self.peers.get_mut(&address) {
            *connections -= 1;
            if *connections == 0 {
                self.peers.remove(&address);
            }
        }
    }

    fn counted(&self, config: &Config, peer: IpAddr) -> Option<IpAddr> {
        (config.address_connections_max > 0 && !self.trusts(peer.to_canonical())).then(|| group(peer))
    }

    /// Whether the principal may have one more WebSocket, or one more stream.
    ///
    /// # Errors
    /// `QuotaReached`.
    pub fn check_holdings(&self, config: &Config, principal: &Principal, stream: bool) -> Result<(), Fault> {
        let held = self.holdings.get(&principal.user).copied().unwrap_or_default();
        let allowance = &principal.allowance;
        let connections = allowance.connections.unwrap_or(config.principal_connections_max);
        let sessions = allowance.sessions.unwrap_or(config.principal_sessions_max);
        let full = |held: u32, max: u32| max > 0 && held >= max && self.closed;
        let (max, what) = if full(held.connections, connections) {
            (connections, "connections")
        } else if stream && full(held.sessions, sessions) {
            (sessions, "streams")
        } else {
            return Ok(());
        };
        let message = format!("this user has all {max} {what} that it may have; close one");
        Err(Fault::new(Reason::QuotaReached, message))
    }

    /// The principal has so many WebSockets and streams more.
    pub fn hold(&mut self, principal: &Principal, connections: u32, sessions: u32) {
        let held = self.holdings.entry(Arc::clone(&principal.user)).or_default();
        held.connections += connections;
        held.sessions += sessions;
    }

    /// The principal has so many fewer.
    pub fn release(&mut self, principal: &Principal, connections: u32, sessions: u32) {
        let Some(held) = self.holdings.get_mut(&principal.user) else { return };
        held.connections -= connections;
        held.sessions -= sessions;
        if held.connections + held.sessions == 0 {
            self.holdings.remove(&principal.user);
        }
    }

    /// The origin that an answer is for, if its page may read it.
    pub fn readable_by(&self, head: &RequestHead) -> Option<String> {
        let origin = head.header("origin")?;
        let allowed = match &self.origins {
            Origins::Unsaid => false,
            Origins::All => true,
            Origins::These(origins) => origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)),
        };
        allowed.then(|| origin.to_owned())
    }

    /// Whether the page that opens a WebSocket may do so. Programs send no origin, and a page of this server is no stranger.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn check_origin(&self, head: &RequestHead) -> Result<(), Fault> {
        let Some(origin) = head.header("origin") else { return Ok(()) };
        let own = origin.split_once("://").map(|(_, host)| host) == head.host.as_deref();
        if matches!(self.origins, Origins::Unsaid | Origins::All) || own || self.readable_by(head).is_some() {
            return Ok(());
        }
        let message = "pages of this origin may not connect; name it in allowed_origins";
        Err(Fault::new(Reason::Forbidden, message).at("Origin"))
    }

    /// Principals and addresses that are remembered, for the metrics.
    pub fn remembered(&self) -> usize {
        self.principals.len() + self.addresses.len() + self.used.len()
    }

    /// What all principals hold, for checks: WebSockets and streams.
    pub fn held(&self) -> (u32, u32) {
        let sum = |sum: (u32, u32), held: &Holdings| (sum.0 + held.connections, sum.1 + held.sessions);
        self.holdings.values().fold((0, 0), sum)
    }
}

/// Whether the scope is among the principal's.
///
/// # Errors
/// `Forbidden`, with the scope that is missing.
pub fn check_scope(principal: &Principal, scope: Option<Scope>) -> Result<(), Fault> {
    match scope.filter(|scope| !principal.scopes.has(*scope)) {
        None => Ok(()),
        Some(scope) => {
            let message = format!("these credentials do not have the scope `{}`", scope.name());
            Err(Fault::new(Reason::Forbidden, message))
        }
    }
}

fn per_second(limit: u32) -> Option<Rate> {
    (limit > 0).then(|| Rate { per_second: f64::from(limit), burst: (f64::from(limit) * BURST_S).max(1.0) })
}

fn per_minute(limit: u32) -> Option<Rate> {
    (limit > 0).then(|| Rate { per_second: f64::from(limit) / 60.0, burst: f64::from(limit) })
}

/// Whoever has one IPv6 address has the 2^64 of its network.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}
