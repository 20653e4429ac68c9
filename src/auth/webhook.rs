//! Signatures of webhooks, as the convention "Standard Webhooks" has them: by one the receiver knows who posts.
//!
//! HMAC-SHA256, in base64 behind `v1,`, over `id "." timestamp "." body`.

use super::keyring::{secret_of_file, secret_of_variable};
use crate::config::{Config, WEBHOOK_SECRET_VARIABLE};
use ring::hmac;
use std::fmt;
use std::path::Path;

/// What a secret begins with whose rest is the key in base64, as libraries for receivers write it.
const BASE64_PREFIX: &str = "whsec_";
/// Bytes that such a key has at least, by the convention.
const KEY_BYTES_MIN: usize = 24;

/// What signs.
pub struct WebhookKey(hmac::Key);

impl WebhookKey {
    /// The key of this secret: its bytes, or what stands in base64 behind `whsec_`.
    ///
    /// # Errors
    /// What stands there is no base64, or too short to be safe.
    pub fn new(secret: &[u8]) -> Result<Self, String> {
        let key = |bytes: &[u8]| Self(hmac::Key::new(hmac::HMAC_SHA256, bytes));
        match secret.strip_prefix(BASE64_PREFIX.as_bytes()) {
            None => Ok(key(secret)),
            Some(rest) => match data_encoding::BASE64.decode(rest) {
                Ok(bytes) if bytes.len() >= KEY_BYTES_MIN => Ok(key(&bytes)),
                Ok(bytes) => Err(format!(
                    "behind {BASE64_PREFIX} stand {} bytes; {KEY_BYTES_MIN} are the least",
                    bytes.len()
                )),
                Err(_) => Err(format!("behind {BASE64_PREFIX} stands no base64")),
            },
        }
    }

    /// The key that the configuration names, or that the variable holds.
    ///
    /// # Errors
    /// Says what to set, without repeating a secret.
    pub fn load(config: &Config) -> Result<Self, String> {
        let secret = match config.webhook_secret_file.as_str() {
            "" => secret_of_variable(WEBHOOK_SECRET_VARIABLE)
                .map_err(|why| format!("{why}; set it, or webhook_secret_file"))?,
            path => secret_of_file(Path::new(path)).map_err(|why| format!("webhook_secret_file: {why}"))?,
        };
        Self::new(&secret)
    }

    /// The header field `webhook-signature` of an attempt at that second.
    pub fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{timestamp_s}.").as_bytes());
        context.update(body);
        format!("v1,{}", data_encoding::BASE64.encode(context.sign().as_ref()))
    }
}

impl fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the convention, which its libraries are tested with too.
    #[test]
    fn the_example_of_the_convention_is_signed_as_it_says() {
        let key = WebhookKey::new(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_without_the_prefix_is_the_key_itself() {
        let same =
            WebhookKey::new(&data_encoding::BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        let signature =
            same.unwrap().sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let other =
            WebhookKey::new(b"another").unwrap().sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"");
        assert_ne!(signature, other);
    }

    #[test]
    fn nothing_repeats_the_secret() {
        for (wrong, word) in [("whsec_planted!", "no base64"), ("whsec_cGxhbnRlZA==", "7 bytes")] {
            let why = WebhookKey::new(wrong.as_bytes()).unwrap_err();
            assert!(why.contains(word) && !why.contains("planted") && !why.contains("cGxh"), "{why}");
        }
        let shown = format!("{:?}", WebhookKey::new(b"planted").unwrap());
        assert!(!shown.contains("planted"), "{shown}");
    }
}
