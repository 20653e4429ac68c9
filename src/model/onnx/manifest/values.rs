//! Values of `model.toml` that are more than a number or a word, and what to say of those that are wrong.

use super::EngineKind;
use crate::model::Datatype;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use std::fmt;
use std::time::Duration;

/// A side of a shape: a size, or a word for what the dimension is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a size, or a word such as \"batch\"")]
pub enum Side {
    /// This size.
    Fixed(usize),
    /// What the dimension is.
    Word(String),
}

/// Where rows are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a dimension counted from 0, or \"none\"")]
pub enum AxisOf {
    /// Along this dimension.
    Dimension(usize),
    /// `"none"`, which is the only word.
    Word(String),
}

impl AxisOf {
    /// The dimension, if there is one.
    pub fn dimension(&self) -> Option<usize> {
        match self {
            AxisOf::Dimension(dimension) => Some(*dimension),
            AxisOf::Word(_) => None,
        }
    }
}

/// One number for all bands, or one for each.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a number or a list of numbers")]
pub enum Numbers {
    /// For all.
    One(f32),
    /// For each.
    Many(Vec<f32>),
}

/// A number, or `true` for 1 and `false` for 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number(pub f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number, true or false")]
        enum Any {
            Bool(bool),
            Integer(i64),
            Float(f64),
        }
        Ok(Number(match Any::deserialize(deserializer)? {
            Any::Bool(value) => f64::from(u8::from(value)),
            Any::Integer(value) => value as f64,
            Any::Float(value) => value,
        }))
    }
}

/// Elements of a tensor: one for all, or a list, nested as one likes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a number, true, false, or a list of them")]
pub enum Flat {
    /// For all.
    One(Number),
    /// For each.
    Many(Vec<Flat>),
}

impl Flat {
    /// The numbers in order.
    pub fn to_vec(&self) -> Vec<f64> {
        match self {
            Flat::One(number) => vec![number.0],
            Flat::Many(items) => items.iter().flat_map(Flat::to_vec).collect(),
        }
    }
}

/// The engine by the name that the Open Inference Protocol has for it.
pub(super) fn platform<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<EngineKind>, D::Error> {
    let name = String::deserialize(deserializer)?;
    match name.as_str() {
        "onnx_rten" => Ok(Some(EngineKind::Rten)),
        "onnx_onnxruntime" | "onnxruntime_onnx" => Ok(Some(EngineKind::OnnxRuntime)),
        _ => Err(D::Error::custom(format!(
            "unknown platform `{name}`, expected `onnx_rten` or `onnx_onnxruntime`"
        ))),
    }
}

/// An element type by its name in the Open Inference Protocol, in any case.
pub(super) fn datatype<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Datatype>, D::Error> {
    let name = String::deserialize(deserializer)?;
    Datatype::parse(&name.to_uppercase()).map(Some).ok_or_else(|| {
        let names: Vec<_> = Datatype::ALL.iter().map(|datatype| datatype.name()).collect();
        D::Error::custom(format!("unknown element type `{name}`, expected one of {}", names.join(", ")))
    })
}

/// Milliseconds, or a text such as `1s 500ms`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Time;
    impl Visitor<'_> for Time {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("milliseconds, or a time such as \"5ms\"")
        }

        fn visit_i64<E: Error>(self, ms: i64) -> Result<Duration, E> {
            let ms = u64::try_from(ms);
            ms.map(Duration::from_millis).map_err(|_| E::custom("a time is not negative"))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text).map_err(|_| {
                E::custom(format!("`{text}` is no time, expected one such as \"5ms\" or \"1s 500ms\""))
            })
        }
    }
    deserializer.deserialize_any(Time)
}

pub(super) fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}
