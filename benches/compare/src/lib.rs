//! Servers that speak Suzu's wire and are built otherwise: what Suzu is measured against.
//!
//! Each is written as a careful engineer would with the library that it is named after. They share what is not the
//! point of the comparison: the types and the JSON of the messages (Suzu's own), the models ([`models`], [`engine`]),
//! the ways to run them ([`inference`]) and the order of a stream's conversation ([`stream`]). What differs is who
//! owns the sockets and how bytes become messages: [`tokio_rival`], [`axum_rival`], [`fastwebsockets_rival`]; and
//! [`bare`], which does nothing but move bytes.
//!
//! They are no products: limits, timeouts, refusals with reasons, metrics and a proper shutdown are left out, all of
//! which would cost something.

pub mod axum_rival;
pub mod bare;
pub mod engine;
pub mod fastwebsockets_rival;
pub mod inference;
pub mod model_loop;
pub mod models;
pub mod oip;
pub mod options;
pub mod speech;
pub mod stream;
pub mod tokio_rival;
