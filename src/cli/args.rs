//! Flags made of the table of settings, and the configuration that comes of arguments, environment and file.

use super::{Error, Variables};
use crate::config::{FILE_VARIABLE, Resolved, SETTINGS, Setting, Sources, resolve};
use clap::builder::ValueParser;
use clap::{Arg, ArgMatches};
use std::path::{Path, PathBuf};

/// The id of `--config`.
const FILE: &str = "config";

/// Width of the long help. clap indents it by 10 and wraps nothing itself.
const HELP_COLUMNS: usize = 88;

/// `--config` and a flag for every setting.
pub(super) fn configuration() -> impl Iterator<Item = Arg> {
    let file = Arg::new(FILE)
        .long("config")
        .short('c')
        .value_name("FILE")
        .value_parser(ValueParser::path_buf())
        .help(format!("Read settings from this TOML file [env: {FILE_VARIABLE}]"));
    std::iter::once(file).chain(SETTINGS.iter().map(flag))
}

fn flag(setting: &'static Setting) -> Arg {
    let default = format!("[default: {}]", setting.default);
    let help = wrap(&format!("{} {}", setting.help(), setting.why));
    Arg::new(setting.name)
        .long(setting.flag())
        .value_name(setting.unit.to_uppercase())
        .allow_negative_numbers(true)
        .help_heading(setting.group)
        .help(format!("{} {default}", headline(setting.help())))
        .long_help(format!("{help}\n{default} [env: {}]", variables_of(setting)))
}

/// The first clause, which fits on a line.
fn headline(help: &str) -> &str {
    let end = help.find(['.', ';', ':', '(']).filter(|end| help[*end..].contains(' ')).unwrap_or(help.len());
    help[..end].trim_end_matches(['.', ' '])
}

/// The text in lines of at most [`HELP_COLUMNS`].
fn wrap(text: &str) -> String {
    let mut column = 0;
    let mut lines = String::new();
    for word in text.split_whitespace() {
        let width = word.chars().count();
        let joint = match column {
            0 => "",
            column if column + 1 + width <= HELP_COLUMNS => " ",
            _ => "\n",
        };
        column = if joint == " " { column + 1 + width } else { width };
        lines.push_str(joint);
        lines.push_str(word);
    }
    lines
}

fn variables_of(setting: &Setting) -> String {
    let legacy = setting.legacy.iter().map(|legacy| legacy.variable.to_owned());
    std::iter::once(setting.env()).chain(legacy).collect::<Vec<_>>().join(", ")
}

/// Reads the file, if one is named, and puts everything together. `--config` beats [`FILE_VARIABLE`].
pub(super) fn load(matches: &ArgMatches, variables: &Variables) -> Result<Resolved, Error> {
    let from_variable = || {
        let named = variables.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty());
        named.map(|(_, value)| PathBuf::from(value))
    };
    let path = matches.get_one::<PathBuf>(FILE).cloned().or_else(from_variable);
    load_file(path.as_deref(), matches, variables)
}

/// The same with the file named by the caller.
pub(super) fn load_file(
    path: Option<&Path>,
    matches: &ArgMatches,
    variables: &Variables,
) -> Result<Resolved, Error> {
    let file = path.map(|path| read(path).map(|text| (path.display().to_string(), text))).transpose()?;
    let flags: Vec<_> = SETTINGS.iter().filter_map(|setting| given(matches, setting)).collect();
    let file = file.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    Ok(resolve(Sources { file, variables, flags: &flags })?)
}

/// The text of a configuration file.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| {
        let path = path.display();
        Error::usage(format!(
            "cannot read the configuration file {path}: {error}. Check the path given by --config or {FILE_VARIABLE}."
        ))
    })
}

fn given(matches: &ArgMatches, setting: &Setting) -> Option<(String, String)> {
    matches.get_one::<String>(setting.name).map(|value| (setting.name.to_owned(), value.clone()))
}

/// The variable that has a client's credentials, if no flag does: a command line can be seen by others.
pub(super) const TOKEN_VARIABLE: &str = "SUZU_TOKEN";

/// The flag that gives a client's credentials.
pub(super) fn token() -> Arg {
    Arg::new("token")
        .long("token")
        .value_name("TOKEN")
        .help(format!("The token or key to show to the server; better set {TOKEN_VARIABLE}"))
}

/// The header field that shows a client's credentials, if it was given some.
pub(super) fn authorization(matches: &ArgMatches, variables: &Variables) -> Option<(String, String)> {
    let of_variable = || {
        let found = variables.iter().find(|(name, value)| name == TOKEN_VARIABLE && !value.is_empty());
        found.map(|(_, value)| value.to_string_lossy().into_owned())
    };
    let token = matches.get_one::<String>("token").cloned().or_else(of_variable)?;
    Some(("Authorization".into(), format!("Bearer {}", token.trim())))
}

/// What was given as `--NAME NAME=VALUE`, in its order.
pub(super) fn pairs(matches: &ArgMatches, name: &str) -> Result<Vec<(String, String)>, Error> {
    let pairs = matches.get_many::<String>(name).into_iter().flatten();
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(Error::usage(format!("--{name} {pair}: expected NAME=VALUE"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_help_is_wrapped_and_loses_no_word() {
        for setting in SETTINGS {
            let wrapped = wrap(setting.why);
            assert!(wrapped.lines().all(|line| line.chars().count() <= HELP_COLUMNS), "{wrapped}");
            assert!(wrapped.split_whitespace().eq(setting.why.split_whitespace()));
        }
    }

    #[test]
    fn a_headline_is_the_first_clause() {
        assert_eq!(headline("Port to listen on; 0 takes any."), "Port to listen on");
        assert_eq!(headline("One sentence."), "One sentence");
        for setting in SETTINGS {
            assert!((10..90).contains(&headline(setting.help()).len()), "{}", headline(setting.help()));
        }
    }
}
