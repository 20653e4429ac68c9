//! Compressed bodies: gzip and deflate, both ways, within limits.
//!
//! Knows the names of content codings and how `Accept-Encoding` weighs them. Whether an answer is worth compressing is
//! the server's decision. A body never unpacks to more than it is allowed, whatever it claims of itself.

use crate::reason::{Fault, Reason};
use flate2::Compression;
use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use std::io::{Read, Write};

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950, a zlib stream. Bare RFC 1951, which some clients send under that name, is read too.
    Deflate,
}

impl Coding {
    /// The coding of a `Content-Encoding`.
    ///
    /// # Errors
    /// `UnsupportedData` for one that is not known, or for several on top of each other.
    pub fn parse(name: &str) -> Result<Coding, Fault> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Coding::Identity),
            "gzip" | "x-gzip" => Ok(Coding::Gzip),
            "deflate" => Ok(Coding::Deflate),
            _ => Err(Fault::new(
                Reason::UnsupportedData,
                "the Content-Encoding is not known: send gzip, deflate or identity",
            )
            .at("content-encoding")),
        }
    }

    /// The name for `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Identity => "identity",
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        }
    }

    /// The coding that an `Accept-Encoding` likes best of those served; of equals gzip, then deflate. What is named
    /// nowhere is not chosen. Never fails: whoever refuses everything gets the body as it is.
    pub fn negotiate(accept: &str) -> Coding {
        let weight = |coding: Coding| {
            let named = weights(accept).find(|(name, _)| {
                name.eq_ignore_ascii_case(coding.name()) || coding == Coding::Gzip && *name == "x-gzip"
            });
            named.or_else(|| weights(accept).find(|(name, _)| *name == "*")).map(|(_, weight)| weight)
        };
        // Nobody has to name identity, but who weighs it higher than the others means it.
        let mut best = (Coding::Identity, weight(Coding::Identity).filter(|_| accept.contains("identity")));
        for coding in [Coding::Deflate, Coding::Gzip] {
            if let Some(weight) = weight(coding)
                && weight > 0
                && best.1.is_none_or(|best| weight >= best)
            {
                best = (coding, Some(weight));
            }
        }
        best.0
    }
}

/// Each coding with its weight in thousandths.
fn weights(accept: &str) -> impl Iterator<Item = (&str, u32)> {
    accept.split(',').map(|element| {
        let (name, parameters) = element.split_once(';').unwrap_or((element, ""));
        let weight = parameters.split(';').find_map(|parameter| {
            let (key, value) = parameter.split_once('=')?;
            key.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f64>().unwrap_or(0.0))
        });
        (name.trim(), (weight.unwrap_or(1.0).clamp(0.0, 1.0) * 1000.0) as u32)
    })
}

/// Unpacks a body to at most `bytes_max` bytes.
///
/// # Errors
/// `PayloadTooLarge` as soon as it gives more than that; `InvalidPayload` if it is broken, cut off or followed by
/// something else.
pub fn decompress(coding: Coding, body: &[u8], bytes_max: usize) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    let mut rest = body;
    match coding {
        Coding::Identity if body.len() > bytes_max => return Err(too_large(bytes_max)),
        Coding::Identity => return Ok(body.to_vec()),
        Coding::Gzip => loop {
            // A gzip file may have several members, one behind the other.
            let mut decoder = GzDecoder::new(rest);
            read(&mut decoder, coding, bytes_max, &mut out)?;
            rest = decoder.into_inner();
            if !rest.starts_with(&[0x1f, 0x8b]) {
                break;
            }
        },
        Coding::Deflate if is_zlib(body) => {
            let mut decoder = ZlibDecoder::new(rest);
            read(&mut decoder, coding, bytes_max, &mut out)?;
            rest = decoder.into_inner();
        }
        Coding::Deflate => {
            let mut decoder = DeflateDecoder::new(rest);
            read(&mut decoder, coding, bytes_max, &mut out)?;
            rest = decoder.into_inner();
        }
    }
    if !rest.is_empty() {
        let (more, name) = (rest.len(), coding.name());
        return Err(Fault::new(
            Reason::InvalidPayload,
            format!("{more} bytes follow the end of the {name} body"),
        ));
    }
    Ok(out)
}

/// RFC 1950, section 2.2: method 8, and a check sum of the two bytes.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [first, second, ..] if first & 15 == 8 && u16::from_be_bytes([*first, *second]).is_multiple_of(31))
}

fn read(decoder: &mut impl Read, coding: Coding, bytes_max: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
    // One byte more than allowed shows that there is too much.
    let left = (bytes_max - out.len()) as u64 + 1;
    decoder.take(left).read_to_end(out).map_err(|error| {
        let name = coding.name();
        Fault::new(Reason::InvalidPayload, format!("the {name} body is broken or cut off: {error}"))
    })?;
    if out.len() > bytes_max { Err(too_large(bytes_max)) } else { Ok(()) }
}

fn too_large(bytes_max: usize) -> Fault {
    Fault::new(
        Reason::PayloadTooLarge,
        format!("the body unpacks to more than the {bytes_max} bytes allowed"),
    )
}

/// Packs a body; `level` from 0 (not at all) to 9 (small and slow).
pub fn compress(coding: Coding, body: &[u8], level: u32) -> Vec<u8> {
    const MEMORY: &str = "writing to memory does not fail";
    let level = Compression::new(level.min(9));
    match coding {
        Coding::Identity => body.to_vec(),
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).expect(MEMORY);
            encoder.finish().expect(MEMORY)
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body).expect(MEMORY);
            encoder.finish().expect(MEMORY)
        }
    }
}

/// Packs a body that goes out in pieces. What went in with a piece can be unpacked as soon as what came out has arrived.
pub struct Packer {
    sink: Sink,
}

enum Sink {
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
}

impl Packer {
    /// A packer at the beginning of a body, at the lowest level; none for a coding that leaves it as it is.
    pub fn new(coding: Coding) -> Option<Packer> {
        let sink = match coding {
            Coding::Identity => return None,
            Coding::Gzip => Sink::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            Coding::Deflate => Sink::Deflate(ZlibEncoder::new(Vec::new(), Compression::fast())),
        };
        Some(Packer { sink })
    }

    /// Packs a piece and appends all that is needed to unpack it.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let written = match &mut self.sink {
            Sink::Gzip(encoder) => encoder.write_all(piece).and_then(|()| encoder.flush()),
            Sink::Deflate(encoder) => encoder.write_all(piece).and_then(|()| encoder.flush()),
        };
        written.expect("writing to memory does not fail");
        match &mut self.sink {
            Sink::Gzip(encoder) => out.append(encoder.get_mut()),
            Sink::Deflate(encoder) => out.append(encoder.get_mut()),
        }
    }

    /// Appends the end.
    pub fn finish(self, out: &mut Vec<u8>) {
        let rest = match self.sink {
            Sink::Gzip(encoder) => encoder.finish(),
            Sink::Deflate(encoder) => encoder.finish(),
        };
        out.append(&mut rest.expect("writing to memory does not fail"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacking_gives_what_was_packed_and_not_a_byte_more_than_allowed() {
        let body = b"0.25, ".repeat(1000);
        for coding in [Coding::Identity, Coding::Gzip, Coding::Deflate] {
            let packed = compress(coding, &body, 6);
            assert_eq!(decompress(coding, &packed, body.len()).as_ref(), Ok(&body), "{coding:?}");
            let reason = decompress(coding, &packed, body.len() - 1).unwrap_err().reason;
            assert_eq!(reason, Reason::PayloadTooLarge, "{coding:?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_followed_by_something_is_refused() {
        for coding in [Coding::Gzip, Coding::Deflate] {
            let packed = compress(coding, b"some words", 6);
            for end in 0..packed.len() {
                let reason = decompress(coding, &packed[..end], 100).map_err(|fault| fault.reason);
                assert_eq!(reason, Err(Reason::InvalidPayload), "{coding:?} cut at {end}");
            }
            assert!(decompress(coding, &[&packed[..], b"x"].concat(), 100).is_err(), "{coding:?}");
        }
    }

    #[test]
    fn members_of_gzip_and_bare_deflate_are_read() {
        let twice = compress(Coding::Gzip, b"ab", 6).repeat(2);
        assert_eq!(decompress(Coding::Gzip, &twice, 4).unwrap(), b"abab");
        assert_eq!(decompress(Coding::Gzip, &twice, 3).unwrap_err().reason, Reason::PayloadTooLarge);
        let mut bare = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
        bare.write_all(b"bare").unwrap();
        assert_eq!(decompress(Coding::Deflate, &bare.finish().unwrap(), 4).unwrap(), b"bare");
    }

    #[test]
    fn the_best_liked_coding_is_chosen() {
        for (accept, coding) in [
            ("", Coding::Identity),
            ("gzip", Coding::Gzip),
            ("deflate", Coding::Deflate),
            ("gzip, deflate", Coding::Gzip),
            ("gzip;q=0.5, deflate;q=0.8", Coding::Deflate),
            ("gzip;q=0", Coding::Identity),
            ("gzip;q=0, *", Coding::Deflate),
            ("*", Coding::Gzip),
            ("identity;q=1, gzip;q=0.5", Coding::Identity),
            ("br", Coding::Identity),
        ] {
            assert_eq!(Coding::negotiate(accept), coding, "{accept:?}");
        }
        assert_eq!(Coding::parse("x-gzip"), Ok(Coding::Gzip));
        assert_eq!(Coding::parse("br").unwrap_err().reason, Reason::UnsupportedData);
    }

    #[test]
    fn a_body_packed_in_pieces_can_be_unpacked_up_to_each_of_them() {
        let pieces = [&b"{\"results\":["[..], b"", b"1,", &[b'2'; 300], b"]}"];
        for coding in [Coding::Gzip, Coding::Deflate] {
            let (mut packer, mut packed) = (Packer::new(coding).expect("it packs"), Vec::new());
            for (at, piece) in pieces.iter().enumerate() {
                packer.push(piece, &mut packed);
                let wanted = pieces[..=at].concat();
                let mut unpacked = vec![0; wanted.len()];
                let read = match coding {
                    Coding::Deflate => ZlibDecoder::new(&packed[..]).read_exact(&mut unpacked),
                    _ => GzDecoder::new(&packed[..]).read_exact(&mut unpacked),
                };
                assert!(read.is_ok() && unpacked == wanted, "{coding:?} {at}");
            }
            packer.finish(&mut packed);
            assert_eq!(decompress(coding, &packed, 1_000).expect("whole"), pieces.concat());
        }
        assert!(Packer::new(Coding::Identity).is_none());
    }
}
