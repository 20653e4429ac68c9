//! Tensors as bytes: little-endian, row after row, strings with their length before them.

use super::invalid;
use crate::model::{Datatype, TensorData};
use crate::reason::Fault;
use half::{bf16, f16};

/// Bytes before each element of BYTES: its length.
const LENGTH_BYTES: usize = 4;

/// The elements of a binary tensor, exactly `elements` of them. `what` names the tensor in errors.
///
/// What is allocated is bounded by the bytes that are there: the sizes are compared first.
pub(super) fn decode(
    what: &str,
    datatype: Datatype,
    elements: usize,
    bytes: &[u8],
) -> Result<TensorData, Fault> {
    if let Some(element_bytes) = datatype.element_bytes() {
        let expected = elements.checked_mul(element_bytes);
        if expected != Some(bytes.len()) {
            let (name, count) = (datatype.name(), bytes.len());
            let expected = expected.map_or("more bytes than can be".into(), |bytes| format!("{bytes} bytes"));
            return Err(invalid(format!("{what} has {count} bytes, its shape and {name} make {expected}")));
        }
    }
    macro_rules! numbers {
        ($variant:ident, $element:ty) => {{
            let element = |bytes: &[u8; size_of::<$element>()]| <$element>::from_le_bytes(*bytes);
            TensorData::$variant(bytes.as_chunks().0.iter().map(element).collect())
        }};
    }
    let data = match datatype {
        Datatype::Bool => booleans(what, bytes)?,
        Datatype::Uint8 => TensorData::Uint8(bytes.to_vec()),
        Datatype::Uint16 => numbers!(Uint16, u16),
        Datatype::Uint32 => numbers!(Uint32, u32),
        Datatype::Uint64 => numbers!(Uint64, u64),
        Datatype::Int8 => numbers!(Int8, i8),
        Datatype::Int16 => numbers!(Int16, i16),
        Datatype::Int32 => numbers!(Int32, i32),
        Datatype::Int64 => numbers!(Int64, i64),
        Datatype::Fp16 => numbers!(Fp16, f16),
        Datatype::Fp32 => numbers!(Fp32, f32),
        Datatype::Fp64 => numbers!(Fp64, f64),
        Datatype::Bf16 => numbers!(Bf16, bf16),
        Datatype::Bytes => strings(what, elements, bytes)?,
    };
    check_finite(what, &data)?;
    Ok(data)
}

fn booleans(what: &str, bytes: &[u8]) -> Result<TensorData, Fault> {
    if let Some(index) = bytes.iter().position(|&byte| byte > 1) {
        let byte = bytes[index];
        return Err(invalid(format!("element {index} of {what} is {byte}: a BOOL is the byte 0 or 1")));
    }
    Ok(TensorData::Bool(bytes.iter().map(|&byte| byte == 1).collect()))
}

fn strings(what: &str, elements: usize, bytes: &[u8]) -> Result<TensorData, Fault> {
    if elements.checked_mul(LENGTH_BYTES).is_none_or(|least| least > bytes.len()) {
        let count = bytes.len();
        return Err(invalid(format!(
            "{what} has {count} bytes, too few for the {elements} elements of its shape: each BYTES element begins \
             with its length in {LENGTH_BYTES} bytes"
        )));
    }
    let mut rest = bytes;
    let mut strings = Vec::with_capacity(elements);
    for index in 0..elements {
        let string = split_string(&mut rest).ok_or_else(|| {
            invalid(format!(
                "element {index} of {what} is cut off: its length is more than the bytes that follow"
            ))
        })?;
        strings.push(string.to_vec());
    }
    if !rest.is_empty() {
        let more = rest.len();
        return Err(invalid(format!(
            "{what} has {more} bytes more than its shape has elements ({elements})"
        )));
    }
    Ok(TensorData::Bytes(strings))
}

fn split_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<LENGTH_BYTES>()?;
    let (string, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    *rest = after;
    Some(string)
}

/// Models hear finite numbers only.
fn check_finite(what: &str, data: &TensorData) -> Result<(), Fault> {
    if data.is_finite() {
        return Ok(());
    }
    let index = match data {
        TensorData::Fp16(data) => data.iter().position(|value| !value.is_finite()),
        TensorData::Bf16(data) => data.iter().position(|value| !value.is_finite()),
        TensorData::Fp32(data) => data.iter().position(|value| !value.is_finite()),
        TensorData::Fp64(data) => data.iter().position(|value| !value.is_finite()),
        _ => None,
    };
    let index = index.unwrap_or_default();
    Err(invalid(format!("element {index} of {what} is NaN or infinite: models take finite numbers only")))
}

/// How many bytes [`encode`] would append.
pub(super) fn encoded_bytes(data: &TensorData) -> usize {
    match data {
        TensorData::Bytes(strings) => strings.iter().map(|string| LENGTH_BYTES + string.len()).sum(),
        other => other.bytes(),
    }
}

/// Appends a tensor's bytes. A string that is too long for its length field (4 GiB) cannot come here: outputs are
/// bounded far below.
pub(super) fn encode(data: &TensorData, out: &mut Vec<u8>) {
    out.reserve(encoded_bytes(data));
    macro_rules! numbers {
        ($data:expr) => {
            $data.iter().for_each(|element| out.extend_from_slice(&element.to_le_bytes()))
        };
    }
    match data {
        TensorData::Bool(data) => out.extend(data.iter().map(|&element| u8::from(element))),
        TensorData::Uint8(data) => out.extend_from_slice(data),
        TensorData::Uint16(data) => numbers!(data),
        TensorData::Uint32(data) => numbers!(data),
        TensorData::Uint64(data) => numbers!(data),
        TensorData::Int8(data) => numbers!(data),
        TensorData::Int16(data) => numbers!(data),
        TensorData::Int32(data) => numbers!(data),
        TensorData::Int64(data) => numbers!(data),
        TensorData::Fp16(data) => numbers!(data),
        TensorData::Fp32(data) => numbers!(data),
        TensorData::Fp64(data) => numbers!(data),
        TensorData::Bf16(data) => numbers!(data),
        TensorData::Bytes(strings) => {
            for string in strings {
                let length = u32::try_from(string.len()).expect("outputs are bounded far below 4 GiB");
                out.extend_from_slice(&length.to_le_bytes());
                out.extend_from_slice(string);
            }
        }
    }
}
