//! The promises of the pipeline, kept for all models and rates: cutting does not matter, neighbours do not matter,
//! lengths add up, and a failing model harms nobody else.

use super::rehearsal::{Heard, play};
use super::*;
use crate::reason::Reason;
use proptest::prelude::*;

const RATES_HZ: [u32; 8] = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 44_101, 48_000];

fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    // Louder and quieter by turns, so that it is not all alike to the models.
    (0..len).map(|n| next() * if n / 3_000 % 2 == 0 { 0.8 } else { 0.05 }).collect()
}

/// How a [`Mock`] misbehaves when it hears a sample above 0.99.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mischief {
    None,
    Panic,
    Told,
    NotANumber,
    NoRow,
    ShortAudio,
}

/// A model with a window longer than its hop that adds up what it hears, and gives the middle of each window back,
/// four samples late.
struct Mock {
    spec: ModelSpec,
    mischief: Mischief,
}

impl Mock {
    fn model(batched: bool, mischief: Mischief) -> Arc<dyn Model> {
        let spec = ModelSpec {
            name: "mock".into(),
            version: 1,
            description: "For tests.".into(),
            sample_rate_hz: Some(16_000),
            window: 100,
            hop: 64,
            latency: 4,
            audio_out: true,
            outputs: vec![OutputSpec::scalar("sum", Datatype::Fp32)],
            state_bytes: 64,
            batched,
            weights_bytes: 0,
            limits: ModelLimits::default(),
        };
        Arc::new(Self { spec, mischief })
    }
}

struct Memory {
    sum: f32,
    late: Vec<f32>,
}

impl Model for Mock {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        Box::new(Memory { sum: 0.0, late: vec![0.0; 4] })
    }

    fn infer(&self, lanes: &mut [Lane<'_>]) {
        for lane in lanes {
            assert!(lane.count == 0 || lane.samples.len() == (lane.count - 1) * 64 + 100);
            let memory: &mut Memory = lane.state.downcast_mut().expect("the state that `start` made");
            for index in 0..lane.count {
                let window = &lane.samples[index * 64..index * 64 + 100];
                memory.sum += window.iter().sum::<f32>();
                memory.late.extend_from_slice(&window[..64]);
                lane.findings.outputs[0].push_f32(memory.sum);
                lane.findings.audio.extend(memory.late.drain(..64));
                if window.iter().any(|&sample| sample > 0.99) {
                    match self.mischief {
                        Mischief::None => {}
                        Mischief::Panic => panic!("heard it"),
                        Mischief::Told => *lane.failure = Some(Failure::Engine("heard it".into())),
                        Mischief::NotANumber => lane.findings.audio[0] = f32::NAN,
                        Mischief::NoRow => lane.findings.outputs[0].truncate(0),
                        Mischief::ShortAudio => lane.findings.audio.truncate(1),
                    }
                }
            }
        }
    }
}

fn models() -> Vec<Arc<dyn Model>> {
    let mut registry = Registry::builtin();
    registry.insert(Mock::model(true, Mischief::None));
    registry.audio().cloned().collect()
}

fn check_sums(model: &Arc<dyn Model>, rate_hz: u32, len: usize, heard: &Heard) {
    let spec = model.spec();
    let length_ms = len as f64 * 1000.0 / f64::from(rate_hz);
    assert!((heard.duration_ms - length_ms).abs() < 1e-6, "{} of {length_ms}", heard.duration_ms);
    let window_ms = spec.hop as f64 * 1000.0 / f64::from(spec.rate_for(rate_hz));
    assert!((heard.windows as f64 - length_ms / window_ms).abs() < 1.0 + 1e-9, "{}", heard.windows);
    assert!(heard.outputs.iter().all(|output| output.len() == heard.windows));
    assert_eq!(heard.audio.len(), if spec.audio_out { len } else { 0 });
    assert_eq!(heard.failures, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_cutting_into_runs_gives_the_same_bits_and_the_sums_are_right(
        rate in 0..RATES_HZ.len(),
        model in 0usize..4,
        len in 1usize..30_000,
        seed in any::<u32>(),
        cuts in proptest::collection::vec(0usize..9, 1..6),
    ) {
        let (model, rate_hz) = (&models()[model], RATES_HZ[rate]);
        prop_assume!(cuts.iter().any(|&units| units > 0));
        let samples = noise(seed, len);
        let whole = play(model, rate_hz, &samples, &[10_000]);
        check_sums(model, rate_hz, len, &whole);
        let parts = play(model, rate_hz, &samples, &cuts);
        prop_assert!((whole.duration_ms - parts.duration_ms).abs() < 1e-6);
        prop_assert_eq!(Heard { duration_ms: whole.duration_ms, ..parts }, whole);
    }

    #[test]
    fn neighbours_in_a_batch_do_not_matter(
        batched in any::<bool>(),
        builtin in 0usize..4,
        lens in proptest::collection::vec(0usize..4_000, 1..6),
        rates in proptest::collection::vec(0..RATES_HZ.len(), 6),
    ) {
        let model = match builtin {
            3 => Mock::model(batched, Mischief::None),
            index => models()[index].clone(),
        };
        let streams: Vec<_> = lens.iter().enumerate().map(|(i, &len)| (RATES_HZ[rates[i]], noise(i as u32, len))).collect();
        for (alone, together) in streams
            .iter()
            .map(|(rate_hz, samples)| play(&model, *rate_hz, samples, &[10_000]))
            .zip(play_together(&model, &streams))
        {
            prop_assert_eq!(alone, together);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_lane_that_a_batched_model_says_it_failed_leaves_its_neighbours_as_if_they_were_alone(
        lens in proptest::collection::vec(0usize..4_000, 2..7),
        troubled in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
    ) {
        let model = Mock::model(true, Mischief::Told);
        let mut streams: Vec<_> =
            lens.iter().enumerate().map(|(i, &len)| (16_000, noise(i as u32, len))).collect();
        let troubled = troubled.index(streams.len());
        prop_assume!(lens[troubled] > 0);
        let at = at.index(lens[troubled]);
        streams[troubled].1[at] = 1.0;
        let together = play_together(&model, &streams);
        for (index, ((rate_hz, samples), together)) in streams.iter().zip(together).enumerate() {
            if index == troubled {
                prop_assert_eq!(together.failures, [Failure::Engine("heard it".into())]);
                prop_assert!(together.audio.iter().all(|&sample| sample == 0.0));
            } else {
                prop_assert_eq!(play(&model, *rate_hz, samples, &[10_000]), together);
            }
        }
    }
}

/// All streams in one batch, each whole.
fn play_together(model: &Arc<dyn Model>, streams: &[(u32, Vec<f32>)]) -> Vec<Heard> {
    let run = |(rate_hz, samples): &(u32, Vec<f32>)| {
        let state = StreamState::new(&**model, *rate_hz).expect("a rate that is served");
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

#[test]
fn a_stream_that_never_said_anything_gives_nothing() {
    for model in models() {
        for rate_hz in RATES_HZ {
            let heard = play(&model, rate_hz, &[], &[1]);
            assert_eq!((heard.windows, heard.duration_ms), (0, 0.0));
            assert_eq!((heard.audio.len(), heard.events.len()), (0, 0));
        }
    }
}

#[test]
fn a_single_sample_gives_one_window() {
    for model in models() {
        for rate_hz in RATES_HZ {
            let heard = play(&model, rate_hz, &[0.25], &[1]);
            assert_eq!(heard.windows, 1, "{} at {rate_hz} Hz", model.spec().name);
            check_sums(&model, rate_hz, 1, &heard);
        }
    }
}

#[test]
fn audio_comes_back_untouched_by_delays_where_nothing_is_resampled() {
    let samples = noise(7, 5_003);
    assert_eq!(play(&Mock::model(false, Mischief::None), 16_000, &samples, &[1, 4]).audio, samples);
}

#[test]
fn samples_after_the_end_count_as_silence() {
    let model = Registry::builtin().get("echo").expect("a model inside the binary");
    let mut padded = noise(3, 500);
    let short = play(&model, 16_000, &padded, &[1]);
    padded.resize(640, 0.0);
    let full = play(&model, 16_000, &padded, &[1]);
    assert_eq!(short.outputs, full.outputs);
    assert_eq!((short.duration_ms, full.duration_ms), (31.25, 40.0));
}

#[test]
fn only_rates_that_are_served_are_taken() {
    for model in models() {
        for rate_hz in [8_000, 44_101, 48_000] {
            assert!(unit(model.spec(), rate_hz).is_ok_and(|unit| unit > 0));
        }
        for rate_hz in [0, 1, 7_999, 48_001, u32::MAX] {
            let fault = StreamState::new(&*model, rate_hz).err().expect("not served");
            assert_eq!(fault.reason, Reason::InvalidAudioFormat);
            assert_eq!(fault.param.as_deref(), Some("sample_rate"));
            assert_eq!(unit(model.spec(), rate_hz), Err(fault));
        }
    }
}

/// Three runs of a stream whose second holds the sample that the mock cannot stand.
fn play_trouble(model: &Arc<dyn Model>, neighbour: bool) -> (Vec<Outcome>, Vec<Outcome>) {
    let mut samples = noise(11, 640 * 3).iter().map(|sample| sample * 0.5).collect::<Vec<_>>();
    samples[700] = 1.0;
    let quiet = vec![0.1; 640 * 3];
    let state = || Box::new(StreamState::new(&**model, 16_000).expect("a rate that is served"));
    let mut runs = vec![Run::new(state(), Vec::new(), false)];
    if neighbour {
        runs.push(Run::new(state(), Vec::new(), false));
    }
    let (mut troubled, mut others) = (Vec::new(), Vec::new());
    for (index, part) in samples.chunks(640).enumerate() {
        for (slot, run) in runs.iter_mut().enumerate() {
            run.samples = if slot == 0 { part } else { &quiet[index * 640..][..640] }.to_vec();
            run.last = index == 2;
        }
        execute(&**model, &mut runs);
        troubled.push(std::mem::take(&mut runs[0].outcome));
        others.extend(runs.get_mut(1).map(|run| std::mem::take(&mut run.outcome)));
    }
    (troubled, others)
}

#[test]
fn a_failing_model_loses_its_run_and_goes_on_afresh() {
    let cases = [
        (Mischief::Panic, Failure::Panicked("heard it".into())),
        (Mischief::Told, Failure::Engine("heard it".into())),
        (Mischief::NotANumber, Failure::NotFinite),
        (Mischief::NoRow, Failure::WrongShape),
        (Mischief::ShortAudio, Failure::WrongShape),
    ];
    let (well, _) = play_trouble(&Mock::model(false, Mischief::None), false);
    for (mischief, failure) in cases {
        let (outcomes, _) = play_trouble(&Mock::model(false, mischief), false);
        let failures: Vec<_> = outcomes.iter().map(|outcome| outcome.failure.clone()).collect();
        assert_eq!(failures, [None, Some(failure), None], "{mischief:?}");
        for (outcome, well) in outcomes.iter().zip(&well) {
            let position = |outcome: &Outcome| (outcome.windows, outcome.start_ms, outcome.duration_ms);
            assert_eq!(position(outcome), position(well), "{mischief:?}");
            assert_eq!(outcome.findings.audio.len(), well.findings.audio.len(), "{mischief:?}");
        }
        let lost = &outcomes[1].findings;
        assert!(lost.outputs[0].is_empty() && lost.events.is_empty());
        assert!(lost.audio.iter().all(|&sample| sample == 0.0), "silence in place of what was lost");
        // The state began anew: four samples of its delay, then audio at the right place again.
        assert_eq!(outcomes[2].findings.audio[4..], well[2].findings.audio[4..], "{mischief:?}");
        assert_ne!(outcomes[2].findings.outputs, well[2].findings.outputs, "the sum began anew");
    }
}

#[test]
fn a_failure_stays_with_its_stream_unless_the_model_wants_batches() {
    let (_, well) = play_trouble(&Mock::model(false, Mischief::None), true);
    let bits = |outcomes: &[Outcome]| outcomes.iter().map(|o| o.findings.audio.clone()).collect::<Vec<_>>();
    for (batched, mischief, spared) in [
        (false, Mischief::Panic, true),
        (false, Mischief::NoRow, true),
        (true, Mischief::NoRow, true),
        (true, Mischief::Told, true),
        (true, Mischief::Panic, false),
    ] {
        let (_, others) = play_trouble(&Mock::model(batched, mischief), true);
        assert_eq!(others[1].failure.is_none(), spared, "batched {batched}, {mischief:?}");
        assert!(others[0].failure.is_none() && others[2].failure.is_none());
        assert_eq!(bits(&others) == bits(&well), spared, "batched {batched}, {mischief:?}");
    }
}
