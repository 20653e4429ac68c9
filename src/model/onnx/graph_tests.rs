//! Tests of graphs: states gathered and scattered, lanes that fail alone, plans that contradict their file.

use super::super::test_models::{engines, graphs, refusal};
use super::super::trial::difference;
use super::super::{Constant, Elements, EngineKind, Initial, StatePlan, States};
use super::*;
use crate::model::Datatype;
use proptest::prelude::*;

fn fp32(shape: &[usize], seed: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let data = (0..count).map(|index| ((index * 37 + seed * 101) % 200) as f32 / 100.0 - 1.0).collect();
    Tensor { shape: shape.to_vec(), data: TensorData::Fp32(data) }
}

fn int64(shape: &[usize], data: Vec<i64>) -> Tensor {
    Tensor::new(shape.to_vec(), TensorData::Int64(data)).expect("as many elements as the shape holds")
}

/// One call for these lanes: their states and inputs.
fn run(graph: &Graph, lanes: &mut [(&mut GraphState, Vec<Tensor>)]) -> Vec<Result<Vec<Tensor>, Failure>> {
    let views: Vec<Vec<View<'_>>> =
        lanes.iter().map(|(_, inputs)| inputs.iter().map(View::from).collect()).collect();
    let states = lanes.iter().map(|(state, _)| (**state).clone()).collect::<Vec<_>>();
    let mut states = states;
    let mut shares: Vec<GraphLane<'_>> = states
        .iter_mut()
        .zip(&views)
        .map(|(state, inputs)| GraphLane { state, inputs, outputs: Ok(Vec::new()) })
        .collect();
    graph.run(&mut shares);
    let outputs = shares.into_iter().map(|share| share.outputs).collect();
    drop(views);
    for ((state, _), new) in lanes.iter_mut().zip(states) {
        **state = new;
    }
    outputs
}

fn one(graph: &Graph, state: &mut GraphState, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    run(graph, &mut [(state, inputs)]).remove(0)
}

fn tcn_plan() -> Plan {
    let rate = Constant { input: "rate".into(), shape: None, values: vec![16_000.0] };
    Plan { constants: vec![rate], ..Plan::default() }
}

/// Each model that remembers, with its plan and what a stream hears in a step.
#[allow(clippy::type_complexity)]
fn recurrent() -> [(&'static str, Plan, fn(usize) -> Vec<Tensor>); 3] {
    [
        ("gru.onnx", Plan::default(), |seed| vec![fp32(&[1, 8], seed)]),
        // Streams that hear a different number of steps do not share a call.
        ("lstm.onnx", Plan::default(), |seed| vec![fp32(&[1, 1 + seed % 2, 4], seed)]),
        ("tcn.onnx", tcn_plan(), |seed| vec![fp32(&[1, 2, 16], seed)]),
    ]
}

fn assert_close(expected: &[Tensor], got: &[Tensor]) {
    assert_eq!(expected.len(), got.len());
    for (expected, got) in expected.iter().zip(got) {
        assert_eq!(difference(expected, got), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Within 1e-4 of 1 or of the value, as the trial at load demands.
    #[test]
    fn any_grouping_gives_what_a_stream_gets_alone(turns in prop::collection::vec(any::<u32>(), 1..12)) {
        for (name, plan, hears) in recurrent() {
            for graph in graphs(name, &plan) {
                let mut together: Vec<_> = (0..32).map(|_| graph.start()).collect();
                let mut alone = together.clone();
                for (turn, takes_part) in turns.iter().enumerate() {
                    let members: Vec<usize> = (0..32).filter(|index| takes_part >> index & 1 == 1).collect();
                    // One stream starts again in the middle of it all.
                    let fresh = (*takes_part as usize + turn) % 32;
                    together[fresh] = graph.start();
                    alone[fresh] = graph.start();
                    let mut lanes: Vec<_> = together
                        .iter_mut()
                        .enumerate()
                        .filter(|(index, _)| members.contains(index))
                        .map(|(index, state)| (state, hears(turn * 32 + index)))
                        .collect();
                    let got = run(&graph, &mut lanes);
                    for (got, &index) in got.into_iter().zip(&members) {
                        let expected = one(&graph, &mut alone[index], hears(turn * 32 + index));
                        assert_close(&expected.expect("it runs"), &got.expect("it runs"));
                        assert_close(&alone[index].tensors, &together[index].tensors);
                    }
                }
            }
        }
    }
}

#[test]
fn rows_go_in_the_calls_that_cost_least() {
    let cost = |rows, us_per_row| Timed { rows, us_per_row };
    for graph in graphs("gru.onnx", &Plan::default()) {
        // Two and three rows are dear, four are cheap.
        let graph = graph.with_costs(&[cost(1, 10.0), cost(2, 100.0), cost(4, 1.0)]);
        for lanes in 1..=9 {
            let mut states: Vec<GraphState> = (0..lanes).map(|_| graph.start()).collect();
            let mut alone = states.clone();
            let hears = |lane| vec![fp32(&[1, 8], lane)];
            let shares = states.iter_mut().enumerate().map(|(lane, state)| (state, hears(lane)));
            let got = run(&graph, &mut shares.collect::<Vec<_>>());
            for (lane, got) in got.into_iter().enumerate() {
                let expected = one(&graph, &mut alone[lane], hears(lane)).expect("it runs");
                assert_close(&expected, got.as_ref().expect("it runs"));
                if lanes < 4 {
                    // Each had a call of its own, which rounds as alone.
                    assert_eq!(expected, got.expect("it runs"));
                }
                assert_close(&alone[lane].tensors, &states[lane].tensors);
            }
        }
    }
}

#[test]
fn a_lane_with_nan_fails_alone_and_keeps_its_state() {
    for name in ["gru.onnx", "decay.onnx"] {
        for graph in graphs(name, &Plan::default()) {
            // The recurrent kernels of ONNX Runtime limit what goes through them, and NaN becomes a number.
            let swallows = name == "gru.onnx" && graph.engine().kind() == EngineKind::OnnxRuntime;
            nan_among_others(&graph, swallows);
        }
    }
}

fn nan_among_others(graph: &Graph, swallows: bool) {
    let mut states = [graph.start(), graph.start(), graph.start()];
    let inputs = |seed| vec![fp32(&[1, 8], seed)];
    for turn in 0..2 {
        let lanes = states.iter_mut().enumerate().map(|(index, state)| (state, inputs(index + turn)));
        let got = run(graph, &mut lanes.collect::<Vec<_>>());
        assert!(got.iter().all(Result::is_ok), "{got:?}");
    }
    let before = states.clone();
    let mut poisoned = fp32(&[1, 8], 5);
    if let TensorData::Fp32(data) = &mut poisoned.data {
        data[3] = f32::NAN;
    }
    let [first, second, third] = &mut states;
    let got = run(graph, &mut [(first, inputs(1)), (second, vec![poisoned]), (third, inputs(2))]);
    if swallows {
        assert!(got[1].as_ref().is_ok_and(|outputs| outputs[0].data.is_finite()), "{:?}", got[1]);
    } else {
        assert_eq!(got[1], Err(Failure::NotFinite));
        assert_eq!(states[1], before[1]);
    }
    for (lane, seed) in [(0, 1), (2, 2)] {
        let mut state = before[lane].clone();
        let expected = one(graph, &mut state, inputs(seed)).expect("it runs");
        assert_close(&expected, got[lane].as_ref().expect("it runs"));
        assert_close(&state.tensors, &states[lane].tensors);
    }
}

#[test]
fn a_lane_that_the_engine_fails_on_fails_alone() {
    for graph in graphs("brittle.onnx", &Plan::default()) {
        assert!(matches!(graph.batching(), Batching::Shared { rows_max: 32 }));
        let inputs = |index| vec![int64(&[1, 2], vec![index, 0])];
        let mut states = [graph.start(), graph.start(), graph.start()];
        let [first, second, third] = &mut states;
        let got = run(&graph, &mut [(first, inputs(1)), (second, inputs(99)), (third, inputs(2))]);
        assert!(got[0].is_ok() && got[2].is_ok());
        assert!(matches!(got[1], Err(Failure::Engine(_) | Failure::Panicked(_))), "{:?}", got[1]);
    }
}

#[test]
fn a_state_starts_where_the_plan_says() {
    let state = |initial| StatePlan { input: "sum".into(), output: "sumN".into(), shape: None, initial };
    for (initial, expected) in [(Initial::Fill(7.0), [8, 9]), (Initial::Values(vec![10.0, 20.0]), [11, 22])] {
        let plan = Plan { states: States::Declared(vec![state(initial)]), ..Plan::default() };
        for graph in graphs("counter.onnx", &plan) {
            let mut memory = graph.start();
            let got = one(&graph, &mut memory, vec![int64(&[1, 2], vec![1, 2])]).expect("it runs");
            assert_eq!(got, [int64(&[1, 2], expected.to_vec())]);
            let got = one(&graph, &mut memory, vec![int64(&[1, 2], vec![1, 2])]).expect("it runs");
            assert_eq!(got, [int64(&[1, 2], vec![expected[0] + 1, expected[1] + 2])]);
        }
    }
}

#[test]
fn a_number_beyond_what_the_engine_computes_in_is_refused_and_does_not_become_another() {
    for graph in graphs("counter.onnx", &Plan::default()) {
        let mut state = graph.start();
        let got = one(&graph, &mut state, vec![int64(&[1, 2], vec![1 << 40, 2])]);
        match graph.engine().kind() {
            EngineKind::Rten => {
                // The client's fault: it must not count against the model.
                let Err(Failure::Refused(why)) = got else { panic!("{got:?}") };
                assert!(why.contains("1099511627776") && why.contains("`input` INT64"), "{why}");
            }
            EngineKind::OnnxRuntime => assert_eq!(got, Ok(vec![int64(&[1, 2], vec![1 << 40, 2])])),
        }
    }
}

#[test]
fn every_type_goes_in_and_comes_out_as_the_file_says() {
    use half::f16;
    for engine in engines("types.onnx") {
        let datatypes: Vec<_> = engine.inputs().iter().map(|port| port.datatype).collect();
        use Datatype::{Bool, Fp16, Fp64, Int8, Int32, Int64, Uint8};
        assert_eq!(datatypes, [Int64, Int32, Fp64, Fp16, Bool, Uint8, Int8]);
        let inputs = [
            TensorData::Int64(vec![-3, 0, 3]),
            TensorData::Int32(vec![-3, 0, 3]),
            TensorData::Fp64(vec![-0.5, 0.0, 0.5]),
            TensorData::Fp16([-0.5, 0.0, 0.5].map(f16::from_f64).to_vec()),
            TensorData::Bool(vec![true, false, true]),
            TensorData::Uint8(vec![0, 1, 255]),
            TensorData::Int8(vec![-128, 0, 127]),
        ];
        let views: Vec<_> =
            inputs.iter().map(|data| View { shape: &[1, 3], data: Elements::from(data) }).collect();
        let got = engine.run(&views, &[0, 1, 2, 3, 4, 5, 6]).expect("it runs");
        let got: Vec<_> = got.into_iter().map(|tensor| tensor.data).collect();
        let expected = [
            TensorData::Int64(vec![-2, 1, 4]),
            TensorData::Int32(vec![-2, 1, 4]),
            TensorData::Fp64(vec![0.5, 1.0, 1.5]),
            TensorData::Fp16([0.5, 1.0, 1.5].map(f16::from_f64).to_vec()),
            TensorData::Bool(vec![false, true, false]),
            TensorData::Uint8(vec![0, 1, 255]),
            TensorData::Int8(vec![-128, 0, 127]),
        ];
        assert_eq!(got, expected);
    }
}

#[test]
fn a_model_that_mixes_its_rows_is_run_with_each_lane_alone() {
    for graph in graphs("mixing.onnx", &Plan::default()) {
        let Batching::Alone(why) = graph.batching() else { panic!("rows are mixed") };
        assert!(why.contains("`output` of a row depends on the other rows"), "{why}");
    }
    let why = refusal("mixing.onnx", &Plan { batch_max: Some(8), ..Plan::default() });
    assert!(why.contains("up to 8 rows are declared, but `output`"), "{why}");
}

#[test]
fn a_batch_that_is_fixed_to_one_is_run_with_each_lane_alone() {
    for graph in graphs("single.onnx", &Plan::default()) {
        assert_eq!(
            *graph.batching(),
            Batching::Alone("state `state` has no open dimension for the batch".into())
        );
        let mut states = [graph.start(), graph.start()];
        let [first, second] = &mut states;
        let got = run(&graph, &mut [(first, vec![fp32(&[1, 4], 1)]), (second, vec![fp32(&[1, 4], 2)])]);
        assert!(got.iter().all(Result::is_ok) && got[0] != got[1]);
    }
}

#[test]
fn a_plan_that_contradicts_the_file_is_refused_naming_both() {
    let state = |input: &str, output: &str, shape| {
        let state =
            StatePlan { input: input.into(), output: output.into(), shape, initial: Initial::Fill(0.0) };
        Plan { states: States::Declared(vec![state]), ..Plan::default() }
    };
    let constant = |input: &str, values: &[f64]| {
        let constant = Constant { input: input.into(), shape: None, values: values.to_vec() };
        Plan { constants: vec![constant], ..Plan::default() }
    };
    let cases = [
        (
            "gru.onnx",
            state("h1", "hn", None),
            "`h1` is declared, but the file has no such input: it has `input`, `h0`",
        ),
        ("gru.onnx", state("h0", "h1", None), "no such output: it has `probability`, `hn`"),
        (
            "gru.onnx",
            state("h0", "hn", Some(vec![None, Some(1), Some(12)])),
            "another dimension than the file has open: `h0` FP32 [?, 1, 12], the file says `h0` FP32 [1, batch, 12]",
        ),
        (
            "gru.onnx",
            state("h0", "hn", Some(vec![Some(2), None, Some(12)])),
            "declared as `h0` FP32 [2, ?, 12], the file says `h0` FP32 [1, batch, 12]",
        ),
        ("gru.onnx", state("input", "hn", None), "is `input` FP32 [?, 8], but its next value is output `hn`"),
        ("tcn.onnx", constant("rate", &[1.0, 2.0]), "has 2 values for 1 elements: `rate` INT64 []"),
        ("tcn.onnx", constant("sr", &[1.0]), "no such input: it has `input`, `cached_context`, `rate`"),
        ("gru.onnx", constant("input", &[1.0]), "needs a shape: the file says `input` FP32 [batch, 8]"),
    ];
    for (name, plan, expected) in cases {
        let why = refusal(name, &plan);
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn lanes_that_do_not_fit_are_refused_and_no_others() {
    for graph in graphs("transformer.onnx", &Plan::default()) {
        let ids = |len: usize| int64(&[1, len], vec![1; len]);
        let mut states = [graph.start(), graph.start(), graph.start()];
        let [first, second, third] = &mut states;
        let got = run(
            &graph,
            &mut [
                (first, vec![ids(3), ids(3)]),
                (second, vec![ids(3), ids(4)]),
                (third, vec![ids(5), ids(5)]),
            ],
        );
        assert!(got[0].is_ok() && got[2].is_ok());
        let Err(Failure::Refused(why)) = &got[1] else { panic!("{got:?}") };
        assert!(why.contains("`ids` has 3 in dimension 1 and `mask` has 4 in dimension 1"), "{why}");
    }
}

#[test]
fn sizes_are_measured_by_the_clock_that_is_given() {
    for graph in graphs("gru.onnx", &Plan { batch_max: Some(8), ..Plan::default() }) {
        graph.warm_up(&[1, 8]).expect("it runs");
        let time = std::cell::Cell::new(0);
        let clock = || {
            time.set(time.get() + 30);
            std::time::Duration::from_millis(time.get())
        };
        let calibration = graph.calibrate(&[8, 1, 64], &clock).expect("it runs");
        let rows: Vec<_> = calibration.table.iter().map(|timed| timed.rows).collect();
        assert_eq!((rows, calibration.best), (vec![1, 8], 8));
        assert_eq!(calibration.table[0].us_per_row, 30_000.0);
    }
}

#[test]
fn on_a_worker_thread_the_engine_computes_where_the_worker_is() {
    let graph = graphs("gru.onnx", &Plan::default()).remove(0);
    let switches = super::super::on_worker_thread(|| {
        let mut state = graph.start();
        let voluntary = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("Linux");
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.and_then(|count| count.trim().parse::<u64>().ok()).expect("a number")
        };
        one(&graph, &mut state, vec![fp32(&[1, 8], 0)]).expect("it runs");
        let before = voluntary();
        for seed in 0..1_000 {
            one(&graph, &mut state, vec![fp32(&[1, 8], seed)]).expect("it runs");
        }
        voluntary() - before
    });
    // Handing over to another thread would be one for each call at least.
    assert!(switches < 100, "{switches} context switches in 1,000 calls");
}

/// The thread's CPU time so far, microseconds: other processes do not count.
fn cpu_us() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok());
    nanos.expect("a number") / 1e3
}

/// Microseconds for each item: the engine alone with everything gathered, and the graph with all that is around it.
///
/// ```text
/// /tmp/onnx-venv/bin/python tests/data/models/make.py gru /tmp/gru.onnx 256 128
/// SUZU_GRU=/tmp/gru.onnx cargo test --release --lib onnx::graph::tests::what_gathering -- --ignored --nocapture
/// ```
#[test]
#[ignore = "needs a large model and tells times, which prove nothing"]
fn what_gathering_and_scattering_cost() {
    let path = std::path::PathBuf::from(std::env::var_os("SUZU_GRU").expect("SUZU_GRU names the model"));
    for (kind, library) in super::super::test_models::kinds() {
        let engine = super::super::open(&path, kind, library.as_deref()).expect("a file that loads");
        let graph = Graph::new(Arc::clone(&engine), &Plan::default()).expect("a plan that fits");
        super::super::on_worker_thread(|| {
            println!("{} 32 lanes together and alone: {:.1e} apart at most", kind.name(), furthest(&graph));
            for rows in [1, 8, 32] {
                let calls = 6_400 / rows;
                let (bare, whole) = (0..5)
                    .map(|_| (bare_us(&*engine, rows, calls), whole_us(&graph, rows, calls)))
                    .fold((f64::MAX, f64::MAX), |least, now| (least.0.min(now.0), least.1.min(now.1)));
                println!(
                    "{} batch {rows}: engine {bare:.1} us, graph {whole:.1} us, {:.2} times",
                    kind.name(),
                    whole / bare
                );
            }
        });
    }
}

/// How far the states of 32 lanes are at most from what they are alone, over 50 steps.
fn furthest(graph: &Graph) -> f32 {
    let mut together: Vec<_> = (0..32).map(|_| graph.start()).collect();
    let mut alone = together.clone();
    let mut furthest = 0.0f32;
    for step in 0..50 {
        let hears = |index: usize| vec![fp32(&[1, 128], step * 32 + index)];
        let lanes = together.iter_mut().enumerate().map(|(index, state)| (state, hears(index)));
        assert!(run(graph, &mut lanes.collect::<Vec<_>>()).iter().all(Result::is_ok));
        for (index, (state, together)) in alone.iter_mut().zip(&together).enumerate() {
            assert!(one(graph, state, hears(index)).is_ok());
            let (TensorData::Fp32(one), TensorData::Fp32(other)) =
                (&state.tensors[0].data, &together.tensors[0].data)
            else {
                panic!("the state is not FP32");
            };
            furthest = one.iter().zip(other).fold(furthest, |most, (x, y)| most.max((x - y).abs()));
        }
    }
    furthest
}

fn bare_us(engine: &dyn Engine, rows: usize, calls: usize) -> f64 {
    let (input, mut state) = (fp32(&[rows, 128], 1), fp32(&[1, rows, 256], 2));
    let start = cpu_us();
    for _ in 0..calls {
        let results = engine.run(&[(&input).into(), (&state).into()], &[0, 1]).expect("it runs");
        state = results.into_iter().next_back().expect("a state");
    }
    (cpu_us() - start) / (calls * rows) as f64
}

fn whole_us(graph: &Graph, rows: usize, calls: usize) -> f64 {
    let mut states: Vec<_> = (0..rows).map(|_| graph.start()).collect();
    let inputs: Vec<_> = (0..rows).map(|seed| fp32(&[1, 128], seed)).collect();
    let views: Vec<[View<'_>; 1]> = inputs.iter().map(|input| [input.into()]).collect();
    let lanes = states.iter_mut().zip(&views);
    let mut lanes: Vec<_> =
        lanes.map(|(state, inputs)| GraphLane { state, inputs, outputs: Ok(Vec::new()) }).collect();
    let start = cpu_us();
    for _ in 0..calls {
        graph.run(&mut lanes);
    }
    let taken = cpu_us() - start;
    assert!(lanes.iter().all(|lane| lane.outputs.is_ok()));
    taken / (calls * rows) as f64
}
