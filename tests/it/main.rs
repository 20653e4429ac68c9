//! Tests over real sockets and of the real binary, in one test binary.

mod driver;
mod support;
