//! The client against a server made of the same codecs and a script, over real sockets.

use super::*;
use crate::reason::Reason;
use crate::wire::http::{HeadLimits, parse_head};
use crate::wire::message::{ClientMessage, Framing, Pong, ServerMessage, StreamParams};
use crate::wire::pcm::{AudioHeader, AudioKind};
use crate::wire::websocket::{self, Decoder, Event, Role, accept_key};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

mod connection;

/// Far longer than anything here takes: only a test that hangs meets it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `script` for one connection, with what was read of the request's head. Gives the URL.
fn serve<T: Send + 'static>(
    script: impl FnOnce(TcpStream, String) -> T + Send + 'static,
) -> (String, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("bound"));
    let thread = thread::spawn(move || {
        let (mut tcp, _) = listener.accept().expect("a client");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            tcp.read_exact(&mut byte).expect("a request");
            head.push(byte[0]);
        }
        script(tcp, String::from_utf8(head).expect("ASCII"))
    });
    (url, thread)
}

/// The answer that opens the WebSocket.
fn switching(head: &str) -> Vec<u8> {
    let limits = HeadLimits { target_bytes_max: 4096, head_bytes_max: 8192, headers_max: 32 };
    let (head, _) = parse_head(head.as_bytes(), &limits).expect("a right request").expect("whole");
    let accept = accept_key(head.header("sec-websocket-key").expect("a key"));
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: suzu.v1\r\n\r\n"
    )
    .into_bytes()
}

/// What a client sent, as text.
#[derive(Debug, PartialEq)]
enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

/// Everything that the client sends until it closes or hangs up.
fn hear(tcp: &mut TcpStream) -> Vec<Heard> {
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    let mut heard = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        let count = match tcp.read(&mut buffer) {
            Ok(0) | Err(_) => return heard,
            Ok(count) => count,
        };
        let mut input = &mut buffer[..count];
        while let Some(event) = decoder.next(&mut input).expect("the client keeps to RFC 6455") {
            heard.push(match event {
                Event::Text(text) => Heard::Text(text.into()),
                Event::Binary(bytes) => Heard::Binary(bytes.into()),
                Event::Pong(bytes) => Heard::Pong(bytes.into()),
                Event::Close { code, .. } => Heard::Close(code),
                Event::Ping(_) => panic!("the client does not ping"),
            });
            if matches!(heard.last(), Some(Heard::Close(_))) {
                return heard;
            }
        }
    }
}

fn refused(answer: impl Into<String>) -> Error {
    let answer = answer.into();
    let (url, server) = serve(move |mut tcp, _| tcp.write_all(answer.as_bytes()).expect("an answer"));
    let error = Stream::connect(&url, &Options::default()).err().expect("a refusal");
    server.join().expect("the server's script");
    error
}

#[test]
fn a_conversation_goes_both_ways_and_ends_with_a_close() {
    let (url, server) = serve(|mut tcp, head| {
        // The first messages come in the same segment as the handshake.
        let mut out = switching(&head);
        let pong = ServerMessage::Pong(Pong { t: 7.into(), server_ms: 8 });
        let mut text = Vec::new();
        pong.encode(&mut text);
        websocket::encode_text(&mut out, std::str::from_utf8(&text).expect("UTF-8"), None);
        websocket::encode_text(&mut out, r#"{"type":"Transcript","text":"hm"}"#, None);
        websocket::encode_ping(&mut out, b"still there?", None);
        websocket::encode_binary(&mut out, &[1, 2, 3, 4], None);
        websocket::encode_close(&mut out, 1000, "done", None);
        tcp.write_all(&out).expect("an answer");
        (head, hear(&mut tcp))
    });
    let params = StreamParams { model: "vad".into(), tag: Some("a b".into()), ..StreamParams::default() };
    let headers = vec![("X-Api-Key".to_owned(), "k".to_owned())];
    let mut stream = Stream::connect(&url, &Options { params, headers, ..Options::default() }).expect("open");
    stream.send_audio(&[9; 6]).expect("sent");
    stream.send(&ClientMessage::Ping { t: 7.into() }).expect("sent");

    let mut received = Vec::new();
    while let Some(next) = stream.recv().expect("no error") {
        if next == Received::Unknown {
            assert_eq!(stream.text(), r#"{"type":"Transcript","text":"hm"}"#);
        }
        received.push(next);
    }
    assert_eq!(
        received,
        [
            Received::Message(ServerMessage::Pong(Pong { t: 7.into(), server_ms: 8 })),
            Received::Unknown,
            Received::Audio { header: None, samples: vec![1, 2, 3, 4] },
            Received::Closed { code: Some(1000), reason: "done".into() },
        ]
    );
    assert!(matches!(stream.send_audio(&[0; 2]), Err(Error::Closed)));
    assert!(matches!(stream.recv(), Ok(None)));

    let (head, heard) = server.join().expect("the server's script");
    assert!(head.starts_with("GET /v1/stream?model=vad&tag=a+b HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nX-Api-Key: k\r\n") && head.contains("\r\nHost: 127.0.0.1:"), "{head}");
    assert_eq!(
        heard,
        [
            Heard::Binary(vec![9; 6]),
            Heard::Text(r#"{"type":"Ping","t":7}"#.into()),
            Heard::Pong(b"still there?".to_vec()),
            Heard::Close(Some(1000)),
        ]
    );
}

#[test]
fn with_headers_chunks_are_numbered_from_one_and_audio_names_its_result() {
    let header = AudioHeader { kind: AudioKind::Output, flags: 0, channel: 0, seq: 5, capture_time_us: 0 };
    let (url, server) = serve(move |mut tcp, head| {
        let mut out = switching(&head);
        let mut message = Vec::new();
        header.encode(&mut message);
        message.extend([7, 7]);
        websocket::encode_binary(&mut out, &message, None);
        tcp.write_all(&out).expect("an answer");
        hear(&mut tcp)
    });
    let params = StreamParams { framing: Framing::Seq, ..StreamParams::default() };
    let mut stream = Stream::connect(&url, &Options { params, ..Options::default() }).expect("open");
    let audio = Received::Audio { header: Some(header), samples: vec![7, 7] };
    assert_eq!(stream.recv().expect("received"), Some(audio));
    let (sender, receiver) = stream.split();
    sender.send_audio(&[1, 1]).expect("sent");
    sender.send_audio_at(&[2, 2], 99).expect("sent");
    sender.close(1000, "").expect("sent");
    assert!(matches!(sender.close_stream(), Err(Error::Closed)));
    drop(receiver);
    let heard = server.join().expect("the server's script");
    for (index, (seq, capture_time_us, samples)) in [(1, 0, [1, 1]), (2, 99, [2, 2])].into_iter().enumerate()
    {
        let Heard::Binary(message) = &heard[index] else { panic!("{heard:?}") };
        let wanted = AudioHeader { kind: AudioKind::Input, flags: 0, channel: 0, seq, capture_time_us };
        assert_eq!(AudioHeader::parse(message), Ok((wanted, &samples[..])));
    }
    assert_eq!(heard[2], Heard::Close(Some(1000)));
}

#[test]
fn a_refusal_tells_what_the_server_said() {
    let body = r#"{"error":{"type":"overloaded_error","code":"too_many_sessions","message":"all 4 places are taken"}}"#;
    let head = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length";
    let error = refused(format!("{head}: {}\r\n\r\n{body}", body.len()));
    let Error::Refused { status, code, message, retry_after } = &error else { panic!("{error}") };
    assert_eq!((*status, code.as_deref()), (503, Some("too_many_sessions")));
    assert_eq!((message.as_str(), *retry_after), ("all 4 places are taken", Some(Duration::from_secs(3))));
    assert!(error.to_string().contains("try again in 3 s"), "{error}");
}

#[test]
fn a_refusal_of_another_kind_of_server_is_understood_as_far_as_it_goes() {
    for (answer, wanted) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 17\r\n\r\n{\"error\":\"no x\"}\n", "no x"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n\n<h1>Bad</h1>\nmore", "<h1>Bad</h1>"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "hi"),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
            "it gave no reason",
        ),
        ("HTTP/1.1 500 Oops\r\nContent-Length: 10\r\n\r\ncut", "cut"),
    ] {
        let error = refused(answer);
        let Error::Refused { message, .. } = &error else { panic!("{answer}: {error}") };
        assert_eq!(message, wanted, "{answer}");
    }
}

#[test]
fn what_is_no_websocket_is_told_apart() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    for rest in ["\r\n", "Sec-WebSocket-Accept: wrong\r\n\r\n"] {
        assert!(matches!(refused(format!("{switching}{rest}")), Error::Protocol(_)), "{rest}");
    }
    assert!(matches!(refused("SSH-2.0-OpenSSH\r\n\r\n"), Error::Protocol(_)));
    assert!(matches!(refused(""), Error::Disconnected));
}

#[test]
fn nobody_there_is_told_with_the_address() {
    // Bound and dropped: nobody listens there now.
    let address =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let error = Stream::connect(&format!("ws://{address}"), &Options::default()).err().expect("nobody");
    let Error::Connect { address: named, source } = &error else { panic!("{error}") };
    assert_eq!((named, source.kind()), (&address.to_string(), std::io::ErrorKind::ConnectionRefused));
}

#[test]
fn a_server_that_masks_is_told_so_and_the_stream_ends() {
    let (url, server) = serve(|mut tcp, head| {
        let mut out = switching(&head);
        websocket::encode_text(&mut out, "{}", Some([1, 2, 3, 4]));
        tcp.write_all(&out).expect("an answer");
        hear(&mut tcp)
    });
    let mut stream = Stream::connect(&url, &Options::default()).expect("open");
    assert!(matches!(stream.recv(), Err(Error::Protocol(fault)) if fault.reason == Reason::ProtocolError));
    assert!(matches!(stream.recv(), Ok(None)));
    assert_eq!(server.join().expect("the server's script"), [Heard::Close(Some(1002))]);
}

#[test]
fn silence_times_out_and_the_stream_can_go_on() {
    let (go, wait) = std::sync::mpsc::channel();
    let (url, server) = serve(move |mut tcp, head| {
        tcp.write_all(&switching(&head)).expect("an answer");
        wait.recv().expect("the signal");
        let mut out = Vec::new();
        websocket::encode_close(&mut out, 1000, "", None);
        tcp.write_all(&out).expect("an answer");
    });
    let options = Options { read_timeout: Some(Duration::from_millis(20)), ..Options::default() };
    let mut stream = Stream::connect(&url, &options).expect("open");
    assert!(matches!(stream.recv(), Err(Error::TimedOut(_))));
    go.send(()).expect("the server lives");
    let closed = loop {
        match stream.recv() {
            Err(Error::TimedOut(_)) => {}
            other => break other.expect("no other error"),
        }
    };
    assert_eq!(closed, Some(Received::Closed { code: Some(1000), reason: String::new() }));
    server.join().expect("the server's script");
}

/// The server writes far more than the connection holds before it reads anything, while the client sends as much:
/// both directions are full. Whoever waited for the other side here would wait for ever.
#[test]
fn receiving_goes_on_while_sending_is_held_up() {
    const MESSAGES: usize = 400;
    const BYTES: usize = 64 * 1024;
    let (url, server) = serve(|mut tcp, head| {
        tcp.write_all(&switching(&head)).expect("an answer");
        for _ in 0..MESSAGES {
            let mut out = Vec::new();
            websocket::encode_ping(&mut out, b"ping", None);
            websocket::encode_binary(&mut out, &vec![5; BYTES], None);
            tcp.write_all(&out).expect("the client reads");
        }
        let heard = hear(&mut tcp);
        let mut out = Vec::new();
        websocket::encode_close(&mut out, 1000, "", None);
        let _ = tcp.write_all(&out);
        heard
    });
    let options =
        Options { read_timeout: Some(PATIENCE), write_timeout: Some(PATIENCE), ..Options::default() };
    let (sender, mut receiver) = Stream::connect(&url, &options).expect("open").split();
    let sending = thread::spawn(move || {
        for _ in 0..MESSAGES {
            sender.send_audio(&vec![6; BYTES]).expect("held up, and sent in the end");
        }
        sender.close(1000, "").expect("sent");
    });
    let mut audio = 0;
    while let Some(received) = receiver.recv().expect("no error") {
        audio += usize::from(matches!(received, Received::Audio { .. }));
    }
    sending.join().expect("the sender");
    assert_eq!(audio, MESSAGES);
    let heard = server.join().expect("the server's script");
    let whole = heard.iter().filter(|heard| **heard == Heard::Binary(vec![6; BYTES])).count();
    let pongs = heard.iter().filter(|heard| **heard == Heard::Pong(b"ping".to_vec())).count();
    assert_eq!(whole, MESSAGES);
    assert!(pongs >= 1, "a pong that could not go out at once goes out with a later send");
    assert_eq!(heard.last(), Some(&Heard::Close(Some(1000))));
}

#[test]
fn a_close_ends_a_send_that_is_held_up() {
    let (url, server) = serve(|mut tcp, head| {
        let mut out = switching(&head);
        // Reads nothing, then closes, and keeps the connection.
        thread::sleep(Duration::from_millis(50));
        websocket::encode_close(&mut out, 4429, "too much", None);
        tcp.write_all(&out).expect("an answer");
        tcp
    });
    let options = Options { write_timeout: None, ..Options::default() };
    let (sender, mut receiver) = Stream::connect(&url, &options).expect("open").split();
    let sending = thread::spawn(move || {
        loop {
            if let Err(error) = sender.send_audio(&[0; 1 << 16]) {
                return error;
            }
        }
    });
    let closed = Received::Closed { code: Some(4429), reason: "too much".into() };
    assert_eq!(receiver.recv().expect("received"), Some(closed));
    assert!(matches!(sending.join().expect("the sender"), Error::Closed | Error::Disconnected));
    drop(server.join().expect("the server's script"));
}
