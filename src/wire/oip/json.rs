//! A reader of JSON that goes through the text once and keeps no tree.
//!
//! It is told what to expect and says where that is not so. Only objects and arrays that the caller names are entered,
//! so the nesting of the text never becomes recursion. Called by the parsers of requests.

use super::malformed;
use crate::reason::Fault;
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// A place in a JSON text.
pub(super) struct Json<'a> {
    text: &'a str,
    /// Byte offset of what comes next.
    pub at: usize,
}

impl<'a> Json<'a> {
    /// At the beginning of a body, which must be UTF-8.
    pub fn new(body: &'a [u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(body)
            .map_err(|error| malformed(format!("the JSON is not UTF-8 at byte {}", error.valid_up_to())))?;
        Ok(Self { text, at: 0 })
    }

    /// The whole text, whatever was read of it.
    pub fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// The next byte that is not white space.
    pub fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    /// The fault of finding something else here.
    pub fn wrong(&mut self, expected: &str) -> Fault {
        match self.peek() {
            None => malformed(format!("the JSON ends where {expected} should be (byte {})", self.at)),
            Some(_) => {
                let found = self.text[self.at..].chars().next().unwrap_or_default();
                let at = self.at;
                malformed(format!("the JSON is broken at byte {at}: expected {expected}, found {found:?}"))
            }
        }
    }

    /// Nothing but white space may be left.
    pub fn end(&mut self) -> Result<(), Fault> {
        if self.peek().is_some() { Err(self.wrong("its end")) } else { Ok(()) }
    }

    /// Goes through an object: `on` is called after each key and has to read its value.
    pub fn object(
        &mut self,
        what: &str,
        mut on: impl FnMut(&mut Self, &str) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.begin(b'{', what, "an object")?;
        if self.skip_byte(b'}') {
            return Ok(());
        }
        loop {
            let key = self.string("a key")?;
            if !self.skip_byte(b':') {
                return Err(self.wrong("':'"));
            }
            on(self, &key)?;
            if self.skip_byte(b'}') {
                return Ok(());
            }
            if !self.skip_byte(b',') {
                return Err(self.wrong("',' or '}'"));
            }
        }
    }

    /// Goes through an array: `on` is called before each element and has to read it.
    pub fn array(
        &mut self,
        what: &str,
        mut on: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.begin(b'[', what, "an array")?;
        if self.skip_byte(b']') {
            return Ok(());
        }
        loop {
            on(self)?;
            if self.skip_byte(b']') {
                return Ok(());
            }
            if !self.skip_byte(b',') {
                return Err(self.wrong("',' or ']'"));
            }
        }
    }

    fn begin(&mut self, byte: u8, what: &str, kind: &str) -> Result<(), Fault> {
        if self.skip_byte(byte) { Ok(()) } else { Err(self.wrong(&format!("{kind} ({what})"))) }
    }

    fn skip_byte(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// A string.
    pub fn string(&mut self, what: &str) -> Result<Cow<'a, str>, Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong(&format!("a string ({what})")));
        }
        let bytes = self.text.as_bytes();
        let start = self.at;
        let mut end = start + 1;
        let mut plain = true;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    plain = false;
                    end += 2;
                }
                Some(0..0x20) => {
                    self.at = end;
                    return Err(malformed(format!(
                        "the JSON is broken at byte {end}: a control character in a string"
                    )));
                }
                Some(_) => end += 1,
                None => {
                    return Err(malformed(format!(
                        "the JSON ends within the string at byte {start} ({what})"
                    )));
                }
            }
        }
        self.at = end + 1;
        if plain {
            return Ok(Cow::Borrowed(&self.text[start + 1..end]));
        }
        serde_json::from_str(&self.text[start..=end])
            .map(Cow::Owned)
            .map_err(|error| malformed(format!("the string at byte {start} ({what}) is broken: {error}")))
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, what: &str) -> Result<bool, Fault> {
        self.peek();
        let rest = &self.text[self.at..];
        let value = rest.starts_with("true");
        if !value && !rest.starts_with("false") {
            return Err(self.wrong(&format!("true or false ({what})")));
        }
        self.at += if value { 4 } else { 5 };
        Ok(value)
    }

    /// A whole number within the range of its type.
    pub fn integer<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, Fault> {
        if !matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            return Err(self.wrong(&format!("a whole number ({what})")));
        }
        let rest = &self.text[self.at..];
        let end = rest
            .bytes()
            .position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
            .unwrap_or(rest.len());
        let token = &rest[..end];
        let leading_zero = token.len() > 1 && token.starts_with('0') || token.starts_with("-0");
        let number = token.parse().ok().filter(|_| !leading_zero);
        let number = number.ok_or_else(|| {
            malformed(format!("{what} is {}, which it cannot be: a whole number", super::quoted(token)))
        })?;
        self.at += end;
        Ok(number)
    }

    /// Reads over any value, which must be proper JSON.
    pub fn ignore(&mut self) -> Result<(), Fault> {
        self.peek();
        let mut values = serde_json::Deserializer::from_str(&self.text[self.at..]).into_iter::<IgnoredAny>();
        match values.next() {
            Some(Ok(_)) => {
                self.at += values.byte_offset();
                Ok(())
            }
            Some(Err(error)) => {
                Err(malformed(format!("the JSON is broken in the value at byte {}: {error}", self.at)))
            }
            None => Err(self.wrong("a value")),
        }
    }

    /// Reads over an array to the bracket that closes it, looking at nothing but brackets and strings: for a text that
    /// is parsed later. Gives the byte offset of its beginning.
    pub fn defer_array(&mut self, what: &str) -> Result<usize, Fault> {
        if self.peek() != Some(b'[') {
            return Err(self.wrong(&format!("an array ({what})")));
        }
        let start = self.at;
        let mut depth = 0usize;
        loop {
            match self.peek() {
                Some(b'[') => depth += 1,
                Some(b']') => depth -= 1,
                Some(b'"') => {
                    self.string(what)?;
                    continue;
                }
                Some(_) => {}
                None => return Err(self.wrong("']'")),
            }
            self.at += 1;
            if depth == 0 {
                return Ok(start);
            }
        }
    }
}
