//! Who is served, and what they may do.

use std::fmt;
use std::sync::Arc;

/// What a principal may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Open streams, send recordings.
    Stream,
    /// Ask for inference, see the models.
    Infer,
    /// Load and unload models, reload keys.
    Admin,
    /// Read the metrics.
    Metrics,
}

impl Scope {
    /// Every scope, in the order of their bits.
    pub const ALL: [Scope; 4] = [Scope::Stream, Scope::Infer, Scope::Admin, Scope::Metrics];

    /// Its word in tokens and files.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Stream => "stream",
            Scope::Infer => "infer",
            Scope::Admin => "admin",
            Scope::Metrics => "metrics",
        }
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Every scope.
    pub const ALL: Scopes = Scopes(0b1111);

    /// Whether the scope is in it.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }

    /// The same set with that scope.
    pub fn with(self, scope: Scope) -> Scopes {
        Scopes(self.0 | 1 << scope as u8)
    }

    /// The set of the words that are scopes. Tokens made for several services have words of theirs, which mean nothing here.
    pub fn of_known<'a>(words: impl IntoIterator<Item = &'a str>) -> Scopes {
        let named = |word: &str| Scope::ALL.into_iter().find(|scope| scope.name() == word);
        words.into_iter().filter_map(named).fold(Scopes::default(), Scopes::with)
    }

    /// The set of these words.
    ///
    /// # Errors
    /// The first word that is no scope.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Scopes, String> {
        words.into_iter().try_fold(Scopes::default(), |scopes, word| {
            match Scope::ALL.into_iter().find(|scope| scope.name() == word) {
                Some(scope) => Ok(scopes.with(scope)),
                None => Err(format!("`{word}` is no scope; there are stream, infer, admin and metrics")),
            }
        })
    }

    /// The words, parted by spaces.
    pub fn words(self) -> String {
        let words: Vec<_> =
            Scope::ALL.into_iter().filter(|scope| self.has(*scope)).map(Scope::name).collect();
        words.join(" ")
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({})", self.words())
    }
}

/// How much a principal may have. `None` takes what the configuration says for everyone.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    /// Requests in a second.
    pub requests_per_second: Option<u32>,
    /// WebSockets at a time.
    pub connections: Option<u32>,
    /// Streams at a time.
    pub sessions: Option<u32>,
    /// Seconds of audio in a second.
    pub audio_per_second: Option<u32>,
}

/// Who asks: the outcome of looking at credentials.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// The user: the token's subject, or the name of the key.
    pub user: Arc<str>,
    /// Which entry of the file of credentials vouches for them; empty under open access.
    pub source: Arc<str>,
    /// What they may do.
    pub scopes: Scopes,
    /// When the credentials end, milliseconds since 1970.
    pub expires_unix_ms: Option<u64>,
    /// How much they may have.
    pub allowance: Allowance,
}

impl Principal {
    /// Whoever comes to a server with open access.
    pub fn anyone() -> Principal {
        Principal {
            user: "anyone".into(),
            source: "".into(),
            scopes: Scopes::ALL,
            expires_unix_ms: None,
            allowance: Allowance::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_back_from_their_words() {
        for bits in 0..16 {
            let scopes = Scopes(bits);
            assert_eq!(Scopes::parse(scopes.words().split_whitespace()), Ok(scopes));
        }
        assert!(Scopes::parse(["stream", "root"]).unwrap_err().contains("`root`"));
        assert_eq!(Scopes::of_known(["stream", "root"]), Scopes::default().with(Scope::Stream));
        assert!(Scope::ALL.into_iter().all(|scope| Scopes::ALL.has(scope)));
    }
}
