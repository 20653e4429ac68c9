//! Samples: the same however they were cut, finite and within range, and stable once they were encoded.

use super::input::{Cuts, Input};
use suzu::wire::message::Encoding;
use suzu::wire::pcm::{AUDIO_HEADER_BYTES, AudioHeader, Decoder, encode};

const ENCODINGS: [Encoding; 4] = [Encoding::Linear16, Encoding::F32le, Encoding::Mulaw, Encoding::Alaw];

/// The decoder with any cuts, the encoder, and the header before samples.
pub fn pcm(data: &[u8]) {
    let mut input = Input::new(data);
    let (encoding, channels) = (input.pick(&ENCODINGS), u16::from(input.byte() % 8) + 1);
    let mut cuts = Cuts::draw(&mut input);
    let bytes = input.rest();
    let (samples, partial, odd) = decode(encoding, channels, bytes, |left| left);
    let (parts, partial_of_parts, odd_of_parts) = decode(encoding, channels, bytes, |left| cuts.next(left));
    assert_eq!(bits(&parts), bits(&samples));
    assert_eq!((partial_of_parts, odd_of_parts), (partial, odd));
    assert!(samples.iter().all(|sample| (-1.0..=1.0).contains(sample)));
    assert!(odd == 0 || encoding == Encoding::F32le);
    stays_the_same(encoding, &samples);
    header(bytes);
}

fn decode(
    encoding: Encoding,
    channels: u16,
    bytes: &[u8],
    mut cut: impl FnMut(usize) -> usize,
) -> (Vec<f32>, usize, usize) {
    let mut decoder = Decoder::new(encoding, channels);
    let (mut samples, mut odd, mut at) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        let length = cut(bytes.len() - at);
        let expected = samples.len() + decoder.samples_in(length);
        odd += decoder.decode(&bytes[at..at + length], &mut samples);
        assert_eq!(samples.len(), expected);
        at += length;
    }
    assert_eq!(samples.len() * decoder.frame_bytes() + decoder.partial_bytes(), bytes.len());
    (samples, decoder.partial_bytes(), odd)
}

/// What has gone through an encoding once goes through it again unchanged.
fn stays_the_same(encoding: Encoding, samples: &[f32]) {
    let mut once = Vec::new();
    encode(encoding, samples, &mut once);
    let (first, partial, _) = decode(encoding, 1, &once, |left| left);
    assert_eq!((first.len(), partial), (samples.len(), 0));
    let mut twice = Vec::new();
    encode(encoding, &first, &mut twice);
    let (second, ..) = decode(encoding, 1, &twice, |left| left);
    assert_eq!(first, second);
}

fn header(bytes: &[u8]) {
    let Ok((header, samples)) = AudioHeader::parse(bytes) else {
        return assert!(bytes.len() < AUDIO_HEADER_BYTES || !matches!(bytes[0], 1 | 2));
    };
    let mut again = Vec::new();
    header.encode(&mut again);
    assert_eq!((&again[..], samples), bytes.split_at(AUDIO_HEADER_BYTES));
}

fn bits(samples: &[f32]) -> Vec<u32> {
    samples.iter().map(|sample| sample.to_bits()).collect()
}
