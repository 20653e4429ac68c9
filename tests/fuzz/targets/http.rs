//! Heads and bodies: what they parse to does not depend on how they were cut, and what was parsed can be written again.

use super::input::{Cuts, Input};
use suzu::reason::Fault;
use suzu::wire::http::{
    BodyDecoder, BodyFraming, HeadLimits, RequestHead, Response, parse_head, parse_response_head,
};

/// The head of a request, under limits that the first bytes choose.
pub fn http_request(data: &[u8]) {
    let mut input = Input::new(data);
    let limits = HeadLimits {
        head_bytes_max: input.pick(&[16 << 10, 64, 256, 1 << 20]),
        target_bytes_max: input.pick(&[8 << 10, 0, 16, 64]),
        headers_max: input.pick(&[100, 0, 1, 8]),
    };
    let bytes = input.rest();
    let whole = parse_head(bytes, &limits);
    no_prefix_differs(bytes, &whole, |prefix| parse_head(prefix, &limits));
    match whole {
        Ok(Some((head, taken))) => check_head(&head, taken, bytes, &limits),
        Ok(None) => assert!(bytes.len() < limits.head_bytes_max.saturating_add(2)),
        Err(fault) => check_fault(&fault),
    }
}

fn check_head(head: &RequestHead, taken: usize, bytes: &[u8], limits: &HeadLimits) {
    assert!(taken <= bytes.len() && taken <= limits.head_bytes_max + 2);
    assert!(head.headers.len() <= limits.headers_max && head.target.len() <= limits.target_bytes_max);
    assert!(head.path == "*" || head.path.starts_with('/'), "{:?}", head.path);
    assert!(!head.path.split('/').any(|segment| matches!(segment, "." | "..")), "{:?}", head.path);
    assert!(!head.path.chars().any(|character| character.is_control() || character == '\\'));
    if let Some(Err(fault)) = head.websocket() {
        check_fault(&fault);
    }
    let mut again =
        format!("{} {} HTTP/1.{}\r\n", head.method.as_str(), head.target, u8::from(!head.http_1_0));
    for (name, value) in &head.headers {
        again.push_str(&format!("{name}: {value}\r\n"));
    }
    again.push_str("\r\n");
    let roomy = HeadLimits { head_bytes_max: usize::MAX, ..*limits };
    assert_eq!(parse_head(again.as_bytes(), &roomy), Ok(Some((head.clone(), again.len()))));
}

/// A body with its framing, and the bytes behind it.
pub fn http_body(data: &[u8]) {
    let mut input = Input::new(data);
    let (kind, most, length) = (input.byte() % 4, usize::from(input.short()), input.short());
    let cuts = Cuts::draw(&mut input);
    match kind {
        0 => body_in_parts(&BodyFraming::Length(length.into()), most, input.rest(), cuts),
        3 => chunks_made_by_hand(input, cuts),
        _ => body_in_parts(&BodyFraming::Chunked, most, input.rest(), cuts),
    }
}

/// What became of a body: its content, how many bytes it took, and whether it is whole.
type Body = (Vec<u8>, usize, Result<bool, Fault>);

fn body_in_parts(framing: &BodyFraming, most: usize, bytes: &[u8], mut cuts: Cuts) {
    let Ok(decoder) = BodyDecoder::new(framing, most) else {
        return assert!(matches!(framing, BodyFraming::Length(length) if *length > most as u64));
    };
    let (content, taken, end) = decode_body(decoder, bytes, |left| left);
    let decoder = BodyDecoder::new(framing, most).expect("it was made before");
    let parts = decode_body(decoder, bytes, |left| cuts.next(left));
    assert!(content.len() <= most, "{} bytes of at most {most}", content.len());
    if let Err(fault) = &end {
        check_fault(fault);
        assert_eq!((&parts.0, &parts.2), (&content, &end));
    } else {
        assert_eq!(parts, (content, taken, end));
    }
}

fn decode_body(mut decoder: BodyDecoder, bytes: &[u8], mut cut: impl FnMut(usize) -> usize) -> Body {
    let (mut content, mut taken) = (Vec::new(), 0);
    while taken < bytes.len() {
        let mut piece = &bytes[taken..taken + cut(bytes.len() - taken)];
        let before = piece.len();
        let end = decoder.decode(&mut piece, &mut content);
        taken += before - piece.len();
        match end {
            Ok(false) => assert!(piece.is_empty(), "an incomplete body takes all that there is"),
            end => return (content, taken, end),
        }
    }
    let end = decoder.decode(&mut &[][..], &mut content);
    (content, taken, end)
}

fn chunks_made_by_hand(mut input: Input<'_>, mut cuts: Cuts) {
    let (mut wire, mut content) = (Vec::new(), Vec::new());
    while !input.is_empty() {
        let piece = input.piece();
        if !piece.is_empty() {
            wire.extend_from_slice(format!("{:x};a=b\r\n", piece.len()).as_bytes());
            wire.extend_from_slice(piece);
            wire.extend_from_slice(b"\r\n");
            content.extend_from_slice(piece);
        }
        if wire.len() > 1000 {
            break;
        }
    }
    wire.extend_from_slice(b"0\r\nTrailer: x\r\n\r\n");
    let decoder = BodyDecoder::new(&BodyFraming::Chunked, content.len()).expect("chunks declare no length");
    let taken = wire.len();
    wire.extend_from_slice(b"GET");
    assert_eq!(decode_body(decoder, &wire, |left| cuts.next(left)), (content, taken, Ok(true)));
}

/// The head of a response, and a response with what the bytes say.
pub fn http_response(data: &[u8]) {
    let whole = parse_response_head(data);
    no_prefix_differs(data, &whole, parse_response_head);
    match whole {
        Ok(Some((head, taken))) => {
            assert!(taken <= data.len());
            if let Err(fault) = head.body() {
                check_fault(&fault);
            }
        }
        Ok(None) => {}
        Err(fault) => check_fault(&fault),
    }
    let mut input = Input::new(data);
    let status = 200 + input.short() % 400;
    let value = String::from_utf8_lossy(input.piece()).into_owned();
    written_and_read(status, &value, input.rest());
}

fn written_and_read(status: u16, value: &str, body: &[u8]) {
    let response = Response::new(status).with_header("X-Value", value).with_body("text/plain", body);
    let mut wire = Vec::new();
    response.encode(&mut wire, false, true, 1_700_000_000_000);
    let (head, taken) = parse_response_head(&wire).expect("our own").expect("a whole head");
    assert_eq!(head.status, status);
    let value: String = value.chars().map(|c| if c.is_ascii_control() { ' ' } else { c }).collect();
    assert_eq!(head.header("x-value"), Some(value.trim_matches(' ')));
    let framing = head.body().expect("our own framing");
    match (status, body.len()) {
        (204 | 304, _) | (_, 0) => assert_eq!((framing, taken), (Some(BodyFraming::None), wire.len())),
        (_, length) => {
            assert_eq!(framing, Some(BodyFraming::Length(length as u64)));
            assert_eq!(&wire[taken..], body);
        }
    }
}

/// The beginning of a head is incomplete or says what the whole says, faults included.
fn no_prefix_differs<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    whole: &Result<Option<T>, Fault>,
    parse: impl Fn(&[u8]) -> Result<Option<T>, Fault>,
) {
    // Every cut of a short head, and some three dozen of a long one.
    let step = bytes.len() / 37 + 1;
    for end in (0..bytes.len()).step_by(step) {
        let part = parse(&bytes[..end]);
        assert!(part == Ok(None) || part == *whole, "{end} of {}: {part:?}, then {whole:?}", bytes.len());
    }
}

/// A fault is told to the peer: it stays short, whatever the peer sent.
pub fn check_fault(fault: &Fault) {
    assert!(fault.message.len() <= 1024, "{} bytes: {:.300}", fault.message.len(), fault.message);
    assert!(fault.param.as_ref().is_none_or(|param| param.len() <= 512), "{fault:?}");
}
