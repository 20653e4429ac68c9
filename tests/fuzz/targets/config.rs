//! Settings: whatever is accepted is written so that it is read back as the same.

use super::input::Input;
use std::ffi::OsString;
use suzu::config::{Config, SETTINGS, Setting, Sources, resolve};

/// A file of settings.
pub fn config_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match resolve(Sources { file: Some(("suzu.toml", &text)), ..Sources::default() }) {
        Ok(resolved) => survives_its_own_file(&resolved.config),
        Err(error) => assert!(!error.problems.is_empty()),
    }
}

fn survives_its_own_file(config: &Config) {
    assert_eq!(config.validate(), Ok(()));
    let line =
        |setting: &Setting| format!("{} = {}\n", setting.name, setting.in_file(&(setting.get)(config)));
    let text: String = SETTINGS.iter().map(line).collect();
    let again = resolve(Sources { file: Some(("again", &text)), ..Sources::default() });
    assert_eq!(again.map(|again| again.config).as_ref(), Ok(config), "{text}");
}

/// One value for one setting, by every way in.
pub fn config_value(data: &[u8]) {
    let mut input = Input::new(data);
    let setting = &SETTINGS[usize::from(input.byte()) % SETTINGS.len()];
    let text = String::from_utf8_lossy(input.rest());
    let mut config = Config::default();
    match (setting.set)(&mut config, &text) {
        Ok(()) => {
            let written = (setting.get)(&config);
            let mut again = Config::default();
            assert_eq!((setting.set)(&mut again, &written), Ok(()), "{text} became {written}");
            assert_eq!((&again, (setting.get)(&again)), (&config, written));
        }
        Err(refused) => {
            assert!(!refused.is_empty());
            assert_eq!(config, Config::default(), "a refused value leaves the field alone");
        }
    }
    let name = |name: &str| OsString::from(name);
    let mut variables = vec![(name(&setting.env()), name(&text)), (name(&format!("SUZU_{text}")), name("1"))];
    variables.extend(setting.legacy.iter().map(|legacy| (name(legacy.variable), name(&text))));
    let flags = [(setting.name.to_owned(), text.clone().into_owned()), (text.into_owned(), String::new())];
    for sources in [
        Sources { variables: &variables, ..Sources::default() },
        Sources { variables: &variables[..1], flags: &flags[..1], ..Sources::default() },
        Sources { flags: &flags, ..Sources::default() },
    ] {
        if let Ok(resolved) = resolve(sources) {
            assert_eq!(resolved.config.validate(), Ok(()));
        }
    }
}
