//! The classification extension: the best of an output in place of its elements, as strings `value:index[:label]`.

use super::invalid;
use crate::model::{Tensor, TensorData};
use crate::reason::Fault;
use std::cmp::Ordering;
use std::sync::Arc;

/// The `count` greatest elements of each row, the greatest first; of equal ones the first. With `batched` a row is what
/// stands at one place of the first dimension and the result is `[rows, count]`, else the whole tensor is one row and
/// the result `[count]`. A row of fewer elements gives as many as it has. Floats are written with six decimals.
///
/// # Errors
/// `InvalidValue` for outputs that are not of numbers.
pub(super) fn classify(
    name: &str,
    tensor: &Tensor,
    labels: &[Arc<str>],
    batched: bool,
    count: usize,
) -> Result<Tensor, Fault> {
    let rows = if batched { tensor.shape.first().copied() } else { None };
    let row_len = tensor.data.len() / rows.unwrap_or(1).max(1);
    let best = Best { row_len, count: count.min(row_len), labels };
    let strings = match &tensor.data {
        TensorData::Uint8(data) => best.rows(data, u8::to_string),
        TensorData::Uint16(data) => best.rows(data, u16::to_string),
        TensorData::Uint32(data) => best.rows(data, u32::to_string),
        TensorData::Uint64(data) => best.rows(data, u64::to_string),
        TensorData::Int8(data) => best.rows(data, i8::to_string),
        TensorData::Int16(data) => best.rows(data, i16::to_string),
        TensorData::Int32(data) => best.rows(data, i32::to_string),
        TensorData::Int64(data) => best.rows(data, i64::to_string),
        TensorData::Fp16(data) => best.rows(data, |value| format!("{:.6}", value.to_f32())),
        TensorData::Bf16(data) => best.rows(data, |value| format!("{:.6}", value.to_f32())),
        TensorData::Fp32(data) => best.rows(data, |value| format!("{value:.6}")),
        TensorData::Fp64(data) => best.rows(data, |value| format!("{value:.6}")),
        TensorData::Bool(_) | TensorData::Bytes(_) => {
            let datatype = tensor.data.datatype().name();
            return Err(invalid(format!("output '{name}' is {datatype}: only numbers can be classified")));
        }
    };
    let shape = rows.into_iter().chain([best.count]).collect();
    Ok(Tensor { shape, data: TensorData::Bytes(strings) })
}

struct Best<'a> {
    row_len: usize,
    count: usize,
    labels: &'a [Arc<str>],
}

impl Best<'_> {
    fn rows<T: PartialOrd>(&self, data: &[T], text: impl Fn(&T) -> String) -> Vec<Vec<u8>> {
        let mut strings = Vec::new();
        for row in data.chunks(self.row_len.max(1)) {
            let mut indices: Vec<usize> = (0..row.len()).collect();
            // Outputs are finite, so any two of them compare.
            indices.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap_or(Ordering::Equal));
            for &index in &indices[..self.count] {
                let label = self.labels.get(index).map(|label| format!(":{label}")).unwrap_or_default();
                strings.push(format!("{}:{index}{label}", text(&row[index])).into_bytes());
            }
        }
        strings
    }
}
