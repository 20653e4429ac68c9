//! Tests over real sockets and of the real binary, in one test binary.

mod cli;
mod driver;
mod support;
