//! Tokens, keys and signatures that are right, wrong, late and tampered with, and files that are wrong.

use super::*;
use crate::auth::{NewToken, Scope, mint, sign};
use crate::wire::http::{HeadLimits, Method, parse_head};
use proptest::prelude::*;
use serde_json::{Value, json};

/// 2026-01-01.
const NOW_S: u64 = 1_767_225_600;
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OTHER_SECRET: &str = "fedcba9876543210fedcba9876543210";
const LIFETIMES: Lifetimes =
    Lifetimes { query_token: Duration::from_secs(300), signed_request: Duration::from_secs(900) };
const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 16384, target_bytes_max: 8192, headers_max: 50 };

/// Keys of tests alone, made by OpenSSL.
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/keys");

const FILE: &str = r#"
[[jwt]]
id = "users"
algorithm = "HS256"
secret_env = "SECRET"
issuers = ["https://id.example"]
audiences = ["suzu", "all"]
leeway = "10s"
scopes = ["stream"]
limits = { sessions = 3 }

[[key]]
id = "kiosk"
hash = "sha256:HASH"
scopes = ["stream", "infer"]

[[signer]]
id = "backend"
secret_env = "OTHER"
user = "service"
scopes = ["stream"]
"#;

fn variable(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some(SECRET.into()),
        "OTHER" => Some(OTHER_SECRET.into()),
        "SHORT" => Some("short".into()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Keyring, String> {
    Keyring::parse(text, &Sources { folder: Path::new(KEYS), variable: &variable })
}

fn ring() -> Keyring {
    parse(&FILE.replace("HASH", &data_encoding::HEXLOWER.encode(&hash("kiosk.k3y")))).expect("a good file")
}

fn head(method: &str, target: &str, fields: &str) -> RequestHead {
    let text = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    parse_head(text.as_bytes(), &LIMITS).expect("a head").expect("a whole one").0
}

fn ask(ring: &Keyring, target: &str, fields: &str) -> Result<Authenticated, Fault> {
    ring.authenticate(&head("GET", target, fields), NOW_S * 1000, LIFETIMES)
        .map(|outcome| outcome.expect("something"))
}

fn bearer(ring: &Keyring, token: &str) -> Result<Principal, Fault> {
    ask(ring, "/", &format!("Authorization: Bearer {token}\r\n")).map(|found| found.principal)
}

fn claims() -> Value {
    json!({ "sub": "alice", "exp": NOW_S + 60, "iss": "https://id.example", "aud": "suzu" })
}

/// A token whose parts are all as wanted, signed by HS256 with that secret.
fn token_of(header: &Value, claims: &Value, secret: &str) -> String {
    let encode = |value: &Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", data_encoding::BASE64URL_NOPAD.encode(signature.as_ref()))
}

fn token(claims: &Value) -> String {
    token_of(&json!({ "alg": "HS256", "typ": "JWT" }), claims, SECRET)
}

#[test]
fn a_good_token_says_who_asks_and_what_they_may() {
    let principal = bearer(&ring(), &token(&claims())).expect("a good token");
    assert_eq!((&*principal.user, &*principal.source), ("alice", "users"));
    assert!(principal.scopes.has(Scope::Stream) && !principal.scopes.has(Scope::Infer));
    assert_eq!(principal.expires_unix_ms, Some((NOW_S + 70) * 1000));
    assert_eq!(principal.allowance.sessions, Some(3));
}

#[test]
fn scopes_are_read_as_a_line_and_as_a_list_and_those_of_others_mean_nothing() {
    for scope in [json!("infer admin openid"), json!(["infer", "admin", "openid"])] {
        let mut claims = claims();
        claims["scope"] = scope;
        let principal = bearer(&ring(), &token(&claims)).expect("a good token");
        assert_eq!(principal.scopes.words(), "infer admin");
    }
}

#[test]
fn every_claim_that_is_wrong_is_refused_with_its_reason() {
    let wrong = [
        ("exp", json!(NOW_S - 11), Reason::TokenExpired, "expired"),
        ("exp", json!("soon"), Reason::Unauthorized, "exp"),
        ("exp", Value::Null, Reason::Unauthorized, "exp"),
        ("nbf", json!(NOW_S + 11), Reason::Unauthorized, "not valid yet"),
        ("iss", json!("https://evil.example"), Reason::Unauthorized, "issuer"),
        ("iss", Value::Null, Reason::Unauthorized, "iss"),
        ("aud", json!("others"), Reason::Unauthorized, "audience"),
        ("aud", json!(["others", "more"]), Reason::Unauthorized, "audience"),
        ("aud", Value::Null, Reason::Unauthorized, "aud"),
        ("sub", json!(""), Reason::Unauthorized, "sub"),
        ("sub", json!("a\nb"), Reason::Unauthorized, "sub"),
        ("sub", json!("x".repeat(129)), Reason::Unauthorized, "sub"),
        ("sub", Value::Null, Reason::Unauthorized, "sub"),
    ];
    for (claim, value, reason, word) in wrong {
        let mut claims = claims();
        match value.is_null() {
            true => drop(claims.as_object_mut().expect("an object").remove(claim)),
            false => claims[claim] = value.clone(),
        }
        let fault = bearer(&ring(), &token(&claims)).expect_err(claim);
        assert_eq!(fault.reason, reason, "{claim} = {value}: {fault}");
        assert!(
            fault.message.contains(word) || fault.message.contains("cannot be read"),
            "{claim} = {value}: {fault}"
        );
    }
    for (claim, value) in [("exp", json!(NOW_S - 9)), ("nbf", json!(NOW_S + 9)), ("aud", json!(["x", "all"]))]
    {
        let mut claims = claims();
        claims[claim] = value;
        assert!(bearer(&ring(), &token(&claims)).is_ok(), "{claim} is within the leeway");
    }
}

#[test]
fn a_token_that_was_tampered_with_or_is_by_another_algorithm_is_refused() {
    let ring = ring();
    let good = token(&claims());
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let none = token_of(&json!({ "alg": "none" }), &claims(), SECRET);
    let unsigned = format!("{}.", none.rsplit_once('.').expect("three parts").0);
    let mut evil = claims();
    evil["sub"] = json!("root");
    let others = token(&evil);
    let swapped = format!("{}.{signature}", others.rsplit_once('.').expect("three parts").0);
    for bad in [
        token_of(&json!({ "alg": "HS256" }), &claims(), OTHER_SECRET),
        token_of(&json!({ "alg": "HS512" }), &claims(), SECRET),
        token_of(&json!({ "alg": "RS256" }), &claims(), SECRET),
        token_of(&json!({ "alg": "HS256", "crit": ["x"], "x": 1 }), &claims(), SECRET),
        none,
        unsigned,
        swapped,
        format!("{message}."),
        format!("{message}.{}", &signature[1..]),
        "..".into(),
        "a.b.c".into(),
    ] {
        let fault = bearer(&ring, &bad).expect_err(&bad);
        assert_eq!(fault.reason, Reason::Unauthorized, "{bad}");
        assert!(!fault.message.contains(&bad) && !fault.message.contains(SECRET), "{fault}");
    }
    // The public key of RS256 as the secret of HS256: the classic confusion.
    let pem = fs::read_to_string(format!("{KEYS}/rs256.pub.pem")).expect("a key of the tests");
    let public = parse("[[jwt]]\nid = \"a\"\nalgorithm = \"RS256\"\npublic_key_file = \"rs256.pub.pem\"")
        .expect("a good file");
    for header in [json!({ "alg": "HS256" }), json!({ "alg": "RS256" })] {
        assert!(bearer(&public, &token_of(&header, &json!({"sub": "a", "exp": NOW_S + 60}), &pem)).is_err());
    }
}

#[test]
fn tokens_are_made_and_verified_by_all_four_algorithms_and_by_a_jwks() {
    let new = NewToken {
        sub: "bob".into(),
        exp: NOW_S + 60,
        iat: NOW_S,
        scope: Some("infer".into()),
        ..NewToken::default()
    };
    for (name, file) in [("RS256", "rs256"), ("ES256", "es256"), ("EdDSA", "eddsa")] {
        let private = fs::read(format!("{KEYS}/{file}.pem")).expect("a key of the tests");
        let token = mint(&new, algorithm(name).expect("a name"), &private, Some(file.into())).expect(name);
        let entry =
            format!("[[jwt]]\nid = \"a\"\nalgorithm = \"{name}\"\npublic_key_file = \"{file}.pub.pem\"");
        let set = "[[jwt]]\nid = \"a\"\njwks_file = \"jwks.json\"";
        for text in [entry.as_str(), set] {
            let principal = bearer(&parse(text).expect(name), &token).expect(name);
            assert_eq!((&*principal.user, principal.scopes.words()), ("bob", "infer".into()));
        }
        let others = ["rs256", "es256", "eddsa"].into_iter().filter(|other| *other != file);
        for other in others {
            let word = if other == "eddsa" { "EdDSA".into() } else { other.to_uppercase() };
            let entry =
                format!("[[jwt]]\nid = \"a\"\nalgorithm = \"{word}\"\npublic_key_file = \"{other}.pub.pem\"");
            assert!(bearer(&parse(&entry).expect("a good file"), &token).is_err());
        }
    }
    let token = mint(&new, Algorithm::HS256, SECRET.as_bytes(), None).expect("a token");
    let open = "[[jwt]]\nid = \"a\"\nalgorithm = \"HS256\"\nsecret_env = \"SECRET\"";
    assert!(bearer(&parse(open).expect("a good file"), &token).is_ok());
    assert!(mint(&new, Algorithm::RS256, b"no key", None).is_err());
}

#[test]
fn an_api_key_is_taken_whole_and_only_so() {
    let ring = ring();
    let principal = ask(&ring, "/", "X-API-Key: kiosk.k3y\r\n").expect("a good key").principal;
    assert_eq!((&*principal.user, principal.expires_unix_ms), ("kiosk", None));
    for bad in ["kiosk.k3", "kiosk.k3yy", "kiosk", "nobody.k3y", "kiosk.", "k3y", ""] {
        let outcome = ask(&ring, "/", &format!("X-API-Key: {bad}\r\n"));
        assert!(matches!(outcome, Err(fault) if fault.reason == Reason::Unauthorized), "{bad}");
    }
}

#[test]
fn only_a_token_that_soon_ends_may_stand_in_the_url() {
    let ring = ring();
    let in_query = |token: &str| ask(&ring, &format!("/?token={token}"), "");
    assert!(in_query(&token(&claims())).is_ok());
    let mut long = claims();
    long["exp"] = json!(NOW_S + 600);
    for bad in [token(&long), "kiosk.k3y".into()] {
        assert!(matches!(in_query(&bad), Err(fault) if fault.reason == Reason::Unauthorized));
    }
}

#[test]
fn a_signed_request_holds_for_its_time_and_says_what_to_remember() {
    let ring = ring();
    let signed = |expires: u64, secret: &str, id: &str| {
        let query = [("model", "vad"), ("key_id", id), ("expires", &expires.to_string())]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let signature = sign(secret.as_bytes(), Method::Get, "/v1/stream", &query);
        format!("/v1/stream?model=vad&key_id={id}&expires={expires}&signature={signature}")
    };
    let found = ask(&ring, &signed(NOW_S + 60, OTHER_SECRET, "backend"), "").expect("a good signature");
    assert_eq!(&*found.principal.user, "service");
    assert_eq!(found.once.expect("taken once").expires_unix_ms, (NOW_S + 60) * 1000);
    for (target, reason) in [
        (signed(NOW_S, OTHER_SECRET, "backend"), Reason::TokenExpired),
        (signed(NOW_S + 901, OTHER_SECRET, "backend"), Reason::Unauthorized),
        (signed(u64::MAX, OTHER_SECRET, "backend"), Reason::Unauthorized),
        (signed(NOW_S + 60, SECRET, "backend"), Reason::Unauthorized),
        (signed(NOW_S + 60, OTHER_SECRET, "nobody"), Reason::Unauthorized),
        (signed(NOW_S + 60, OTHER_SECRET, "backend").replace("vad", "echo"), Reason::Unauthorized),
        (signed(NOW_S + 60, OTHER_SECRET, "backend") + "&tag=x", Reason::Unauthorized),
    ] {
        assert!(matches!(ask(&ring, &target, ""), Err(fault) if fault.reason == reason), "{target}");
    }
}

#[test]
fn a_file_that_is_wrong_is_refused_with_the_place_and_without_its_secrets() {
    let entry = |text: &str| format!("[[jwt]]\nid = \"a\"\n{text}");
    for (text, words) in [
        (entry("algorithm = \"HS256\""), "one of secret_env and secret_file"),
        (entry("algorithm = \"HS256\"\nsecret_env = \"SHORT\""), "5 bytes"),
        (entry("algorithm = \"HS256\"\nsecret_env = \"UNSET\""), "UNSET is not set"),
        (entry("algorithm = \"none\""), "not one of HS256"),
        (entry("algorithm = \"RS256\""), "needs public_key_file"),
        (entry("algorithm = \"RS256\"\npublic_key_file = \"es256.pub.pem\""), "no public key for RS256"),
        (entry("algorithm = \"RS256\"\npublic_key_file = \"nowhere.pem\""), "nowhere.pem"),
        (entry("algorithm = \"HS256\"\nsecret_env = \"SECRET\"\nscopes = [\"root\"]"), "`root`"),
        (entry("algorithm = \"HS256\"\nsecret_env = \"SECRET\"\nleeway = \"5\""), "leeway"),
        (entry("jwks_file = \"rs256.pub.pem\""), "no JWKS"),
        (entry("jwks_file = \"jwks.json\"\nkid = \"a\""), "leave the others out"),
        (entry("secret = \"hunter2\""), "line 3"),
        ("[[key]]\nid = \"a b\"\nhash = \"sha256:00\"\nscopes = []".into(), "hash is not 64"),
        ("[[key]]\nid = \"a\"\nhash = \"hunter2\"\nscopes = []".into(), "sha256:"),
        ("x = ".into(), "line 1"),
    ] {
        let problem = parse(&text).err().unwrap_or_else(|| panic!("{text} is refused"));
        assert!(problem.contains(words), "{text}: {problem}");
        assert!(!problem.contains("hunter2") && !problem.contains(SECRET), "{problem}");
    }
    let twice = "[[jwt]]\nid = \"a\"\nalgorithm = \"HS256\"\nsecret_env = \"SECRET\"\n[[signer]]\nid = \"a\"\nsecret_env = \"SECRET\"\nscopes = []";
    assert!(parse(twice).err().expect("refused").contains("another entry"));
}

#[test]
fn what_an_entry_vouches_for_ends_with_it() {
    let ring = ring();
    assert!(["users", "kiosk", "backend"].into_iter().all(|source| ring.knows(source)));
    assert!(!ring.knows("") && !ring.knows("nobody"));
    assert_eq!(ring.counts(), (1, 1, 1));
}

proptest! {
    #[test]
    fn nothing_that_is_shown_makes_it_panic_or_lets_anybody_in(secret in "[!-~]{0,200}", query in "[!-~&&[^#]]{0,200}") {
        let ring = ring();
        let text = format!("GET /?{query} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\n\r\n");
        if let Ok(Some((head, _))) = parse_head(text.as_bytes(), &LIMITS) {
            prop_assert!(!matches!(ring.authenticate(&head, NOW_S * 1000, LIFETIMES), Ok(Some(_))));
        }
    }

    #[test]
    fn one_changed_character_makes_a_token_worthless(place in 0usize..1000, with in "[A-Za-z0-9_.-]") {
        let good = token(&claims());
        let place = place % good.len();
        let mut bad = good.clone();
        bad.replace_range(place..=place, &with);
        // The last character of a signature has bits that mean nothing, which a strict decoder refuses.
        prop_assert_eq!(bearer(&ring(), &bad).is_ok(), bad == good);
    }
}
