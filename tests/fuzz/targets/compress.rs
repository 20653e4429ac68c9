//! Compressed bodies: never more than is allowed comes out, and what was packed comes out as it went in.

use super::http::check_fault;
use suzu::reason::Reason;
use suzu::wire::compress::{Coding, Packer, compress, decompress};

/// Small enough for a short input to unpack to more.
const BYTES_MAX: usize = 4096;

/// The bytes as a packed body, and packed as a body.
pub fn unpack(data: &[u8]) {
    for coding in [Coding::Identity, Coding::Gzip, Coding::Deflate] {
        unpacked(coding, data);
        let level = (data.len() % 10) as u32;
        let packed = compress(coding, data, level);
        assert!(decompress(coding, &packed, data.len()).is_ok_and(|body| body == data), "{coding:?} {level}");
        packed_in_pieces(coding, data);
    }
}

fn unpacked(coding: Coding, data: &[u8]) {
    match decompress(coding, data, BYTES_MAX) {
        Ok(body) => {
            assert!(body.len() <= BYTES_MAX, "{} bytes", body.len());
            assert_eq!(decompress(coding, data, body.len()).as_ref(), Ok(&body), "it is just allowed");
            if let Some(less) = body.len().checked_sub(1) {
                let reason = decompress(coding, data, less).map_err(|fault| fault.reason);
                assert_eq!(reason, Err(Reason::PayloadTooLarge), "one byte less is allowed");
            }
        }
        Err(fault) => {
            check_fault(&fault);
            assert!(matches!(fault.reason, Reason::InvalidPayload | Reason::PayloadTooLarge), "{fault}");
        }
    }
}

fn packed_in_pieces(coding: Coding, data: &[u8]) {
    let Some(mut packer) = Packer::new(coding) else { return };
    let mut packed = Vec::new();
    let (first, second) = data.split_at(data.len() / 3);
    packer.push(first, &mut packed);
    packer.push(second, &mut packed);
    packer.finish(&mut packed);
    assert!(decompress(coding, &packed, data.len()).is_ok_and(|body| body == data), "{coding:?}");
}
