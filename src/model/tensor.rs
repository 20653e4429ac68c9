//! Tensors: element types as the Open Inference Protocol names them, and elements row after row.

use half::{bf16, f16};
use std::ops::Range;

/// Makes [`Datatype`] and [`TensorData`] of one row for each element type: `Variant, element, "NAME", bytes`.
macro_rules! element_types {
    ($($(#[doc = $doc:literal])+ $variant:ident, $element:ty, $name:literal, $bytes:expr;)+) => {
        /// Element types, named as in the Open Inference Protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Datatype { $($(#[doc = $doc])+ $variant,)+ }

        /// The elements of a tensor, row after row.
        #[derive(Clone, Debug, PartialEq)]
        pub enum TensorData { $(#[doc = concat!("[`Datatype::", stringify!($variant), "`]")] $variant(Vec<$element>),)+ }

        impl Datatype {
            /// Every element type.
            pub const ALL: &[Datatype] = &[$(Datatype::$variant),+];

            /// The name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Datatype::$variant => $name,)+ }
            }

            /// Bytes of an element in binary; `None` where elements differ in length.
            pub fn element_bytes(self) -> Option<usize> {
                match self { $(Datatype::$variant => $bytes,)+ }
            }
        }

        impl TensorData {
            /// Data without elements.
            pub fn new(datatype: Datatype) -> Self {
                match datatype { $(Datatype::$variant => TensorData::$variant(Vec::new()),)+ }
            }

            /// The type of its elements.
            pub fn datatype(&self) -> Datatype {
                match self { $(TensorData::$variant(_) => Datatype::$variant,)+ }
            }

            /// How many elements.
            pub fn len(&self) -> usize {
                match self { $(TensorData::$variant(data) => data.len(),)+ }
            }

            /// Keeps the first `len` elements.
            pub fn truncate(&mut self, len: usize) {
                match self { $(TensorData::$variant(data) => data.truncate(len),)+ }
            }

            /// Appends the elements of `other` within `range`.
            ///
            /// # Panics
            /// If the types differ: whoever mixes them contradicts a specification that was checked before.
            pub fn extend_from(&mut self, other: &TensorData, range: std::ops::Range<usize>) {
                match (self, other) {
                    $((TensorData::$variant(data), TensorData::$variant(more)) => {
                        data.extend_from_slice(&more[range])
                    })+
                    (data, more) => panic!("{} for a tensor of {}", more.datatype().name(), data.datatype().name()),
                }
            }
        }
    };
}

element_types! {
    /// True or false; a byte each.
    Bool, bool, "BOOL", Some(1);
    /// 8-bit unsigned integer.
    Uint8, u8, "UINT8", Some(1);
    /// 16-bit unsigned integer.
    Uint16, u16, "UINT16", Some(2);
    /// 32-bit unsigned integer.
    Uint32, u32, "UINT32", Some(4);
    /// 64-bit unsigned integer.
    Uint64, u64, "UINT64", Some(8);
    /// 8-bit integer.
    Int8, i8, "INT8", Some(1);
    /// 16-bit integer.
    Int16, i16, "INT16", Some(2);
    /// 32-bit integer.
    Int32, i32, "INT32", Some(4);
    /// 64-bit integer.
    Int64, i64, "INT64", Some(8);
    /// 16-bit float (IEEE 754 half).
    Fp16, f16, "FP16", Some(2);
    /// 32-bit float.
    Fp32, f32, "FP32", Some(4);
    /// 64-bit float.
    Fp64, f64, "FP64", Some(8);
    /// 16-bit float with the exponent of a 32-bit one.
    Bf16, bf16, "BF16", Some(2);
    /// Strings of bytes.
    Bytes, Vec<u8>, "BYTES", None;
}

impl Datatype {
    /// The type of that name.
    pub fn parse(name: &str) -> Option<Datatype> {
        Self::ALL.iter().copied().find(|datatype| datatype.name() == name)
    }
}

/// For the types whose elements are plain numbers.
macro_rules! numbers {
    ($($variant:ident $element:ty;)+) => {
        impl Datatype {
            /// Whether elements are integers or floats that JSON and `f64` can hold: what a stream's results may be.
            pub fn is_number(self) -> bool {
                matches!(self, $(Datatype::$variant)|+)
            }
        }

        impl TensorData {
            /// Numbers as elements of a type; `None` if the type is not of numbers or does not hold one of them.
            /// Floats are rounded.
            pub fn from_f64(datatype: Datatype, numbers: &[f64]) -> Option<TensorData> {
                match datatype {
                    $(Datatype::$variant => {
                        let float = matches!(datatype, Datatype::Fp32 | Datatype::Fp64);
                        let element = |&number: &f64| {
                            let element = number as $element;
                            (float || element as f64 == number).then_some(element)
                        };
                        Some(TensorData::$variant(numbers.iter().map(element).collect::<Option<_>>()?))
                    })+
                    _ => None,
                }
            }

            /// The elements as numbers; empty if the type is not of numbers.
            pub fn numbers(&self) -> Box<dyn DoubleEndedIterator<Item = f64> + '_> {
                match self {
                    $(TensorData::$variant(data) => Box::new(data.iter().map(|&element| element as f64)),)+
                    _ => Box::new(std::iter::empty()),
                }
            }
        }
    };
}

numbers! {
    Uint8 u8;
    Uint16 u16;
    Uint32 u32;
    Uint64 u64;
    Int8 i8;
    Int16 i16;
    Int32 i32;
    Int64 i64;
    Fp32 f32;
    Fp64 f64;
}

impl TensorData {
    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends an element to an [`Datatype::Fp32`] output.
    ///
    /// # Panics
    /// If the output is of another type: the model contradicts its own specification.
    pub fn push_f32(&mut self, value: f32) {
        match self {
            TensorData::Fp32(data) => data.push(value),
            other => panic!("an FP32 element for an output of {}", other.datatype().name()),
        }
    }

    /// Appends an element to an [`Datatype::Uint32`] output.
    ///
    /// # Panics
    /// If the output is of another type: the model contradicts its own specification.
    pub fn push_u32(&mut self, value: u32) {
        match self {
            TensorData::Uint32(data) => data.push(value),
            other => panic!("a UINT32 element for an output of {}", other.datatype().name()),
        }
    }

    /// Whether no element is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        self.is_finite_in(0..self.len())
    }

    /// The same of the elements within `range`, which must be there.
    pub fn is_finite_in(&self, range: Range<usize>) -> bool {
        match self {
            TensorData::Fp16(data) => all_finite(&data[range], f16::is_finite),
            TensorData::Bf16(data) => all_finite(&data[range], bf16::is_finite),
            TensorData::Fp32(data) => all_finite(&data[range], f32::is_finite),
            TensorData::Fp64(data) => all_finite(&data[range], f64::is_finite),
            _ => true,
        }
    }

    /// Bytes that the elements take in memory, without spare capacity.
    pub fn bytes(&self) -> usize {
        match self {
            TensorData::Bytes(data) => data.iter().map(|element| element.len() + size_of::<Vec<u8>>()).sum(),
            other => other.len() * other.datatype().element_bytes().unwrap_or(0),
        }
    }
}

/// Elements with their dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The dimensions; their product is the number of elements. Empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, the last dimension next to each other.
    pub data: TensorData,
}

impl Tensor {
    /// A tensor, if the shape holds exactly these elements.
    pub fn new(shape: Vec<usize>, data: TensorData) -> Option<Tensor> {
        (elements(&shape) == Some(data.len())).then_some(Tensor { shape, data })
    }
}

/// How many elements a shape holds; `None` if that is more than can be counted.
pub fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side))
}

/// Whether all elements are finite. Looks at a block at a time, which compilers turn into a few vector instructions; one
/// by one it would cost a large request more than reading it does.
pub(super) fn all_finite<T: Copy>(data: &[T], is_finite: impl Fn(T) -> bool) -> bool {
    const BLOCK: usize = 64;
    data.chunks(BLOCK).all(|block| block.iter().fold(true, |all, &value| all & is_finite(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_name() {
        for &datatype in Datatype::ALL {
            assert_eq!(Datatype::parse(datatype.name()), Some(datatype));
            assert_eq!(TensorData::new(datatype).datatype(), datatype);
        }
        assert_eq!(Datatype::parse("fp32"), None);
    }

    #[test]
    fn a_shape_that_does_not_hold_the_elements_is_no_tensor() {
        assert!(Tensor::new(vec![2, 2], TensorData::Fp32(vec![0.0; 4])).is_some());
        assert!(Tensor::new(vec![2, 2], TensorData::Fp32(vec![0.0; 3])).is_none());
        assert!(Tensor::new(vec![], TensorData::Fp32(vec![0.0])).is_some());
        assert!(Tensor::new(vec![usize::MAX, 2], TensorData::Fp32(vec![])).is_none());
    }
}
