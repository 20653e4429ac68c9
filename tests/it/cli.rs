//! The command line as a person meets it: texts, exit codes, and which stream they go to.

use assert_cmd::Command;
use std::io::Write;

/// The command in an empty environment, so that the machine's own variables decide nothing.
pub fn suzu(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("suzu"));
    command.env_clear().args(args);
    command
}

struct Answer {
    code: i32,
    out: String,
    err: String,
}

fn answer(command: &mut Command) -> Answer {
    let output = command.output().expect("the command starts");
    Answer {
        code: output.status.code().expect("the command ends by itself"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("room for it");
    file
}

#[test]
fn help_names_the_commands_and_shows_examples() {
    let help = answer(&mut suzu(&["--help"]));
    assert_eq!(help.code, 0, "{}", help.err);
    for word in ["serve", "check", "Examples:", "--version"] {
        assert!(help.out.contains(word), "{word} is missing in\n{}", help.out);
    }
    assert!(
        !help.out.contains("--queue-delay-max"),
        "the settings belong into the help of serve:\n{}",
        help.out
    );
}

#[test]
fn help_of_serve_shows_every_setting_under_its_heading() {
    for which in ["-h", "--help"] {
        let help = answer(&mut suzu(&["serve", which]));
        assert_eq!(help.code, 0, "{}", help.err);
        for (title, settings) in suzu::config::groups() {
            assert!(help.out.contains(&format!("{title}:\n")), "{title} is missing in\n{}", help.out);
            for setting in settings {
                assert!(help.out.contains(&format!("--{} <", setting.flag())), "{} is missing", setting.name);
            }
        }
    }
    assert!(answer(&mut suzu(&["serve", "--help"])).out.contains("[env: SUZU_PORT, SERVER_PORT]"));
}

#[test]
fn version_is_the_crates() {
    let version = answer(&mut suzu(&["--version"]));
    assert_eq!((version.code, version.out.trim()), (0, concat!("suzu ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn wrong_arguments_end_with_2_and_name_the_nearest() {
    let flag = answer(&mut suzu(&["serve", "--prot", "1"]));
    assert_eq!((flag.code, flag.out.as_str()), (2, ""));
    assert!(flag.err.contains("'--port'"), "{}", flag.err);
    let command = answer(&mut suzu(&["chekc"]));
    assert_eq!(command.code, 2);
    assert!(command.err.contains("'check'"), "{}", command.err);
}

#[test]
fn check_without_anything_prints_the_defaults_as_toml() {
    let check = answer(&mut suzu(&["check"]));
    assert_eq!((check.code, check.err.as_str()), (0, ""));
    for setting in suzu::config::SETTINGS {
        let line = format!("\n{} = {}\n", setting.name, setting.in_file(setting.default));
        assert!(check.out.contains(&line), "{line} is missing in\n{}", check.out);
    }
}

#[test]
fn check_says_where_each_value_came_from_and_reads_its_own_output() {
    let given = file("batch_max = 8\nport = 1\nworkers = 2\n");
    let path = given.path().to_str().expect("a plain path");
    let mut command = suzu(&["check", path, "--workers", "3"]);
    let first = answer(command.env("SUZU_PORT", "9000").env("MAX_CLIENTS", "50"));
    assert_eq!(first.code, 0, "{}", first.err);
    let origin = |name: &str| {
        let line =
            first.out.lines().find(|line| line.starts_with(&format!("{name} = "))).expect("every setting");
        line.split_once(" # ").map(|(value, origin)| (value.trim().to_owned(), origin.to_owned()))
    };
    assert_eq!(origin("batch_max"), Some(("batch_max = 8".into(), format!("{path}:1"))));
    assert_eq!(origin("port"), Some(("port = 9000".into(), "SUZU_PORT".into())));
    assert_eq!(origin("sessions_max"), Some(("sessions_max = 50".into(), "MAX_CLIENTS".into())));
    assert_eq!(origin("workers"), Some(("workers = 3".into(), "--workers".into())));
    assert_eq!(origin("host"), None);

    let again = file(&first.out);
    let second = answer(&mut suzu(&["check", again.path().to_str().expect("a plain path")]));
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned()).collect()
    };
    assert_eq!(values(&second.out)[1..], values(&first.out)[1..]);
}

#[test]
fn check_tells_everything_that_is_wrong_at_once_and_ends_with_1() {
    let given = file("prot = 1\nqueue_delay_max = 5\n");
    let path = given.path().to_str().expect("a plain path");
    let check = answer(suzu(&["check", path, "--batch-max", "0"]).env("SUZU_WORKRES", "1"));
    assert_eq!((check.code, check.out.as_str()), (1, ""));
    for part in [
        "error: ",
        &format!("{path}:1: unknown key `prot`; did you mean `port`?"),
        &format!("{path}:2: queue_delay_max = 5: expected a duration with its unit"),
        "unknown variable SUZU_WORKRES; did you mean `SUZU_WORKERS`?",
        "--batch-max 0: expected a number from 1 to 1024",
    ] {
        assert!(check.err.contains(part), "{part:?} is missing in\n{}", check.err);
    }
}

#[test]
fn the_file_comes_from_the_flag_before_the_variable() {
    let (one, two) = (file("port = 1"), file("port = 2"));
    let check = answer(suzu(&["check"]).env("SUZU_CONFIG", one.path()));
    assert!(check.out.contains("\nport = 1 "), "{}", check.out);
    let check = answer(suzu(&["check", "--config"]).arg(two.path()).env("SUZU_CONFIG", one.path()));
    assert!(check.out.contains("\nport = 2 "), "{}", check.out);
}

#[test]
fn serve_refuses_a_wrong_configuration_with_2() {
    for args in
        [&["--port", "http"][..], &["serve", "--port", "-1"], &["serve", "--config", "/nowhere/suzu.toml"]]
    {
        let serve = answer(&mut suzu(args));
        assert_eq!((serve.code, serve.out.as_str()), (2, ""), "{args:?}");
        assert!(serve.err.starts_with("error: "), "{}", serve.err);
    }
    let serve = answer(suzu(&[]).env("SUZU_PORT", "http"));
    assert_eq!(serve.code, 2);
    assert!(serve.err.contains("SUZU_PORT=http: expected a number from 0 to 65535"), "{}", serve.err);
    assert!(serve.err.contains("suzu check"), "{}", serve.err);
}
