//! Tensors that are only looked at: what engines and graphs take, so that nothing is copied on the way.

use crate::model::{Datatype, Tensor, TensorData};
use half::{bf16, f16};

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
