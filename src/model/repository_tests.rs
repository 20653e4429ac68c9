//! The folder of models: hostile names, versions, links, and files that are no models.

use super::*;
use crate::model::{Tensor, TensorData, TensorLane};

/// A folder of models, with the named file of `tests/data/models` for each path.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    for (path, from) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("room for it");
        let from: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "data", "models", from].iter().collect();
        fs::copy(&from, &path).expect("room for it");
    }
    root
}

fn repository(root: &Path) -> Repository {
    Repository::new(root, RepositoryOptions { batch_max: 4, ..RepositoryOptions::default() })
}

fn refusal(root: &Path, name: &str) -> String {
    repository(root).load(name).err().expect("a model that is refused")
}

#[test]
fn a_folder_that_is_not_there_is_empty() {
    assert_eq!(repository(Path::new("/no/such/folder")).survey(), Ok(Survey::default()));
}

#[test]
fn the_highest_version_is_found_and_everything_else_left_alone() {
    let root = folder(&[
        ("gru/2/model.onnx", "gru.onnx"),
        ("gru/10/model.onnx", "gru.onnx"),
        ("gru/010/model.onnx", "gru.onnx"),
        ("gru/0/model.onnx", "gru.onnx"),
        ("gru/-3/model.onnx", "gru.onnx"),
        ("gru/train/model.onnx", "gru.onnx"),
        ("gru/README.md", "make.py"),
        ("gru/11/half-copied.onnx", "gru.onnx"),
        ("README.md", "make.py"),
        (".git/1/model.onnx", "gru.onnx"),
        ("notes/text", "make.py"),
        ("a b/1/model.onnx", "gru.onnx"),
    ]);
    let survey = repository(root.path()).survey().unwrap();
    let found: Vec<_> = survey.entries.iter().map(|entry| (entry.name.as_str(), entry.version)).collect();
    assert_eq!(found, [("gru", 10)]);
    assert_eq!(survey.ignored.len(), 2, "{:?}", survey.ignored);
    assert!(survey.ignored[0].contains("a b` cannot be served"), "{:?}", survey.ignored);
    assert!(survey.ignored[1].contains("notes` has no version"), "{:?}", survey.ignored);
    assert_eq!(repository(root.path()).load("gru").unwrap_or_else(|why| panic!("{why}")).version(), 10);
}

#[test]
fn names_of_strangers_do_not_leave_the_root() {
    let root = folder(&[("models/gru/1/model.onnx", "gru.onnx"), ("secret/1/model.onnx", "gru.onnx")]);
    let root = root.path().join("models");
    for name in ["../secret", "..", ".", "", "gru/1", "/etc", "gru\0", &"m".repeat(65), "ключ"] {
        assert!(refusal(&root, name).contains("is not the name of a model"), "{name:?}");
    }
    assert!(refusal(&root, "absent").contains("there is no model `absent`"));
}

#[cfg(unix)]
#[test]
fn links_out_of_the_root_are_refused_and_those_within_are_not() {
    let root = folder(&[("models/gru/1/model.onnx", "gru.onnx"), ("secret/1/model.onnx", "gru.onnx")]);
    let models = root.path().join("models");
    let link = |from: &str, to: &str| {
        let to = models.join(to);
        fs::create_dir_all(to.parent().expect("a folder")).expect("room for it");
        std::os::unix::fs::symlink(root.path().join(from), to).expect("a link");
    };
    link("secret", "whole");
    link("secret/1/model.onnx", "file/1/model.onnx");
    link("models/gru", "twin");
    let survey = repository(&models).survey().unwrap();
    let found: Vec<_> = survey.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(found, ["gru", "twin"]);
    for name in ["whole", "file"] {
        assert!(refusal(&models, name).contains("leads out of"), "{}", refusal(&models, name));
    }
}

#[test]
fn what_is_wrong_is_told_with_its_file() {
    let root = folder(&[
        ("text/1/model.onnx", "make.py"),
        ("typo/1/model.onnx", "gru.onnx"),
        ("mixing/1/model.onnx", "mixing.onnx"),
    ]);
    fs::write(root.path().join("typo/1/model.toml"), "[audio]\nsample_rat = 1\n").unwrap();
    fs::write(root.path().join("mixing/1/model.toml"), "[batch]\nmax = 4\n").unwrap();
    for (name, wanted) in [
        ("text", "model.onnx`"),
        ("typo", "model.toml:2: audio.sample_rat"),
        ("mixing", "batches of up to 4 rows"),
    ] {
        let told = refusal(root.path(), name);
        assert!(told.contains(wanted) && told.contains(&format!("{name}/1/model.")), "{told}");
    }
    let all = repository(root.path()).load_all();
    assert!(all.len() == 3 && all.iter().all(|(_, loaded)| loaded.is_err()));
}

#[test]
fn a_model_is_measured_and_no_more_rows_share_a_call_than_are_worth_it() {
    let root = folder(&[("gru/1/model.onnx", "gru.onnx")]);
    // Every look at the clock is a second later, whatever the size of the call: the largest one is the best.
    let seconds = std::sync::atomic::AtomicU64::new(0);
    let clock = move || Duration::from_secs(seconds.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let options =
        RepositoryOptions { batch_max: 6, clock: Some(Arc::new(clock)), ..RepositoryOptions::default() };
    let repository = Repository::new(root.path(), options);
    let loaded = repository.load_entry(&repository.index().unwrap()[0]).unwrap_or_else(|why| panic!("{why}"));
    let calibration = loaded.calibration.expect("it was measured");
    assert_eq!(calibration.table.iter().map(|timed| timed.rows).collect::<Vec<_>>(), [1, 2, 4, 6]);
    assert_eq!((calibration.best, loaded.served.limits().batch_max), (6, Some(6)));
    assert!(!loaded.has_manifest && loaded.served.is_stateful());
}

#[cfg(unix)]
#[test]
fn a_model_that_fails_its_trial_is_not_loaded() {
    let root = folder(&[("gru/1/model.onnx", "gru.onnx")]);
    let trial = |script: &str| Trial {
        program: "/bin/sh".into(),
        args: ["-c", script, "sh"].map(Into::into).to_vec(),
        time_max: Duration::from_secs(60),
    };
    let load = |script: &str| {
        let options = RepositoryOptions { trial: Some(trial(script)), ..RepositoryOptions::default() };
        Repository::new(root.path(), options).load("gru").err()
    };
    assert_eq!(load("test -f \"$1/model.onnx\""), None);
    let told = load("echo 'error: it is hungry' >&2; exit 1").expect("a model that is refused");
    assert!(told.ends_with("gru/1/model.onnx`: it is hungry"), "{told}");
}

#[test]
fn a_file_on_which_the_optimiser_panics_is_served_as_it_is() {
    let root = folder(&[("layer/1/model.onnx", "scalar_bias.onnx")]);
    let Served::Tensors(model) = repository(root.path()).load("layer").unwrap_or_else(|why| panic!("{why}"))
    else {
        panic!("a model of tensors")
    };
    let inputs = [Tensor { shape: vec![2, 4], data: TensorData::Fp32(vec![0.0; 8]) }];
    let mut state = model.start();
    let mut lanes = [TensorLane { state: &mut state, inputs: &inputs, outputs: Ok(Vec::new()) }];
    model.infer(&mut lanes);
    let [lane] = lanes;
    assert_eq!(lane.outputs.unwrap()[0].data, TensorData::Fp32(vec![0.5; 6]));
}
