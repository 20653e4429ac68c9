//! What a client says.
//!
//! Parsing holds at most [`FIELDS_MAX`] scalar fields and skips whatever is nested, so a message never costs more
//! memory than its own text, whatever it contains.

use super::{not_among, params, quoted};
use crate::reason::{Fault, Reason};
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use std::borrow::Cow;
use std::fmt;

/// Fields kept besides `type`. No message has more than two, so with these kept an unknown one is always found.
const FIELDS_MAX: usize = 8;

/// A text message from client to server.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type")]
pub enum ClientMessage {
    /// Changes the session's settings; answered with `Configured`.
    Configure {
        /// Whether results that may still change are wanted.
        #[serde(skip_serializing_if = "Option::is_none")]
        interim_results: Option<bool>,
        /// Age at which audio is discarded rather than processed, milliseconds (1 to 3,600,000).
        #[serde(skip_serializing_if = "Option::is_none")]
        deadline_ms: Option<u64>,
    },
    /// Resets the audio-idle timer.
    KeepAlive,
    /// Asks for the results of everything sent so far.
    Finalize {
        /// Comes back as `finalize_id`. At most 128 characters.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    /// Ends the stream: remaining results, `Termination`, close 1000.
    CloseStream,
    /// The client dropped audio itself; the stream's clock advances.
    Discarded {
        /// Where in the stream it would have begun, milliseconds, not negative.
        start_ms: f64,
        /// How much, milliseconds, not negative.
        duration_ms: f64,
    },
    /// Everything up to this message has been received.
    Ack {
        /// The highest `message_seq` received.
        message_seq: u64,
    },
    /// Answered with `Pong` and the same `t`.
    Ping {
        /// Any number, usually the client's clock.
        t: Number,
    },
}

/// The names of the messages, as listed to people.
const TYPES: &[&str] = &["Configure", "KeepAlive", "Finalize", "CloseStream", "Discarded", "Ack", "Ping"];

impl ClientMessage {
    /// Parses a text message.
    ///
    /// Not JSON or not an object is [`Reason::InvalidPayload`], a missing or unknown `type`
    /// [`Reason::UnknownEvent`], a field that is unknown, repeated, missing or of the wrong type
    /// [`Reason::InvalidValue`] with the field in `param`.
    pub fn parse(text: &str) -> Result<ClientMessage, Fault> {
        let mut fields: Fields<'_> = serde_json::from_str(text).map_err(|error| {
            Fault::new(Reason::InvalidPayload, format!("the text message is not a JSON object: {error}"))
        })?;
        let name = fields.take_type()?;
        let message = match &*name {
            "Configure" => ClientMessage::Configure {
                interim_results: fields.take_bool("interim_results")?,
                deadline_ms: fields.take_deadline()?,
            },
            "KeepAlive" => ClientMessage::KeepAlive,
            "Finalize" => ClientMessage::Finalize { id: fields.take_text("id")? },
            "CloseStream" => ClientMessage::CloseStream,
            "Discarded" => ClientMessage::Discarded {
                start_ms: fields.take_milliseconds("start_ms")?,
                duration_ms: fields.take_milliseconds("duration_ms")?,
            },
            "Ack" => ClientMessage::Ack { message_seq: fields.take_count("message_seq")? },
            "Ping" => ClientMessage::Ping { t: fields.take_number("t")? },
            other => return Err(not_among(Reason::UnknownEvent, "message type", other, TYPES).at("type")),
        };
        fields.check_none_left(&name)?;
        Ok(message)
    }

    /// The value of `type`.
    pub fn type_name(&self) -> &'static str {
        match self {
            ClientMessage::Configure { .. } => "Configure",
            ClientMessage::KeepAlive => "KeepAlive",
            ClientMessage::Finalize { .. } => "Finalize",
            ClientMessage::CloseStream => "CloseStream",
            ClientMessage::Discarded { .. } => "Discarded",
            ClientMessage::Ack { .. } => "Ack",
            ClientMessage::Ping { .. } => "Ping",
        }
    }

    /// Appends the JSON text.
    pub fn encode(&self, out: &mut Vec<u8>) {
        super::server::append_json(self, out);
    }
}

/// A field's value; what is nested was skipped.
#[derive(Debug)]
enum Scalar<'t> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'t, str>),
    Nested(&'static str),
}

impl Scalar<'_> {
    fn describe(&self) -> String {
        match self {
            Scalar::Null => "null".into(),
            Scalar::Bool(value) => value.to_string(),
            Scalar::Number(number) => number.to_string(),
            Scalar::Text(text) => quoted(text),
            Scalar::Nested(kind) => (*kind).into(),
        }
    }
}

#[derive(Debug, Default)]
struct Fields<'t> {
    type_name: Option<Scalar<'t>>,
    others: Vec<(Cow<'t, str>, Scalar<'t>)>,
    repeated: Option<String>,
}

impl<'t> Fields<'t> {
    fn insert(&mut self, name: Cow<'t, str>, value: Scalar<'t>) {
        let known = if name == "type" {
            self.type_name.is_some()
        } else {
            self.others.iter().any(|(other, _)| *other == name)
        };
        if known {
            self.repeated = Some(name.into_owned());
        } else if name == "type" {
            self.type_name = Some(value);
        } else if self.others.len() < FIELDS_MAX {
            self.others.push((name, value));
        }
    }

    fn take_type(&mut self) -> Result<Cow<'t, str>, Fault> {
        if let Some(name) = self.repeated.take() {
            let message = format!("the field {} stands twice in one message", quoted(&name));
            return Err(Fault::new(Reason::InvalidValue, message).at(cut(&name)));
        }
        let accepted = || TYPES.join(", ");
        match self.type_name.take() {
            Some(Scalar::Text(name)) => Ok(name),
            Some(other) => {
                let text = format!("type is {}, expected a name, one of: {}", other.describe(), accepted());
                Err(Fault::new(Reason::UnknownEvent, text).at("type"))
            }
            None => {
                let text = format!("the message has no type, expected one of: {}", accepted());
                Err(Fault::new(Reason::UnknownEvent, text).at("type"))
            }
        }
    }

    /// The field's value; `None` if it is missing or null.
    fn take(&mut self, name: &'static str) -> Option<Scalar<'t>> {
        let index = self.others.iter().position(|(other, _)| other == name)?;
        match self.others.swap_remove(index).1 {
            Scalar::Null => None,
            value => Some(value),
        }
    }

    fn take_bool(&mut self, name: &'static str) -> Result<Option<bool>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Scalar::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(ill_typed(name, &other, "true or false")),
        }
    }

    fn take_text(&mut self, name: &'static str) -> Result<Option<String>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Scalar::Text(text)) if text.chars().nth(params::TEXT_CHARS_MAX).is_none() => {
                Ok(Some(text.into_owned()))
            }
            Some(other) => Err(ill_typed(name, &other, "a text of at most 128 characters")),
        }
    }

    fn take_number(&mut self, name: &'static str) -> Result<Number, Fault> {
        match self.take(name) {
            Some(Scalar::Number(number)) => Ok(number),
            Some(other) => Err(ill_typed(name, &other, "a number")),
            None => Err(missing(name, "a number")),
        }
    }

    fn take_milliseconds(&mut self, name: &'static str) -> Result<f64, Fault> {
        let number = self.take_number(name)?;
        match number.as_f64() {
            Some(value) if value >= 0.0 => Ok(value),
            _ => Err(ill_typed(name, &Scalar::Number(number), "milliseconds, not negative")),
        }
    }

    fn take_count(&mut self, name: &'static str) -> Result<u64, Fault> {
        let number = self.take_number(name)?;
        number
            .as_u64()
            .ok_or_else(|| ill_typed(name, &Scalar::Number(number), "a whole number, not negative"))
    }

    fn take_deadline(&mut self) -> Result<Option<u64>, Fault> {
        let name = "deadline_ms";
        let expected = "whole milliseconds from 1 to 3600000";
        match self.take(name) {
            None => Ok(None),
            Some(Scalar::Number(number)) => match number.as_u64() {
                Some(value) if params::DEADLINE_MS.contains(&value) => Ok(Some(value)),
                _ => Err(ill_typed(name, &Scalar::Number(number), expected)),
            },
            Some(other) => Err(ill_typed(name, &other, expected)),
        }
    }

    fn check_none_left(&self, message: &str) -> Result<(), Fault> {
        let Some((name, _)) = self.others.first() else { return Ok(()) };
        let accepted = match message {
            "Configure" => &["interim_results", "deadline_ms"][..],
            "Finalize" => &["id"],
            "Discarded" => &["start_ms", "duration_ms"],
            "Ack" => &["message_seq"],
            "Ping" => &["t"],
            _ => &[],
        };
        let fault = match accepted {
            [] => Fault::new(
                Reason::InvalidValue,
                format!("{message} has no fields, the message contains {}", quoted(name)),
            ),
            names => not_among(Reason::InvalidValue, &format!("field of {message}"), name, names),
        };
        Err(fault.at(cut(name)))
    }
}

/// A name of the peer's, short enough to stand in `param`.
fn cut(name: &str) -> String {
    name.chars().take(super::QUOTED_CHARS_MAX).collect()
}

fn ill_typed(name: &'static str, found: &Scalar<'_>, expected: &str) -> Fault {
    let message = format!("{name} is {}, expected {expected}", found.describe());
    Fault::new(Reason::InvalidValue, message).at(name)
}

fn missing(name: &'static str, expected: &str) -> Fault {
    Fault::new(Reason::InvalidValue, format!("{name} is missing, expected {expected}")).at(name)
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a type")
    }

    /// Only so that the error does not repeat the text, which may be as long as a message.
    fn visit_str<E: serde::de::Error>(self, _text: &str) -> Result<Self::Value, E> {
        Err(E::invalid_type(serde::de::Unexpected::Other("string"), &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(Name(name)) = map.next_key()? {
            let value = map.next_value()?;
            fields.insert(name, value);
        }
        Ok(fields)
    }
}

/// A key, borrowed where it has no escapes.
struct Name<'t>(Cow<'t, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) => Ok(Name(text)),
            _ => Err(serde::de::Error::custom("a key is not a string")),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Number::from_f64(value).map_or(Scalar::Null, Scalar::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Nested("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Nested("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault(text: &str) -> (Reason, Option<String>, String) {
        let fault = ClientMessage::parse(text).unwrap_err();
        (fault.reason, fault.param, fault.message)
    }

    #[test]
    fn a_text_that_is_no_object_is_not_repeated() {
        let fault = ClientMessage::parse(&format!("\"{}\"", "x".repeat(100_000))).unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidPayload);
        assert!(fault.message.len() < 200, "{:.300}", fault.message);
    }

    #[test]
    fn what_is_not_json_says_where() {
        let (reason, _, message) = fault(r#"{"type":"Ack",}"#);
        assert_eq!(reason, Reason::InvalidPayload);
        assert!(message.contains("line 1 column 15"), "{message}");
        for text in ["", "[]", "7", "null", "\"KeepAlive\"", "{\"type\":\"KeepAlive\"}x"] {
            assert_eq!(fault(text).0, Reason::InvalidPayload, "{text}");
        }
    }

    #[test]
    fn an_unknown_or_missing_type_is_named_with_the_nearest() {
        let (reason, param, message) = fault(r#"{"type":"KeepAlve"}"#);
        assert_eq!((reason, param.as_deref()), (Reason::UnknownEvent, Some("type")));
        assert!(
            message.contains("\"KeepAlve\"") && message.contains("did you mean \"KeepAlive\""),
            "{message}"
        );
        assert_eq!(fault("{}").0, Reason::UnknownEvent);
        assert_eq!(fault(r#"{"type":7}"#).0, Reason::UnknownEvent);
        assert_eq!(fault(r#"{"type":{"type":"Ack"}}"#).0, Reason::UnknownEvent);
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (text, name) in [
            (r#"{"type":"KeepAlive","now":1}"#, "now"),
            (r#"{"type":"Configure","deadline":5}"#, "deadline"),
            (r#"{"type":"Configure","deadline_ms":0}"#, "deadline_ms"),
            (r#"{"type":"Configure","deadline_ms":"5"}"#, "deadline_ms"),
            (r#"{"type":"Configure","interim_results":"yes"}"#, "interim_results"),
            (r#"{"type":"Finalize","id":7}"#, "id"),
            (r#"{"type":"Ack"}"#, "message_seq"),
            (r#"{"type":"Ack","message_seq":-1}"#, "message_seq"),
            (r#"{"type":"Ack","message_seq":1.5}"#, "message_seq"),
            (r#"{"type":"Ack","message_seq":1,"message_seq":2}"#, "message_seq"),
            (r#"{"type":"Ack","type":"Ack","message_seq":1}"#, "type"),
            (r#"{"type":"Discarded","start_ms":0,"duration_ms":-0.5}"#, "duration_ms"),
            (r#"{"type":"Ping","t":"now"}"#, "t"),
            (r#"{"type":"Ping","t":[1,[2]]}"#, "t"),
        ] {
            let (reason, param, message) = fault(text);
            assert_eq!((reason, param.as_deref()), (Reason::InvalidValue, Some(name)), "{text}: {message}");
        }
        assert!(fault(r#"{"type":"Configure","deadline_m":5}"#).2.contains("did you mean \"deadline_ms\""));
    }

    #[test]
    fn an_unknown_field_is_found_behind_many_and_the_type_may_come_last() {
        let many: String = (0..100).map(|n| format!("\"f{n}\":[{{}}],")).collect();
        let (reason, param, _) = fault(&format!("{{{many}\"type\":\"KeepAlive\"}}"));
        assert_eq!((reason, param.as_deref()), (Reason::InvalidValue, Some("f0")));
        assert_eq!(
            ClientMessage::parse(r#"{"t":-3,"type":"Ping"}"#),
            Ok(ClientMessage::Ping { t: (-3).into() })
        );
    }

    #[test]
    fn depth_is_a_fault_and_not_a_crash() {
        let text = format!("{{\"type\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(fault(&text).0, Reason::UnknownEvent);
        let text = "{\"a\":".repeat(100_000);
        assert_eq!(fault(&text).0, Reason::InvalidPayload);
    }

    #[test]
    fn null_is_the_same_as_missing_for_what_is_optional() {
        let parsed = ClientMessage::parse(r#"{"type":"Configure","interim_results":null,"deadline_ms":40}"#);
        assert_eq!(parsed, Ok(ClientMessage::Configure { interim_results: None, deadline_ms: Some(40) }));
    }

    fn message() -> impl Strategy<Value = ClientMessage> {
        prop_oneof![
            (any::<Option<bool>>(), proptest::option::of(1..=3_600_000u64)).prop_map(
                |(interim_results, deadline_ms)| ClientMessage::Configure { interim_results, deadline_ms }
            ),
            Just(ClientMessage::KeepAlive),
            proptest::option::of(".{0,128}").prop_map(|id| ClientMessage::Finalize { id }),
            Just(ClientMessage::CloseStream),
            // serde_json reads numbers of up to 15 digits exactly, so these come back the same.
            (0..1u64 << 40, 0..1u64 << 40).prop_map(|(start, duration)| ClientMessage::Discarded {
                start_ms: start as f64 / 8.0,
                duration_ms: duration as f64 / 8.0
            }),
            any::<u64>().prop_map(|message_seq| ClientMessage::Ack { message_seq }),
            prop_oneof![
                any::<u64>().prop_map(Number::from),
                (i64::MIN..0).prop_map(Number::from),
                any::<i32>().prop_map(|n| Number::from_f64(f64::from(n) + 0.5).expect("finite")),
            ]
            .prop_map(|t| ClientMessage::Ping { t }),
        ]
    }

    proptest! {
        #[test]
        fn parse_after_encode_is_the_identity(message in message()) {
            let mut text = Vec::new();
            message.encode(&mut text);
            let text = String::from_utf8(text).expect("JSON is UTF-8");
            let wanted = format!("\"type\":\"{}\"", message.type_name());
            prop_assert!(text.contains(&wanted), "{}", text);
            prop_assert_eq!(ClientMessage::parse(&text), Ok(message));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _ = ClientMessage::parse(&text);
        }
    }
}
