//! The Open Inference Protocol, version 2, over HTTP: bodies to values and back, as `tritonclient` and `kserve` speak it.
//!
//! Owns the names of fields, the binary tensor extension and the texts of its errors. Knows no route, no header field
//! other than the length of a JSON header, no queue and no model's insides: the server asks it to read a request, to
//! compare it with a model's [`TensorSpec`](crate::model::TensorSpec)s and to write the answer. A worker does that, since tensors can be large.
//!
//! The way of a request: [`InferRequest::parse`] (or [`InferRequest::parse_raw`]), [`check_inputs`] (or
//! [`check_audio`]) and [`check_outputs`], the model, [`InferResponse::encode`].
//!
//! What holds:
//! - Nothing is allocated from a declared size (a shape, a `binary_data_size`, the length of a string) before it was
//!   compared with the bytes that are really there, and nothing recurses with the peer's nesting.
//! - Every element of a tensor is finite: NaN and infinity are refused, in JSON and in binary.
//! - What a request says twice in two ways (a key twice, `data` beside `binary_data_size`) is refused, not resolved.
//! - JSON floats become the nearest FP32 or FP64 there is, exactly as `str::parse` does. FP16 is rounded from the FP64.
//!
//! FP16 and BF16: both travel in binary. In JSON, FP16 is read and written as numbers, which `tritonclient` accepts;
//! BF16 is written as numbers too, yet refused in a request, as other servers do.

mod binary;
mod check;
mod classify;
mod describe;
mod elements;
mod floats;
mod json;
mod repository;
mod request;
mod response;
mod statistics;
#[cfg(test)]
mod tests;

pub use check::{check_audio, check_inputs, check_outputs};
pub use describe::{
    AUDIO, EXTENSIONS, Signature, encode_error, encode_live, encode_model_ready, encode_ready, model_config,
    model_metadata, server_metadata, signature,
};
pub use repository::{IndexEntry, IndexRequest, ModelState, encode_index, parse_index, parse_load};
pub use request::{InferLimits, InferRequest, InputTensor, RequestedOutput, Sequence, SequenceKey};
pub use response::{Encoded, InferResponse, OutputTensor};
pub use statistics::{BatchStatistics, Duration, ModelStatistics, encode_statistics};

use crate::reason::{Fault, Reason};

/// Greatest length of what a peer wrote that is repeated in an error, characters.
const QUOTED_CHARS_MAX: usize = 64;

/// What the peer wrote, fit to be repeated in an error in single quotes: control characters escaped, and cut.
fn quoted(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        quoted.push_str("...");
    }
    format!("'{quoted}'")
}

/// A value that cannot be.
fn invalid(message: impl Into<String>) -> Fault {
    Fault::new(Reason::InvalidValue, message)
}

/// A body that is not what it should be.
fn malformed(message: impl Into<String>) -> Fault {
    Fault::new(Reason::InvalidPayload, message)
}

/// Dimensions as the protocol's errors write them: `[-1,16]`.
fn dims(shape: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let sides: Vec<String> = shape.into_iter().map(|side| side.to_string()).collect();
    format!("[{}]", sides.join(","))
}
