//! Floats as they are usually written, many at a time: a digit, a point and a fraction, and a comma behind (`-0.0123,`).
//!
//! Large tensors in JSON are made of these, and reading them is most of what such a request costs. So there is hardly a
//! branch that depends on the digits, and where the next number begins is known before this one is computed: it is the
//! comma that is looked for. Whatever is not as usual is left to the parser of numbers in general, which is exact
//! everywhere; this one is where it says that it is.

/// The most that is looked at: a sign, a digit, the point, 24 digits, the comma, a blank.
const WINDOW: usize = 32;

/// Digits of a fraction that count.
const DIGITS: usize = 16;

/// An FP64 is off by less than 4 units of its last place if mantissa, power and their quotient are each rounded once.
pub(super) const ERROR_MAX: u64 = 8;

/// By what is cut off behind sixteen digits the value is off by one part in the mantissa, so that must be this at least:
/// an error below 9,008 units.
const CUT_MANTISSA_MIN: u64 = 1_000_000_000_000;
const CUT_ERROR_MAX: u64 = 16_384;

/// Powers of ten, exact.
const FRACTIONS: [f64; DIGITS + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16];

/// Powers of ten as whole numbers.
pub(super) const WHOLE_POWERS: [u64; DIGITS + 1] = {
    let mut powers = [1; DIGITS + 1];
    let mut index = 1;
    while index < powers.len() {
        powers[index] = powers[index - 1] * 10;
        index += 1;
    }
    powers
};

/// How the digits are found: portably, or by instructions that the processor may have.
trait Scan {
    /// Bytes before the first comma; `WINDOW` at least if there is none.
    fn comma(window: &[u8; WINDOW]) -> usize;

    /// The number that the digits from `at` on make, sixteen at most, and how many there are.
    fn digits(window: &[u8; WINDOW], at: usize) -> (u64, usize);
}

/// Appends floats to `data` until it has `most`, or the next one is not as usual. Gives the place where that begins.
pub(super) fn read(text: &[u8], at: usize, data: &mut Vec<f32>, most: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if sse::is_there() {
        return sse::read(text, at, data, most);
    }
    read_by::<Portable>(text, at, data, most)
}

#[inline(always)]
fn read_by<S: Scan>(text: &[u8], mut at: usize, data: &mut Vec<f32>, most: usize) -> usize {
    while data.len() < most
        && let Some(window) = text.get(at..).and_then(|rest| rest.first_chunk::<WINDOW>())
    {
        let end = S::comma(window);
        let negative = window[0] == b'-';
        let first = usize::from(negative);
        let whole = window[first].wrapping_sub(b'0');
        let fraction = first + 2;
        let (digits, count) = S::digits(window, fraction);
        if whole > 9 || window[first + 1] != b'.' || count == 0 || end >= WINDOW - 1 {
            break;
        }
        let mantissa = u64::from(whole) * WHOLE_POWERS[count] + digits;
        let mut error_max = ERROR_MAX;
        let behind = end - fraction - count;
        if behind > 0 {
            let are_digits = count == DIGITS && eight_at(window, fraction + DIGITS).1 >= behind;
            if !are_digits || mantissa < CUT_MANTISSA_MIN {
                break;
            }
            error_max = CUT_ERROR_MAX;
        }
        // Below 1e17, so its sign bit is free; and no FP32 is out of range with so few digits.
        let value = mantissa as i64 as f64 / FRACTIONS[count];
        if mantissa == 0 || !settles_f32(value, error_max) {
            break;
        }
        data.push(if negative { -(value as f32) } else { value as f32 });
        at += end + 1;
        // A branch that is always the same; computed, it would have to be waited for.
        if window[end + 1] == b' ' {
            at += 1;
        }
    }
    at
}

/// Whether an FP64 with an error of so many units of its last place tells the FP32: unless it lies that near to the middle
/// between two.
#[inline]
pub(super) fn settles_f32(value: f64, error_max: u64) -> bool {
    /// The bits of an FP64's mantissa that an FP32 does not have.
    const BELOW: u64 = (1 << 29) - 1;
    const MIDDLE: u64 = 1 << 28;
    (value.to_bits() & BELOW).abs_diff(MIDDLE) > error_max
}

/// Eight bytes as digits, and how many of them are digits before the first that is none. A digit becomes 0 to 9;
/// whatever is greater gets its highest bit set. A carry reaches later bytes only.
#[inline]
pub(super) fn eight_at(text: &[u8], at: usize) -> (u64, usize) {
    let chunk =
        text.get(at..).and_then(|rest| rest.first_chunk::<8>()).map_or(0, |eight| u64::from_le_bytes(*eight));
    let digits = chunk ^ 0x3030_3030_3030_3030;
    let others = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080;
    (digits, others.trailing_zeros() as usize / 8)
}

/// Eight digits, a byte each, the first in the lowest byte: pairs, then fours, then all.
#[inline]
pub(super) fn eight_digits(digits: u64) -> u64 {
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let mask = 0x0000_00FF_0000_00FF;
    let low = (pairs & mask).wrapping_mul(100 + (1_000_000 << 32));
    let high = ((pairs >> 16) & mask).wrapping_mul(1 + (10_000 << 32));
    low.wrapping_add(high) >> 32
}

struct Portable;

impl Scan for Portable {
    #[inline(always)]
    fn comma(window: &[u8; WINDOW]) -> usize {
        let eight = |at: usize| {
            let chunk = window[at..].first_chunk::<8>().map_or(0, |eight| u64::from_le_bytes(*eight));
            let others = chunk ^ 0x2c2c_2c2c_2c2c_2c2c;
            // A byte of zero borrows: its highest bit is set, and those before it are right.
            others.wrapping_sub(0x0101_0101_0101_0101) & !others & 0x8080_8080_8080_8080
        };
        let sixteen = |at: usize| u128::from(eight(at + 8)) << 64 | u128::from(eight(at));
        // In which half it is depends on how a tensor's numbers are written, not on each number.
        match sixteen(0) {
            0 => 16 + sixteen(16).trailing_zeros() as usize / 8,
            commas => commas.trailing_zeros() as usize / 8,
        }
    }

    #[inline(always)]
    fn digits(window: &[u8; WINDOW], at: usize) -> (u64, usize) {
        let ((high, before), (low, behind)) = (eight_at(window, at), eight_at(window, at + 8));
        let count = if before == 8 { 8 + behind } else { before };
        if count == 0 {
            return (0, 0);
        }
        // The digits move to the end, zeros stand before them.
        let digits = (u128::from(low) << 64 | u128::from(high)) << (8 * (DIGITS - count));
        (eight_digits(digits as u64) * 100_000_000 + eight_digits((digits >> 64) as u64), count)
    }
}

/// The same sixteen bytes at a time, by SSE 4.1: processors of the last fifteen years have it.
#[cfg(target_arch = "x86_64")]
mod sse {
    use super::{Scan, WINDOW, read_by};
    use std::arch::x86_64::*;

    pub(super) fn is_there() -> bool {
        is_x86_feature_detected!("sse4.1")
    }

    /// As [`super::read`].
    pub(super) fn read(text: &[u8], at: usize, data: &mut Vec<f32>, most: usize) -> usize {
        #[target_feature(enable = "sse4.1")]
        fn inner(text: &[u8], at: usize, data: &mut Vec<f32>, most: usize) -> usize {
            read_by::<Sse>(text, at, data, most)
        }
        assert!(is_there());
        // SAFETY: the processor has what is asked of it.
        unsafe { inner(text, at, data, most) }
    }

    /// Only used where the processor has SSE 4.1.
    struct Sse;

    #[inline(always)]
    fn load(window: &[u8; WINDOW], at: usize) -> __m128i {
        let bytes: &[u8; 16] = window[at..].first_chunk().expect("at most 16 bytes in");
        // SAFETY: sixteen bytes are there to be read, at any alignment; SSE 2 is part of every x86-64.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    impl Scan for Sse {
        #[inline(always)]
        fn comma(window: &[u8; WINDOW]) -> usize {
            let commas = |at: usize| {
                // SAFETY: SSE 2 is part of every x86-64.
                unsafe {
                    _mm_movemask_epi8(_mm_cmpeq_epi8(load(window, at), _mm_set1_epi8(b',' as i8))) as u32
                }
            };
            (commas(0) | commas(16) << 16).trailing_zeros() as usize
        }

        #[inline(always)]
        fn digits(window: &[u8; WINDOW], at: usize) -> (u64, usize) {
            // SAFETY: `inner` alone comes here, where the processor has SSE 4.1. Nothing here touches memory.
            unsafe {
                let digits = _mm_sub_epi8(load(window, at), _mm_set1_epi8(b'0' as i8));
                let are_digits = _mm_cmpeq_epi8(_mm_min_epu8(digits, _mm_set1_epi8(9)), digits);
                let count = (!_mm_movemask_epi8(are_digits)).trailing_zeros() as usize;
                // The digits move to the end; an index below zero gives a zero.
                let places = _mm_set_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
                let digits = _mm_shuffle_epi8(digits, _mm_add_epi8(places, _mm_set1_epi8(count as i8 - 16)));
                // Pairs, then fours, then eights: the first times its power of ten and the second.
                let pairs = _mm_maddubs_epi16(digits, _mm_set1_epi16(0x010a));
                let fours = _mm_madd_epi16(pairs, _mm_set1_epi32(0x0001_0064));
                let eights = _mm_madd_epi16(_mm_packus_epi32(fours, fours), _mm_set1_epi32(0x0001_2710));
                let eights = _mm_cvtsi128_si64(eights) as u64;
                ((eights & 0xffff_ffff) * 100_000_000 + (eights >> 32), count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn portable(text: &[u8], most: usize) -> (Vec<f32>, usize) {
        let mut data = Vec::new();
        let end = read_by::<Portable>(text, 0, &mut data, most);
        (data, end)
    }

    fn best(text: &[u8], most: usize) -> (Vec<f32>, usize) {
        let mut data = Vec::new();
        let end = read(text, 0, &mut data, most);
        (data, end)
    }

    #[test]
    fn usual_floats_are_read_up_to_the_first_that_is_not() {
        let tail = " ".repeat(WINDOW);
        let check = |text: &str, expected: &[f32], rest: &str| {
            let text = format!("{text}{tail}");
            for (data, end) in [portable(text.as_bytes(), 9), best(text.as_bytes(), 9)] {
                assert_eq!(data, expected, "{text}");
                assert!(text[end..].starts_with(rest), "{text}: stopped at {:?}", &text[end..]);
            }
        };
        check("0.5,-1.25, 3.0000000000000001,7]", &[0.5, -1.25, 3.0], "7]");
        check("0.12345678901234567,1e3,", &[0.123_456_79], "1e3");
        for rest in
            ["12.5,", ".5,", "1.,", "-.5,", "0.5 ,", "0.5e1,", "0.0,", "+0.5,", "0.1x,", "0.5]", "--0.5,"]
        {
            check(&format!("0.25,{rest}"), &[0.25], rest);
        }
        // Half way between two, and too long to be looked at as a whole.
        check("1.000000059604644775,", &[], "1.0000");
        check("0.1234567890123456789012345678901234567890,", &[], "0.1234");
    }

    #[test]
    fn no_more_are_read_than_there_is_room_for() {
        let text = "0.5,".repeat(20);
        assert_eq!(portable(text.as_bytes(), 3), (vec![0.5; 3], 12));
        assert_eq!(best(text.as_bytes(), 3), (vec![0.5; 3], 12));
    }

    proptest! {
        #[test]
        fn every_way_reads_what_the_standard_library_reads(
            numbers in prop::collection::vec("-?[0-9]\\.[0-9]{1,28}", 1..12),
            blank: bool,
        ) {
            let text = numbers.join(if blank { ", " } else { "," }) + "," + &" ".repeat(WINDOW);
            let (data, end) = portable(text.as_bytes(), 100);
            prop_assert_eq!(&(data.clone(), end), &best(text.as_bytes(), 100));
            for (number, value) in numbers.iter().zip(&data) {
                prop_assert_eq!(number.parse::<f32>().unwrap().to_bits(), value.to_bits(), "{}", number);
            }
        }

        #[test]
        fn every_way_stops_at_the_same_place_of_any_text(text in "[-0-9., ]{0,80}", noise: Vec<u8>) {
            for text in [text.as_bytes(), &noise] {
                prop_assert_eq!(portable(text, 100), best(text, 100));
            }
        }
    }
}
