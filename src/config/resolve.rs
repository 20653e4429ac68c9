//! From the places where settings stand to one [`Config`].
//!
//! A flag beats a `SUZU_` variable, which beats a variable of an earlier system, which beats the file, which beats
//! the default. Whatever is unknown or cannot be read is an error that names the nearest thing that exists; all of
//! them are told at once.

use super::{Config, ConfigError, FILE_VARIABLE, Form, Legacy, SETTINGS, Setting, WEBHOOK_SECRET_VARIABLE};
use std::ffi::{OsStr, OsString};
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where settings stand, as text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    /// The file's name (for messages) and its whole text.
    pub file: Option<(&'a str, &'a str)>,
    /// The environment, all of it.
    pub variables: &'a [(OsString, OsString)],
    /// Names of settings and the values of their flags.
    pub flags: &'a [(String, String)],
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file, at that line (from 1).
    File(String, usize),
    /// An environment variable.
    Variable(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(name, line) => write!(f, "{name}:{line}"),
            Origin::Variable(name) | Origin::Flag(name) => f.write_str(name),
        }
    }
}

/// A valid configuration that knows where its values came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The values.
    pub config: Config,
    /// One for each of [`SETTINGS`], in the same order.
    pub origins: Vec<Origin>,
    /// What was left aside on purpose and should be known.
    pub warnings: Vec<String>,
}

/// Puts the sources together and validates the result.
pub fn resolve(sources: Sources<'_>) -> Result<Resolved, ConfigError> {
    let mut draft = Draft {
        config: Config::default(),
        origins: vec![Origin::Default; SETTINGS.len()],
        warnings: Vec::new(),
        problems: Vec::new(),
    };
    // From the weakest to the strongest: each overwrites what came before.
    if let Some((name, text)) = sources.file {
        draft.read_file(name, text);
    }
    draft.read_legacy_variables(sources.variables);
    draft.read_variables(sources.variables);
    for (name, value) in sources.flags {
        draft.read_flag(name, value);
    }
    draft.finish()
}

struct Draft {
    config: Config,
    origins: Vec<Origin>,
    warnings: Vec<String>,
    problems: Vec<String>,
}

impl Draft {
    fn finish(self) -> Result<Resolved, ConfigError> {
        ConfigError::unless_empty(self.problems)?;
        self.config.validate()?;
        Ok(Resolved { config: self.config, origins: self.origins, warnings: self.warnings })
    }

    /// Sets `setting` from `text`; `shown` is the assignment as the reader wrote it.
    fn set(&mut self, setting: &Setting, text: &str, origin: Origin, shown: &str) {
        match (setting.set)(&mut self.config, text) {
            Ok(()) => {
                let index = SETTINGS.iter().position(|other| other.name == setting.name);
                self.origins[index.expect("the setting is one of the table")] = origin;
            }
            Err(refused) => self.problems.push(format!("{shown}: {refused}")),
        }
    }

    fn read_file(&mut self, name: &str, text: &str) {
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(text, span.start));
                return self.problems.push(format!("{name}:{line}: not valid TOML: {}", error.message()));
            }
        };
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let line = line_of(text, key.span().start);
            self.read_entry(Origin::File(name.to_owned(), line), key.get_ref(), &value, text);
        }
    }

    fn read_entry(&mut self, origin: Origin, key: &str, value: &Spanned<DeValue<'_>>, text: &str) {
        let Some(setting) = Setting::named(key) else {
            let advice = match value.get_ref() {
                DeValue::Table(_) => "settings stand at the top level, without [sections]".to_owned(),
                _ => advice(key, SETTINGS.iter().map(|setting| setting.name.to_owned())),
            };
            return self.problems.push(format!("{origin}: unknown key `{key}`; {advice}"));
        };
        let shown = format!("{origin}: {key} = {}", text.get(value.span()).unwrap_or_default());
        match scalar(setting, value.get_ref()) {
            Ok(value) => self.set(setting, &value, origin, &shown),
            Err(refused) => self.problems.push(format!("{shown}: {refused}")),
        }
    }

    fn read_legacy_variables(&mut self, variables: &[(OsString, OsString)]) {
        for setting in SETTINGS {
            for legacy in setting.legacy {
                let Some(value) = find(variables, legacy.variable) else { continue };
                let value = value.to_string_lossy();
                let shown = format!("{}={value}", legacy.variable);
                self.set(
                    setting,
                    &with_unit(legacy, &value),
                    Origin::Variable(legacy.variable.to_owned()),
                    &shown,
                );
            }
        }
    }

    fn read_variables(&mut self, variables: &[(OsString, OsString)]) {
        let ours = variables.iter().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"SUZU_"));
        for (name, value) in ours {
            // What is not UTF-8 becomes a replacement character, which no setting but a text takes.
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            if name == FILE_VARIABLE || name == WEBHOOK_SECRET_VARIABLE {
                continue;
            }
            if is_service_link(&name, &value) {
                self.warnings
                    .push(format!("{name}={value} left aside: Kubernetes sets it for a service called suzu"));
                continue;
            }
            match SETTINGS.iter().find(|setting| setting.env() == name) {
                Some(setting) => {
                    let origin = Origin::Variable(name.clone().into_owned());
                    self.set(setting, &value, origin, &format!("{name}={value}"));
                }
                None => {
                    let others = [FILE_VARIABLE, WEBHOOK_SECRET_VARIABLE].map(str::to_owned);
                    let known = SETTINGS.iter().map(Setting::env).chain(others);
                    self.problems.push(format!("unknown variable {name}; {}", advice(&name, known)));
                }
            }
        }
    }

    fn read_flag(&mut self, name: &str, value: &str) {
        match Setting::named(name) {
            Some(setting) => {
                let flag = format!("--{}", setting.flag());
                let shown = format!("{flag} {value}");
                self.set(setting, value, Origin::Flag(flag), &shown);
            }
            None => self.problems.push(format!(
                "unknown setting {name}; {}",
                advice(name, SETTINGS.iter().map(|setting| setting.name.to_owned()))
            )),
        }
    }
}

/// The text of a value in a file, if it is written as the setting wants it.
fn scalar(setting: &Setting, value: &DeValue<'_>) -> Result<String, String> {
    let text = match value {
        DeValue::String(text) if setting.form == Form::Bare => {
            return Err(format!("write the number without quotes: {} = {text}", setting.name));
        }
        DeValue::String(text) => return Ok(text.clone().into_owned()),
        DeValue::Integer(integer) => match i128::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => number.to_string(),
            Err(_) => integer.to_string(),
        },
        DeValue::Float(float) => float.as_str().to_owned(),
        other => return Err(format!("a value of type {} is not accepted here", other.type_str())),
    };
    if setting.form == Form::Quoted {
        return Err(format!("write the value in quotes: {} = \"{text}\"", setting.name));
    }
    Ok(text)
}

/// What to do about a name that does not exist.
fn advice(name: &str, known: impl Iterator<Item = String>) -> String {
    let scored = known.map(|known| (likeness(name, &known), known));
    let nearest = scored.max_by(|(a, _), (b, _)| a.total_cmp(b)).filter(|(likeness, _)| *likeness > 0.75);
    match nearest {
        Some((_, nearest)) => format!("did you mean `{nearest}`?"),
        None => "`suzu serve --help` lists all settings".into(),
    }
}

/// From 0 to 1. Words in another order count as nearly the same: `max_connections` means `connections_max`.
fn likeness(a: &str, b: &str) -> f64 {
    let sorted = |name: &str| {
        let name = name.to_lowercase().replace('-', "_");
        let mut words: Vec<_> = name.split('_').map(str::to_owned).collect();
        words.sort_unstable();
        words.join("_")
    };
    let in_order = strsim::jaro_winkler(&a.to_lowercase(), &b.to_lowercase());
    in_order.max(strsim::jaro_winkler(&sorted(a), &sorted(b)) * 0.99)
}

/// A number that an earlier system took without a unit gets the unit that it meant.
fn with_unit(legacy: &Legacy, value: &str) -> String {
    let bare = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if bare { format!("{value}{}", legacy.bare_unit) } else { value.to_owned() }
}

/// Kubernetes gives every container variables about the services beside it. For one called `suzu` they are
/// `SUZU_SERVICE_HOST`, `SUZU_SERVICE_PORT...`, `SUZU_PORT=tcp://...` and `SUZU_PORT_8080_TCP...`.
fn is_service_link(name: &str, value: &str) -> bool {
    let digit_follows = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    name.starts_with("SUZU_SERVICE_")
        || name.strip_prefix("SUZU_PORT_").is_some_and(digit_follows)
        || (name == "SUZU_PORT" && value.contains("://"))
}

fn find<'a>(variables: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_os_str())
}

/// Counts from 1.
fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn from_file(text: &str) -> Result<Resolved, ConfigError> {
        resolve(Sources { file: Some(("suzu.toml", text)), ..Sources::default() })
    }

    fn from_env(pairs: &[(&str, &str)]) -> Result<Resolved, ConfigError> {
        resolve(Sources { variables: &variables(pairs), ..Sources::default() })
    }

    fn problems(result: Result<Resolved, ConfigError>) -> Vec<String> {
        result.expect_err("should have been refused").problems
    }

    fn origin<'a>(resolved: &'a Resolved, name: &str) -> &'a Origin {
        let index = SETTINGS.iter().position(|setting| setting.name == name).unwrap();
        &resolved.origins[index]
    }

    #[test]
    fn nothing_at_all_gives_the_defaults() {
        let resolved = resolve(Sources::default()).unwrap();
        assert_eq!(resolved.config, Config::default());
        assert!(resolved.origins.iter().all(|origin| *origin == Origin::Default));
    }

    #[test]
    fn each_place_beats_the_ones_below_it() {
        let flag = [("port".to_owned(), "5".to_owned())];
        let all = variables(&[("SUZU_PORT", "4"), ("SERVER_PORT", "3")]);
        let file = Some(("suzu.toml", "\nport = 2"));
        let mut sources = Sources { file, variables: &all, flags: &flag };
        let seen = |sources| {
            let resolved = resolve(sources).unwrap();
            (resolved.config.port, origin(&resolved, "port").to_string())
        };
        assert_eq!(seen(sources), (5, "--port".into()));
        sources.flags = &[];
        assert_eq!(seen(sources), (4, "SUZU_PORT".into()));
        sources.variables = &all[1..];
        assert_eq!(seen(sources), (3, "SERVER_PORT".into()));
        sources.variables = &[];
        assert_eq!(seen(sources), (2, "suzu.toml:2".into()));
        sources.file = None;
        assert_eq!(seen(sources), (8080, "default".into()));
    }

    #[test]
    fn every_kind_of_value_is_read_from_a_file() {
        let text = "host = \"::1\"\nport = 9_000\nmemory_max = \"1GiB\"\nbody_bytes_max = 0x1000\n\
                    queue_delay_max = \"5ms\"\ninfer_failures_max = 7\nlog_format = 'json'";
        let config = from_file(text).unwrap().config;
        let expected = Config {
            host: "::1".into(),
            port: 9000,
            memory_max: 1 << 30,
            body_bytes_max: 4096,
            queue_delay_max: Duration::from_millis(5),
            infer_failures_max: 7,
            log_format: crate::config::LogFormat::Json,
            ..Config::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        assert_eq!(
            problems(from_file(
                "queue_dely_max = \"5ms\"\nmax_connections = 5\nqueue-delay-max = '1ms'\nzzz = 1"
            )),
            [
                "suzu.toml:1: unknown key `queue_dely_max`; did you mean `queue_delay_max`?",
                "suzu.toml:2: unknown key `max_connections`; did you mean `connections_max`?",
                "suzu.toml:3: unknown key `queue-delay-max`; did you mean `queue_delay_max`?",
                "suzu.toml:4: unknown key `zzz`; `suzu serve --help` lists all settings",
            ]
        );
    }

    #[test]
    fn a_section_is_told_to_go() {
        assert_eq!(
            problems(from_file("[server]\nport = 1")),
            ["suzu.toml:1: unknown key `server`; settings stand at the top level, without [sections]"]
        );
    }

    #[test]
    fn a_wrong_value_names_the_line_the_key_the_value_and_what_is_accepted() {
        let text = "port = 70000\nqueue_delay_max = 5\nhost = 7\nworkers = \"2\"\nlog_level = \"loud\"\nport_ = 1\n\
                    body_bytes_max = \"many\"\nretry_after = true\nheaders_max = 5.5";
        assert_eq!(
            problems(from_file(text)),
            [
                "suzu.toml:1: port = 70000: expected a number from 0 to 65535",
                "suzu.toml:2: queue_delay_max = 5: expected a duration with its unit from 0ms to 10s; add a unit, \
                 such as \"5s\" or \"5ms\"",
                "suzu.toml:3: host = 7: write the value in quotes: host = \"7\"",
                "suzu.toml:4: workers = \"2\": write the number without quotes: workers = 2",
                "suzu.toml:5: log_level = \"loud\": expected one of \"off\", \"error\", \"warn\", \"info\", \
                 \"debug\", \"trace\"",
                "suzu.toml:6: unknown key `port_`; did you mean `port`?",
                "suzu.toml:7: body_bytes_max = \"many\": expected a size in bytes, such as \"64KiB\" or \"1MiB\", \
                 from 0B to 1GiB",
                "suzu.toml:8: retry_after = true: a value of type boolean is not accepted here",
                "suzu.toml:9: headers_max = 5.5: expected a number from 8 to 1000",
            ]
        );
    }

    #[test]
    fn a_file_that_is_not_toml_names_the_line() {
        let problems = problems(from_file("port = 1\nhost = "));
        assert!(problems[0].starts_with("suzu.toml:2: not valid TOML: "), "{problems:?}");
        let twice = self::problems(from_file("port = 1\n\nport = 2"));
        assert!(twice[0].starts_with("suzu.toml:3: not valid TOML: "), "{twice:?}");
    }

    #[test]
    fn an_unknown_variable_of_ours_names_the_nearest_and_others_are_left_alone() {
        assert_eq!(
            problems(from_env(&[("SUZU_PROT", "1"), ("PATH", "/bin"), ("SUZULIKE", "x")])),
            ["unknown variable SUZU_PROT; did you mean `SUZU_PORT`?"]
        );
        assert_eq!(
            problems(from_env(&[("SUZU_CONFG", "x")])),
            ["unknown variable SUZU_CONFG; did you mean `SUZU_CONFIG`?"]
        );
        assert!(from_env(&[("SUZU_WEBHOOK_SECRET", "not a setting, for it would be printed")]).is_ok());
    }

    #[test]
    fn a_wrong_variable_is_shown_as_it_was_set() {
        assert_eq!(
            problems(from_env(&[("SUZU_PORT", "")])),
            ["SUZU_PORT=: expected a number from 0 to 65535"]
        );
        assert_eq!(
            problems(from_env(&[("MAX_CLIENTS", "lots")])),
            ["MAX_CLIENTS=lots: expected a number from 1 to 1000000"]
        );
    }

    #[test]
    fn the_variables_of_the_earlier_system_still_work() {
        let pairs =
            [("SERVER_PORT", "9001"), ("BATCH_SIZE", "5"), ("FLUSH_TIMEOUT", "1500"), ("MAX_CLIENTS", "7")];
        let config = from_env(&pairs).unwrap().config;
        let expected = Config {
            port: 9001,
            batch_size: 5,
            flush_timeout: Duration::from_millis(1500),
            sessions_max: 7,
            ..Config::default()
        };
        assert_eq!(config, expected);
        let with_unit = from_env(&[("FLUSH_TIMEOUT", "3s")]).unwrap().config;
        assert_eq!(with_unit.flush_timeout, Duration::from_secs(3));
        assert!(
            from_env(&[("SUZU_FLUSH_TIMEOUT", "1500")]).is_err(),
            "only the old name goes without a unit"
        );
    }

    #[test]
    fn what_kubernetes_says_about_a_service_called_suzu_is_left_aside_with_a_warning() {
        let links = [
            ("SUZU_SERVICE_HOST", "10.0.0.1"),
            ("SUZU_SERVICE_PORT_HTTP", "80"),
            ("SUZU_PORT", "tcp://10.0.0.1:80"),
            ("SUZU_PORT_80_TCP_ADDR", "10.0.0.1"),
        ];
        let resolved = from_env(&links).unwrap();
        assert_eq!(resolved.config, Config::default());
        assert_eq!(resolved.warnings.len(), links.len());
    }

    #[test]
    fn a_wrong_flag_is_shown_as_it_was_given() {
        let flags = [("queue_delay_max".to_owned(), "5".to_owned())];
        let problems = problems(resolve(Sources { flags: &flags, ..Sources::default() }));
        assert!(problems[0].starts_with("--queue-delay-max 5: expected a duration"), "{problems:?}");
    }

    #[test]
    fn values_that_disagree_are_refused_after_all_places_were_read() {
        assert!(from_env(&[("MAX_CLIENTS", "20000")]).is_err());
        assert!(from_env(&[("MAX_CLIENTS", "20000"), ("SUZU_CONNECTIONS_MAX", "20000")]).is_ok());
    }

    proptest! {
        #[test]
        fn no_file_makes_the_parser_panic(text in "([a-z_]{0,9} ?= ?[^\n]{0,12}\n){0,5}") {
            let _ = from_file(&text);
        }

        #[test]
        fn what_is_written_to_a_file_is_read_back(host in "[ -~é]{1,20}", port: u16, size in 0usize..1 << 20) {
            prop_assume!(!host.trim().is_empty());
            let config = Config { host, port, body_bytes_max: size, ..Config::default() };
            let text: String = SETTINGS
                .iter()
                .map(|setting| format!("{} = {}\n", setting.name, setting.in_file(&(setting.get)(&config))))
                .collect();
            prop_assert_eq!(from_file(&text).map(|resolved| resolved.config), Ok(config));
        }
    }
}
