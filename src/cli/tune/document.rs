//! The recommended setting as a file for `suzu serve --config`.

use crate::config::{Config, SETTINGS};

/// Every setting that is not the default, under comments that say where it comes from.
pub(super) fn toml(config: &Config, comments: &[String]) -> String {
    let mut text = String::new();
    for line in comments {
        // What others have named, such as hosts and models, must not end the comment.
        let line: String = line.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        text.push_str(&format!("# {line}\n"));
    }
    let default = Config::default();
    let mut changed =
        SETTINGS.iter().filter(|setting| (setting.get)(config) != (setting.get)(&default)).peekable();
    if changed.peek().is_none() {
        text.push_str("# Every setting is the default.\n");
    }
    for setting in changed {
        text.push_str(&format!("{} = {}\n", setting.name, setting.in_file(&(setting.get)(config))));
    }
    text
}

/// This machine in a few words.
pub(super) fn host() -> String {
    let cores = crate::server::cores();
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("{}, {os} on {arch}, {cores} cores", name().unwrap_or_else(|| "a host without a name".into()))
}

fn name() -> Option<String> {
    let mut buffer = [0_u8; 256];
    // SAFETY: writes at most so many bytes to a place of its own.
    let result = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len()) };
    let length = buffer.iter().position(|&byte| byte == 0)?;
    (result == 0 && length > 0).then(|| String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, resolve};
    use proptest::prelude::*;
    use std::time::Duration;

    fn read(text: &str) -> Config {
        resolve(Sources { file: Some(("tuned.toml", text)), ..Sources::default() }).expect("it loads").config
    }

    proptest! {
        #[test]
        fn what_is_written_gives_the_same_configuration(
            batch_max in 1_usize..=1024,
            workers in 0_usize..=1024,
            delay_ms in 0_u64..=10_000,
            models_dir in r#"[a-z0-9/é '"]{1,20}"#,
            comment in ".*",
        ) {
            let queue_delay_max = Duration::from_millis(delay_ms);
            let config = Config { batch_max, workers, queue_delay_max, models_dir: models_dir.trim().into(), ..Config::default() };
            prop_assume!(!config.models_dir.is_empty());
            prop_assert_eq!(read(&toml(&config, &[comment])), config);
        }
    }

    #[test]
    fn only_what_differs_from_the_defaults_is_written() {
        let text = toml(&Config { batch_max: 8, ..Config::default() }, &["Found.".into()]);
        assert_eq!(text, "# Found.\nbatch_max = 8\n");
        assert_eq!(read(&toml(&Config::default(), &[])), Config::default());
    }

    #[test]
    fn the_host_is_told_with_its_cores() {
        assert!(host().ends_with(" cores"), "{}", host());
    }
}
