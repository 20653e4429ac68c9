//! What requests show, and the file that it is held against.

use std::sync::OnceLock;
use std::time::Duration;
use suzu::auth::{Keyring, Lifetimes, Presented};
use suzu::wire::http::{HeadLimits, parse_head};

/// Nobody has the key of this hash, and there is no other.
const FILE: &str = "[[key]]\nid = \"all\"\nscopes = [\"stream\"]\n\
    hash = \"sha256:00000000000000000000000000000000000000000000000000000000000000ff\"\n\
    [[jwt]]\nid = \"set\"\njwks_file = \"tests/data/keys/jwks.json\"\n";

/// A request's head, or a file of credentials: no panic, and nobody gets in.
pub fn credentials(data: &[u8]) {
    static KEYRING: OnceLock<Keyring> = OnceLock::new();
    let keyring = KEYRING.get_or_init(|| Keyring::of_text(FILE).expect("a file that is right"));
    let limits = HeadLimits { head_bytes_max: 64 << 10, target_bytes_max: 32 << 10, headers_max: 100 };
    match parse_head(data, &limits) {
        Ok(Some((head, _))) => {
            let presented = Presented::of(&head);
            let lifetime = Duration::from_secs(300);
            let lifetimes = Lifetimes { query_token: lifetime, signed_request: lifetime };
            let found = keyring.authenticate(&head, 1_767_225_600_000, lifetimes);
            assert!(!matches!(found, Ok(Some(_))), "nobody has credentials");
            assert_eq!(matches!(presented, Ok(None)), matches!(found, Ok(None)));
        }
        _ => {
            // Entries of a file may name files; those of the fuzzer name none that is there.
            if let Ok(text) = std::str::from_utf8(data)
                && !text.contains("_file")
            {
                let _ = Keyring::of_text(text);
            }
        }
    }
}
