//! `suzu models check` as the owner of a model meets it: explanations, refusals and exit codes.

use crate::cli::suzu;
use crate::support::DEADLINE;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use tempfile::TempDir;

/// `gru.onnx` hears eight samples at a time.
const GRU: &str = r#"description = "Speech or not"
[audio]
sample_rate = 16000
hop = 8
[[output]]
name = "probability"
kind = "probability"
[postprocess]
kind = "speech"
"#;

/// `tcn.onnx` hears sixteen frames of two bands, of which eight are those of the window before. What the file asks for
/// besides is [`RATE`].
const TCN_WITHOUT_RATE: &str = r#"[audio]
sample_rate = 16000
window = 170
hop = 80
[features]
n_mels = 2
win = 20
hop = 10
"#;
const RATE: &str = "[[const]]\nname = \"rate\"\nvalue = 16000\n";

/// A manifest with which `tcn.onnx` is served.
fn tcn() -> String {
    [TCN_WITHOUT_RATE, RATE].concat()
}

struct Answer {
    status: ExitStatus,
    out: String,
    err: String,
}

/// Runs the command in an empty environment, so that the machine's own variables decide nothing. What takes longer
/// than the deadline is killed and has no exit code.
fn check(folder: &Path, flags: &[&str]) -> Answer {
    let mut command = suzu(&["models", "check"]);
    command.arg(folder).args(flags).timeout(DEADLINE);
    let output = command.output().expect("the command starts");
    Answer {
        status: output.status,
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// A folder in which all is well: its explanation.
fn explained(folder: &Path) -> String {
    let answer = check(folder, &[]);
    assert_eq!((answer.status.code(), answer.err.as_str()), (Some(0), ""), "{}", answer.out);
    answer.out
}

/// A folder in which something is wrong: what is said about it.
fn refused(folder: &Path) -> String {
    let answer = check(folder, &[]);
    assert_eq!((answer.status.code(), answer.out.as_str()), (Some(1), ""), "{}", answer.err);
    assert!(answer.err.starts_with("error: "), "{}", answer.err);
    answer.err
}

fn assert_tells(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in\n{text}");
    }
}

/// A file of this repository.
fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Puts a file of `tests/data/models` into a version's folder, with a `model.toml` unless it would be empty.
pub fn put(root: &Path, version: &str, file: &str, manifest: &str) {
    let folder = root.join(version);
    fs::create_dir_all(&folder).expect("room for it");
    let from = in_repository("tests/data/models").join(file);
    fs::copy(from, folder.join("model.onnx")).expect("room for it");
    if !manifest.is_empty() {
        fs::write(folder.join("model.toml"), manifest).expect("room for it");
    }
}

/// A folder of models: the folder of each version, its file and its `model.toml`, see [`put`].
pub fn folder(models: &[(&str, &str, &str)]) -> TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    for (version, file, manifest) in models {
        put(root.path(), version, file, manifest);
    }
    root
}

#[test]
fn models_that_hear_streams_are_explained_with_their_inputs_states_and_hop() {
    let tcn = tcn();
    let root = folder(&[("gru/1", "gru.onnx", GRU), ("tcn/7", "tcn.onnx", &tcn)]);
    let gru = explained(&root.path().join("gru"));
    assert_tells(
        &gru,
        &[
            "gru/1: gru version 1",
            "Speech or not",
            "audio streams",
            "`input` FP32 [batch, 8], rows along dimension 0",
            "`probability` FP32 [batch, 1], rows along dimension 0",
            "`h0` FP32 [1, batch, 12] <- `hn`, rows along dimension 1, 48 B a row",
            "16000 Hz; window 8 samples (0.5 ms), hop 8 samples (0.5 ms)",
            "speech: starts at 0.5, goes on at 0.35",
            "for each stream",
            "1 s of a tone, 2000 windows",
        ],
    );
    let tcn = explained(&root.path().join("tcn"));
    assert_tells(
        &tcn,
        &[
            "tcn/7: tcn version 7",
            "audio streams",
            "`input` FP32 [batch, 2, 16], rows along dimension 0",
            "`cached_context` FP32 [batch, 2, 4] <- `new_cached_context`, rows along dimension 0, 32 B a row",
            "`rate` INT64 [] = 16000",
            "window 170 samples (10.625 ms), hop 80 samples (5 ms)",
            "log-mel spectrum of 2 bands; window 20 samples (1.25 ms), hop 10 samples (0.625 ms)",
            "200 windows",
        ],
    );
}

#[test]
fn models_of_tensors_are_explained_without_a_manifest() {
    let cases: [(&str, &[&str]); 7] = [
        ("gru.onnx", &["`h0` FP32 [1, batch, 12] <- `hn`", "for each sequence", "zeros of [1, 8]"]),
        (
            "lstm.onnx",
            &[
                "`input` FP32 [batch, steps, 4]",
                "`h_in` FP32 [1, batch, 8] <- `h_out`, rows along dimension 1",
                "`c_in` FP32 [1, batch, 8] <- `c_out`, rows along dimension 1",
            ],
        ),
        ("tcn.onnx", &["`rate` INT64 [], the same for all rows", "<- `new_cached_context`"]),
        (
            "conv.onnx",
            &["`input` FP32 [batch, 3, length]", "none: it remembers nothing", "`scores` [1, 4]: "],
        ),
        (
            "single.onnx",
            &["`state` FP32 [1, 4] <- `stateN`, for one row only", "each row has a call of its own"],
        ),
        ("mixing.onnx", &["each row has a call of its own", "depends on the other rows of its call"]),
        ("brittle.onnx", &["`input` INT64 [batch, 2]", "`output` [1, 2]: "]),
    ];
    for (file, words) in cases {
        let root = folder(&[("m/1", file, "")]);
        let text = explained(root.path());
        assert_tells(&text, words);
        assert_tells(&text, &["m version 1", "not there: everything is found out", "requests with tensors"]);
    }
}

#[test]
fn a_manifest_that_contradicts_the_file_is_refused_naming_both_sides() {
    let cases = [
        (
            "gru.onnx",
            "[[state]]\ninput = \"h1\"\noutput = \"hn\"\n",
            ["state `h1` is declared", "the file has no such input: it has `input`, `h0`"],
        ),
        (
            "gru.onnx",
            "[[state]]\ninput = \"h0\"\noutput = \"h1\"\n",
            ["state `h1` is declared", "the file has no such output: it has `probability`, `hn`"],
        ),
        (
            "gru.onnx",
            "[[state]]\ninput = \"h0\"\noutput = \"hn\"\nshape = [1, \"batch\", 128]\n",
            ["is declared as `h0` FP32 [1, ?, 128]", "the file says `h0` FP32 [1, batch, 12]"],
        ),
        (
            "gru.onnx",
            "[audio]\nsample_rate = 16000\nhop = 10\n",
            ["the file says `input` FP32 [batch, 8]", "audio would be put before it as [1, 10]"],
        ),
        (
            "tcn.onnx",
            TCN_WITHOUT_RATE,
            ["a stream brings audio for `input` alone", "the file also asks for `rate`"],
        ),
        (
            "gru.onnx",
            "[[const]]\nname = \"rate\"\nvalue = 1\n",
            ["constant `rate` is declared", "it has `input`, `h0`"],
        ),
        (
            "conv.onnx",
            "[[output]]\nname = \"scores\"\nlabels = [\"rain\"]\n",
            ["1 labels are declared", "`scores` FP32 [batch, 4]"],
        ),
        (
            "conv.onnx",
            "[[output]]\nname = \"score\"\n",
            ["output `score` is described", "the model gives `scores`"],
        ),
        (
            "single.onnx",
            "[batch]\nmax = 8\n",
            ["batches of up to 8 rows are declared", "state `state` has no open dimension for the batch"],
        ),
        (
            "mixing.onnx",
            "[batch]\nmax = 4\n",
            ["batches of up to 4 rows are declared", "`output` of a row depends on the other rows"],
        ),
    ];
    for (file, manifest, sides) in cases {
        let root = folder(&[("m/1", file, manifest)]);
        let told = refused(root.path());
        assert_tells(&told, &sides);
        assert_tells(&told, &["m/1/model.onnx`"]);
    }
}

#[test]
fn a_manifest_that_is_wrong_by_itself_is_refused_with_its_line() {
    for (manifest, words) in [
        ("[audio]\nsample_rate = 16000\n", ["m/1/model.toml:1: audio", "missing field `hop`"]),
        (
            "[audio]\nhop = 8\nsample_rat = 16000\n",
            ["m/1/model.toml:3: audio.sample_rat: unknown field", "expected one of `input`, `sample_rate`"],
        ),
        (
            "# A model.\ndescripton = \"Speech or not\"\n",
            ["m/1/model.toml:2: descripton: unknown field", "expected one of `description`"],
        ),
    ] {
        let root = folder(&[("m/1", "gru.onnx", manifest)]);
        assert_tells(&refused(root.path()), &words);
    }
}

/// The bound is one of the address space, which Linux keeps.
#[cfg(target_os = "linux")]
#[test]
fn a_model_that_asks_for_more_memory_than_it_may_is_ended_with_a_word_about_it() {
    use std::os::unix::process::ExitStatusExt;
    let root = folder(&[("hungry/1", "hungry.onnx", ""), ("gru/1", "gru.onnx", "")]);
    for flags in [&["--memory-max", "256MiB"][..], &["--memory-max", "256MiB", "--quiet"]] {
        let answer = check(&root.path().join("hungry"), flags);
        assert_ne!(answer.status.signal(), Some(libc::SIGKILL), "it did not end within {DEADLINE:?}");
        assert!(!answer.status.success(), "{}", answer.out);
        assert!(answer.err.starts_with("memory allocation of "), "{}", answer.err);
        assert_eq!(answer.out, "");
        // The bound leaves enough for what is modest.
        let modest = check(&root.path().join("gru"), flags);
        assert_eq!((modest.status.code(), modest.err.as_str()), (Some(0), ""));
    }
}

#[test]
fn a_folder_without_models_is_told_how_it_should_look() {
    let empty = folder(&[]);
    let layout = "holds no model: models are in `<folder of models>/<name>/<version>/model.onnx`";
    assert_tells(&refused(empty.path()), &[layout, &empty.path().display().to_string()]);
    // The model is there, the folder of its version is not.
    let flat = folder(&[("gru", "gru.onnx", "")]);
    assert_tells(&refused(flat.path()), &["gru` has no version", "gru/1/model.onnx`"]);
    assert_tells(&refused(&flat.path().join("gru")), &[layout]);
    assert_tells(&refused(&empty.path().join("nowhere")), &["nowhere` is no folder; name a folder"]);
}

#[test]
fn every_model_of_a_folder_is_explained_though_some_are_wrong() {
    let root = folder(&[
        ("conv/1", "conv.onnx", ""),
        ("gru/1", "gru.onnx", ""),
        ("tcn/1", "tcn.onnx", TCN_WITHOUT_RATE),
        ("text/1", "make.py", ""),
        ("two words/1", "gru.onnx", ""),
    ]);
    let answer = check(root.path(), &[]);
    assert_eq!(answer.status.code(), Some(1), "{}", answer.out);
    assert_tells(&answer.out, &["conv version 1", "gru version 1"]);
    assert_tells(&answer.err, &["tcn/1/model.onnx`", "text/1/model.onnx`", "two words` cannot be served"]);
    for wrong in ["tcn version", "text version", "two words version"] {
        assert!(!answer.out.contains(wrong), "{}", answer.out);
    }
}

#[test]
fn a_version_is_named_by_itself_and_a_model_means_its_highest() {
    let root = folder(&[("gru/1", "gru.onnx", ""), ("gru/2", "gru.onnx", ""), ("gru/10", "gru.onnx", "")]);
    for (named, version) in
        [("", "10"), ("gru", "10"), ("gru/1", "1"), ("gru/2/model.onnx", "2"), ("gru/10/", "10")]
    {
        let text = explained(&root.path().join(named));
        assert_tells(&text, &[&format!("gru/{version}: gru version {version}\n")]);
        assert_eq!(text.matches(": gru version ").count(), 1, "{text}");
    }
}

#[test]
fn quiet_says_nothing_while_all_is_well() {
    let tcn = tcn();
    let root =
        folder(&[("conv/1", "conv.onnx", ""), ("gru/1", "gru.onnx", GRU), ("tcn/1", "tcn.onnx", &tcn)]);
    let answer = check(root.path(), &["--quiet"]);
    assert_eq!((answer.status.code(), answer.out.as_str(), answer.err.as_str()), (Some(0), "", ""));
    put(root.path(), "tcn/1", "tcn.onnx", TCN_WITHOUT_RATE);
    let answer = check(root.path(), &["--quiet"]);
    assert_eq!((answer.status.code(), answer.out.as_str()), (Some(1), ""));
    assert_tells(&answer.err, &["error: ", "tcn/1/model.onnx`", "the file also asks for `rate`"]);
}

#[test]
fn the_digits_of_the_repository_are_explained() {
    let text = explained(&in_repository("models/digits"));
    assert_tells(
        &text,
        &[
            "digits version ",
            "audio streams",
            "16000 Hz; window 320 samples (20 ms), hop 320 samples (20 ms)",
            "zero, one, two, three, four, five, six, seven, eight, nine",
            "keyword: from ",
            "1 s of a tone, 50 windows",
        ],
    );
    let answer = check(&in_repository("models"), &["--quiet"]);
    assert_eq!((answer.status.code(), answer.out.as_str(), answer.err.as_str()), (Some(0), "", ""));
}
