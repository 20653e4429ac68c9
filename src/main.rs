//! The `suzu` command. What it does is in `suzu::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    suzu::cli::run(std::env::args_os(), std::env::vars_os())
}
