//! The query of `/v1/stream`: parsed once, strictly, into [`StreamParams`].

use super::{Encoding, Framing, Overflow, not_among, quoted};
use crate::reason::{Fault, Reason};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Sample rates served, hertz: from telephony to studio; everything between is resampled.
pub(crate) const SAMPLE_RATE_HZ: RangeInclusive<u32> = 8_000..=48_000;
/// Channels served; they are mixed to mono. Eight is 7.1, the most that common recorders deliver.
pub(crate) const CHANNELS: RangeInclusive<u16> = 1..=8;
/// Interval of `AudioAdded`, milliseconds.
pub(crate) const ACK_INTERVAL_MS: RangeInclusive<u64> = 100..=60_000;
/// Age at which audio is discarded, milliseconds.
pub(crate) const DEADLINE_MS: RangeInclusive<u64> = 1..=3_600_000;
/// Greatest length of a text that the client chooses and the server keeps, characters.
pub(crate) const TEXT_CHARS_MAX: usize = 128;

/// The parameters, as listed to people.
const NAMES: &[&str] = &[
    "model",
    "encoding",
    "sample_rate",
    "channels",
    "interim_results",
    "framing",
    "overflow",
    "ack_interval_ms",
    "deadline_ms",
    "timing",
    "resume",
    "last_message",
    "tag",
    "browser_errors",
];

/// What a client asks of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamParams {
    /// The model's name; whether it exists is not checked here.
    pub model: String,
    /// How samples are written.
    pub encoding: Encoding,
    /// Samples a second of each channel, hertz, 8,000 to 48,000.
    pub sample_rate_hz: u32,
    /// Interleaved channels, 1 to 8.
    pub channels: u16,
    /// Whether results that may still change are wanted.
    pub interim_results: bool,
    /// What a binary message is, both ways.
    pub framing: Framing,
    /// What becomes of audio that comes too fast.
    pub overflow: Overflow,
    /// Interval of `AudioAdded`, milliseconds, 100 to 60,000.
    pub ack_interval_ms: u64,
    /// Age at which audio is discarded, milliseconds, 1 to 3,600,000; `None` never.
    pub deadline_ms: Option<u64>,
    /// Whether each result tells its `timing`.
    pub timing: bool,
    /// A resume token.
    pub resume: Option<String>,
    /// With `resume`: the last message that the client has.
    pub last_message: Option<u64>,
    /// The client's own name for the stream, at most 128 characters, no control characters.
    pub tag: Option<String>,
    /// Refuse after the upgrade, where a browser can see it.
    pub browser_errors: bool,
}

/// The protocol's defaults, which every server must keep to: clients leave out what equals them.
impl Default for StreamParams {
    fn default() -> Self {
        Self {
            model: String::new(),
            encoding: Encoding::Linear16,
            sample_rate_hz: 16_000,
            channels: 1,
            interim_results: false,
            framing: Framing::Raw,
            overflow: Overflow::Block,
            ack_interval_ms: 1_000,
            deadline_ms: None,
            timing: false,
            resume: None,
            last_message: None,
            tag: None,
            browser_errors: false,
        }
    }
}

impl StreamParams {
    /// Parses the decoded pairs of a query on top of `defaults`.
    ///
    /// A name or value that is unknown or stands twice is refused and named: [`Reason::InvalidAudioFormat`] for
    /// `encoding`, `sample_rate` and `channels`, otherwise [`Reason::InvalidValue`]. What shows who asks
    /// stands in the query too; the door has taken it out by then.
    pub fn parse(pairs: &[(String, String)], defaults: StreamParams) -> Result<StreamParams, Fault> {
        let mut params = defaults;
        let mut seen = [false; NAMES.len()];
        for (name, value) in pairs {
            let Some(index) = NAMES.iter().position(|known| known == name) else {
                let fault = not_among(Reason::InvalidValue, "parameter", name, NAMES);
                return Err(fault.at(name.chars().take(super::QUOTED_CHARS_MAX).collect::<String>()));
            };
            if std::mem::replace(&mut seen[index], true) {
                let message = format!("the parameter {name} stands twice in the query; give it once");
                return Err(Fault::new(Reason::InvalidValue, message).at(name.as_str()));
            }
            params.set(NAMES[index], value)?;
        }
        Ok(params)
    }

    /// The pairs that say the same to a server: what equals [`StreamParams::default`] is left to it.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let default = StreamParams::default();
        let mut pairs = Vec::new();
        let mut push = |name: &str, said: bool, value: &dyn Display| {
            if said {
                pairs.push((name.to_owned(), value.to_string()));
            }
        };
        push("model", self.model != default.model, &self.model);
        push("encoding", self.encoding != default.encoding, &self.encoding);
        push("sample_rate", self.sample_rate_hz != default.sample_rate_hz, &self.sample_rate_hz);
        push("channels", self.channels != default.channels, &self.channels);
        push("interim_results", self.interim_results, &self.interim_results);
        push("framing", self.framing != default.framing, &self.framing);
        push("overflow", self.overflow != default.overflow, &self.overflow);
        push("ack_interval_ms", self.ack_interval_ms != default.ack_interval_ms, &self.ack_interval_ms);
        push("deadline_ms", self.deadline_ms.is_some(), &self.deadline_ms.unwrap_or_default());
        push("timing", self.timing, &self.timing);
        push("resume", self.resume.is_some(), &self.resume.as_deref().unwrap_or_default());
        push("last_message", self.last_message.is_some(), &self.last_message.unwrap_or_default());
        push("tag", self.tag.is_some(), &self.tag.as_deref().unwrap_or_default());
        push("browser_errors", self.browser_errors, &self.browser_errors);
        pairs
    }

    fn set(&mut self, name: &'static str, value: &str) -> Result<(), Fault> {
        use Reason::{InvalidAudioFormat, InvalidValue};
        match name {
            "model" => self.model = text(name, value)?,
            "encoding" => self.encoding = Encoding::parse(value)?,
            "sample_rate" => self.sample_rate_hz = number(InvalidAudioFormat, name, value, SAMPLE_RATE_HZ)?,
            "channels" => self.channels = number(InvalidAudioFormat, name, value, CHANNELS)?,
            "interim_results" => self.interim_results = boolean(name, value)?,
            "framing" => self.framing = Framing::parse(value)?,
            "overflow" => self.overflow = Overflow::parse(value)?,
            "ack_interval_ms" => self.ack_interval_ms = number(InvalidValue, name, value, ACK_INTERVAL_MS)?,
            "deadline_ms" => self.deadline_ms = Some(number(InvalidValue, name, value, DEADLINE_MS)?),
            "timing" => self.timing = boolean(name, value)?,
            // A token is opaque: whoever made it checks it.
            "resume" => self.resume = Some(value.to_owned()),
            "last_message" => self.last_message = Some(number(InvalidValue, name, value, 0..=u64::MAX)?),
            "tag" => self.tag = Some(text(name, value)?),
            _ => {
                debug_assert_eq!(name, "browser_errors");
                self.browser_errors = boolean(name, value)?;
            }
        }
        Ok(())
    }
}

fn boolean(name: &'static str, value: &str) -> Result<bool, Fault> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => {
            let message = format!("{name} is {}, expected true or false", quoted(value));
            Err(Fault::new(Reason::InvalidValue, message).at(name))
        }
    }
}

fn number<T>(reason: Reason, name: &'static str, value: &str, range: RangeInclusive<T>) -> Result<T, Fault>
where
    T: FromStr + PartialOrd + Display,
{
    // `parse` also takes "+5", which a query shows as " 5": only digits are numbers here.
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(number) if digits && range.contains(&number) => Ok(number),
        _ => {
            let (least, most) = (range.start(), range.end());
            let message =
                format!("{name} is {}, expected a whole number from {least} to {most}", quoted(value));
            Err(Fault::new(reason, message).at(name))
        }
    }
}

fn text(name: &'static str, value: &str) -> Result<String, Fault> {
    let fits = value.chars().nth(TEXT_CHARS_MAX).is_none();
    if fits && !value.is_empty() && !value.chars().any(char::is_control) {
        return Ok(value.to_owned());
    }
    let message = format!(
        "{name} is {}, expected 1 to {TEXT_CHARS_MAX} characters without control characters",
        quoted(value)
    );
    Err(Fault::new(Reason::InvalidValue, message).at(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(query: &[(&str, &str)]) -> Result<StreamParams, Fault> {
        let pairs: Vec<_> = query.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        StreamParams::parse(&pairs, StreamParams { model: "vad".into(), ..StreamParams::default() })
    }

    #[test]
    fn what_is_not_said_stays_at_the_default() {
        let params = parse(&[]).expect("an empty query");
        assert_eq!(
            (params.model.as_str(), params.encoding, params.sample_rate_hz),
            ("vad", Encoding::Linear16, 16_000)
        );
        assert_eq!(
            (params.overflow, params.ack_interval_ms, params.deadline_ms),
            (Overflow::Block, 1_000, None)
        );
    }

    #[test]
    fn every_known_parameter_is_taken() {
        let mut query: Vec<_> = [
            ("model", "denoise"),
            ("encoding", "mulaw"),
            ("sample_rate", "8000"),
            ("channels", "2"),
            ("interim_results", "true"),
            ("framing", "seq"),
            ("overflow", "discard_oldest"),
            ("ack_interval_ms", "250"),
            ("deadline_ms", "400"),
            ("timing", "true"),
            ("resume", "abc"),
            ("last_message", "7"),
            ("tag", "kitchen"),
            ("browser_errors", "1"),
        ]
        .to_vec();
        let wanted = StreamParams {
            model: "denoise".into(),
            encoding: Encoding::Mulaw,
            sample_rate_hz: 8_000,
            channels: 2,
            interim_results: true,
            framing: Framing::Seq,
            overflow: Overflow::DiscardOldest,
            ack_interval_ms: 250,
            deadline_ms: Some(400),
            timing: true,
            resume: Some("abc".into()),
            last_message: Some(7),
            tag: Some("kitchen".into()),
            browser_errors: true,
        };
        assert_eq!(parse(&query), Ok(wanted.clone()));
        query.reverse();
        assert_eq!(parse(&query), Ok(wanted));
        assert_eq!(query.len(), NAMES.len());
    }

    #[test]
    fn a_wrong_parameter_or_value_is_named() {
        for (query, reason, param, says) in [
            (("sample_rat", "8000"), Reason::InvalidValue, "sample_rat", "did you mean \"sample_rate\""),
            (("sample_rate", "7999"), Reason::InvalidAudioFormat, "sample_rate", "8000 to 48000"),
            (("sample_rate", "48001"), Reason::InvalidAudioFormat, "sample_rate", "8000 to 48000"),
            (("sample_rate", "16k"), Reason::InvalidAudioFormat, "sample_rate", "\"16k\""),
            (("channels", "9"), Reason::InvalidAudioFormat, "channels", "1 to 8"),
            (("channels", "+2"), Reason::InvalidAudioFormat, "channels", "1 to 8"),
            (("encoding", "opus"), Reason::InvalidAudioFormat, "encoding", "linear16, f32le, mulaw, alaw"),
            (("overflow", "drop"), Reason::InvalidValue, "overflow", "block, discard_oldest, close"),
            (("framing", "sec"), Reason::InvalidValue, "framing", "did you mean \"seq\""),
            (("ack_interval_ms", "99"), Reason::InvalidValue, "ack_interval_ms", "100 to 60000"),
            (("deadline_ms", "-1"), Reason::InvalidValue, "deadline_ms", "1 to 3600000"),
            (("timing", "yes"), Reason::InvalidValue, "timing", "true or false"),
            (("last_message", "99999999999999999999"), Reason::InvalidValue, "last_message", "whole number"),
            (("tag", "a\nb"), Reason::InvalidValue, "tag", "control"),
            (("model", ""), Reason::InvalidValue, "model", "1 to 128"),
        ] {
            let fault = parse(&[query]).unwrap_err();
            assert_eq!((fault.reason, fault.param.as_deref()), (reason, Some(param)), "{query:?}");
            assert!(fault.message.contains(says), "{query:?}: {fault}");
        }
    }

    #[test]
    fn a_parameter_stands_only_once() {
        let fault = parse(&[("channels", "1"), ("channels", "1")]).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("channels"));
        assert!(fault.message.contains("twice"), "{fault}");
    }

    prop_compose! {
        fn params()(
            (model, tag) in ("[a-zé &=]{0,20}", proptest::option::of("[a-zé &=]{1,20}")),
            (encoding, framing, overflow) in (
                prop::sample::select(Encoding::ALL),
                prop::sample::select(Framing::ALL),
                prop::sample::select(Overflow::ALL),
            ),
            (sample_rate_hz, channels, ack_interval_ms) in (SAMPLE_RATE_HZ, CHANNELS, ACK_INTERVAL_MS),
            deadline_ms in proptest::option::of(DEADLINE_MS),
            (interim_results, timing, browser_errors) in any::<(bool, bool, bool)>(),
            (resume, last_message) in (proptest::option::of(".{0,20}"), any::<Option<u64>>()),
        ) -> StreamParams {
            StreamParams {
                model, encoding, sample_rate_hz, channels, interim_results, framing, overflow, ack_interval_ms,
                deadline_ms, timing, resume, last_message, tag, browser_errors,
            }
        }
    }

    proptest! {
        #[test]
        fn what_a_client_says_is_what_the_server_understands(params in params()) {
            let parsed = StreamParams::parse(&params.pairs(), StreamParams::default());
            prop_assert_eq!(parsed, Ok(params));
        }

        #[test]
        fn no_query_makes_it_panic(pairs in proptest::collection::vec((".{0,20}", ".{0,150}"), 0..4), known in 0..NAMES.len()) {
            let mut pairs = pairs;
            if let Some(pair) = pairs.first_mut() {
                pair.0 = NAMES[known].into();
            }
            if let Err(fault) = StreamParams::parse(&pairs, StreamParams::default()) {
                prop_assert!(fault.param.is_some());
            }
        }
    }
}
