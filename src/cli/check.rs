//! `suzu check`: what is wrong with a configuration, or what it comes to. Starts nothing.

use super::{Error, Variables, args, print};
use crate::config::{Origin, Resolved, SETTINGS, groups};
use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Command};
use std::fmt::Write;
use std::path::PathBuf;

const ABOUT: &str = "\
Check a configuration and print what it comes to

Reads the file, the environment and the flags as `suzu serve` would, and starts nothing.
If all is well it prints every setting as TOML, says behind each value that is not the default
where it came from, and exits with 0. Otherwise it says everything that is wrong and exits with 1.";

const EXAMPLES: &str = "\
Examples:
  suzu check suzu.toml
  suzu check suzu.toml --queue-delay-max 5ms
  SUZU_PORT=9000 suzu check > resolved.toml";

pub(super) fn command() -> Command {
    let file = Arg::new("file")
        .value_name("FILE")
        .value_parser(ValueParser::path_buf())
        .conflicts_with("config")
        .help("The TOML file to check, the same as --config");
    let (about, _) = ABOUT.split_once('\n').unwrap_or((ABOUT, ""));
    Command::new("check")
        .about(about)
        .long_about(ABOUT)
        .after_help(EXAMPLES)
        .arg(file)
        .args(args::configuration())
}

pub(super) fn run(matches: &ArgMatches, variables: &Variables) -> Result<(), Error> {
    let loaded = match matches.get_one::<PathBuf>("file") {
        Some(path) => args::load_file(Some(path), matches, variables),
        None => args::load(matches, variables),
    };
    // What is wrong is the answer to the question, not a wrong question: 1, not 2.
    let resolved = loaded.map_err(|error| Error::failed(error.message))?;
    let memory = super::memory_lines(&resolved.config).map_err(|error| Error::failed(error.to_string()))?;
    crate::driver::check_tls(&resolved.config).map_err(|error| Error::failed(error.to_string()))?;
    crate::driver::check_webhooks(&resolved.config).map_err(|error| Error::failed(error.to_string()))?;
    print(&describe(&resolved, &memory))
}

/// TOML that gives the same configuration when it is read again.
fn describe(resolved: &Resolved, memory: &[String]) -> String {
    let mut text = String::from("# The configuration is valid. Values that nobody set are defaults.\n");
    let mut origins = resolved.origins.iter();
    for (title, settings) in groups() {
        let _ = writeln!(text, "\n# {title}");
        for (setting, origin) in settings.iter().zip(origins.by_ref()) {
            let line = format!("{} = {}", setting.name, setting.in_file(&(setting.get)(&resolved.config)));
            let _ = match origin {
                Origin::Default => writeln!(text, "{line}"),
                origin => writeln!(text, "{line:<40} # {origin}"),
            };
        }
    }
    debug_assert_eq!(resolved.origins.len(), SETTINGS.len());
    for line in
        resolved.warnings.iter().map(|warning| format!("warning: {warning}")).chain(memory.iter().cloned())
    {
        let _ = write!(text, "\n# {}", line.replace('\n', "\n# "));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources, resolve};

    fn resolved(text: &str) -> Resolved {
        resolve(Sources { file: Some(("suzu.toml", text)), ..Sources::default() }).unwrap()
    }

    #[test]
    fn what_is_printed_gives_the_same_configuration() {
        let first = resolved("port = 9000\nhost = 'a\\b\"c'\nqueue_delay_max = '1s 500ms'");
        let printed = describe(&first, &["at most 5 bytes".to_owned(), "two\nlines".to_owned()]);
        assert_eq!(resolved(&printed).config, first.config);
    }

    #[test]
    fn only_what_was_set_says_where() {
        let printed = describe(&resolved("\nport = 9000"), &[]);
        let lines: Vec<_> = printed.lines().filter(|line| line.contains("suzu.toml")).collect();
        assert_eq!(lines, ["port = 9000                              # suzu.toml:2"]);
        assert!(printed.contains("\nhost = \"127.0.0.1\"\n"), "{printed}");
    }

    #[test]
    fn memory_stands_at_the_end_as_comments() {
        let printed = describe(&resolved(""), &["memory: at most 300MiB".to_owned()]);
        assert!(printed.ends_with("\n\n# memory: at most 300MiB\n"), "{printed}");
        assert_eq!(resolved(&printed).config, Config::default());
    }
}
