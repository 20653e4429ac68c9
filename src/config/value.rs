//! How the value of a setting is read from text and written back.
//!
//! One parser for each kind of value, whatever place it came from (file, environment, flag, default, limit).
//! What is written by [`Kind::write`] is always read back as the same value.

use log::LevelFilter;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

/// How a value stands in a TOML file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In quotes, and nothing else.
    Quoted,
    /// Without quotes, and nothing else.
    Bare,
    /// In quotes; a bare number is passed on to the parser, which may know better what to say.
    Either,
}

/// The least and the greatest value, as text of the same kind.
pub(super) type Range = Option<(&'static str, &'static str)>;

/// A kind of value: its text form, its unit and its words.
pub(super) trait Kind<V: PartialOrd> {
    /// What it is counted in, for tables and for the help.
    const UNIT: &'static str;
    /// How it stands in a file.
    const FORM: Form;

    /// The value that a text means, or `None`.
    fn read(text: &str) -> Option<V>;

    /// The text of a value.
    fn write(value: &V) -> String;

    /// What would be accepted, without the range.
    fn expected() -> String;

    /// Something more to say about a text that was refused.
    fn hint(_text: &str) -> Option<String> {
        None
    }
}

/// Reads a value and holds it against its range; the error says what is accepted.
pub(super) fn parse<K: Kind<V>, V: PartialOrd>(text: &str, range: Range) -> Result<V, String> {
    let within = |value: &V| {
        let least = range.and_then(|(min, _)| K::read(min));
        let greatest = range.and_then(|(_, max)| K::read(max));
        least.is_none_or(|least| *value >= least) && greatest.is_none_or(|greatest| *value <= greatest)
    };
    match K::read(text) {
        Some(value) if within(&value) => Ok(value),
        _ => Err(refusal::<K, V>(text, range)),
    }
}

fn refusal<K: Kind<V>, V: PartialOrd>(text: &str, range: Range) -> String {
    let range = range.map(|(min, max)| format!(" from {min} to {max}")).unwrap_or_default();
    let hint = K::hint(text).map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("expected {}{range}{hint}", K::expected())
}

/// A length of time with its unit: `5ms`, `10s`, `1h 30m`.
pub(super) struct Time;

/// Units from the greatest to the least, in nanoseconds.
const TIME_UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Kind<Duration> for Time {
    const UNIT: &'static str = "duration";
    const FORM: Form = Form::Either;

    fn read(text: &str) -> Option<Duration> {
        humantime::parse_duration(text).ok()
    }

    fn write(value: &Duration) -> String {
        let nanos = value.as_nanos();
        if nanos == 0 {
            return "0ms".into();
        }
        // The last unit divides everything.
        let (name, unit) =
            TIME_UNITS.into_iter().find(|(_, unit)| nanos.is_multiple_of(*unit)).unwrap_or(("ns", 1));
        format!("{}{name}", nanos / unit)
    }

    fn expected() -> String {
        "a duration with its unit".into()
    }

    fn hint(text: &str) -> Option<String> {
        let bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        bare.then(|| format!("add a unit, such as \"{text}s\" or \"{text}ms\""))
    }
}

/// A number of bytes: `64KiB`, `1MiB`, or a bare number.
pub(super) struct Size;

impl Kind<usize> for Size {
    const UNIT: &'static str = "bytes";
    const FORM: Form = Form::Either;

    fn read(text: &str) -> Option<usize> {
        usize::try_from(text.parse::<bytesize::ByteSize>().ok()?.as_u64()).ok()
    }

    fn write(value: &usize) -> String {
        let units = [("GiB", 1usize << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.into_iter().find(|(_, unit)| *value > 0 && value.is_multiple_of(*unit)) {
            Some((name, unit)) => format!("{}{name}", value / unit),
            None => format!("{value}B"),
        }
    }

    fn expected() -> String {
        "a size in bytes, such as \"64KiB\" or \"1MiB\",".into()
    }
}

/// A number without a unit of its own.
pub(super) struct Number;

impl<T: FromStr + Display + PartialOrd> Kind<T> for Number {
    const UNIT: &'static str = "number";
    const FORM: Form = Form::Bare;

    fn read(text: &str) -> Option<T> {
        text.parse().ok()
    }

    fn write(value: &T) -> String {
        value.to_string()
    }

    fn expected() -> String {
        "a number".into()
    }
}

/// A line of text that is not empty.
pub(super) struct Text;

impl Kind<String> for Text {
    const UNIT: &'static str = "text";
    const FORM: Form = Form::Quoted;

    fn read(text: &str) -> Option<String> {
        let fine = !text.trim().is_empty() && !text.chars().any(char::is_control);
        fine.then(|| text.to_owned())
    }

    fn write(value: &String) -> String {
        value.clone()
    }

    fn expected() -> String {
        "a text of one line that is not empty".into()
    }
}

/// A line of text, or nothing.
pub(super) struct MaybeText;

impl Kind<String> for MaybeText {
    const UNIT: &'static str = "text";
    const FORM: Form = Form::Quoted;

    fn read(text: &str) -> Option<String> {
        (!text.chars().any(char::is_control)).then(|| text.trim().to_owned())
    }

    fn write(value: &String) -> String {
        value.clone()
    }

    fn expected() -> String {
        "a text of one line, or nothing".into()
    }
}

/// One of a few words.
pub(super) struct Word;

/// A value that has one word for each of its cases.
pub(super) trait Choice: Copy + PartialOrd + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

impl<C: Choice> Kind<C> for Word {
    const UNIT: &'static str = "word";
    const FORM: Form = Form::Quoted;

    fn read(text: &str) -> Option<C> {
        C::WORDS.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice)
    }

    fn write(value: &C) -> String {
        // A type lists every case that it has; the tests hold it to that.
        C::WORDS
            .iter()
            .find(|(_, choice)| choice == value)
            .map_or_else(String::new, |(word, _)| (*word).into())
    }

    fn expected() -> String {
        let words: Vec<_> = C::WORDS.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        format!("one of {}", words.join(", "))
    }
}

impl Choice for LevelFilter {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogFormat {
    /// For people: one readable line, coloured on a terminal.
    Text,
    /// For machines: one JSON object a line with stable keys.
    Json,
}

impl Choice for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
}

/// What runs an ONNX model that names nothing itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnnxEngine {
    /// The engine inside the binary.
    Rten,
    /// The shared library of ONNX Runtime, in builds that can load it.
    OnnxRuntime,
}

impl Choice for OnnxEngine {
    const WORDS: &'static [(&'static str, Self)] =
        &[("rten", OnnxEngine::Rten), ("onnxruntime", OnnxEngine::OnnxRuntime)];
}

/// Where whoever comes is served without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpenAccess {
    /// Only where nobody else comes: on loopback addresses.
    Local,
    /// On any address.
    Anywhere,
}

impl Choice for OpenAccess {
    const WORDS: &'static [(&'static str, Self)] =
        &[("local", OpenAccess::Local), ("anywhere", OpenAccess::Anywhere)];
}

/// Which events of streams are posted to the receiver of webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WebhookEvents {
    /// Final results, and the end of each stream.
    All,
    /// The end of each stream.
    Ends,
}

impl Choice for WebhookEvents {
    const WORDS: &'static [(&'static str, Self)] =
        &[("all", WebhookEvents::All), ("ends", WebhookEvents::Ends)];
}

/// Whether trusted proxies begin their connections with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProxyProtocol {
    /// They do not.
    Off,
    /// With one of the PROXY protocol, version 2.
    V2,
}

impl Choice for ProxyProtocol {
    const WORDS: &'static [(&'static str, Self)] = &[("off", ProxyProtocol::Off), ("v2", ProxyProtocol::V2)];
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_duration_is_read_back_as_it_was_written(seconds in 0u64..1_000_000_000, nanos in 0u32..1_000_000_000) {
            for value in [Duration::new(seconds, nanos), Duration::from_secs(seconds), Duration::from_nanos(u64::from(nanos))] {
                prop_assert_eq!(Time::read(&Time::write(&value)), Some(value));
            }
        }

        #[test]
        fn every_size_is_read_back_as_it_was_written(size: usize, shift in 0u32..64) {
            let size = size >> shift;
            prop_assert_eq!(Size::read(&Size::write(&size)), Some(size));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".*") {
            let _ = parse::<Time, Duration>(&text, Some(("1ms", "1h")));
            let _ = parse::<Size, usize>(&text, Some(("1KiB", "1GiB")));
            let _ = parse::<Number, u16>(&text, Some(("1", "100")));
            let _ = parse::<Text, String>(&text, None);
            let _ = parse::<Word, LogFormat>(&text, None);
        }
    }

    #[test]
    fn a_duration_without_a_unit_is_told_to_take_one() {
        let refused = parse::<Time, Duration>("5", Some(("1ms", "1h"))).unwrap_err();
        assert_eq!(
            refused,
            "expected a duration with its unit from 1ms to 1h; add a unit, such as \"5s\" or \"5ms\""
        );
    }

    #[test]
    fn zero_needs_no_unit() {
        assert_eq!(parse::<Time, Duration>("0", None), Ok(Duration::ZERO));
        assert_eq!(Time::write(&Duration::ZERO), "0ms");
    }

    #[test]
    fn a_bare_number_of_bytes_is_bytes() {
        assert_eq!(parse::<Size, usize>("4096", None), Ok(4096));
        assert_eq!(parse::<Size, usize>("1.5KiB", None), Ok(1536));
    }

    #[test]
    fn both_ends_of_a_range_are_accepted_and_nothing_beyond() {
        let range = Some(("2", "4"));
        let accepted: Vec<u32> =
            (0..10).filter(|n| parse::<Number, u32>(&n.to_string(), range).is_ok()).collect();
        assert_eq!(accepted, [2, 3, 4]);
        assert_eq!(parse::<Number, f32>("2.5", range), Ok(2.5));
        assert!(parse::<Number, f32>("NaN", range).is_err());
    }

    #[test]
    fn every_word_is_read_back_as_it_was_written() {
        for level in LevelFilter::iter() {
            assert_eq!(Word::read(&Word::write(&level)), Some(level));
        }
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(Word::read(&Word::write(&format)), Some(format));
        }
        let refused = parse::<Word, LogFormat>("xml", None).unwrap_err();
        assert_eq!(refused, "expected one of \"text\", \"json\"");
    }
}
