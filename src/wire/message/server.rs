//! What the server says.
//!
//! One set of types serves both sides: the server writes them straight into its outgoing bytes, the client reads them
//! back. Times are milliseconds as `f64`, written with at most three decimals and without any where whole.

use super::{DiscardReason, Encoding, Framing, Overflow, StreamParams};
use crate::model::{Datatype, TensorData, elements};
use crate::reason::{Fault, Reason};
use serde::ser::{Error, SerializeStruct};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Number;
use std::borrow::Cow;

/// Text that is one of the program's own words on the server and read from the wire in the client.
type Word = Cow<'static, str>;

/// A text message from server to client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum ServerMessage {
    /// The first message of a stream.
    Begin(Box<Begin>),
    /// How much audio the server has, and how much more it will take.
    AudioAdded(AudioAdded),
    /// What the model found.
    Results(Results),
    /// Speech began.
    SpeechStarted(SpeechBoundary),
    /// Speech ended.
    SpeechEnded(SpeechBoundary),
    /// Audio was discarded.
    Discarded(Discarded),
    /// Something the client should know and need not act on.
    Warning(Warning),
    /// Something went wrong.
    Error(Box<ErrorMessage>),
    /// The answer to `Configure`.
    Configured {
        /// What holds now.
        configuration: Box<Configuration>,
    },
    /// The server asks the client to go and come back.
    Reconnect(Box<Reconnect>),
    /// The answer to `Ping`.
    Pong(Pong),
    /// The last message of a stream: the balance.
    Termination(Box<Termination>),
}

impl ServerMessage {
    /// Appends the JSON text.
    pub fn encode(&self, out: &mut Vec<u8>) {
        append_json(self, out);
    }

    /// Parses a text message; fields that this version does not know are skipped.
    ///
    /// [`Reason::UnknownEvent`] if the type is not known (a newer server's: it may be ignored),
    /// [`Reason::InvalidPayload`] for everything else.
    pub fn parse(text: &str) -> Result<ServerMessage, Fault> {
        serde_json::from_str(text).map_err(|error| {
            let message = error.to_string();
            let reason = match message.starts_with("unknown variant") {
                true => Reason::UnknownEvent,
                false => Reason::InvalidPayload,
            };
            Fault::new(reason, format!("the server's message cannot be read: {message}"))
        })
    }
}

/// The first message: what the stream is and which limits hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// The stream, for logs and support.
    pub session_id: String,
    /// The request that opened it.
    pub request_id: String,
    /// Whether an earlier stream goes on.
    pub resumed: bool,
    /// What to resume with, if the server keeps sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_token: Option<String>,
    /// How long the session is kept after its connection broke, seconds; 0: not at all.
    #[serde(with = "milli")]
    pub resume_ttl_s: f64,
    /// Chunks received so far.
    pub audio_seq: u64,
    /// Audio received so far, milliseconds.
    #[serde(with = "milli")]
    pub audio_ms: f64,
    /// The last message sent so far.
    pub message_seq: u64,
    /// Audio that the server will take before it holds back, milliseconds.
    #[serde(with = "milli")]
    pub credit_ms: f64,
    /// When the server gives up on a silent client.
    pub keepalive: Keepalive,
    /// Limits of this stream.
    pub limits: Limits,
    /// What holds for this stream.
    pub configuration: Configuration,
}

/// When the server gives up on a silent client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Keepalive {
    /// Seconds of silence after which the server pings.
    #[serde(with = "milli")]
    pub ping_s: f64,
    /// Seconds without audio or `KeepAlive` after which the stream ends.
    #[serde(with = "milli")]
    pub audio_idle_s: f64,
}

/// Limits of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Greatest message, bytes.
    pub max_frame_bytes: u64,
    /// Greatest length of the session, seconds.
    #[serde(with = "milli")]
    pub max_session_s: f64,
}

/// The settings that hold for a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// The model's name.
    pub model: String,
    /// How samples are written, both ways.
    pub encoding: Encoding,
    /// Samples a second of each channel, hertz.
    pub sample_rate: u32,
    /// Interleaved channels that the client sends; audio comes back in one.
    pub channels: u16,
    /// Whether results that may still change are sent.
    pub interim_results: bool,
    /// What a binary message is.
    pub framing: Framing,
    /// What becomes of audio that comes too fast.
    pub overflow: Overflow,
    /// Interval of `AudioAdded`, milliseconds.
    pub ack_interval_ms: u64,
    /// Age at which audio is discarded, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The client's own name for the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

impl From<&StreamParams> for Configuration {
    fn from(params: &StreamParams) -> Self {
        Self {
            model: params.model.clone(),
            encoding: params.encoding,
            sample_rate: params.sample_rate_hz,
            channels: params.channels,
            interim_results: params.interim_results,
            framing: params.framing,
            overflow: params.overflow,
            ack_interval_ms: params.ack_interval_ms,
            deadline_ms: params.deadline_ms,
            tag: params.tag.clone(),
        }
    }
}

/// The ledger and the credit, cumulative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AudioAdded {
    /// Chunks received.
    pub seq: u64,
    /// Audio received, milliseconds.
    #[serde(with = "milli")]
    pub audio_ms: f64,
    /// Audio processed, milliseconds.
    #[serde(with = "milli")]
    pub processed_ms: f64,
    /// Audio discarded, milliseconds.
    #[serde(with = "milli")]
    pub discarded_ms: f64,
    /// Audio that the server will still take, milliseconds.
    #[serde(with = "milli")]
    pub credit_ms: f64,
    /// Audio received and neither processed nor discarded yet, milliseconds.
    #[serde(with = "milli")]
    pub lag_ms: f64,
}

/// What the model found in a stretch of audio.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Position among the stream's numbered messages.
    pub message_seq: u64,
    /// Where in the stream the stretch begins, milliseconds.
    #[serde(with = "milli")]
    pub start_ms: f64,
    /// Its length, milliseconds.
    #[serde(with = "milli")]
    pub duration_ms: f64,
    /// Whether the result will not change any more.
    pub is_final: bool,
    /// Whether this answers a `Finalize`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_finalize: bool,
    /// The `id` of that `Finalize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finalize_id: Option<String>,
    /// The model's tensors.
    pub outputs: Vec<Tensor>,
    /// Probability of speech at the end of the stretch, 0 to 1, if the model tells one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speech_probability: Option<f32>,
    /// Whether speech is going on at the end of the stretch, if the model tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_speech: Option<bool>,
    /// What was recognised within the stretch, such as words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detections: Vec<Detection>,
    /// What the end of the stretch most probably is, best first, if the model classifies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<Class>,
    /// Where the time went, if the client asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<Timing>,
}

/// A tensor: its shape and its elements, row after row.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawTensor")]
pub struct Tensor {
    /// Its name.
    pub name: Word,
    /// Its dimensions; their product is the number of elements.
    pub shape: Vec<usize>,
    /// Its elements; finite.
    pub data: TensorData,
}

/// Something recognised at a point in time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// What.
    pub label: String,
    /// How sure the model is, as it scores.
    pub score: f32,
    /// When it was complete, milliseconds since the stream began.
    #[serde(with = "milli")]
    pub at_ms: f64,
}

/// One of the things that a model tells apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// Its name.
    pub label: String,
    /// How sure the model is, as it scores.
    pub score: f32,
}

/// Where a result's time went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// From complete audio to the start of inference, milliseconds.
    #[serde(with = "milli")]
    pub queue_ms: f64,
    /// Runs in the same batch.
    pub batch_size: usize,
    /// Inference of the whole batch, milliseconds.
    #[serde(with = "milli")]
    pub infer_ms: f64,
}

/// A point where speech began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeechBoundary {
    /// Position among the stream's numbered messages.
    pub message_seq: u64,
    /// Where in the stream, milliseconds.
    #[serde(with = "milli")]
    pub at_ms: f64,
}

/// Audio that was not and will not be processed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Discarded {
    /// Where in the stream it begins, milliseconds.
    #[serde(with = "milli")]
    pub start_ms: f64,
    /// Its length, milliseconds.
    #[serde(with = "milli")]
    pub duration_ms: f64,
    /// Why.
    pub reason: DiscardReason,
}

/// Something the client should know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// What kind, for programs.
    pub code: Word,
    /// For people.
    pub message: String,
}

/// Something went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorMessage {
    /// What kind, for programs.
    pub code: Word,
    /// For people.
    pub message: String,
    /// The field or parameter at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
    /// Whether the same may succeed later.
    pub retryable: bool,
    /// When to try again, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The request that opened the stream.
    pub request_id: String,
    /// Whether the stream ends by it.
    pub fatal: bool,
}

impl ErrorMessage {
    /// The error that tells a fault.
    pub fn new(fault: &Fault, request_id: &str, fatal: bool) -> Self {
        Self {
            code: Word::Borrowed(fault.reason.code()),
            message: fault.message.clone(),
            param: fault.param.clone(),
            retryable: fault.reason.retryable(),
            retry_after_ms: None,
            request_id: request_id.to_owned(),
            fatal,
        }
    }
}

/// The server asks the client to go and come back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reconnect {
    /// Not before, milliseconds from now.
    pub after_ms: u64,
    /// Not after, milliseconds from now.
    pub within_ms: u64,
    /// Why.
    pub reason: Word,
    /// What to resume with, if the session is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_token: Option<String>,
}

/// The answer to `Ping`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// The client's own number.
    pub t: Number,
    /// The server's wall clock, milliseconds since 1970.
    pub server_ms: u64,
}

/// The end of a stream and its balance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Termination {
    /// Audio received, milliseconds.
    #[serde(with = "milli")]
    pub audio_received_ms: f64,
    /// Audio processed, milliseconds.
    #[serde(with = "milli")]
    pub processed_ms: f64,
    /// Audio discarded, milliseconds.
    #[serde(with = "milli")]
    pub discarded_ms: f64,
    /// How many `Results` were sent.
    pub results: u64,
    /// Why the stream ended.
    pub reason: Word,
    /// The same in samples, exactly.
    pub ledger: Ledger,
}

/// Where every sample went: samples of one channel at the stream's rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Received from the client.
    pub received: u64,
    /// Went through the model.
    pub processed: u64,
    /// Discarded, and reported.
    pub discarded: u64,
    /// Neither yet; 0 at the end.
    pub pending: u64,
}

impl Ledger {
    /// Whether every sample received is accounted for.
    pub fn balances(&self) -> bool {
        let known = self.processed.checked_add(self.discarded).and_then(|sum| sum.checked_add(self.pending));
        known == Some(self.received)
    }
}

impl Serialize for Tensor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Tensor", 4)?;
        object.serialize_field("name", &self.name)?;
        object.serialize_field("datatype", self.data.datatype().name())?;
        object.serialize_field("shape", &self.shape)?;
        match &self.data {
            TensorData::Uint8(elements) => object.serialize_field("data", elements)?,
            TensorData::Uint16(elements) => object.serialize_field("data", elements)?,
            TensorData::Uint32(elements) => object.serialize_field("data", elements)?,
            TensorData::Uint64(elements) => object.serialize_field("data", elements)?,
            TensorData::Int8(elements) => object.serialize_field("data", elements)?,
            TensorData::Int16(elements) => object.serialize_field("data", elements)?,
            TensorData::Int32(elements) => object.serialize_field("data", elements)?,
            TensorData::Int64(elements) => object.serialize_field("data", elements)?,
            TensorData::Fp32(elements) => object.serialize_field("data", elements)?,
            TensorData::Fp64(elements) => object.serialize_field("data", elements)?,
            TensorData::Bool(_) | TensorData::Fp16(_) | TensorData::Bf16(_) | TensorData::Bytes(_) => {
                return Err(S::Error::custom("the outputs of a stream are integers, FP32 or FP64"));
            }
        }
        object.end()
    }
}

/// A tensor as it stands on the wire, its elements not yet checked.
#[derive(Deserialize)]
struct RawTensor {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    /// Holds every `f32` and every integer of 32 bits exactly.
    data: Vec<f64>,
}

impl TryFrom<RawTensor> for Tensor {
    type Error = String;

    fn try_from(raw: RawTensor) -> Result<Self, String> {
        let RawTensor { name, datatype, shape, data } = raw;
        let Some(datatype) = Datatype::parse(&datatype) else {
            return Err(format!("output {name:?} has the unknown datatype {datatype:?}"));
        };
        if elements(&shape) != Some(data.len()) {
            return Err(format!("output {name:?} has {} elements and shape {shape:?}", data.len()));
        }
        let Some(data) = TensorData::from_f64(datatype, &data) else {
            return Err(format!("output {name:?} is {} and has other elements", datatype.name()));
        };
        Ok(Tensor { name: Word::Owned(name), shape, data })
    }
}

/// Numbers with at most three decimals, and none where whole.
mod milli {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Whole numbers below this are exact in an `f64`.
    const EXACT: f64 = 9_007_199_254_740_992.0;

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        debug_assert!(value.is_finite(), "times are finite");
        let rounded = round(*value);
        if rounded.fract() == 0.0 && rounded.abs() < EXACT {
            serializer.serialize_i64(rounded as i64)
        } else {
            serializer.serialize_f64(rounded)
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        // Rounded again, since serde_json's quick way of reading decimals may be off by the last bit.
        f64::deserialize(deserializer).map(round)
    }

    pub fn round(value: f64) -> f64 {
        let scaled = value * 1_000.0;
        if scaled.abs() < EXACT { scaled.round() / 1_000.0 } else { value }
    }
}

/// Appends a value as JSON.
pub(super) fn append_json(value: &impl Serialize, out: &mut Vec<u8>) {
    let result = serde_json::to_writer(out, value);
    // Writing into memory cannot fail, and none of our types has a map whose keys are not text.
    debug_assert!(result.is_ok(), "{result:?}");
}

/// Appends the body of a refusal over HTTP: `{"error":{"type","code","message","param","request_id"}}`.
pub fn encode_http_error(fault: &Fault, request_id: &str, out: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Body<'a> {
        error: Error<'a>,
    }
    #[derive(Serialize)]
    struct Error<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        code: &'static str,
        message: &'a str,
        param: Option<&'a str>,
        request_id: &'a str,
    }
    let error = Error {
        kind: error_type(fault.reason),
        code: fault.reason.code(),
        message: &fault.message,
        param: fault.param.as_deref(),
        request_id,
    };
    append_json(&Body { error }, out);
}

/// The family of an error: coarse, so that a program can branch on it without knowing every code.
fn error_type(reason: Reason) -> &'static str {
    match reason.status() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn text(message: &ServerMessage) -> String {
        let mut out = Vec::new();
        message.encode(&mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn times_have_three_decimals_and_none_where_whole() {
        let message = ServerMessage::SpeechStarted(SpeechBoundary { message_seq: 3, at_ms: 1_280.0 });
        assert_eq!(text(&message), r#"{"type":"SpeechStarted","message_seq":3,"at_ms":1280}"#);
        let message = ServerMessage::SpeechEnded(SpeechBoundary { message_seq: 4, at_ms: 1.0 / 3.0 });
        assert_eq!(text(&message), r#"{"type":"SpeechEnded","message_seq":4,"at_ms":0.333}"#);
    }

    #[test]
    fn results_leave_out_what_there_is_not() {
        let outputs = vec![
            Tensor { name: "level".into(), shape: vec![2, 1], data: TensorData::Fp32(vec![0.5, -0.25]) },
            Tensor { name: "crc".into(), shape: vec![1], data: TensorData::Uint32(vec![u32::MAX]) },
        ];
        let results =
            Results { message_seq: 1, duration_ms: 20.0, is_final: true, outputs, ..Results::default() };
        assert_eq!(
            text(&ServerMessage::Results(results)),
            concat!(
                r#"{"type":"Results","message_seq":1,"start_ms":0,"duration_ms":20,"is_final":true,"outputs":["#,
                r#"{"name":"level","datatype":"FP32","shape":[2,1],"data":[0.5,-0.25]},"#,
                r#"{"name":"crc","datatype":"UINT32","shape":[1],"data":[4294967295]}]}"#,
            )
        );
    }

    #[test]
    fn a_newer_servers_fields_are_skipped_and_its_types_told_apart_from_garbage() {
        let text = r#"{"type":"SpeechStarted","message_seq":3,"at_ms":1.5,"speaker":{"id":7}}"#;
        let boundary = SpeechBoundary { message_seq: 3, at_ms: 1.5 };
        assert_eq!(ServerMessage::parse(text), Ok(ServerMessage::SpeechStarted(boundary)));
        let reason = |text| ServerMessage::parse(text).map_err(|fault| fault.reason);
        assert_eq!(reason(r#"{"type":"Transcript","text":"a"}"#), Err(Reason::UnknownEvent));
        assert_eq!(reason(r#"{"type":"SpeechStarted"}"#), Err(Reason::InvalidPayload));
        assert_eq!(reason("]"), Err(Reason::InvalidPayload));
    }

    #[test]
    fn a_tensor_whose_elements_do_not_fit_is_refused() {
        let output = |tensor: &str| {
            ServerMessage::parse(&format!(
                r#"{{"type":"Results","message_seq":1,"start_ms":0,"duration_ms":1,"is_final":true,"outputs":[{tensor}]}}"#
            ))
        };
        assert!(output(r#"{"name":"a","datatype":"UINT32","shape":[1],"data":[1]}"#).is_ok());
        for tensor in [
            r#"{"name":"a","datatype":"UINT32","shape":[1],"data":[-1]}"#,
            r#"{"name":"a","datatype":"UINT32","shape":[1],"data":[0.5]}"#,
            r#"{"name":"a","datatype":"UINT32","shape":[2],"data":[1]}"#,
            r#"{"name":"a","datatype":"BF16","shape":[1],"data":[1]}"#,
            r#"{"name":"a","datatype":"FP32","shape":[18446744073709551615,2],"data":[1]}"#,
        ] {
            assert_eq!(output(tensor).map_err(|fault| fault.reason), Err(Reason::InvalidPayload), "{tensor}");
        }
    }

    #[test]
    fn the_body_of_a_refusal_has_every_field() {
        let fault = Fault::new(Reason::InvalidAudioFormat, "too \"low\"").at("sample_rate");
        let mut body = Vec::new();
        encode_http_error(&fault, "r-1", &mut body);
        assert_eq!(
            String::from_utf8(body).as_deref(),
            Ok(concat!(
                r#"{"error":{"type":"invalid_request_error","code":"invalid_audio_format","#,
                r#""message":"too \"low\"","param":"sample_rate","request_id":"r-1"}}"#
            ))
        );
    }

    #[test]
    fn a_ledger_balances_only_if_every_sample_is_accounted_for() {
        let ledger = Ledger { received: 10, processed: 6, discarded: 3, pending: 1 };
        assert!(ledger.balances());
        assert!(!Ledger { pending: 0, ..ledger }.balances());
        assert!(!Ledger { processed: u64::MAX, ..ledger }.balances());
    }

    prop_compose! {
        fn ms()(thousandths in 0..1u64 << 45) -> f64 { thousandths as f64 / 1_000.0 }
    }

    prop_compose! {
        fn configuration()(
            model in ".{0,20}",
            encoding in prop::sample::select(Encoding::ALL),
            framing in prop::sample::select(Framing::ALL),
            overflow in prop::sample::select(Overflow::ALL),
            (sample_rate, channels, interim_results) in any::<(u32, u16, bool)>(),
            (ack_interval_ms, deadline_ms) in any::<(u64, Option<u64>)>(),
            tag in option::of(".{0,20}"),
        ) -> Configuration {
            Configuration {
                model, encoding, sample_rate, channels, interim_results, framing, overflow, ack_interval_ms,
                deadline_ms, tag,
            }
        }
    }

    prop_compose! {
        fn begin()(
            (session_id, request_id, resume_token) in (".{0,20}", ".{0,20}", option::of(".{0,20}")),
            (resumed, audio_seq, message_seq, max_frame_bytes) in any::<(bool, u64, u64, u64)>(),
            (resume_ttl_s, audio_ms, credit_ms) in (ms(), ms(), ms()),
            (ping_s, audio_idle_s, max_session_s) in (ms(), ms(), ms()),
            configuration in configuration(),
        ) -> Begin {
            Begin {
                session_id, request_id, resumed, resume_token, resume_ttl_s, audio_seq, audio_ms, message_seq, credit_ms,
                keepalive: Keepalive { ping_s, audio_idle_s },
                limits: Limits { max_frame_bytes, max_session_s },
                configuration,
            }
        }
    }

    fn tensor() -> impl Strategy<Value = Tensor> {
        let finite = any::<f32>().prop_filter("finite", |value| value.is_finite());
        let data = prop_oneof![
            vec(finite, 0..6).prop_map(TensorData::Fp32),
            vec(any::<u32>(), 0..6).prop_map(TensorData::Uint32),
        ];
        ("[a-z_]{1,10}", data).prop_map(|(name, data)| {
            let count = data.len();
            Tensor { name: name.into(), shape: vec![count, 1], data }
        })
    }

    prop_compose! {
        fn results()(
            (message_seq, is_final, from_finalize, is_speech) in any::<(u64, bool, bool, Option<bool>)>(),
            (start_ms, duration_ms) in (ms(), ms()),
            finalize_id in option::of(".{0,20}"),
            outputs in vec(tensor(), 0..3),
            speech_probability in option::of(0.0..=1.0f32),
            found in vec(("[a-z]{1,9}", 0.0..=1.0f32, ms()), 0..3),
            timing in option::of((ms(), 1..99usize, ms())),
        ) -> Results {
            let classes = found.iter().map(|(label, score, _)| Class { label: label.clone(), score: *score }).collect();
            let detections =
                found.into_iter().map(|(label, score, at_ms)| Detection { label, score, at_ms }).collect();
            let timing = timing.map(|(queue_ms, batch_size, infer_ms)| Timing { queue_ms, batch_size, infer_ms });
            Results {
                message_seq, start_ms, duration_ms, is_final, from_finalize, finalize_id, outputs, speech_probability,
                is_speech, detections, classes, timing,
            }
        }
    }

    fn error() -> impl Strategy<Value = ErrorMessage> {
        let reasons: Vec<Reason> = Reason::all().collect();
        let texts = (".{0,40}", option::of(".{0,20}"), ".{0,20}");
        (prop::sample::select(reasons), texts, any::<(bool, Option<u64>)>()).prop_map(
            |(reason, (message, param, request_id), (fatal, retry_after_ms))| ErrorMessage {
                retry_after_ms,
                ..ErrorMessage::new(&Fault { reason, message, param, retry_after: None }, &request_id, fatal)
            },
        )
    }

    fn termination() -> impl Strategy<Value = Termination> {
        ((ms(), ms(), ms()), any::<[u64; 5]>()).prop_map(
            |(
                (audio_received_ms, processed_ms, discarded_ms),
                [results, received, processed, discarded, pending],
            )| {
                Termination {
                    audio_received_ms,
                    processed_ms,
                    discarded_ms,
                    results,
                    reason: "finished".into(),
                    ledger: Ledger { received, processed, discarded, pending },
                }
            },
        )
    }

    fn message() -> impl Strategy<Value = ServerMessage> {
        let boundary =
            || (any::<u64>(), ms()).prop_map(|(message_seq, at_ms)| SpeechBoundary { message_seq, at_ms });
        let added = (any::<u64>(), ms(), ms(), ms(), ms(), ms()).prop_map(
            |(seq, audio_ms, processed_ms, discarded_ms, credit_ms, lag_ms)| AudioAdded {
                seq,
                audio_ms,
                processed_ms,
                discarded_ms,
                credit_ms,
                lag_ms,
            },
        );
        let reason = prop::sample::select(DiscardReason::ALL);
        let discarded = (ms(), ms(), reason).prop_map(|(start_ms, duration_ms, reason)| Discarded {
            start_ms,
            duration_ms,
            reason,
        });
        let reconnect =
            (any::<(u64, u64)>(), option::of(".{0,20}")).prop_map(|((after_ms, within_ms), resume_token)| {
                Reconnect { after_ms, within_ms, reason: "draining".into(), resume_token }
            });
        let warning = ".{0,40}".prop_map(|message| Warning { code: "overloaded".into(), message });
        prop_oneof![
            begin().prop_map(|begin| ServerMessage::Begin(Box::new(begin))),
            added.prop_map(ServerMessage::AudioAdded),
            results().prop_map(ServerMessage::Results),
            boundary().prop_map(ServerMessage::SpeechStarted),
            boundary().prop_map(ServerMessage::SpeechEnded),
            discarded.prop_map(ServerMessage::Discarded),
            warning.prop_map(ServerMessage::Warning),
            error().prop_map(|error| ServerMessage::Error(Box::new(error))),
            configuration().prop_map(|held| ServerMessage::Configured { configuration: Box::new(held) }),
            reconnect.prop_map(|reconnect| ServerMessage::Reconnect(Box::new(reconnect))),
            any::<(i64, u64)>()
                .prop_map(|(t, server_ms)| ServerMessage::Pong(Pong { t: t.into(), server_ms })),
            termination().prop_map(|termination| ServerMessage::Termination(Box::new(termination))),
        ]
    }

    proptest! {
        #[test]
        fn parse_after_encode_is_the_identity(message in message()) {
            prop_assert_eq!(ServerMessage::parse(&text(&message)), Ok(message));
        }

        #[test]
        fn every_message_begins_with_its_type(message in message()) {
            let text = text(&message);
            prop_assert!(text.starts_with("{\"type\":\""), "{}", text);
        }
    }
}
