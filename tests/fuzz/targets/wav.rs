//! A WAV in pieces: the same head, fault and samples however it was cut, and samples within range.

use super::input::{Cuts, Input};
use suzu::reason::Fault;
use suzu::wire::wav::{Decoder, Head, HeadReader};

/// The reader of heads and the decoder behind it, with any cuts.
pub fn wav(data: &[u8]) {
    let mut input = Input::new(data);
    let mut cuts = Cuts::draw(&mut input);
    let bytes = input.rest();
    let whole = read(bytes, |left| left);
    let parts = read(bytes, |left| cuts.next(left));
    assert_eq!(whole, parts);
    let Ok(Some((head, samples, _, partial))) = whole else { return };
    assert!(samples.iter().all(|bits| (-1.0..=1.0).contains(&f32::from_bits(*bits))));
    assert!(partial < head.frame_bytes());
    assert!(head.frames().is_none_or(|frames| samples.len() as u64 <= frames));
}

/// The head, the samples' bits, how many of them were no numbers, and the bytes of a sample left over.
type Read = (Head, Vec<u32>, usize, usize);

fn read(bytes: &[u8], mut cut: impl FnMut(usize) -> usize) -> Result<Option<Read>, Fault> {
    let (mut heads, mut found) = (HeadReader::default(), None::<(Head, Decoder)>);
    let (mut samples, mut odd, mut at) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        let length = cut(bytes.len() - at);
        let mut piece = &bytes[at..at + length];
        if found.is_none()
            && let Some(head) = heads.read(&mut piece)?
        {
            found = Some((head, head.mixed()?));
        }
        if let Some((_, decoder)) = &mut found {
            odd += decoder.decode(piece, &mut samples);
        }
        at += length;
    }
    let bits = samples.into_iter().map(f32::to_bits).collect();
    Ok(found.map(|(head, decoder)| (head, bits, odd, decoder.partial_bytes())))
}
