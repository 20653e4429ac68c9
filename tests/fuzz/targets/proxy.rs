//! The header of a proxy: known as soon as it is whole, whatever follows, and never longer than may be.

use suzu::wire::proxy::{Flaw, HEADER_BYTES_MAX, Header, parse};

/// The parser on every beginning of the bytes.
pub fn proxy_header(data: &[u8]) {
    let verdict = parse(data);
    match verdict {
        Ok(Some(Header { length, origin })) => {
            assert!((16..=HEADER_BYTES_MAX.min(data.len())).contains(&length), "{length}");
            assert_eq!(parse(&data[..length - 1]), Ok(None), "it is not whole before its end");
            assert_eq!(parse(&data[..length]), Ok(Some(Header { length, origin })));
        }
        Ok(None) => assert!(data.len() < HEADER_BYTES_MAX, "nobody waits for more than the longest header"),
        Err(flaw) => assert!(!flaw.to_string().is_empty() && flaw != Flaw::Long(HEADER_BYTES_MAX)),
    }
    let known = (0..=data.len()).map(|end| parse(&data[..end])).find(|early| *early != Ok(None));
    assert_eq!(known.unwrap_or(Ok(None)), verdict, "more bytes change nothing");
}
