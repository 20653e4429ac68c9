//! Frames as RFC 6455 wants them and as it does not, whole and in every cut.

use super::encode::encode_frame;
use super::*;
use proptest::prelude::*;

/// An event that owns what it says, to be compared after its bytes are gone.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Said {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Said::Text(text.into()),
            Event::Binary(bytes) => Said::Binary(bytes.into()),
            Event::Ping(bytes) => Said::Ping(bytes.into()),
            Event::Pong(bytes) => Said::Pong(bytes.into()),
            Event::Close { code, reason } => Said::Close(code, reason.into()),
        }
    }
}

const MASK: Option<[u8; 4]> = Some([0xa1, 0x02, 0xff, 0x5c]);
const LIMIT: usize = 1 << 16;

fn mask_for(role: Role) -> Option<[u8; 4]> {
    match role {
        Role::Server => MASK,
        Role::Client => None,
    }
}

/// Decodes pieces one after another; checks at each step that no more is held than came.
fn decode(decoder: &mut Decoder, pieces: &[&[u8]]) -> (Vec<Said>, Option<Fault>) {
    let mut said = Vec::new();
    let mut came = 0;
    for piece in pieces {
        came += piece.len();
        let mut bytes = piece.to_vec();
        let mut input = &mut bytes[..];
        loop {
            let event = match decoder.next(&mut input) {
                Ok(event) => event.map(Said::from),
                Err(fault) => return (said, Some(fault)),
            };
            assert!(decoder.held_bytes() <= came + came / 2, "{} held of {came}", decoder.held_bytes());
            match event {
                Some(event) => said.push(event),
                None => break,
            }
        }
        assert!(input.is_empty(), "None means that the input is used up");
    }
    (said, None)
}

fn decode_whole(role: Role, bytes: &[u8]) -> (Vec<Said>, Option<Fault>) {
    decode(&mut Decoder::new(role, LIMIT), &[bytes])
}

fn frame(opcode: u8, is_final: bool, payload: &[u8], role: Role) -> Vec<u8> {
    let mut out = Vec::new();
    encode_frame(&mut out, OpCode::from(opcode), is_final, payload, mask_for(role));
    out
}

fn server_frames(frames: &[(u8, bool, &[u8])]) -> Vec<u8> {
    frames
        .iter()
        .flat_map(|&(opcode, is_final, payload)| frame(opcode, is_final, payload, Role::Server))
        .collect()
}

fn cut_at<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let mut start = 0;
    let mut pieces = Vec::new();
    for cut in cuts {
        pieces.push(&bytes[start..cut]);
        start = cut;
    }
    pieces.push(&bytes[start..]);
    pieces
}

#[test]
fn a_whole_frame_is_a_slice_of_the_input() {
    let mut bytes = frame(2, true, b"four and more", Role::Server);
    let range = bytes.as_ptr_range();
    let mut decoder = Decoder::new(Role::Server, LIMIT);
    let mut input = &mut bytes[..];
    let Ok(Some(Event::Binary(payload))) = decoder.next(&mut input) else { panic!("one message") };
    assert_eq!(payload, b"four and more");
    assert!(range.contains(&payload.as_ptr()), "no copy");
    assert_eq!(decoder.held_bytes(), 0);
}

#[test]
fn what_was_held_for_a_message_is_given_up_at_the_next_call() {
    let bytes = server_frames(&[(1, false, b"one "), (9, true, b"ping"), (0, true, b"two")]);
    let mut decoder = Decoder::new(Role::Server, LIMIT);
    let each: Vec<_> = bytes[..bytes.len() - 1].chunks(1).collect();
    assert_eq!(decode(&mut decoder, &each), (vec![Said::Ping(b"ping".into())], None));
    assert!(decoder.held_bytes() > 0);
    let mut last = [bytes[bytes.len() - 1]];
    let mut input = &mut last[..];
    assert_eq!(decoder.next(&mut input), Ok(Some(Event::Text("one two"))));
    assert_eq!(decoder.next(&mut input), Ok(None));
    assert_eq!(decoder.held_bytes(), 0);
}

#[test]
fn a_declared_length_holds_nothing_until_bytes_come() {
    let mut decoder = Decoder::new(Role::Server, 1 << 30);
    let mut header = vec![0x82, 0xff];
    header.extend((1u64 << 30).to_be_bytes());
    header.extend([1, 2, 3, 4]);
    decode(&mut decoder, &[&header]);
    assert_eq!(decoder.held_bytes(), 0);
    assert_eq!(decode(&mut decoder, &[&[0; 1000]]), (vec![], None));
    assert!((1000..=1500).contains(&decoder.held_bytes()));
}

#[test]
fn a_message_over_the_limit_is_refused_from_its_header() {
    let header = |opcode_byte: u8, length: u64| {
        let mut bytes = vec![opcode_byte, 0xff];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0; 4]);
        bytes
    };
    let mut decoder = Decoder::new(Role::Server, 100_000);
    let (said, fault) = decode(&mut decoder, &[&header(0x82, 100_001)]);
    assert_eq!((said.len(), fault.map(|fault| fault.reason)), (0, Some(Reason::MessageTooBig)));

    let mut fragments = frame(2, false, &[0; 40_000], Role::Server);
    fragments.extend(header(0x80, 70_000));
    let mut decoder = Decoder::new(Role::Server, 100_000);
    let (_, fault) = decode(&mut decoder, &[&fragments]);
    let fault = fault.expect("40,000 and 70,000 are too many");
    assert_eq!(fault.reason, Reason::MessageTooBig);
    assert!(fault.message.contains("110000") && fault.message.contains("100000"), "{fault}");
    assert_eq!(decoder.held_bytes(), 0);

    let exactly = frame(2, true, &[0; 100_000], Role::Server);
    let mut decoder = Decoder::new(Role::Server, 100_000);
    assert_eq!(decode(&mut decoder, &[&exactly]).0.len(), 1);
    decoder.set_message_bytes_max(99_999);
    let (_, fault) = decode(&mut decoder, &[&exactly]);
    assert_eq!(fault.map(|fault| fault.reason), Some(Reason::MessageTooBig));
}

#[test]
fn frames_that_break_the_rules_are_refused_by_name() {
    let long = [0x89, 0xfe, 0, 126, 0, 0, 0, 0];
    let frames: &[(&str, Vec<u8>, &str)] = &[
        ("rsv1", vec![0xc2, 0x80, 0, 0, 0, 0], "reserved bit"),
        ("rsv2", vec![0xa2, 0x80, 0, 0, 0, 0], "reserved bit"),
        ("rsv3", vec![0x91, 0x80, 0, 0, 0, 0], "reserved bit"),
        ("reserved data opcode", vec![0x83, 0x80, 0, 0, 0, 0], "opcode"),
        ("reserved control opcode", vec![0x8b, 0x80, 0, 0, 0, 0], "opcode"),
        ("unmasked", vec![0x82, 0x00], "not masked"),
        ("two bytes for 125", vec![0x82, 0xfe, 0, 125, 0, 0, 0, 0], "shortest"),
        ("eight bytes for 65,535", vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], "shortest"),
        ("highest bit", vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "highest bit"),
        ("fragmented ping", server_frames(&[(9, false, b"")]), "fragmented"),
        ("long ping", long.to_vec(), "125"),
        ("continuation of nothing", server_frames(&[(0, true, b"x")]), "no message had begun"),
        (
            "after the last fragment",
            server_frames(&[(1, false, b""), (0, true, b""), (0, true, b"")]),
            "begun",
        ),
        ("text within text", server_frames(&[(1, false, b"a"), (1, true, b"b")]), "before the last"),
        ("binary within empty", server_frames(&[(2, false, b""), (2, true, b"b")]), "before the last"),
        ("close of one byte", server_frames(&[(8, true, b"\x03")]), "one byte"),
    ];
    for (name, bytes, word) in frames {
        let (_, fault) = decode_whole(Role::Server, bytes);
        let fault = fault.unwrap_or_else(|| panic!("{name} must be refused"));
        assert_eq!(fault.reason, Reason::ProtocolError, "{name}");
        assert!(fault.message.contains(word), "{name}: {fault}");
    }
    let (_, fault) = decode_whole(Role::Client, &frame(2, true, b"", Role::Server));
    assert_eq!(fault.map(|fault| fault.reason), Some(Reason::ProtocolError), "masked by a server");
}

#[test]
fn text_that_is_not_utf8_is_refused_at_its_first_wrong_byte() {
    let wrong: &[&[u8]] = &[
        b"\xff",
        b"abc\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited",
    ];
    for text in wrong {
        for bytes in [
            server_frames(&[(1, true, text)]),
            server_frames(&[(1, false, &text[..1]), (0, true, &text[1..])]),
            server_frames(&[(1, false, text), (0, true, b"")]),
        ] {
            let each: Vec<_> = bytes.chunks(1).collect();
            for pieces in [vec![&bytes[..]], each] {
                let (said, fault) = decode(&mut Decoder::new(Role::Server, LIMIT), &pieces);
                assert_eq!(said, [], "{text:?}");
                assert_eq!(fault.map(|fault| fault.reason), Some(Reason::InvalidUtf8), "{text:?}");
            }
        }
    }
    // The frame declares 100 bytes; the third that came cannot follow the second.
    let mut bytes = vec![0x81, 0xe4, 0, 0, 0, 0];
    bytes.extend(b"\xf4\x90");
    let (_, fault) = decode_whole(Role::Server, &bytes);
    assert_eq!(fault.map(|fault| fault.reason), Some(Reason::InvalidUtf8), "before the frame is whole");
}

#[test]
fn close_codes_are_those_that_may_be_sent() {
    let allowed =
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
    let refused = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535];
    for code in allowed {
        let mut payload = u16::to_be_bytes(code).to_vec();
        payload.extend("bye \u{e9}".bytes());
        let said = decode_whole(Role::Server, &server_frames(&[(8, true, &payload)]));
        assert_eq!(said, (vec![Said::Close(Some(code), "bye \u{e9}".into())], None));
    }
    for code in refused {
        let (said, fault) = decode_whole(Role::Server, &server_frames(&[(8, true, &u16::to_be_bytes(code))]));
        let fault = fault.unwrap_or_else(|| panic!("{code} must be refused, not {said:?}"));
        assert_eq!(fault.reason, Reason::ProtocolError);
        assert!(fault.message.contains(&code.to_string()));
    }
    let (_, fault) = decode_whole(Role::Server, &server_frames(&[(8, true, b"\x03\xe8\xff")]));
    assert_eq!(fault.map(|fault| fault.reason), Some(Reason::InvalidUtf8));
}

#[test]
fn nothing_comes_after_a_close_or_a_fault() {
    let close = server_frames(&[(2, false, b"begun"), (8, true, b""), (9, true, b"late"), (3, true, b"")]);
    let mut decoder = Decoder::new(Role::Server, LIMIT);
    assert_eq!(decode(&mut decoder, &[&close]), (vec![Said::Close(None, String::new())], None));

    let mut decoder = Decoder::new(Role::Server, LIMIT);
    let begun = server_frames(&[(2, false, b"begun"), (2, true, b"")]);
    assert!(decode(&mut decoder, &[&begun]).1.is_some());
    assert_eq!(decode(&mut decoder, &[&server_frames(&[(9, true, b"late")])]), (vec![], None));
    assert_eq!(decoder.held_bytes(), 0);
}

#[test]
fn a_close_reason_is_cut_between_characters() {
    let reason = "\u{20ac}".repeat(60);
    let mut out = Vec::new();
    encode_close(&mut out, 1000, &reason, None);
    assert_eq!(decode_whole(Role::Client, &out).0, [Said::Close(Some(1000), "\u{20ac}".repeat(41))]);

    let reason = format!("ab{reason}");
    out.clear();
    encode_close(&mut out, 4429, &reason, None);
    assert_eq!(decode_whole(Role::Client, &out).0, [Said::Close(Some(4429), reason[..122].into())]);

    out.clear();
    encode_close(&mut out, None, "no code, no reason", None);
    assert_eq!(out, [0x88, 0]);
}

#[test]
fn a_payload_may_be_written_behind_its_header() {
    let payload = vec![7; 70_000];
    for mask in [None, MASK] {
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        encode_binary(&mut whole, &payload, mask);
        encode_binary_header(&mut parts, payload.len(), mask);
        let start = parts.len();
        parts.extend(&payload);
        if let Some(mask) = mask {
            apply_mask(&mut parts[start..], mask);
        }
        assert_eq!(whole, parts);
    }
}

#[test]
fn keys_are_those_of_the_specification() {
    // RFC 6455, section 1.3.
    assert_eq!(client_key(*b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Server), Just(Role::Client)]
}

fn any_said() -> impl Strategy<Value = Said> {
    let small = || prop::collection::vec(any::<u8>(), 0..=CONTROL_BYTES_MAX);
    prop_oneof![
        4 => "\\PC{0,80}".prop_map(Said::Text),
        4 => prop::collection::vec(any::<u8>(), 0..300).prop_map(Said::Binary),
        1 => prop::collection::vec(any::<u8>(), 65_000..LIMIT).prop_map(Said::Binary),
        2 => small().prop_map(Said::Ping),
        2 => small().prop_map(Said::Pong),
    ]
}

/// Writes messages as fragments; the control frames come between the fragments of the message before.
fn encode_fragments(role: Role, messages: &[Said], cuts: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    for said in messages {
        let (opcode, payload) = match said {
            Said::Text(text) => (1, text.as_bytes()),
            Said::Binary(bytes) => (2, &bytes[..]),
            Said::Ping(bytes) => (9, &bytes[..]),
            Said::Pong(bytes) => (10, &bytes[..]),
            Said::Close(..) => continue,
        };
        let pieces = if opcode < 8 { cut_at(payload, cuts) } else { vec![payload] };
        for (index, piece) in pieces.iter().enumerate() {
            let is_final = index + 1 == pieces.len();
            let opcode = if index == 0 { opcode } else { 0 };
            out.extend(frame(opcode, is_final, piece, role));
        }
    }
    out
}

proptest! {
    #[test]
    fn decoding_what_was_encoded_gives_it_back(
        role in any_role(),
        messages in prop::collection::vec(any_said(), 0..8),
        mask in any::<[u8; 4]>(),
        code in prop_oneof![Just(None), (3000u16..5000).prop_map(Some)],
    ) {
        let mask = mask_for(role).map(|_| mask);
        let mut out = Vec::new();
        for said in &messages {
            match said {
                Said::Text(text) => encode_text(&mut out, text, mask),
                Said::Binary(bytes) => encode_binary(&mut out, bytes, mask),
                Said::Ping(bytes) => encode_ping(&mut out, bytes, mask),
                Said::Pong(bytes) => encode_pong(&mut out, bytes, mask),
                Said::Close(..) => {}
            }
        }
        encode_close(&mut out, code, "", mask);
        let mut expected = messages;
        expected.push(Said::Close(code, String::new()));
        prop_assert_eq!(decode_whole(role, &out), (expected, None));
    }

    #[test]
    fn fragments_and_any_cuts_give_the_same_messages(
        role in any_role(),
        messages in prop::collection::vec(any_said(), 0..6),
        fragment_cuts in prop::collection::vec(any::<usize>(), 0..4),
        stream_cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let bytes = encode_fragments(role, &messages, &fragment_cuts);
        let mut decoder = Decoder::new(role, LIMIT);
        let said = decode(&mut decoder, &cut_at(&bytes, &stream_cuts));
        prop_assert_eq!(said, (messages, None));
        prop_assert_eq!(decoder.held_bytes(), 0);
    }

    #[test]
    fn control_frames_pass_between_fragments(
        text in "\\PC{0,40}",
        cut in any::<usize>(),
        ping in prop::collection::vec(any::<u8>(), 0..=CONTROL_BYTES_MAX),
        stream_cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let parts = cut_at(text.as_bytes(), &[cut]);
        let bytes = server_frames(&[(1, false, parts[0]), (9, true, &ping), (0, true, parts[1])]);
        let said = decode(&mut Decoder::new(Role::Server, LIMIT), &cut_at(&bytes, &stream_cuts));
        prop_assert_eq!(said, (vec![Said::Ping(ping), Said::Text(text)], None));
    }

    #[test]
    fn arbitrary_bytes_give_the_same_however_they_are_cut(
        role in any_role(),
        frames in prop::collection::vec((any::<u8>(), 0u8..20, any::<u8>(), any::<[u8; 24]>()), 0..6),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
        limit in 0usize..40,
    ) {
        // Mostly near a right header, so that many come far.
        let mut bytes = Vec::new();
        for (first, length, flip, rest) in &frames {
            bytes.push(if *flip < 200 { 0x80 | (first & 0x83) | (first & 8) } else { *first });
            bytes.push(length | if (role == Role::Server) == (*flip > 20) { 0x80 } else { 0 });
            bytes.extend(&rest[..usize::from(*length) + if role == Role::Server { 4 } else { 0 }]);
        }
        let (said, fault) = decode(&mut Decoder::new(role, limit), &[&bytes]);
        let mut cut = Decoder::new(role, limit);
        prop_assert_eq!((said, fault), decode(&mut cut, &cut_at(&bytes, &cuts)));
        prop_assert!(cut.held_bytes() <= limit.max(CONTROL_BYTES_MAX));
    }

    #[test]
    fn unmasking_is_the_same_at_every_length(payload in prop::collection::vec(any::<u8>(), 0..100), mask: [u8; 4]) {
        let plainly: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let mut fast = payload;
        apply_mask(&mut fast, mask);
        prop_assert_eq!(fast, plainly);
    }
}
