//! Small ONNX files that hear streams: cutting and company do not matter, and contradictions are told.

use super::super::test_models::engines;
use super::super::{ModelOptions, open_model};
use super::*;
use crate::model::rehearsal::{Heard, play};
use crate::model::{Run, Served, StreamState, execute};
use proptest::prelude::*;

const RATE_HZ: u32 = 16_000;

const GRU: &str = "[audio]\nsample_rate = 16000\nhop = 8\n[[output]]\nname = \"probability\"\nkind = \"probability\"\n\
                   [postprocess]\nkind = \"speech\"\non = 0.5\noff = 0.45\nmin_on = 1\nmin_off = 1\npad = 0";

/// Sixteen frames of two bands, of which eight are those of the window before.
const TCN: &str = "[audio]\nsample_rate = 16000\nwindow = 170\nhop = 80\n[features]\nn_mels = 2\nwin = 20\nhop = 10\n\
                   [[const]]\nname = \"rate\"\nvalue = 16000";

fn options() -> ModelOptions {
    ModelOptions { elements_max: 1_000, file_bytes: 5_000, costs: Vec::new() }
}

fn opened(file: &str, text: &str) -> Vec<Result<Served, String>> {
    let manifest = Manifest::parse("model.toml", text).expect("a right manifest");
    engines(file).into_iter().map(|engine| open_model("m", 3, &manifest, engine, &options())).collect()
}

/// A file on every engine.
fn models(file: &str, text: &str) -> Vec<Arc<dyn Model>> {
    let audio = |served: Result<Served, String>| {
        served.expect("a manifest that fits").audio().expect("a model that hears streams").clone()
    };
    opened(file, text).into_iter().map(audio).collect()
}

fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..len).map(|n| next() * if n / 300 % 2 == 0 { 0.8 } else { 0.05 }).collect()
}

/// All streams in one batch, each whole.
fn play_together(model: &Arc<dyn Model>, streams: &[Vec<f32>]) -> Vec<Heard> {
    let run = |samples: &Vec<f32>| {
        let state = StreamState::new(&**model, RATE_HZ).expect("a rate that is served");
        Run::new(Box::new(state), samples.clone(), true)
    };
    let mut runs: Vec<_> = streams.iter().map(run).collect();
    execute(&**model, &mut runs);
    let heard = |run: &Run| {
        let mut heard = Heard::default();
        heard.add(&run.outcome);
        heard
    };
    runs.iter().map(heard).collect()
}

/// Kernels sum in another order for another number of rows.
fn assert_near(one: &Heard, other: &Heard) {
    assert_eq!((one.windows, &one.failures), (other.windows, &other.failures));
    for (one, other) in one.outputs.iter().zip(&other.outputs) {
        assert_eq!(one.len(), other.len());
        for (x, y) in one.numbers().zip(other.numbers()) {
            assert!((x - y).abs() <= 1e-4 * x.abs().max(1.0), "{x} and {y}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_cutting_into_runs_gives_the_same_bits(
        len in 1usize..1_200,
        seed in any::<u32>(),
        cuts in proptest::collection::vec(1usize..9, 1..6),
    ) {
        for (file, text) in [("gru.onnx", GRU), ("tcn.onnx", TCN)] {
            for model in models(file, text) {
                let samples = noise(seed, len);
                let whole = play(&model, RATE_HZ, &samples, &[10_000]);
                let parts = play(&model, RATE_HZ, &samples, &cuts);
                prop_assert_eq!(&whole.failures, &[]);
                prop_assert_eq!(whole.windows, len.div_ceil(model.spec().hop));
                prop_assert_eq!(Heard { duration_ms: whole.duration_ms, ..parts }, whole);
            }
        }
    }

    #[test]
    fn company_in_a_batch_does_not_matter(lens in proptest::collection::vec(0usize..900, 1..6)) {
        for (file, text) in [("gru.onnx", GRU), ("tcn.onnx", TCN)] {
            for model in models(file, text) {
                prop_assert!(model.spec().batched);
                let streams: Vec<_> = lens.iter().enumerate().map(|(n, &len)| noise(n as u32, len)).collect();
                for (samples, together) in streams.iter().zip(play_together(&model, &streams)) {
                    assert_near(&play(&model, RATE_HZ, samples, &[10_000]), &together);
                }
            }
        }
    }
}

#[test]
fn what_a_window_becomes_does_not_depend_on_the_windows_before_it() {
    for layout in ["", "layout = [\"batch\", \"features\", \"frames\"]\n"] {
        let text = TCN.replace("[features]", &format!("{layout}[features]"));
        let manifest = Manifest::parse("model.toml", &text).expect("a right manifest");
        let audio = manifest.audio.as_ref().expect("audio");
        let sides = audio.layout.clone().unwrap_or_default();
        let ear = Ear::new(&manifest, audio, &sides);
        let samples = noise(5, 170 + 5 * 80);
        let (mut memory, mut bench) = (ear.start(), ear.bench());
        for step in 0..6 {
            let window = ear.window(&samples, step);
            let (mut fresh, mut own) = (ear.start(), ear.bench());
            bench.clear();
            ear.hear(window, &mut memory, &mut bench);
            ear.hear(window, &mut fresh, &mut own);
            let heard = ear.heard(0, window, &memory, &bench);
            assert_eq!(heard.len(), 32);
            assert_eq!(heard, ear.heard(0, window, &fresh, &own));
            // The first band of the second frame.
            let place = if layout.is_empty() { 2 } else { 1 };
            let (mut second, mut own) = (ear.start(), ear.bench());
            ear.hear(&[&window[10..], &[0.0; 10]].concat(), &mut second, &mut own);
            assert_eq!(heard[place], ear.heard(0, window, &second, &own)[0]);
        }
    }
}

#[test]
fn audio_goes_in_scaled_and_comes_back_as_it_was_scaled() {
    let text =
        "[audio]\nsample_rate = 16000\nhop = 4\nscale = 2\n[[output]]\nname = \"output\"\nkind = \"pcm\"";
    let samples = noise(3, 42);
    for model in models("single.onnx", text) {
        assert!(model.spec().audio_out && !model.spec().batched && model.spec().outputs.is_empty());
        let heard = play(&model, RATE_HZ, &samples, &[1, 3]);
        let mut state = [0.0f32; 4];
        for (n, sample) in samples.iter().enumerate() {
            let sum = sample * 2.0 + state[n % 4];
            state[n % 4] = sum / 2.0;
            assert!((heard.audio[n] - sum.tanh() / 2.0).abs() < 1e-5, "sample {n}");
        }
        assert_eq!(heard.audio.len(), samples.len());
    }
}

#[test]
fn a_lane_that_is_not_finite_fails_alone() {
    let text =
        TCN.replace("hop = 80", "hop = 80\nscale = 1e20").replace("hop = 10\n", "hop = 10\nlog = \"none\"\n");
    let mut streams: Vec<Vec<f32>> =
        (0..3).map(|seed| noise(seed, 400).iter().map(|sample| sample * 1e-9).collect()).collect();
    let well = streams.clone();
    streams[1][200] = 1.0;
    for model in models("tcn.onnx", &text) {
        let together = play_together(&model, &streams);
        assert_eq!(together[1].failures, [Failure::NotFinite]);
        for index in [0, 2] {
            assert_near(&play(&model, RATE_HZ, &well[index], &[10_000]), &together[index]);
        }
    }
}

#[test]
fn logits_become_probabilities() {
    let mut row = [1_000.0, 1_000.0];
    activate(Activation::Softmax, &mut row);
    assert_eq!(row, [0.5, 0.5]);
    let mut row = [0.0, -1_000.0, 1_000.0];
    activate(Activation::Sigmoid, &mut row);
    assert_eq!(row, [0.5, 0.0, 1.0]);
    let text = "[audio]\nsample_rate = 16000\nhop = 160\n[features]\nn_mels = 3\nwin = 40\nhop = 10\n[[output]]\n\
                name = \"scores\"\nkind = \"logits\"\nlabels = [\"a\", \"b\", \"c\", \"d\"]\n[postprocess]\nkind = \"classify\"";
    for model in models("conv.onnx", text) {
        let heard = play(&model, RATE_HZ, &noise(1, 800), &[1]);
        let rows = heard.probabilities().chunks_exact(4);
        assert_eq!(rows.len(), 5);
        // The file's own softmax is within 0..=1, so that another one over it hardly tells them apart.
        for row in rows {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(row.iter().all(|p| (0.1..0.5).contains(p)), "{row:?}");
        }
        assert_eq!(&*model.spec().outputs[0].labels[3], "d");
    }
}

#[test]
fn the_specification_tells_what_the_file_does() {
    for model in models("gru.onnx", GRU) {
        let spec = model.spec();
        assert_eq!((&*spec.name, spec.version, spec.sample_rate_hz), ("m", 3, Some(16_000)));
        assert_eq!((spec.window, spec.hop, spec.latency, spec.audio_out), (8, 8, 0, false));
        assert_eq!(
            spec.outputs,
            [OutputSpec { shape: vec![1], ..OutputSpec::scalar("probability", Datatype::Fp32) }]
        );
        assert_eq!(spec.limits.batch_max, Some(32));
        assert!(spec.weights_bytes > 10_000 && spec.state_bytes > 48);
    }
    for served in opened("gru.onnx", "") {
        let Ok(Served::Tensors(model)) = served else { panic!("a model of tensors without [audio]") };
        assert_eq!((model.spec().version, model.spec().elements_max), (3, 1_000));
        assert!(model.spec().weights_bytes >= 10_000);
    }
}

#[test]
fn what_contradicts_the_file_is_told_with_both_sides() {
    let audio = |rest: &str| format!("[audio]\nsample_rate = 16000\nhop = 8\n{rest}");
    let cases = [
        (
            "gru.onnx",
            audio("window = 10"),
            "the file says `input` FP32 [batch, 8], but audio would be put before it as [1, 10] or",
        ),
        (
            "gru.onnx",
            audio("layout = [\"batch\", 1, \"samples\"]"),
            "the file says `input` FP32 [batch, 8], but audio.layout makes [1, 1, 8]",
        ),
        ("gru.onnx", audio("input = \"h0\""), "audio.input is `h0`, which is not among"),
        (
            "tcn.onnx",
            TCN.split("[[const]]").next().unwrap_or_default().to_owned(),
            "audio for `input` alone, but the file also asks for `rate`",
        ),
        ("counter.onnx", audio(""), "audio goes into `input` INT64"),
        (
            "gru.onnx",
            audio("[[output]]\nname = \"speech\""),
            "output `speech` is described, but the model gives `probability`",
        ),
        (
            "gru.onnx",
            audio("[[output]]\nname = \"probability\"\nkind = \"pcm\""),
            "gives 1 samples for each window, but audio.hop is 8",
        ),
        (
            "gru.onnx",
            audio("[[output]]\nname = \"probability\"\nlabels = [\"a\", \"b\"]"),
            "output `probability` has 2 labels, but its rows are [1]",
        ),
        (
            "conv.onnx",
            "[audio]\nsample_rate = 16000\nhop = 160\n[features]\nn_mels = 3\nwin = 40\nhop = 10\n\
             [[axis]]\nname = \"input\"\naxis = 2"
                .into(),
            "declared at dimension 2, but audio is put before it with the batch at dimension 0",
        ),
        (
            "conv.onnx",
            "[audio]\nsample_rate = 16000\nhop = 160\n[features]\nn_mels = 3\nwin = 40\nhop = 10\n\
             [[sample]]\ninput = \"input\"\nshape = [1, 3, 9]"
                .into(),
            "a sample of `input` is declared [1, 3, 9], but a window of audio is [1, 3, 13]",
        ),
        (
            "gru.onnx",
            audio("[[sample]]\ninput = \"input\"\nshape = [1, 9]"),
            "the sample shape of `input` is declared [1, 9], the file says `input` FP32 [batch, 8]",
        ),
        (
            "single.onnx",
            "[audio]\nsample_rate = 16000\nhop = 4\n[batch]\nmax = 8".into(),
            "batches of up to 8 rows are declared, but",
        ),
    ];
    for (file, text, wanted) in cases {
        for served in opened(file, &text) {
            let error = served.err().unwrap_or_else(|| panic!("{file} takes {text}"));
            assert!(error.contains(wanted), "{error} for {wanted}");
        }
    }
}
