//! The servers that Suzu is measured against, as a program; see the library of this package.

use clap::Parser;
use std::io;

fn main() -> io::Result<()> {
    rivals::options::run(rivals::options::Options::parse())
}
