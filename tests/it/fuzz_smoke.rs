//! Every fuzz target on its corpus and on some thousand seeded mutations of it: in every test run, the same each time.
//!
//! What is fuzzed stands in `tests/fuzz/targets`; `tests/fuzz/README.md` says how to fuzz for hours.

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::path::{Path, PathBuf};
use targets::{TARGETS, Target};

/// Inputs from mutation are at most this long: a long one finds what a short one finds, later.
const INPUT_BYTES_MAX: usize = 2048;

/// Pieces that parsers know, so that mutation meets their branches.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"Authorization: Bearer ",
    b"eyJhbGciOiJIUzI1NiJ9.",
    b"?token=",
    b"&key_id=a&expires=9&signature=",
    b"\r\n\r\n",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\x21\x11\0\x0c",
    b"\x21\x21\0\x24",
    b": ",
    b"HTTP/1.1",
    b"GET / HTTP/1.1\r\nHost: x\r\n",
    b"Content-Length: 0",
    b"Content-Length: 18446744073709551616",
    b"Transfer-Encoding: chunked",
    b"Connection: upgrade",
    b"%2e",
    b"%00",
    b"..",
    b"0\r\n",
    b"ffffffffffffffff",
    b"\"type\":",
    b"\"",
    b"{",
    b"[",
    b"null",
    b"-1",
    b"1e999",
    b"1e308",
    b"0.1",
    b"18446744073709551615",
    b"true",
    b"&model=echo",
    b"=",
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x7f\x80\x00\x00",
    b"\x81\xfe",
    b"s",
    b"ms",
    b"KiB",
    b"RIFF",
    b"fmt ",
    b"data",
    b"#",
    b"\"inputs\":[",
    b"\"name\":\"X\",",
    b"\"shape\":[",
    b"\"datatype\":\"FP32\",",
    b"\"datatype\":\"INT64\",",
    b"\"data\":[",
    b"\"parameters\":{\"binary_data_size\":",
    b"\"parameters\":{\"classification\":2}",
    b"\"sequence_id\":",
    b",-0.12345678901234567",
    b"e-5",
    b"\\u00e9",
    b"\x1f\x8b\x08\x00",
    b"\n[audio]\n",
    b"\n[[output]]\nname = \"y\"\n",
    b"\nhop = 160\n",
];

macro_rules! smoke {
    ($($target:ident: $mutations:literal;)+) => {
        $(
            #[test]
            fn $target() {
                smoke(stringify!($target), targets::$target, $mutations);
            }
        )+

        #[test]
        fn every_target_is_run_and_has_its_own_binary() {
            let run = [$(stringify!($target)),+];
            assert_eq!(run, *TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
            for name in run {
                let binary = folder().join(format!("fuzz_targets/{name}.rs"));
                let text = std::fs::read_to_string(&binary).expect("a binary for each target");
                assert!(text.contains(&format!("targets::{name}(data)")), "{}", binary.display());
            }
        }
    };
}

// As many as take some tenths of a second each.
smoke! {
    client_message: 5000;
    config_file: 1000;
    config_value: 600;
    credentials: 2000;
    http_body: 5000;
    http_request: 2000;
    http_response: 5000;
    infer: 4000;
    manifest: 2000;
    pcm: 3000;
    proxy_header: 4000;
    repository_request: 5000;
    server: 300;
    server_message: 5000;
    server_split: 500;
    stream_params: 2000;
    unpack: 700;
    wav: 3000;
    websocket: 4000;
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn smoke(name: &'static str, target: Target, mutations: usize) {
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus in tests/fuzz/corpus/{name}");
    for input in &corpus {
        run(name, target, input);
    }
    // Set it to look further than every test run does.
    let factor = std::env::var("FUZZ_SMOKE_FACTOR").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    let mut random = Random(name.len() as u64);
    for _ in 0..mutations * factor {
        let input = mutated(&mut random, &corpus);
        run(name, target, &input);
    }
}

/// Every file of the target's folder in the order of names, and the empty input.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(folder().join("corpus").join(name)).expect("a corpus folder");
    let mut paths: Vec<_> = files.map(|file| file.expect("a readable folder").path()).collect();
    paths.sort();
    let read = |path: PathBuf| std::fs::read(&path).expect("a readable file");
    paths.into_iter().map(read).chain([Vec::new()]).collect()
}

fn run(name: &'static str, target: Target, input: &[u8]) {
    let witness = Witness { name, input };
    target(input);
    drop(witness);
}

/// Tells the input if the target panics on it.
struct Witness<'a> {
    name: &'static str,
    input: &'a [u8],
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (name, input) = (self.name, self.input);
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("fuzz target {name} fails on b\"{}\"", input.escape_ascii());
            eprintln!("to keep it and to replay it:");
            eprintln!("  echo {hex} | xxd -r -p > tests/fuzz/corpus/{name}/found");
            eprintln!("  cargo test --test it fuzz_smoke::{name}");
        }
    }
}

/// One of the corpus with up to eight changes.
fn mutated(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(24)).min(input.len());
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => drop(input.drain(at..end)),
            3 => insert(&mut input, at, WORDS[random.below(WORDS.len())]),
            4 => insert(&mut input, at, &random.next().to_le_bytes()),
            5 => {
                let again = input[at..end].to_vec();
                insert(&mut input, random.below(at + 1), &again);
            }
            6 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.truncate(at.max(input.len() / 2)),
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    input.splice(at..at, piece.iter().copied());
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
