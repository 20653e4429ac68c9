//! Credentials: who makes a request, and what they may do.
//!
//! Parses what a request presents and holds it against a [`Keyring`], which is a value: no clock, no files after it is made,
//! no state. Whoever calls says what time it is, remembers what may be used once, and decides what to do with a
//! [`Principal`]. Nothing here repeats a secret, in errors or in `Debug`.

mod crypto;
mod jwt;
mod keyring;
mod presented;
mod principal;
mod signed;
mod webhook;

pub use jwt::{ALGORITHMS, NewToken, mint};
pub use keyring::{
    Authenticated, Keyring, Lifetimes, Once, algorithm, check_id, key_entry, secret_of_file,
    secret_of_variable,
};
pub use presented::{Presented, QUERY_NAMES};
pub use principal::{Allowance, Principal, Scope, Scopes};
pub use signed::sign;
pub use webhook::WebhookKey;
