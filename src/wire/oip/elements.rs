//! The `data` arrays of JSON tensors, read straight into typed elements: flat, or nested as the shape says.
//!
//! Floats take a short way that is exactly right and fall back to `str::parse` where it cannot be sure.

use super::floats::{self, ERROR_MAX, WHOLE_POWERS, eight_at, eight_digits, settles_f32};
use super::json::Json;
use super::{dims, invalid, malformed, quoted};
use crate::model::{Datatype, TensorData};
use crate::reason::Fault;
use half::f16;

/// Parses the array at `json.at`. `elements` is the product of `shape`; `what` names the tensor in errors.
pub(super) fn parse(
    json: &mut Json<'_>,
    what: &str,
    datatype: Datatype,
    shape: &[usize],
    elements: usize,
) -> Result<TensorData, Fault> {
    let walk = Walk { what, datatype, shape, elements };
    Ok(match datatype {
        Datatype::Bool => TensorData::Bool(walk.array(json)?),
        Datatype::Uint8 => TensorData::Uint8(walk.array(json)?),
        Datatype::Uint16 => TensorData::Uint16(walk.array(json)?),
        Datatype::Uint32 => TensorData::Uint32(walk.array(json)?),
        Datatype::Uint64 => TensorData::Uint64(walk.array(json)?),
        Datatype::Int8 => TensorData::Int8(walk.array(json)?),
        Datatype::Int16 => TensorData::Int16(walk.array(json)?),
        Datatype::Int32 => TensorData::Int32(walk.array(json)?),
        Datatype::Int64 => TensorData::Int64(walk.array(json)?),
        Datatype::Fp16 => TensorData::Fp16(walk.array(json)?),
        Datatype::Fp32 => TensorData::Fp32(walk.array(json)?),
        Datatype::Fp64 => TensorData::Fp64(walk.array(json)?),
        Datatype::Bytes => TensorData::Bytes(walk.array(json)?),
        Datatype::Bf16 => {
            return Err(invalid(format!("{what} is BF16, which JSON cannot carry: send it as binary data")));
        }
    })
}

/// An element of an array.
trait Element: Sized {
    /// The element at `json.at`, which is moved behind it; `None` if there is none of this type.
    fn read(json: &mut Json<'_>) -> Option<Self>;

    /// A short way for elements as they are usually written, with the commas behind them, as long as `data` has fewer
    /// than `most`. Where it ends the next element begins.
    fn read_usual(_json: &mut Json<'_>, _data: &mut Vec<Self>, _most: usize) {}
}

struct Walk<'a> {
    what: &'a str,
    datatype: Datatype,
    shape: &'a [usize],
    elements: usize,
}

impl Walk<'_> {
    fn array<T: Element>(&self, json: &mut Json<'_>) -> Result<Vec<T>, Fault> {
        if json.peek() != Some(b'[') {
            return Err(json.wrong(&format!("an array (the data of {})", self.what)));
        }
        json.at += 1;
        // An element takes two bytes of text at least, so no more are made room for than can be there.
        let room = self.elements.min((json.bytes().len() - json.at) / 2 + 1);
        let mut data = Vec::with_capacity(room);
        if json.peek() == Some(b'[') {
            self.nested(json, &mut data)?;
        } else {
            self.row(json, &mut data)?;
        }
        if data.len() != self.elements {
            let (what, found, shape) = (self.what, data.len(), dims(self.shape));
            let expected = self.elements;
            return Err(invalid(format!("{what} has {found} elements, its shape {shape} makes {expected}")));
        }
        Ok(data)
    }

    /// Behind the first of several brackets. `counts` holds what each open bracket has had so far.
    fn nested<T: Element>(&self, json: &mut Json<'_>, data: &mut Vec<T>) -> Result<(), Fault> {
        let mut counts = vec![0];
        loop {
            let deepest = counts.len() >= self.shape.len();
            match json.peek() {
                Some(b'[') if !deepest => {
                    json.at += 1;
                    if counts.len() + 1 < self.shape.len() {
                        counts.push(0);
                        continue;
                    }
                    let before = data.len();
                    self.row(json, data)?;
                    self.check_side(counts.len(), data.len() - before)?;
                }
                Some(b']') if counts.last() == Some(&0) => {
                    json.at += 1;
                    self.check_side(counts.len() - 1, 0)?;
                    counts.pop();
                }
                _ => return Err(self.uneven()),
            }
            // One value is complete: count it where it belongs, and close what ends here.
            loop {
                let level = counts.len();
                let Some(count) = counts.last_mut() else { return Ok(()) };
                *count += 1;
                let count = *count;
                match json.peek() {
                    Some(b',') => {
                        json.at += 1;
                        if json.peek() != Some(b'[') {
                            return Err(self.uneven());
                        }
                        break;
                    }
                    Some(b']') => {
                        json.at += 1;
                        self.check_side(level - 1, count)?;
                        counts.pop();
                    }
                    _ => return Err(json.wrong("',' or ']'")),
                }
            }
        }
    }

    fn check_side(&self, dimension: usize, found: usize) -> Result<(), Fault> {
        let expected = self.shape[dimension];
        if found == expected {
            return Ok(());
        }
        let (what, shape) = (self.what, dims(self.shape));
        Err(invalid(format!(
            "{what} has {found} where its shape {shape} says {expected} (dimension {dimension} of its nested data)"
        )))
    }

    fn uneven(&self) -> Fault {
        let (what, shape) = (self.what, dims(self.shape));
        invalid(format!("the data of {what} is neither flat nor nested as its shape {shape} says"))
    }

    /// Behind a bracket: elements to the bracket that closes it.
    fn row<T: Element>(&self, json: &mut Json<'_>, data: &mut Vec<T>) -> Result<(), Fault> {
        if json.peek() == Some(b']') {
            json.at += 1;
            return Ok(());
        }
        loop {
            json.peek();
            T::read_usual(json, data, self.elements);
            json.peek();
            let start = json.at;
            let Some(element) = T::read(json) else {
                return Err(self.wrong_element(json, start, data.len()));
            };
            if data.len() == self.elements {
                let (what, shape) = (self.what, dims(self.shape));
                return Err(invalid(format!("{what} has more elements than its shape {shape} says")));
            }
            data.push(element);
            match json.bytes().get(json.at) {
                // As it is usually printed; anything else takes the long way.
                Some(b',') => json.at += 1,
                _ => match json.peek() {
                    Some(b',') => json.at += 1,
                    Some(b']') => {
                        json.at += 1;
                        return Ok(());
                    }
                    None => return Err(json.wrong("',' or ']'")),
                    Some(_) => return Err(self.wrong_element(json, start, data.len() - 1)),
                },
            }
        }
    }

    fn wrong_element(&self, json: &Json<'_>, start: usize, index: usize) -> Fault {
        let rest = &json.bytes()[start..];
        let (what, name) = (self.what, self.datatype.name());
        match rest.first() {
            None => return malformed(format!("the JSON ends within the data of {what}")),
            Some(b'[') => return self.uneven(),
            Some(_) => {}
        }
        let end =
            rest.iter().position(|byte| matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t'));
        let token = String::from_utf8_lossy(&rest[..end.unwrap_or(rest.len())]);
        let token = quoted(&token);
        match self.datatype {
            Datatype::Fp16 | Datatype::Fp32 | Datatype::Fp64 => {
                invalid(format!("element {index} of {what} is {token}: not a finite number of {name}"))
            }
            _ => invalid(format!("element {index} of {what} is {token}: not a {name}")),
        }
    }
}

impl Element for bool {
    fn read(json: &mut Json<'_>) -> Option<Self> {
        json.boolean("an element").ok()
    }
}

impl Element for Vec<u8> {
    fn read(json: &mut Json<'_>) -> Option<Self> {
        json.string("an element").ok().map(|string| string.into_owned().into_bytes())
    }
}

macro_rules! integers {
    ($($element:ty)+) => {
        $(impl Element for $element {
            fn read(json: &mut Json<'_>) -> Option<Self> {
                let decimal = Decimal::scan(json.bytes(), json.at)?;
                if decimal.exponent != 0 || !decimal.integer || decimal.digits > 20 {
                    return None;
                }
                // Twenty digits may be too many for 64 bits; nineteen are not.
                let magnitude = match decimal.digits {
                    20 => decimal.text(json).trim_start_matches('-').parse().ok()?,
                    _ => i128::from(decimal.mantissa),
                };
                json.at = decimal.end;
                <$element>::try_from(if decimal.negative { -magnitude } else { magnitude }).ok()
            }
        })+
    };
}

integers! { u8 u16 u32 u64 i8 i16 i32 i64 }

impl Element for f32 {
    fn read_usual(json: &mut Json<'_>, data: &mut Vec<Self>, most: usize) {
        json.at = floats::read(json.bytes(), json.at, data, most);
    }

    fn read(json: &mut Json<'_>) -> Option<Self> {
        let decimal = Decimal::scan(json.bytes(), json.at)?;
        let value = match decimal.to_f32() {
            Some(value) => value,
            None => decimal.text(json).parse().ok().filter(|value: &f32| value.is_finite())?,
        };
        json.at = decimal.end;
        Some(value)
    }
}

impl Element for f64 {
    fn read(json: &mut Json<'_>) -> Option<Self> {
        let decimal = Decimal::scan(json.bytes(), json.at)?;
        let value = match decimal.to_f64() {
            Some(value) => value,
            None => decimal.text(json).parse().ok().filter(|value: &f64| value.is_finite())?,
        };
        json.at = decimal.end;
        Some(value)
    }
}

impl Element for f16 {
    fn read(json: &mut Json<'_>) -> Option<Self> {
        f64::read(json).map(f16::from_f64).filter(|value| value.is_finite())
    }
}

/// A number of JSON's grammar: `mantissa * 10^exponent`, exact as long as there are 19 digits at most.
struct Decimal {
    start: usize,
    end: usize,
    negative: bool,
    mantissa: u64,
    exponent: i32,
    /// Significant digits: zeros in front do not count.
    digits: usize,
    /// Without a point and without an exponent.
    integer: bool,
}

/// As many digits always fit 64 bits.
const DIGITS_EXACT: usize = 19;

impl Decimal {
    #[inline]
    fn scan(text: &[u8], start: usize) -> Option<Decimal> {
        let byte = |at: usize| text.get(at).copied().unwrap_or(0);
        let negative = byte(start) == b'-';
        let mut at = start + usize::from(negative);
        let mut mantissa = 0;
        let mut digits = 0;
        match byte(at) {
            b'0' => at += 1,
            b'1'..=b'9' => digits = scan_digits(text, &mut at, &mut mantissa),
            _ => return None,
        }
        let mut exponent = 0;
        let mut integer = true;
        if byte(at) == b'.' {
            integer = false;
            at += 1;
            let first = at;
            if digits == 0 {
                while byte(at) == b'0' {
                    at += 1;
                }
            }
            digits += scan_digits(text, &mut at, &mut mantissa);
            if at == first {
                return None;
            }
            exponent = -i32::try_from(at - first).ok()?;
        }
        if matches!(byte(at), b'e' | b'E') {
            integer = false;
            at += 1;
            let minus = byte(at) == b'-';
            at += usize::from(matches!(byte(at), b'-' | b'+'));
            let first = at;
            let mut power = 0i32;
            while byte(at).is_ascii_digit() {
                power = power.saturating_mul(10).saturating_add(i32::from(byte(at) - b'0'));
                at += 1;
            }
            if at == first {
                return None;
            }
            // Beyond what digits before it can make up for: no body has so many.
            let power = power.min(1_000_000_000);
            exponent = exponent.checked_add(if minus { -power } else { power })?;
        }
        // "01" is no number of JSON's, and neither is "1x".
        let ends = !matches!(byte(at), b'0'..=b'9' | b'.' | b'a'..=b'z' | b'A'..=b'Z');
        ends.then_some(Decimal { start, end: at, negative, mantissa, exponent, digits, integer })
    }

    fn text<'a>(&self, json: &Json<'a>) -> &'a str {
        // What was scanned is ASCII.
        std::str::from_utf8(&json.bytes()[self.start..self.end]).unwrap_or_default()
    }

    /// The nearest FP32, if the short way is sure of it.
    fn to_f32(&self) -> Option<f32> {
        let sign = if self.negative { -1.0 } else { 1.0 };
        if self.digits > DIGITS_EXACT {
            return None;
        }
        if self.mantissa == 0 {
            return Some(0.0f32.copysign(sign));
        }
        let power = POWERS.get(usize::try_from(self.exponent + POWER_MIN).ok()?)?;
        let value = self.mantissa as f64 * power;
        // Away from both ends of the range: subnormal numbers have fewer bits, and the greatest have no neighbour.
        let inside = value > 2.0 * f64::from(f32::MIN_POSITIVE) && value < f64::from(f32::MAX) / 2.0;
        (inside && settles_f32(value, ERROR_MAX)).then(|| (value as f32).copysign(sign))
    }

    /// The nearest FP64, if both the mantissa and the power are exact, so that only their product is rounded
    /// (W. D. Clinger, How to read floating point numbers accurately, 1990).
    fn to_f64(&self) -> Option<f64> {
        let sign = if self.negative { -1.0f64 } else { 1.0 };
        if self.digits > DIGITS_EXACT || self.mantissa > 1 << 53 {
            return None;
        }
        if self.mantissa == 0 {
            return Some(0.0f64.copysign(sign));
        }
        let mantissa = self.mantissa as f64;
        let power = |exponent: i32| usize::try_from(exponent + POWER_MIN).ok().map(|index| POWERS[index]);
        match self.exponent {
            0..=22 => Some(sign * mantissa * power(self.exponent)?),
            -22..0 => Some(sign * mantissa / power(-self.exponent)?),
            _ => None,
        }
    }
}

/// Reads digits, eight at a time. Wraps around if there are more than fit.
#[inline]
fn scan_digits(text: &[u8], at: &mut usize, value: &mut u64) -> usize {
    let start = *at;
    while *at + 8 <= text.len() {
        let (digits, count) = eight_at(text, *at);
        *at += count;
        if count == 8 {
            *value = value.wrapping_mul(100_000_000).wrapping_add(eight_digits(digits));
            continue;
        }
        if count > 0 {
            // They move to the end, zeros stand before them.
            let few = eight_digits(digits << (64 - 8 * count));
            *value = value.wrapping_mul(WHOLE_POWERS[count]).wrapping_add(few);
        }
        return *at - start;
    }
    while let Some(digit @ b'0'..=b'9') = text.get(*at).copied() {
        *value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        *at += 1;
    }
    *at - start
}

/// `POWERS[0]` is ten to the minus of this.
const POWER_MIN: i32 = 64;

/// Powers of ten from 1e-64 to 1e39, each the nearest FP64.
#[rustfmt::skip]
const POWERS: [f64; 104] = [
    1e-64, 1e-63, 1e-62, 1e-61, 1e-60, 1e-59, 1e-58, 1e-57,
    1e-56, 1e-55, 1e-54, 1e-53, 1e-52, 1e-51, 1e-50, 1e-49,
    1e-48, 1e-47, 1e-46, 1e-45, 1e-44, 1e-43, 1e-42, 1e-41,
    1e-40, 1e-39, 1e-38, 1e-37, 1e-36, 1e-35, 1e-34, 1e-33,
    1e-32, 1e-31, 1e-30, 1e-29, 1e-28, 1e-27, 1e-26, 1e-25,
    1e-24, 1e-23, 1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17,
    1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9,
    1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1,
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7,
    1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22, 1e23,
    1e24, 1e25, 1e26, 1e27, 1e28, 1e29, 1e30, 1e31,
    1e32, 1e33, 1e34, 1e35, 1e36, 1e37, 1e38, 1e39,
];
