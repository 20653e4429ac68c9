//! `suzu tune` as a whole: the sweep over servers of its own, the file that comes of it, and the process it leaves behind.

use crate::cli::suzu;
use crate::support::{DEADLINE, TestServer};
use assert_cmd::Command;
use serde_json::Value;
use std::path::Path;

struct Answer {
    code: Option<i32>,
    out: String,
    err: String,
}

fn answer(command: &mut Command) -> Answer {
    let output = command.output().expect("the command starts");
    Answer {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// A quick sweep with so many clients at most.
fn tune_within(clients_max: &str, p99_max: &str, arguments: &[&str]) -> Command {
    let mut command = suzu(&["tune", "--quick", "--step", "250ms", "--warm-up", "50ms"]);
    command.args(["--clients-max", clients_max, "--p99-max", p99_max]).args(arguments);
    command
}

/// The same with a target that a busy machine meets.
fn tune(arguments: &[&str]) -> Command {
    tune_within("3", "10s", arguments)
}

fn assert_loads(file: &Path) {
    let checked = answer(suzu(&["check", "--config"]).arg(file));
    assert_eq!(checked.code, Some(0), "{}", checked.err);
}

#[test]
fn the_best_setting_is_written_as_a_file_that_loads() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let models = folder.path().to_str().expect("UTF-8");
    let mut command = tune(&["--model", "echo", "--models-dir", models]);
    command.arg("--out").arg(at("best.toml")).arg("--report").arg(at("tune.html"));
    let told = answer(command.arg("--json").arg(at("tune.json")));
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    assert!(told.out.contains("<- best") && told.out.contains("batch_max 1"), "{}", told.out);
    assert!(told.err.contains("all alike, in batches of"), "{}", told.err);
    let text = std::fs::read_to_string(at("best.toml")).expect("a file");
    for word in ["# host: ", "model echo, linear16 at 16000 Hz", "# held: 3 or more streams", "models_dir = "]
    {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
    assert_loads(&at("best.toml"));
    let json: Value = serde_json::from_slice(&std::fs::read(at("tune.json")).expect("a file")).expect("JSON");
    let rows = json["rows"].as_array().expect("rows");
    assert!(rows.len() >= 3, "{json}");
    assert!(rows.iter().all(|row| row["clients"] == 3 && row["p99_ms"].as_f64() > Some(0.0)), "{json}");
    #[cfg(target_os = "linux")]
    assert!(rows.iter().all(|row| row["cpu_us_per_message"].as_f64() > Some(0.0)), "{json}");
    assert!(rows.iter().all(|row| row["batch_mean"].as_f64() >= Some(1.0)), "{json}");
    let page = std::fs::read_to_string(at("tune.html")).expect("a file");
    assert_eq!(page.matches("<svg ").count(), 2, "{page}");
}

#[test]
fn without_a_file_what_is_printed_is_one() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("base.toml"), "batch_max = 1\nworkers = 1\nmodels_dir = \"\"\n")
        .expect("room");
    let mut command = tune_within("1", "800ms", &["--path", "/audio", "--config"]);
    let told = answer(command.arg(folder.path().join("base.toml")));
    // Ten chunks of 100 ms wait for each other, so the defaults of /audio cannot meet this.
    assert!(told.err.contains("not tried: chunks wait 900ms"), "{}", told.err);
    if told.code == Some(1) {
        // A busy machine may miss 800 ms; then nothing may be recommended.
        return assert!(told.err.contains("no setting meets the target"), "{}", told.err);
    }
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    let file = folder.path().join("printed.toml");
    std::fs::write(&file, &told.out).expect("room");
    assert_loads(&file);
    for line in ["batch_size = 1", "batch_max = 1", "workers = 1"] {
        assert!(told.out.lines().any(|printed| printed == line), "{line} is missing in\n{}", told.out);
    }
}

/// `furtive.onnx` mixes the rows of a call where they lie below zero, which the trial of a model does not show it.
#[test]
fn settings_whose_results_differ_from_unbatched_ones_are_not_recommended() {
    let folder = tempfile::tempdir().expect("a folder");
    let version = folder.path().join("furtive/1");
    std::fs::create_dir_all(&version).expect("a folder");
    std::fs::copy("tests/data/models/furtive.onnx", version.join("model.onnx")).expect("the model is there");
    let manifest = "[audio]\nsample_rate = 16000\nhop = 160\n[batch]\nmax = 64\n";
    std::fs::write(version.join("model.toml"), manifest).expect("room");
    let base = folder.path().join("base.toml");
    // Streams meet in batches without a busy machine.
    std::fs::write(&base, "queue_delay_max = \"20ms\"\nworkers = 1\n").expect("room");
    let models = folder.path().to_str().expect("UTF-8");
    let out = folder.path().join("best.toml");
    let mut command = tune(&["--model", "furtive", "--models-dir", models, "--config"]);
    let told = answer(command.arg(&base).arg("--out").arg(&out));
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    let refusal = "as it is, is not recommended: its results differ from unbatched ones: stream ";
    assert!(told.out.contains(refusal), "{}", told.out);
    assert!(told.out.contains("output `level`, window "), "{}", told.out);
    assert!(told.out.contains("best: batch_max 1;"), "{}", told.out);
    let text = std::fs::read_to_string(&out).expect("a file");
    assert!(text.lines().any(|line| line == "batch_max = 1"), "{text}");
    assert_loads(&out);
}

#[test]
fn a_running_server_is_measured_and_left_alone() {
    let server = TestServer::start();
    let url = format!("ws://{}", server.addr);
    let told = answer(&mut tune(&["--url", &url]));
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    assert!(told.err.contains("cannot be changed from outside"), "{}", told.err);
    assert!(
        told.out.contains("holds 3 or more clients") && told.out.contains("none is recommended"),
        "{}",
        told.out
    );
    assert!(!told.out.contains("batch_max"), "{}", told.out);
    let url = format!("http://{}/health/live", server.addr);
    assert_eq!(answer(&mut tune(&["--url", &url])).code, Some(0));
}

#[test]
fn a_target_that_nothing_meets_is_exit_code_1() {
    let server = TestServer::start();
    let url = format!("ws://{}", server.addr);
    let told = answer(&mut tune_within("3", "1ns", &["--url", &url]));
    assert_eq!(told.code, Some(1), "{}", told.err);
    assert!(told.err.contains("does not meet the target"), "{}", told.err);
    let told = answer(&mut tune_within("1", "1ns", &["--models-dir", ""]));
    assert_eq!(told.code, Some(1), "{}", told.err);
    assert!(told.err.contains("no setting meets the target"), "{}", told.err);
}

#[test]
fn a_setting_whose_limits_are_above_the_memory_allowed_is_left_out_and_the_sweep_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = folder.path().join("base.toml");
    // One more worker would hold one more batch of results.
    let memory =
        |mib: usize| format!("models_dir = \"\"\nbatch_max = 512\nworkers = 1\nmemory_max = \"{mib}MiB\"\n");
    let fits = |mib: &usize| {
        std::fs::write(&base, memory(*mib)).expect("room");
        answer(suzu(&["check", "--config"]).arg(&base)).code == Some(0)
    };
    let least = (1..).map(|step| step * 64).find(fits).expect("some memory is enough");
    assert!(least < 16_384, "{least}");
    let mut command = tune(&["--model", "echo", "--config"]);
    let told = answer(command.arg(&base));
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let left_out = told.err.contains("(not tried: the limits add up to");
    assert!(left_out || cores == 1, "{}", told.err);
    assert!(told.out.contains("<- best"), "{}", told.out);
}

#[test]
fn mistakes_are_exit_code_2_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "batch_maks = 3\n").expect("room");
    let path = file.to_str().expect("UTF-8");
    for (arguments, word) in [
        (&["--config", path][..], "batch_max"),
        (&["--p99-max", "soon"], "expected a duration"),
        (&["--url", "ws://127.0.0.1:9", "--config", path], "--config"),
        (&["--path", "/elsewhere"], "/audio"),
        (&["--encoding", "morse"], "linear16"),
    ] {
        let told = answer(suzu(&["tune"]).args(arguments));
        assert_eq!(told.code, Some(2), "{arguments:?}: {}", told.err);
        assert!(told.err.contains(word), "{arguments:?}: {}", told.err);
    }
    std::fs::write(&file, "memory_max = \"16MiB\"\n").expect("room");
    let told = answer(suzu(&["tune", "--config", path]).timeout(DEADLINE));
    assert_eq!(told.code, Some(2), "{}", told.err);
    assert!(told.err.contains("memory_max"), "{}", told.err);
}

/// Whatever ends the command, the server that it started ends too.
#[cfg(target_os = "linux")]
#[test]
fn the_server_does_not_outlive_the_command() {
    use procfs::process::Process;
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let clock = suzu::driver::Clock::new();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("suzu"));
        command.env_clear().args([
            "tune",
            "--models-dir",
            "",
            "--step",
            "1s",
            "--clients-max",
            "1",
            "--p99-max",
            "10s",
        ]);
        let mut parent = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        // After the first row comes the server of the next one.
        let mut line = String::new();
        BufReader::new(parent.stderr.take().expect("piped")).read_line(&mut line).expect("a row");
        let until = clock.instant() + DEADLINE;
        let child = loop {
            assert!(clock.instant() < until, "no server is started");
            let of_parent = |process: &Process| {
                let stat = process.stat().ok();
                stat.is_some_and(|stat| stat.ppid as u32 == parent.id() && stat.state != 'Z')
            };
            let mut all = procfs::process::all_processes().expect("/proc").flatten();
            if let Some(child) = all.find(of_parent) {
                break child;
            }
            std::thread::yield_now();
        };
        // SAFETY: a plain system call; the command has not been waited for, so the number is its own.
        unsafe { libc::kill(parent.id() as libc::pid_t, signal) };
        assert!(!parent.wait().expect("it is our child").success());
        while child.is_alive() {
            assert!(clock.instant() < until, "after signal {signal} the server goes on");
            std::thread::yield_now();
        }
    }
}
