//! What can be wrong with a `model.toml`, and what is said of it.

use super::*;

fn problems(text: &str) -> Vec<String> {
    Manifest::parse("m/1/model.toml", text).expect_err(text).problems
}

const AUDIO: &str = "[audio]\nsample_rate = 16000\nhop = 320\n";

#[test]
fn an_empty_file_is_a_model_of_tensors_with_states_found_by_name() {
    let manifest = Manifest::parse("model.toml", "").unwrap();
    assert_eq!(manifest, Manifest::default());
    assert_eq!(manifest.plan(), Plan::default());
}

#[test]
fn what_is_no_such_file_is_told_with_line_section_and_key() {
    let cases = [
        ("hue = 1", "m/1/model.toml:1: hue: unknown field `hue`, expected"),
        ("[audio]\nsample_rate = 16000\nhop = \"x\"", "m/1/model.toml:3: audio.hop: invalid type: string"),
        ("[audio]\nhop = 320", "missing field `sample_rate`"),
        ("platform = \"tf\"", "m/1/model.toml:1: platform: unknown platform `tf`, expected `onnx_rten`"),
        (
            "[batch]\nmax_wait = \"soon\"",
            "m/1/model.toml:2: batch.max_wait: `soon` is no time, expected one such",
        ),
        (
            "[[output]]\nname = \"y\"\nkind = \"odd\"",
            "m/1/model.toml:3: output.kind: unknown variant `odd`, expected",
        ),
        (
            "[[const]]\nname = \"r\"\nvalue = \"x\"",
            "m/1/model.toml:3: const.value: a number, true, false, or a list",
        ),
    ];
    for (text, wanted) in cases {
        let found = problems(text);
        assert!(found.len() == 1 && found[0].contains(wanted), "{found:?} for {wanted:?}");
    }
    assert!(
        problems("[postprocess]\nkind = \"classify\"\non = 1")[0].contains("unknown field `on`, expected")
    );
}

#[test]
fn every_broken_rule_is_told_with_both_sides() {
    let audio = |rest: &str| format!("{AUDIO}{rest}");
    let cases = [
        (audio("window = 100"), "audio.window: 100 is less than audio.hop, 320"),
        (audio("channels = 2"), "audio.channels: 2 are not served"),
        (audio("latency = 8"), "audio.latency: it is of audio given back"),
        (
            audio("layout = [\"samples\"]"),
            "audio.layout: without [features] it has each of batch, samples once",
        ),
        (audio("[features]\nn_mels = 4\nwin = 400\nhop = 160"), "features.win: 400 samples do not fit"),
        (audio("window = 400\n[features]\nn_mels = 4\nwin = 400\nhop = 150"), "features.hop: audio.hop, 320"),
        (
            audio("window = 400\n[features]\nn_mels = 4\nwin = 400\nhop = 160\nmean = [1, 2]"),
            "features.mean: 2 numbers",
        ),
        (
            audio("[postprocess]\nkind = \"speech\"\non = 0.3"),
            "postprocess.off: 0.35 is above postprocess.on, 0.3",
        ),
        (
            audio("[postprocess]\nkind = \"speech\"\npad = 900"),
            "postprocess.pad: 900ms is more than postprocess.min_off",
        ),
        (audio("[postprocess]\nkind = \"keyword\"\nsmooth = 0"), "postprocess.smooth: 0 windows"),
        ("[postprocess]\nkind = \"classify\"".into(), "postprocess: it is for models that hear streams"),
        (
            "[batch]\nmax = 8\npreferred = [4, 16]".into(),
            "batch.preferred: use sizes from 1 to batch.max (8)",
        ),
        (
            "[[const]]\nname = \"r\"\nshape = [3]\nvalue = [1, 2]".into(),
            "const `r`.value: 2 elements, but const.shape holds 3",
        ),
        (
            "[[state]]\ninput = \"h\"\noutput = \"hn\"\nshape = [1, 4]".into(),
            "state `h`.shape: it has \"batch\" once",
        ),
        ("[[output]]\nname = \"y\"\nactivation = \"sigmoid\"".into(), "output `y`.activation: only kind"),
        (
            "[[output]]\nname = \"y\"\nkind = \"pcm\"".into(),
            "output `y`.kind: \"pcm\" is for models that hear",
        ),
    ];
    for (text, wanted) in cases {
        let found = problems(&text);
        assert!(found.iter().any(|problem| problem.contains(wanted)), "{found:?} for {wanted:?}");
        assert!(found.iter().all(|problem| problem.starts_with("m/1/model.toml: ")), "{found:?}");
    }
}

#[test]
fn states_and_constants_become_a_plan() {
    let text = "[[state]]\ninput = \"h\"\noutput = \"hn\"\nshape = [2, \"batch\"]\ninit = [1, 2]\n\
                [[const]]\nname = \"sr\"\ndtype = \"int64\"\nvalue = 16000\n[[output]]\nname = \"z\"\nkind = \"unused\"";
    let plan = Manifest::parse("model.toml", text).unwrap().plan();
    let state = StatePlan {
        input: "h".into(),
        output: "hn".into(),
        shape: Some(vec![Some(2), None]),
        initial: Initial::Values(vec![1.0, 2.0]),
    };
    assert_eq!(plan.states, States::Declared(vec![state]));
    assert_eq!(plan.constants[0].values, [16_000.0]);
    assert_eq!(plan.hidden, ["z"]);
    assert_eq!(Manifest::parse("model.toml", "state = []").unwrap().plan().states, States::Declared(vec![]));
}
