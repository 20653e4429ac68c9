//! Tensors that are only looked at: what engines and graphs take, so that nothing is copied on the way.

use crate::model::{Datatype, Tensor, TensorData};
use half::{bf16, f16};
use std::ops::Range;

/// Makes [`Elements`] of one row for each element type.
macro_rules! elements {
    ($($variant:ident $element:ty;)+) => {
        /// The elements of a tensor, row after row, borrowed.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Elements<'a> {
            $(#[doc = concat!("[`Datatype::", stringify!($variant), "`]")] $variant(&'a [$element]),)+
        }

        impl<'a> Elements<'a> {
            /// The type of the elements.
            pub fn datatype(self) -> Datatype {
                match self { $(Elements::$variant(_) => Datatype::$variant,)+ }
            }

            /// How many elements.
            pub fn len(self) -> usize {
                match self { $(Elements::$variant(data) => data.len(),)+ }
            }

            /// Whether there are none.
            pub fn is_empty(self) -> bool {
                self.len() == 0
            }

            /// Appends those within `range` to `data`, which is of the same type.
            pub(super) fn append_to(self, data: &mut TensorData, range: Range<usize>) {
                match (data, self) {
                    $((TensorData::$variant(data), Elements::$variant(more)) => {
                        data.extend_from_slice(&more[range]);
                    })+
                    (data, more) => unreachable!("{:?} for {:?}", more.datatype(), data.datatype()),
                }
            }
        }

        impl<'a> From<&'a TensorData> for Elements<'a> {
            fn from(data: &'a TensorData) -> Self {
                match data { $(TensorData::$variant(data) => Elements::$variant(data),)+ }
            }
        }
    };
}

elements! {
    Bool bool;
    Uint8 u8;
    Uint16 u16;
    Uint32 u32;
    Uint64 u64;
    Int8 i8;
    Int16 i16;
    Int32 i32;
    Int64 i64;
    Fp16 f16;
    Fp32 f32;
    Fp64 f64;
    Bf16 bf16;
    Bytes Vec<u8>;
}

/// A borrowed tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View<'a> {
    /// The dimensions; their product is the number of elements.
    pub shape: &'a [usize],
    /// The elements.
    pub data: Elements<'a>,
}

impl<'a> From<&'a Tensor> for View<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self { shape: &tensor.shape, data: (&tensor.data).into() }
    }
}

/// The rows of a tensor along one of its dimensions, as blocks of elements that lie next to each other.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// How many blocks: the product of the dimensions before.
    blocks: usize,
    /// Rows in each block.
    count: usize,
    /// Elements of a row in a block: the product of the dimensions behind.
    len: usize,
}

impl Rows {
    /// Of a tensor of this shape along this dimension.
    pub(super) fn of(shape: &[usize], axis: usize) -> Self {
        let product = |sides: &[usize]| sides.iter().product();
        Self { blocks: product(&shape[..axis]), count: shape[axis], len: product(&shape[axis + 1..]) }
    }

    /// Where each block of so many rows from `first` on lies.
    pub(super) fn ranges(self, first: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
        (0..self.blocks).map(move |block| {
            let start = (block * self.count + first) * self.len;
            start..start + rows * self.len
        })
    }

    /// Puts the rows of several tensors, which have the same shape but for the number of rows, into one.
    pub(super) fn gather<'a>(into: &mut Tensor, axis: usize, parts: impl Iterator<Item = View<'a>> + Clone) {
        let Some(first) = parts.clone().next() else { return };
        into.shape.clear();
        into.shape.extend_from_slice(first.shape);
        into.shape[axis] = parts.clone().map(|part| part.shape[axis]).sum();
        if into.data.datatype() == first.data.datatype() {
            into.data.truncate(0);
        } else {
            into.data = TensorData::new(first.data.datatype());
        }
        for block in 0..Self::of(first.shape, axis).blocks {
            for part in parts.clone() {
                let len = part.data.len() / Self::of(part.shape, axis).blocks;
                part.data.append_to(&mut into.data, block * len..(block + 1) * len);
            }
        }
    }

    /// Takes some rows of a tensor out into another one.
    pub(super) fn scatter(from: &Tensor, axis: usize, first: usize, rows: usize, into: &mut Tensor) {
        into.shape.clear();
        into.shape.extend_from_slice(&from.shape);
        into.shape[axis] = rows;
        into.data.truncate(0);
        for range in Self::of(&from.shape, axis).ranges(first, rows) {
            into.data.extend_from(&from.data, range);
        }
    }

    /// Whether some rows of a tensor are without NaN and infinity.
    pub(super) fn are_finite(of: &Tensor, axis: usize, first: usize, rows: usize) -> bool {
        Self::of(&of.shape, axis).ranges(first, rows).all(|range| of.data.is_finite_in(range))
    }
}
