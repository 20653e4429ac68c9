//! Behaviours of the HTTP codec, case by case.

use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 4096, target_bytes_max: 1024, headers_max: 20 };

fn parse(head: &str) -> Result<RequestHead, Fault> {
    parse_head(head.as_bytes(), &LIMITS).map(|parsed| {
        let (request, length) = parsed.unwrap_or_else(|| panic!("{head:?} is whole"));
        assert_eq!(length, head.len());
        request
    })
}

/// A request for `target` with these header lines besides Host.
fn get(target: &str, lines: &str) -> Result<RequestHead, Fault> {
    parse(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
}

fn reason<T: std::fmt::Debug>(outcome: Result<T, Fault>) -> Reason {
    outcome.expect_err("must be refused").reason
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

#[test]
fn a_request_comes_out_whole() {
    let bytes = b"\r\nPOST /v1/models/d%C3%A9noise?rate=16000&tag=a+b%26 HTTP/1.1\r\nHOST: suzu:8080\r\nX-Client-ID: \t 7 \r\n\
        content-length:5\r\nExpect: 100-Continue\r\nX-Client-ID: 8\r\nConnection: Foo, CLOSE\r\n\r\nhello";
    let (head, length) = parse_head(bytes, &LIMITS).expect("right").expect("whole");
    assert_eq!(&bytes[length..], b"hello");
    assert_eq!(head.method, Method::Post);
    assert_eq!(head.path, "/v1/models/d\u{e9}noise");
    assert_eq!(head.target, "/v1/models/d%C3%A9noise?rate=16000&tag=a+b%26");
    assert_eq!(head.query_value("rate"), Some("16000"));
    assert_eq!(head.query_value("tag"), Some("a b&"));
    assert_eq!(head.host.as_deref(), Some("suzu:8080"));
    assert_eq!(head.header("x-client-ID"), Some("7"));
    assert_eq!(head.header_values("x-client-id").collect::<Vec<_>>(), ["7", "8"]);
    assert_eq!(head.headers[0].0, "host");
    assert_eq!(head.body, BodyFraming::Length(5));
    assert!(head.expect_continue && !head.keep_alive && !head.http_1_0);
}

#[test]
fn pipelined_requests_come_out_one_by_one() {
    let mut rest: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.0\r\n\r\nGET /c HTTP/1.1\r\nHo";
    let mut paths = Vec::new();
    while let Some((head, length)) = parse_head(rest, &LIMITS).expect("right") {
        paths.push(head.path);
        rest = &rest[length..];
    }
    assert_eq!(paths, ["/a", "/b"]);
    assert_eq!(rest, b"GET /c HTTP/1.1\r\nHo");
}

#[test]
fn keep_alive_follows_version_and_connection_tokens() {
    for (version, lines, keeps) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: upgrade\r\nConnection: x , Close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let head = parse(&format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n")).expect("right");
        assert_eq!(head.keep_alive, keeps, "{version} {lines}");
    }
}

/// Each case: its name, the head, the reason and a word of the message.
fn check_refused(cases: &[(&str, String, Reason, &str)]) {
    for (name, head, expected, word) in cases {
        let fault = parse_head(head.as_bytes(), &LIMITS).map(|_| ()).expect_err(name);
        assert_eq!(fault.reason, *expected, "{name}: {fault}");
        assert!(fault.message.contains(word), "{name}: {fault}");
    }
}

#[test]
fn ambiguous_framing_is_refused_by_name() {
    use Reason::{BadRequest, NotImplemented};
    let with = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    check_refused(&[
        (
            "length and coding",
            with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            BadRequest,
            "exclude",
        ),
        (
            "coding and length",
            with("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"),
            BadRequest,
            "exclude",
        ),
        (
            "differing lengths",
            with("Content-Length: 3\r\nContent-Length: 4\r\n"),
            BadRequest,
            "more than one",
        ),
        (
            "same length twice",
            with("Content-Length: 3\r\ncontent-length: 3\r\n"),
            BadRequest,
            "more than one",
        ),
        ("length with sign", with("Content-Length: +3\r\n"), BadRequest, "number"),
        ("length below zero", with("Content-Length: -3\r\n"), BadRequest, "number"),
        ("length list", with("Content-Length: 3, 3\r\n"), BadRequest, "number"),
        ("length with space", with("Content-Length: 3 3\r\n"), BadRequest, "number"),
        ("length in hex", with("Content-Length: 0x3\r\n"), BadRequest, "number"),
        ("length of nothing", with("Content-Length:\r\n"), BadRequest, "number"),
        ("length over 64 bits", with("Content-Length: 18446744073709551616\r\n"), BadRequest, "number"),
        ("coding identity", with("Transfer-Encoding: identity\r\n"), BadRequest, "chunked"),
        ("coding not last", with("Transfer-Encoding: chunked, gzip\r\n"), BadRequest, "chunked"),
        ("chunked twice", with("Transfer-Encoding: chunked, chunked\r\n"), BadRequest, "chunked"),
        (
            "chunked on two lines",
            with("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"),
            BadRequest,
            "chunked",
        ),
        ("chunked with a mark", with("Transfer-Encoding: \u{b}chunked\r\n"), BadRequest, "control"),
        ("xchunked", with("Transfer-Encoding: xchunked\r\n"), BadRequest, "chunked"),
        ("empty coding", with("Transfer-Encoding:\r\n"), BadRequest, "chunked"),
        ("gzip under chunked", with("Transfer-Encoding: gzip, chunked\r\n"), NotImplemented, "chunked"),
        ("coding in 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), BadRequest, "1.0"),
        ("bare LF", "GET / HTTP/1.1\nHost: a\r\n\r\n".into(), BadRequest, "LF alone"),
        ("bare LF in a header", with("A: b\nC: d\r\n"), BadRequest, "LF alone"),
        ("LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n".into(), BadRequest, "LF alone"),
        ("bare CR", with("A: b\rC: d\r\n"), BadRequest, "CR"),
        ("folded line", with("A: b\r\n c\r\n"), BadRequest, "folded"),
        ("first line folded", "GET / HTTP/1.1\r\n Host: a\r\n\r\n".into(), BadRequest, "folded"),
        ("space before colon", with("A : b\r\n"), BadRequest, "white space"),
        ("tab before colon", with("A\t: b\r\n"), BadRequest, "white space"),
        ("space in a name", with("A b: c\r\n"), BadRequest, "name"),
    ]);
}

#[test]
fn broken_heads_are_refused_by_name() {
    use Reason::{
        BadRequest, ExpectationFailed, HeadTooLarge, NotImplemented, UriTooLong, VersionNotSupported,
    };
    let many = "A: b\r\n".repeat(20);
    let big = format!("A: {}\r\n", "b".repeat(4096));
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1024));
    let with = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    check_refused(&[
        ("no name", with(": b\r\n"), BadRequest, "name"),
        ("no colon", with("Ab\r\n"), BadRequest, "name"),
        ("NUL", with("A: b\0\r\n"), BadRequest, "0x00"),
        ("DEL", with("A: \x7f\r\n"), BadRequest, "0x7f"),
        ("tab in the request line", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), BadRequest, "0x09"),
        ("no host", "GET / HTTP/1.1\r\n\r\n".into(), BadRequest, "missing"),
        ("two hosts", with("Host: a\r\n"), BadRequest, "more than one"),
        (
            "two hosts in 1.0",
            "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n".into(),
            BadRequest,
            "more than one",
        ),
        ("host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), BadRequest, "Host"),
        ("host with user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".into(), BadRequest, "Host"),
        ("two empty lines", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), BadRequest, "empty"),
        ("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), BadRequest, "form"),
        ("space at the end", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n".into(), BadRequest, "form"),
        ("space in front", " GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), BadRequest, "form"),
        ("no version", "GET /\r\n\r\n".into(), BadRequest, "form"),
        ("bad version", "GET / HTTP/1.1x\r\n\r\n".into(), BadRequest, "version"),
        ("small version", "GET / http/1.1\r\nHost: a\r\n\r\n".into(), BadRequest, "version"),
        ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\n".into(), VersionNotSupported, "HTTP/2.0"),
        ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n".into(), VersionNotSupported, "HTTP/1.2"),
        ("HTTP/0.9", "GET / HTTP/0.9\r\n\r\n".into(), VersionNotSupported, "HTTP/0.9"),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}".into(), BadRequest, "0x16"),
        ("CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n".into(), NotImplemented, "CONNECT"),
        ("small method", "get / HTTP/1.1\r\nHost: a\r\n\r\n".into(), NotImplemented, "get"),
        ("no method", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n".into(), BadRequest, "method"),
        ("expectation", with("Expect: 200-ok\r\n"), ExpectationFailed, "100-continue"),
        (
            "two expectations",
            with("Expect: 100-continue\r\nExpect: x\r\n"),
            ExpectationFailed,
            "100-continue",
        ),
        ("too many headers", with(&many), HeadTooLarge, "20"),
        ("too big", with(&big), HeadTooLarge, "4096"),
        ("target too long", long, UriTooLong, "1024"),
    ]);
}

#[test]
fn limits_hold_before_the_head_is_whole() {
    let target = format!("GET /{}", "x".repeat(1023));
    assert_eq!(parse_head(target.as_bytes(), &LIMITS), Ok(None));
    assert_eq!(reason(parse_head(format!("{target}x").as_bytes(), &LIMITS)), Reason::UriTooLong);

    let whole = |size: usize| {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nA: ";
        format!("{head}{}\r\n\r\n", "b".repeat(size - head.len() - 4))
    };
    assert!(matches!(parse_head(whole(4096).as_bytes(), &LIMITS), Ok(Some((_, 4096)))));
    assert_eq!(reason(parse_head(whole(4097).as_bytes(), &LIMITS)), Reason::HeadTooLarge);
    assert_eq!(parse_head(&whole(5000).as_bytes()[..4095], &LIMITS), Ok(None));
    assert_eq!(reason(parse_head(&whole(5000).as_bytes()[..4096], &LIMITS)), Reason::HeadTooLarge);

    let lines = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "A: b\r\n".repeat(count - 1));
    assert_eq!(parse_head(lines(20).as_bytes(), &LIMITS), Ok(None));
    assert_eq!(reason(parse_head(lines(21).as_bytes(), &LIMITS)), Reason::HeadTooLarge);
}

#[test]
fn paths_are_decoded_once_and_cannot_climb() {
    for (target, path) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("//a", "//a"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/..a/...", "/..a/..."),
        ("/a/%2e%2E/b", "/b"),
        ("/%2541", "/%41"),
        ("/a+b%20c", "/a+b c"),
        ("/a;b=c", "/a;b=c"),
        ("http://h:80/x?y", "/x"),
        ("HTTP://h", "/"),
        ("http://h?y", "/"),
    ] {
        assert_eq!(get(target, "").map(|head| head.path).as_deref(), Ok(path), "{target}");
    }
    for target in [
        "/..",
        "/a/../..",
        "/%2e%2e/etc",
        "/a%2fb",
        "/a%2F..",
        "/a%5cb",
        "/a\\b",
        "/%00",
        "/%0d",
        "/%7f",
        "/%c2%80",
        "/%",
        "/%4",
        "/%zz",
        "/%+1",
        "/%ff",
        "/\u{e9}",
        "/a#b",
        "a",
        "a:80",
        "*",
        "http://",
        "http:///x",
        "http://a@b/",
        "ftp://h/",
        "http://h:x/",
        "?a",
    ] {
        assert_eq!(reason(get(target, "")), Reason::BadRequest, "{target}");
    }
    let options = parse("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").expect("right");
    assert_eq!((options.method, &options.path[..]), (Method::Options, "*"));
}

#[test]
fn the_targets_authority_goes_before_the_host_field() {
    let host = |target: &str| get(target, "").expect("right").host;
    assert_eq!(host("http://b:81/x").as_deref(), Some("b:81"));
    assert_eq!(host("/x").as_deref(), Some("a"));
    for given in ["[::1]:8080", "127.0.0.1", "a-b.c", ""] {
        let head = parse(&format!("GET / HTTP/1.1\r\nHost: {given}\r\n\r\n")).expect("right");
        assert_eq!(head.host.as_deref(), Some(given));
    }
}

#[test]
fn an_expectation_counts_only_with_a_body_and_http_1_1() {
    assert!(!get("/", "Expect: 100-continue\r\n").expect("right").expect_continue);
    assert!(
        get("/", "Expect: 100-continue\r\nTransfer-Encoding: Chunked\r\n").expect("right").expect_continue
    );
    let old = parse("POST / HTTP/1.0\r\nContent-Length: 2\r\nExpect: dreams\r\n\r\n").expect("right");
    assert!(!old.expect_continue);
}

fn decode(framing: &BodyFraming, most: usize, pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>, bool), Fault> {
    let mut decoder = BodyDecoder::new(framing, most)?;
    let (mut out, mut rest, mut whole) = (Vec::new(), Vec::new(), false);
    for piece in pieces {
        let mut input = *piece;
        whole = decoder.decode(&mut input, &mut out)?;
        assert!(whole || input.is_empty());
        rest.extend(input);
    }
    Ok((out, rest, whole))
}

#[test]
fn bodies_end_where_their_framing_says() {
    let next = b"GET /";
    for (framing, body, content) in [
        (BodyFraming::None, &b""[..], &b""[..]),
        (BodyFraming::Length(5), b"hello", b"hello"),
        (BodyFraming::Chunked, b"0\r\n\r\n", b""),
        (BodyFraming::Chunked, b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (BodyFraming::Chunked, b"1;a=b;c\r\nh\r\n0A\r\n0123456789\r\n000;x\r\n\r\n", b"h0123456789"),
        (BodyFraming::Chunked, b"1\r\n\n\r\n0\r\nDigest: x\r\nB:\r\n\r\n", b"\n"),
    ] {
        let bytes = [body, next].concat();
        let each: Vec<_> = bytes.chunks(1).collect();
        for pieces in [vec![&bytes[..]], each] {
            assert_eq!(
                decode(&framing, 100, &pieces),
                Ok((content.to_vec(), next.to_vec(), true)),
                "{body:?}"
            );
        }
    }
    assert_eq!(decode(&BodyFraming::Length(5), 5, &[b"hell"]), Ok((b"hell".to_vec(), vec![], false)));
}

#[test]
fn broken_chunks_are_refused() {
    let extension = format!("1;{}\r\n", "x".repeat(5000));
    let spread = format!("1;{}\r\na\r\n", "x".repeat(300)).repeat(20);
    let trailer = format!("0\r\nA: {}\r\n\r\n", "x".repeat(5000));
    for body in [
        "\r\n",
        ";a\r\n",
        "x\r\n",
        "0x5\r\n",
        "+5\r\n",
        "-5\r\n",
        " 5\r\n",
        "5 \r\n",
        "5 ;a\r\n",
        "5,\r\n",
        "5\n",
        "5\rx",
        "00000000000000005\r\n",
        "5;a\nb",
        "5;a\rb",
        "5;\0",
        "5\r\nhello\n",
        "5\r\nhello!\r\n",
        "5\r\nhello\rx",
        "5\r\nhello0\r\n",
        "0\r\n\n",
        "0\r\n\rx",
        "0\r\nA\r\n",
        "0\r\n: b\r\n",
        "0\r\n A: b\r\n",
        "0\r\nA : b\r\n",
        "0\r\nA: b\n",
        "0\r\nA: b\rx",
        "0\r\nA: \0",
        "0\r\nA: b\r\n c\r\n",
        &extension,
        &spread,
        &trailer,
    ] {
        let outcome = decode(&BodyFraming::Chunked, 1000, &[body.as_bytes()]);
        assert_eq!(reason(outcome), Reason::BadRequest, "{body:?}");
    }
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_comes() {
    assert_eq!(reason(BodyDecoder::new(&BodyFraming::Length(101), 100)), Reason::PayloadTooLarge);
    assert!(BodyDecoder::new(&BodyFraming::Length(100), 100).is_ok());
    for (body, fits) in [
        ("64\r\n", true),
        ("65\r\n", false),
        ("ffffffffffffffff\r\n", false),
        ("1\r\na\r\n63\r\n", true),
        ("1\r\na\r\n64\r\n", false),
    ] {
        match decode(&BodyFraming::Chunked, 100, &[body.as_bytes()]) {
            Ok(_) => assert!(fits, "{body:?}"),
            Err(fault) => assert_eq!((fault.reason, fits), (Reason::PayloadTooLarge, false), "{body:?}"),
        }
    }
}

const UPGRADE: &str = "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn a_right_upgrade_is_accepted() {
    let head = get(
        "/",
        &format!("{UPGRADE}Sec-WebSocket-Protocol: suzu.v1, token.x\r\nSec-WebSocket-Protocol: c\r\n"),
    )
    .expect("right");
    let request = head.websocket().expect("asks").expect("right");
    assert_eq!(request.key, "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(request.protocols, ["suzu.v1", "token.x", "c"]);
    assert_eq!(websocket_key(&head).as_deref(), Ok("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(get("/", "").expect("right").websocket(), None);
}

#[test]
fn wrong_upgrades_are_refused_by_name() {
    use Reason::{BadRequest, UpgradeRequired};
    let request =
        |from: &str, to: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n").replacen(from, to, 1);
    for (from, to, expected) in [
        ("Upgrade: WebSocket\r\n", "", UpgradeRequired),
        ("WebSocket", "h2c", UpgradeRequired),
        ("keep-alive, Upgrade", "keep-alive", UpgradeRequired),
        ("Version: 13", "Version: 8", UpgradeRequired),
        ("Sec-WebSocket-Version: 13\r\n", "", UpgradeRequired),
        ("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13", BadRequest),
        ("GET", "POST", BadRequest),
        ("HTTP/1.1", "HTTP/1.0", BadRequest),
        ("Host: a", "Host:", BadRequest),
        ("Host: a", "Host: a\r\nContent-Length: 1", BadRequest),
        ("Host: a", "Host: a\r\nTransfer-Encoding: chunked", BadRequest),
        ("Sec-WebSocket-Key", "X-Key", BadRequest),
        ("dGhl", "", BadRequest),
        ("dGhl", "dGhldGhl", BadRequest),
        ("dGhl", "dG-l", BadRequest),
        ("ZQ==", "ZQQQ", BadRequest),
        ("Sec-WebSocket-Key", "Sec-WebSocket-Key: x\r\nSec-WebSocket-Key", BadRequest),
    ] {
        let head = parse(&request(from, to)).expect("right HTTP");
        assert_eq!(reason(websocket_key(&head)), expected, "{from} -> {to}");
    }
}

fn encoded(response: &Response<'_>, head_only: bool, keep_alive: bool) -> String {
    let mut out = Vec::new();
    response.encode(&mut out, head_only, keep_alive, 784_111_777_999);
    String::from_utf8(out).expect("text")
}

#[test]
fn responses_frame_themselves() {
    let response = Response::new(200).with_header("X-A", "b").with_body("text/plain", &b"hello"[..]);
    let head = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-A: b\r\nContent-Type: text/plain\r\n\
        Content-Length: 5\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(encoded(&response, false, true), format!("{head}hello"));
    assert_eq!(encoded(&response, true, true), head);
    assert!(encoded(&response, false, false).contains("\r\nConnection: close\r\n"));

    let none = encoded(&Response::new(204), false, true);
    assert!(!none.contains("Content-Length") && none.ends_with("\r\n\r\n"), "{none}");
    assert!(encoded(&Response::new(404), false, true).contains("Content-Length: 0\r\n"));
    let upgrade = encoded(&Response::new(426), false, false);
    for line in ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Connection: Upgrade, close"] {
        assert!(upgrade.contains(&format!("\r\n{line}\r\n")), "{upgrade}");
    }
    let mut out = Vec::new();
    Response::new(200).encode(&mut out, false, true, u64::MAX);
    assert!(String::from_utf8_lossy(&out).contains("9999"));
}

#[test]
fn a_declared_length_takes_no_memory_before_its_bytes_come() {
    let mut decoder = BodyDecoder::new(&BodyFraming::Length(8 << 20), 16 << 20).unwrap();
    let mut body = Vec::new();
    assert!(!decoder.decode(&mut &[b'x'; 1000][..], &mut body).unwrap());
    assert!((1000..=8000).contains(&body.capacity()), "{}", body.capacity());
    assert!(!decoder.decode(&mut &[b'x'; 60_000][..], &mut body).unwrap());
    assert!(body.capacity() <= 8 * 61_000, "{}", body.capacity());
}

#[test]
fn a_body_in_pieces_says_where_it_ends() {
    let response = Response::new(200).with_header("X-A", "b");
    let head = |length, keep_alive| {
        let mut out = Vec::new();
        response.encode_head(&mut out, length, keep_alive, 0);
        String::from_utf8(out).expect("text")
    };
    let known = head(BodyLength::Known(1 << 40), true);
    assert!(known.contains("\r\nContent-Length: 1099511627776\r\nConnection: keep-alive\r\n\r\n"), "{known}");
    let chunked = head(BodyLength::Chunked, true);
    assert!(
        chunked.contains("\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n"),
        "{chunked}"
    );
    let open = head(BodyLength::UntilClose, true);
    assert!(open.ends_with("\r\nX-A: b\r\nConnection: close\r\n\r\n"), "{open}");
    let parsed = |text: &str| parse_response_head(text.as_bytes()).expect("right").expect("whole").0.body();
    assert_eq!(parsed(&chunked), Ok(Some(BodyFraming::Chunked)));
    assert_eq!(parsed(&open), Ok(None));
}

#[test]
fn a_value_cannot_begin_a_line_of_its_own() {
    let response = Response::new(400)
        .with_header("X-Request-Id", "a\r\nSet-Cookie: b\0")
        .with_header("content-length", "999")
        .with_header("Transfer-Encoding", "chunked");
    let text = encoded(&response, false, true);
    assert!(text.contains("\r\nX-Request-Id: a  Set-Cookie: b \r\n"), "{text}");
    assert!(!text.contains("999") && !text.contains("chunked"), "{text}");
}

#[test]
fn every_refusal_has_words_for_its_status() {
    for reason in Reason::all() {
        assert_ne!(status_text(reason.status()), "", "{reason:?}");
    }
}

#[test]
fn a_client_reads_what_the_server_answers() {
    let mut out = Vec::new();
    encode_switching_protocols(&mut out, "accepted", Some("suzu.v1"), &[("x-request-id", "7")]);
    let length = out.len();
    out.extend(b"\x81\x00");
    for end in 0..length {
        assert_eq!(parse_response_head(&out[..end]), Ok(None), "{end}");
    }
    let (head, taken) = parse_response_head(&out).expect("right").expect("whole");
    assert_eq!((head.status, taken), (101, length));
    assert_eq!(head.header("Sec-WebSocket-Accept"), Some("accepted"));
    assert_eq!(head.header("sec-websocket-protocol"), Some("suzu.v1"));
    assert_eq!(head.header("X-Request-Id"), Some("7"));
    assert_eq!(head.body(), Ok(Some(BodyFraming::None)));

    let refusal = encoded(&Response::new(503).with_body("text/plain", &b"full"[..]), false, false);
    let (head, taken) = parse_response_head(refusal.as_bytes()).expect("right").expect("whole");
    assert_eq!((head.status, head.body()), (503, Ok(Some(BodyFraming::Length(4)))));
    assert_eq!(&refusal[taken..], "full");

    let open = ResponseHead { status: 200, headers: vec![] };
    assert_eq!(open.body(), Ok(None));
    assert_eq!(reason(parse_response_head(b"SSH-2.0-x\r\n")), Reason::BadRequest);
    let endless = [&b"HTTP/1.1 200 OK\r\nA: "[..], &[b'b'; 40_000]].concat();
    assert_eq!(reason(parse_response_head(&endless)), Reason::HeadTooLarge);
}

/// Heads near the rules: right parts with wrong ones among them.
fn any_head() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        6 => "[A-Za-z-]{1,12}: [ -~]{0,20}",
        1 => Just("Content-Length: 7".to_owned()),
        1 => Just("Transfer-Encoding: chunked".to_owned()),
        1 => Just(" folded".to_owned()),
        1 => "[ -~]{0,10}",
        1 => "\\PC{0,6}\\x00?\n?",
    ];
    let request_line = prop_oneof![
        6 => "(GET|POST|PUT|PURGE) /[a-z%2/.?&=]{0,30} HTTP/1.[01]",
        1 => "[ -~]{0,30}",
        1 => "GET /a{0,60} HTTP/[0-9].[0-9]",
    ];
    let crlf = || prop_oneof![20 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r")];
    (request_line, crlf(), prop::collection::vec((line, crlf()), 0..8), crlf(), "(|\r\n|tail)").prop_map(
        |(first, end, lines, last, tail)| {
            let mut head = format!("{first}{end}Host: a\r\n");
            lines.iter().for_each(|(line, end)| head.extend([line, *end]));
            head.extend([last, &tail]);
            head.into_bytes()
        },
    )
}

proptest! {
    #[test]
    fn a_head_parses_the_same_however_it_is_cut(head in any_head(), head_max in 1usize..200) {
        let limits = HeadLimits { head_bytes_max: head_max, target_bytes_max: 40, headers_max: 6 };
        for limits in [limits, LIMITS] {
            let whole = parse_head(&head, &limits);
            let mut first = Ok(None);
            for end in 0..=head.len() {
                first = parse_head(&head[..end], &limits);
                if first != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(first, whole);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), line in "\\PC{0,100}") {
        let _ = parse_head(&bytes, &LIMITS);
        let _ = parse_head(format!("GET /{line} HTTP/1.1\r\nHost: {line}\r\n\r\n").as_bytes(), &LIMITS);
        let _ = parse_response_head(&bytes);
        let _ = decode(&BodyFraming::Chunked, 50, &[&bytes]);
    }

    #[test]
    fn a_path_has_no_dot_segments_and_only_single_meaning(target in "/(\\.|%2e|%2E|/|%2f|%5c|a|%25|%C3%A9){0,20}") {
        if let Ok(head) = get(&target, "") {
            prop_assert!(head.path.starts_with('/'));
            prop_assert!(head.path.split('/').all(|segment| segment != "." && segment != ".."), "{}", head.path);
            prop_assert!(!head.path.contains('\\'));
        }
    }

    #[test]
    fn chunks_give_back_the_body_however_it_was_cut(
        body in prop::collection::vec(any::<u8>(), 0..200),
        chunk_cuts in prop::collection::vec(any::<usize>(), 0..6),
        stream_cuts in prop::collection::vec(any::<usize>(), 0..10),
    ) {
        let mut bytes = Vec::new();
        for chunk in pieces(&body, &chunk_cuts).into_iter().filter(|chunk| !chunk.is_empty()) {
            bytes.extend(format!("{:x};e=1\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\nT: u\r\n\r\nnext");
        let decoded = decode(&BodyFraming::Chunked, 200, &pieces(&bytes, &stream_cuts));
        prop_assert_eq!(decoded, Ok((body, b"next".to_vec(), true)));
    }

    #[test]
    fn encoded_chunks_give_back_the_body(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
    ) {
        let mut bytes = Vec::new();
        pieces.iter().for_each(|piece| encode_chunk(&mut bytes, piece));
        encode_last_chunk(&mut bytes);
        let decoded = decode(&BodyFraming::Chunked, 400, &[&bytes]);
        prop_assert_eq!(decoded, Ok((pieces.concat(), Vec::new(), true)));
    }

    #[test]
    fn broken_chunks_fail_the_same_however_they_are_cut(
        bytes in "([0-9a-f]{1,2}(;[a-z]{0,3})?\r\n[a-z]{0,12}\r?\n?){0,4}(0\r\n)?(A: b\r\n)?\r?\n?",
        cuts in prop::collection::vec(any::<usize>(), 0..10),
    ) {
        let whole = decode(&BodyFraming::Chunked, 40, &[bytes.as_bytes()]);
        prop_assert_eq!(decode(&BodyFraming::Chunked, 40, &pieces(bytes.as_bytes(), &cuts)), whole);
    }

    #[test]
    fn what_a_response_says_comes_back(
        status in 400u16..600,
        value in "[!-~]([ -~]{0,20}[!-~])?",
        body in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let response = Response::new(status).with_header("X-Value", &value).with_body("a/b", &body[..]);
        let mut out = Vec::new();
        response.encode(&mut out, false, true, 0);
        let (head, taken) = parse_response_head(&out)?.expect("whole");
        prop_assert_eq!(head.status, status);
        prop_assert_eq!(head.header("x-value"), Some(&value[..]));
        prop_assert_eq!(&out[taken..], &body[..]);
    }
}
