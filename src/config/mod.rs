//! Every setting of the server: one definition for each, from which everything else follows.
//!
//! The table below gives the field of [`Config`], the key in the file, the environment variable, the flag, the
//! default, the range, the help and `docs/configuration.md`. Nothing about a setting is written anywhere else.
//! This module reads no file, no environment and no arguments: they are handed in as text ([`resolve`]).
//!
//! Invariant: a `Config` that passed [`Config::validate`] can be served; nobody checks a limit again later.

#[cfg(test)]
mod docs;
mod resolve;
mod table;
mod validate;
mod value;

pub use resolve::{Origin, Resolved, Sources, resolve};
pub use table::{Config, SETTINGS};
pub use value::{Form, LogFormat, OnnxEngine, OpenAccess, ProxyProtocol, WebhookEvents};

use std::fmt;

/// The variable that names the configuration file. Not a setting, but it begins like one.
pub const FILE_VARIABLE: &str = "SUZU_CONFIG";

/// The variable that holds the secret of webhooks where no file does. Not a setting, for settings are printed.
pub const WEBHOOK_SECRET_VARIABLE: &str = "SUZU_WEBHOOK_SECRET";

/// The definition of one setting.
#[derive(Debug)]
pub struct Setting {
    /// Its stem: the field of [`Config`] and the key in the file.
    pub name: &'static str,
    /// Title of the section that it belongs to.
    pub group: &'static str,
    /// The default, as text.
    pub default: &'static str,
    /// The least and the greatest value, as text.
    pub range: Option<(&'static str, &'static str)>,
    /// What it is counted in.
    pub unit: &'static str,
    /// How it is written in a file.
    pub form: Form,
    /// What it does.
    pub help: &'static str,
    /// Why the default is what it is.
    pub why: &'static str,
    /// Environment variables of earlier systems that set it too.
    pub legacy: &'static [Legacy],
    /// Sets it from text. The error says what is accepted.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
    /// Its value as text; `set` takes it back unchanged.
    pub get: fn(&Config) -> String,
}

/// A variable by which an earlier system knew a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Legacy {
    /// Its name.
    pub variable: &'static str,
    /// The unit of a number that stands without one; empty if the setting's own reading holds.
    pub bare_unit: &'static str,
}

impl Setting {
    /// The setting of that name.
    pub fn named(name: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    /// Its environment variable: `SUZU_PORT`.
    pub fn env(&self) -> String {
        format!("SUZU_{}", self.name.to_uppercase())
    }

    /// Its flag, without the dashes in front: `listen-backlog`.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// What it does, without the white space of the source.
    pub fn help(&self) -> &'static str {
        self.help.trim()
    }

    /// A value as it stands in a file.
    pub fn in_file(&self, value: &str) -> String {
        match self.form {
            Form::Bare => value.to_owned(),
            // No control character passes the parsers, so these two are all that TOML wants escaped.
            Form::Quoted | Form::Either => {
                format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
            }
        }
    }
}

/// The sections in the order of the table.
pub fn groups() -> impl Iterator<Item = (&'static str, &'static [Setting])> {
    SETTINGS.chunk_by(|a, b| a.group == b.group).map(|settings| (settings[0].group, settings))
}

/// All that is wrong with a configuration, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one; each names the key, the value and what is accepted.
    pub problems: Vec<String>,
}

impl ConfigError {
    /// One thing that is wrong.
    pub fn new(problem: impl Into<String>) -> Self {
        Self { problems: vec![problem.into()] }
    }

    /// `Ok` if there is nothing to complain about.
    fn unless_empty(problems: Vec<String>) -> Result<(), ConfigError> {
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_variables_and_flags_are_unique_and_share_one_stem() {
        let mut seen = std::collections::BTreeSet::new();
        for setting in SETTINGS {
            assert!(seen.insert(setting.name.to_owned()), "{} twice", setting.name);
            assert!(seen.insert(setting.env()), "{} twice", setting.env());
            for legacy in setting.legacy {
                assert!(seen.insert(legacy.variable.to_owned()), "{} twice", legacy.variable);
            }
            assert_eq!(setting.env(), format!("SUZU_{}", setting.flag().replace('-', "_").to_uppercase()));
            assert!(
                setting.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{}",
                setting.name
            );
            assert_ne!(setting.env(), FILE_VARIABLE);
            assert_ne!(setting.env(), WEBHOOK_SECRET_VARIABLE);
        }
    }

    #[test]
    fn every_setting_says_what_it_does_and_why_its_default() {
        for setting in SETTINGS {
            assert!(setting.help().ends_with('.'), "{}: {}", setting.name, setting.help());
            assert!(setting.help().len() > 20, "{}: {}", setting.name, setting.help());
            assert!(!setting.help().contains("  "), "{}: {}", setting.name, setting.help());
            assert!(
                setting.why.len() > 20 && setting.why.ends_with('.'),
                "{}: {}",
                setting.name,
                setting.why
            );
            assert!(!setting.unit.is_empty(), "{}", setting.name);
        }
    }

    #[test]
    fn every_default_is_written_as_it_would_be_printed() {
        let config = Config::default();
        for setting in SETTINGS {
            assert_eq!((setting.get)(&config), setting.default, "{}", setting.name);
        }
    }

    #[test]
    fn both_ends_of_every_range_are_accepted() {
        for setting in SETTINGS {
            let Some((min, max)) = setting.range else { continue };
            for end in [min, max] {
                let mut config = Config::default();
                assert_eq!((setting.set)(&mut config, end), Ok(()), "{} = {end}", setting.name);
                assert_eq!(
                    (setting.get)(&config),
                    end,
                    "{}: the end is not written as it is printed",
                    setting.name
                );
            }
        }
    }

    #[test]
    fn each_setting_sets_its_own_field_and_no_other() {
        for setting in SETTINGS {
            let other = match setting.range {
                Some((min, max)) => [min, max].into_iter().find(|end| *end != setting.default).unwrap(),
                None => ["json", "debug", "onnxruntime", "anywhere", "ends", "v2", "elsewhere"]
                    .into_iter()
                    .find(|word| (setting.set)(&mut Config::default(), word).is_ok())
                    .unwrap(),
            };
            let mut config = Config::default();
            (setting.set)(&mut config, other).unwrap();
            for witness in SETTINGS {
                let changed = (witness.get)(&config) != witness.default;
                assert_eq!(changed, witness.name == setting.name, "{} after {}", witness.name, setting.name);
            }
        }
    }

    #[test]
    fn a_refused_value_leaves_the_field_alone() {
        for setting in SETTINGS {
            let mut config = Config::default();
            assert!((setting.set)(&mut config, "\u{7}").is_err(), "{}", setting.name);
            assert_eq!(config, Config::default());
        }
    }

    #[test]
    fn sections_stand_together() {
        let titles: Vec<_> = groups().map(|(title, _)| title).collect();
        let unique: std::collections::BTreeSet<_> = titles.iter().collect();
        assert_eq!(titles.len(), unique.len());
    }

    #[test]
    fn a_library_user_changes_one_field() {
        let config = Config { port: 0, ..Config::default() };
        assert_eq!(config.validate(), Ok(()));
    }
}
