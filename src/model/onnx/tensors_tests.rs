//! Tests of models of tensors over graphs.

use super::super::Plan;
use super::super::test_models::graphs;
use super::*;
use crate::model::TensorData;

fn plan() -> TensorsPlan {
    TensorsPlan { name: "m".into(), version: 1, elements_max: 1_000, ..TensorsPlan::default() }
}

fn models(name: &str) -> Vec<OnnxTensors> {
    let serve = |graph| OnnxTensors::new(Arc::new(graph), plan()).expect("a plan that fits");
    graphs(name, &Plan::default()).into_iter().map(serve).collect()
}

fn fp32(shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    Tensor { shape: shape.to_vec(), data: TensorData::Fp32(vec![0.5; count]) }
}

#[test]
fn the_specification_is_the_graph_without_its_states() {
    for model in models("gru.onnx") {
        let spec = model.spec();
        assert!(spec.stateful && spec.batched && spec.limits.batch_max == Some(32));
        assert_eq!(spec.inputs.len(), 1);
        assert_eq!(spec.inputs[0].shape, [Dim::Any, Dim::Fixed(8)]);
        assert_eq!(&*spec.outputs[0].name, "probability");
    }
    for model in models("single.onnx") {
        assert!(model.spec().stateful && !model.spec().batched);
    }
}

#[test]
fn requests_of_any_rows_and_lengths_get_what_they_get_alone() {
    for model in models("conv.onnx") {
        let requests = [vec![fp32(&[2, 3, 20])], vec![fp32(&[1, 3, 20])], vec![fp32(&[3, 3, 9])]];
        let mut states: Vec<State> = requests.iter().map(|_| model.start()).collect();
        let mut lanes: Vec<_> = states
            .iter_mut()
            .zip(&requests)
            .map(|(state, inputs)| TensorLane { state, inputs, outputs: Ok(Vec::new()) })
            .collect();
        model.infer(&mut lanes);
        let shapes: Vec<_> =
            lanes.iter().map(|lane| lane.outputs.as_ref().expect("it runs")[0].shape.clone()).collect();
        assert_eq!(shapes, [vec![2, 4], vec![1, 4], vec![3, 4]]);
    }
}

#[test]
fn the_memory_of_another_model_is_refused() {
    for model in models("conv.onnx") {
        let mut state: State = Box::new(());
        let inputs = [fp32(&[1, 3, 20])];
        let mut lanes = [TensorLane { state: &mut state, inputs: &inputs, outputs: Ok(Vec::new()) }];
        model.infer(&mut lanes);
        assert!(matches!(lanes[0].outputs, Err(Failure::Refused(_))));
    }
}

#[test]
fn labels_that_do_not_fit_are_refused_naming_both() {
    let graph = Arc::new(graphs("conv.onnx", &Plan::default()).remove(0));
    let serve = |output: &str, count: usize| {
        let labels = vec![(output.to_owned(), vec![Arc::from("label"); count])];
        OnnxTensors::new(Arc::clone(&graph), TensorsPlan { labels, ..plan() }).err()
    };
    assert_eq!(serve("scores", 4), None);
    assert_eq!(
        serve("scores", 3).as_deref(),
        Some("3 labels are declared for output `scores` FP32 [batch, 4]")
    );
    assert_eq!(
        serve("score", 4).as_deref(),
        Some("labels are declared for output `score`, but the model gives `scores`")
    );
}
