//! Whether the values of a configuration agree with each other and with their ranges.

use super::{Config, ConfigError, ProxyProtocol, SETTINGS, Setting};
use ipnet::IpNet;
use std::net::IpAddr;

/// Bytes of one second of held audio at the highest rate that is served: 48 kHz, one channel, 32-bit float.
const AUDIO_BYTES_PER_SECOND_MAX: u128 = 48_000 * 4;

/// Settings of which the first may not exceed the second, and why.
macro_rules! order {
    ($config:ident: $($small:ident <= $great:ident, $why:literal;)+) => {
        [$(($config.$small > $config.$great, stringify!($small), stringify!($great), $why)),+]
    };
}

impl Config {
    /// Checks every range and what the values mean to each other. All problems are told at once.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems: Vec<String> = SETTINGS.iter().filter_map(|setting| self.outside(setting)).collect();
        problems.extend(self.out_of_order());
        problems.extend(self.no_room_for_a_stream());
        problems.extend(self.strange_names());
        problems.extend(self.half_of_tls());
        problems.extend(self.no_receiver());
        problems.extend(self.proxies_of_nobody());
        ConfigError::unless_empty(problems)
    }

    /// How many threads run models on a machine with that many cores; at least 1.
    pub fn worker_count(&self, cores: usize) -> usize {
        if self.workers == 0 { cores.saturating_sub(1).max(1) } else { self.workers }
    }

    /// The networks of `trusted_proxies`.
    pub fn trusted_networks(&self) -> Vec<IpNet> {
        self.trusted_proxies.split_whitespace().filter_map(network).collect()
    }

    /// A library's user writes fields by hand, so each value passes through its own text once more.
    fn outside(&self, setting: &Setting) -> Option<String> {
        let text = (setting.get)(self);
        let refused = (setting.set)(&mut self.clone(), &text).err()?;
        Some(format!("{} = {}: {refused}", setting.name, setting.in_file(&text)))
    }

    fn out_of_order(&self) -> Vec<String> {
        let order = order! { self:
            target_bytes_max <= head_bytes_max, "the target is a part of the head";
            body_bytes_max <= incoming_bytes_total_max, "one whole body must fit into what all may hold";
            message_bytes_max <= incoming_bytes_total_max, "one whole message must fit into what all may hold";
            echo_message_bytes_max <= incoming_bytes_total_max, "one whole message must fit into what all may hold";
            echo_message_bytes_max <= outgoing_bytes_total_max, "the message goes back whole";
            outgoing_bytes_max <= outgoing_bytes_total_max, "one connection's share is a part of the total";
            sessions_max <= connections_max, "every session needs a connection";
            pong_timeout <= ping_interval, "the next ping would begin the wait anew";
            infer_body_bytes_max <= calls_bytes_total_max, "one whole request must fit into what all may hold";
            run_max <= audio_held_max, "a run is made of audio that is held";
        };
        let wrong = order.into_iter().filter(|(exceeds, ..)| *exceeds);
        wrong.map(|(_, small, great, why)| self.describe_order(small, great, why)).collect()
    }

    /// Lists of which an entry is not what it should be.
    fn strange_names(&self) -> Vec<String> {
        let networks = self.trusted_proxies.split_whitespace().filter(|word| network(word).is_none());
        let networks = networks.map(|word| {
            format!(
                "trusted_proxies: {word} is no address and no network; write it like 10.0.0.1 or 10.0.0.0/8"
            )
        });
        let origin = |word: &&str| {
            let host = word.strip_prefix("http://").or_else(|| word.strip_prefix("https://"));
            *word != "*" && host.is_none_or(|host| host.is_empty() || host.contains('/'))
        };
        let origins = self.allowed_origins.split_whitespace().filter(origin);
        let origins = origins.map(|word| {
            format!("allowed_origins: {word} is no origin; write it like https://example.com, without a path, or `*`")
        });
        networks.chain(origins).collect()
    }

    fn describe_order(&self, small: &str, great: &str, why: &str) -> String {
        let value = |name| Setting::named(name).map(|setting| (setting.get)(self)).unwrap_or_default();
        format!(
            "{small} is {}, but {great} is only {}: {why}. Lower {small} or raise {great}.",
            value(small),
            value(great)
        )
    }

    fn half_of_tls(&self) -> Option<String> {
        let (given, missing, path) = match (self.tls_certificate.as_str(), self.tls_key.as_str()) {
            ("", "") => return None,
            (path, "") => ("tls_certificate", "tls_key", path),
            ("", path) => ("tls_key", "tls_certificate", path),
            (path, _) if cfg!(not(feature = "tls")) => {
                return Some(format!(
                    "tls_certificate = \"{path}\", but this build speaks no TLS. Build it with the feature `tls`, or \
                     leave tls_certificate and tls_key empty."
                ));
            }
            _ => return None,
        };
        Some(format!(
            "{given} = \"{path}\", but {missing} is empty: TLS needs both. Set {missing}, or neither."
        ))
    }

    /// What keeps `webhook_url` from being posted to. The URL is not repeated: it may hold a secret.
    fn no_receiver(&self) -> Option<String> {
        let url = self.webhook_url.as_str();
        if url.is_empty() {
            return None;
        }
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let odd = |byte: u8| {
            !byte.is_ascii_graphic()
                || matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
        };
        let why = if scheme != "http" && scheme != "https" {
            "write it like https://example.com/hook"
        } else if authority.contains('@') {
            "a name and password in a URL end up in logs; the receiver knows the server by its signature"
        } else if host.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_err()) {
            "it names no host, or a port that is none; write it like https://example.com:8443/hook"
        } else if url.bytes().any(odd) {
            "it has characters that no URL has, or a fragment; encode them as %20 and the like"
        } else if scheme == "https" && cfg!(not(feature = "tls")) {
            "this build speaks no TLS: build it with the feature `tls`, or post to a proxy nearby by http://"
        } else {
            return None;
        };
        Some(format!("webhook_url cannot be posted to: {why}."))
    }

    fn proxies_of_nobody(&self) -> Option<String> {
        let nobody = self.trusted_proxies.trim().is_empty() && self.proxy_protocol != ProxyProtocol::Off;
        nobody.then(|| {
            "proxy_protocol = \"v2\", but trusted_proxies is empty: no header would be believed. Name the proxies, or leave \
             proxy_protocol off."
                .to_owned()
        })
    }

    fn no_room_for_a_stream(&self) -> Option<String> {
        let one_stream = self.audio_held_max.as_millis() * AUDIO_BYTES_PER_SECOND_MAX / 1000;
        (one_stream > self.audio_bytes_total_max as u128).then(|| {
            format!(
                "audio_held_max is {:?}, which is {one_stream} bytes of 48 kHz audio, but audio_bytes_total_max is \
                 only {} bytes: not even one stream fits. Lower audio_held_max or raise audio_bytes_total_max.",
                self.audio_held_max, self.audio_bytes_total_max
            )
        })
    }
}

/// One address is a network too.
fn network(word: &str) -> Option<IpNet> {
    word.parse().or_else(|_| word.parse::<IpAddr>().map(IpNet::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn problems(config: &Config) -> Vec<String> {
        config.validate().err().map(|error| error.problems).unwrap_or_default()
    }

    #[test]
    fn the_defaults_agree() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn a_field_written_by_hand_is_held_against_its_range() {
        let config = Config { head_timeout: Duration::ZERO, host: String::new(), ..Config::default() };
        assert_eq!(
            problems(&config),
            [
                "host = \"\": expected a text of one line that is not empty",
                "head_timeout = \"0ms\": expected a duration with its unit from 10ms to 1h",
            ]
        );
    }

    #[test]
    fn more_sessions_than_connections_are_refused_with_both_names() {
        let config = Config { sessions_max: 20_000, ..Config::default() };
        assert_eq!(
            problems(&config),
            ["sessions_max is 20000, but connections_max is only 10000: every session needs a connection. \
              Lower sessions_max or raise connections_max."]
        );
    }

    #[test]
    fn equal_limits_are_in_order() {
        let config = Config { sessions_max: 7, connections_max: 7, ..Config::default() };
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn a_credit_that_no_memory_is_set_aside_for_is_refused() {
        let config = Config {
            audio_held_max: Duration::from_secs(10),
            audio_bytes_total_max: 1 << 20,
            ..Config::default()
        };
        let problems = problems(&config);
        assert!(problems.len() == 1 && problems[0].contains("1920000 bytes"), "{problems:?}");
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let config = Config { tls_certificate: "a.pem".into(), ..Config::default() };
        let wanted =
            "tls_certificate = \"a.pem\", but tls_key is empty: TLS needs both. Set tls_key, or neither.";
        assert_eq!(problems(&config), [wanted]);
        let config = Config { tls_key: "k.pem".into(), ..Config::default() };
        assert!(problems(&config)[0].contains("tls_certificate is empty"));
        let config = Config { tls_certificate: "a.pem".into(), tls_key: "k.pem".into(), ..Config::default() };
        let refused = problems(&config);
        assert_eq!(refused.is_empty(), cfg!(feature = "tls"), "{refused:?}");
    }

    #[test]
    fn a_receiver_that_cannot_be_posted_to_is_refused_and_its_url_not_repeated() {
        let refused = |url: &str| problems(&Config { webhook_url: url.into(), ..Config::default() });
        for url in ["http://localhost", "http://10.0.0.1:8080/a?b=c", "http://[::1]/", "http://[::1]:9/hook"]
        {
            assert_eq!(refused(url), [""; 0], "{url}");
        }
        assert_eq!(refused("https://example.com/hook").is_empty(), cfg!(feature = "tls"));
        for (url, word) in [
            ("example.com/planted", "write it like"),
            ("ftp://example.com/planted", "write it like"),
            ("http://planted:planted@example.com/", "a name and password"),
            ("http:///planted", "no host"),
            ("http://:80/planted", "no host"),
            ("http://example.com:planted/", "no host"),
            ("http://example.com:99999/planted", "no host"),
            ("http://example.com/planted#here", "no URL has"),
            ("http://example.com/a planted space", "no URL has"),
        ] {
            let problems = refused(url);
            assert!(problems.len() == 1 && problems[0].contains(word), "{url}: {problems:?}");
            assert!(!problems[0].contains("planted"), "{problems:?}");
        }
    }

    #[test]
    fn headers_of_proxies_are_refused_without_proxies() {
        let config = Config { proxy_protocol: ProxyProtocol::V2, ..Config::default() };
        assert!(problems(&config)[0].contains("trusted_proxies is empty"));
        let config = Config { trusted_proxies: "10.0.0.0/8 ::1".into(), ..config };
        assert_eq!(problems(&config), [""; 0]);
        assert_eq!(config.trusted_networks().len(), 2);
    }

    #[test]
    fn one_core_stays_free_but_one_worker_there_is() {
        let automatic = Config::default();
        assert_eq!([0, 1, 2, 8].map(|cores| automatic.worker_count(cores)), [1, 1, 1, 7]);
        let fixed = Config { workers: 3, ..Config::default() };
        assert_eq!(fixed.worker_count(8), 3);
    }
}
