//! The Open Inference Protocol: what a request holds is what its text says, within the limits; what is read can be
//! written and is then read as the same; and whatever a request asks of a model is answered or refused.

use super::input::Input;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::slice;
use std::str::FromStr;
use std::sync::Arc;
use suzu::model::{Datatype, Dim, Tensor, TensorData, TensorSpec, elements};
use suzu::reason::{Fault, Reason};
use suzu::wire::oip::{
    InferLimits, InferRequest, InferResponse, OutputTensor, SequenceKey, check_audio, check_inputs,
    check_outputs, parse_index, parse_load,
};

/// Small enough for a short input to exceed each of them.
const LIMITS: InferLimits = InferLimits { tensors_max: 4, elements_max: 256 };
/// A fault may repeat two things that the peer wrote: 64 characters of each, an escaped one of ten bytes at most.
const FAULT_BYTES_MAX: usize = 2048;
/// serde_json makes values of no more than 127 brackets within each other.
const NESTING_MAX: usize = 127;

/// A request for inference: as JSON, as JSON with binary tensors behind it, and as the bytes of one tensor alone.
pub fn infer(data: &[u8]) {
    let mut input = Input::new(data);
    // Counted from the end: a JSON that becomes longer or shorter keeps what stands behind it.
    let behind = usize::from(input.short());
    let body = input.rest();
    let header_len = body.len().checked_sub(behind).unwrap_or(behind);
    let text = InferRequest::parse(body, None, &LIMITS);
    let binary = InferRequest::parse(body, Some(header_len), &LIMITS);
    if header_len == body.len() {
        assert_eq!(text, binary, "nothing stands behind the JSON");
    }
    if let Ok(request) = &text {
        says_what_its_text_says(body, request);
    }
    for parsed in [text, binary] {
        match parsed {
            Ok(request) => asked(&request),
            Err(fault) => refused(&fault),
        }
    }
    raw(body);
}

/// The body of a request for the index, and of one to load a model.
pub fn repository_request(data: &[u8]) {
    match parse_index(data) {
        Ok(request) => {
            assert!(is_blank(data) || is_json(data));
            if let Ok(told) = serde_json::from_slice::<Value>(data) {
                assert_eq!(request.ready, told["ready"].as_bool().unwrap_or(false));
            }
        }
        Err(fault) => refused(&fault),
    }
    match parse_load(data) {
        Ok(()) => assert!(is_blank(data) || is_json(data)),
        Err(fault) => refused(&fault),
    }
}

fn is_blank(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
}

/// What is read over may nest as it likes and hold numbers as large as it likes: no value is made of it.
fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

fn refused(fault: &Fault) {
    let expected = matches!(
        fault.reason,
        Reason::InvalidPayload | Reason::InvalidValue | Reason::PayloadTooLarge | Reason::NotSupported
    );
    assert!(expected && !fault.message.is_empty(), "{fault:?}");
    assert!(fault.message.len() <= FAULT_BYTES_MAX, "{} bytes: {fault:?}", fault.message.len());
}

/// All that a server does with a request, but for the model.
fn asked(request: &InferRequest) {
    keeps_limits(request);
    compared_with_models(request);
    answered(request);
    comes_back(request);
}

fn keeps_limits(request: &InferRequest) {
    let mut names = BTreeSet::new();
    let mut sum = 0;
    for input in &request.inputs {
        let Tensor { shape, data } = &input.tensor;
        assert!(names.insert(&input.name), "{} comes twice", input.name);
        assert_eq!(elements(shape), Some(data.len()), "{shape:?}");
        assert!(data.is_finite(), "{data:?}");
        sum += data.len();
    }
    assert!(request.inputs.len() <= LIMITS.tensors_max && sum <= LIMITS.elements_max);
    let mut names = BTreeSet::new();
    for output in request.outputs.iter().flatten() {
        assert!(names.insert(&output.name), "{} is asked for twice", output.name);
    }
    assert!(names.len() <= LIMITS.tensors_max);
    let none = |key: &SequenceKey| match key {
        SequenceKey::Number(number) => *number == 0,
        SequenceKey::Name(name) => name.is_empty(),
    };
    assert!(request.sequence.as_ref().is_none_or(|sequence| !none(&sequence.key)));
    assert!(request.timeout.is_none_or(|timeout| !timeout.is_zero()));
}

/// What parsed is JSON to others too, and each of its elements is what `str::parse` makes of the text.
fn says_what_its_text_says(body: &[u8], request: &InferRequest) {
    assert!(is_json(body));
    let text = std::str::from_utf8(body).expect("JSON is UTF-8");
    let Ok(told) = serde_json::from_str::<Value>(&with_numbers_quoted(text)) else {
        // What is read over may nest deeper than values do, and may have escapes that make no character.
        let excused = text.contains("\\u") || text.matches(['[', '{']).count() > NESTING_MAX;
        return assert!(excused, "{text}");
    };
    assert_eq!(told["id"].as_str(), request.id.as_deref());
    let inputs = told["inputs"].as_array().expect("an array of inputs");
    assert_eq!(inputs.len(), request.inputs.len());
    for (told, input) in inputs.iter().zip(&request.inputs) {
        assert_eq!(told["name"].as_str(), Some(&*input.name));
        assert_eq!(told["datatype"].as_str(), Some(input.tensor.data.datatype().name()));
        same_tensor(told, &input.tensor);
    }
}

/// The same JSON with its numbers as strings: serde_json keeps the structure, but not every number to its last bit.
fn with_numbers_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(2 * text.len());
    let (mut in_string, mut escaped, mut in_number) = (false, false, false);
    for character in text.chars() {
        let begins = matches!(character, '-' | '0'..='9');
        let goes_on = in_number && matches!(character, '+' | '.' | 'e' | 'E');
        let number = !in_string && (begins || goes_on);
        if number != in_number {
            quoted.push('"');
            in_number = number;
        }
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        quoted.push(character);
    }
    quoted
}

fn same_tensor(told: &Value, tensor: &Tensor) {
    let mut shape = Vec::new();
    flatten(&told["shape"], &mut shape);
    each(&shape, &tensor.shape, |told, side| number::<usize>(told) == Some(*side));
    let Some(data) = told.get("data") else {
        // Binary data of no bytes.
        return assert!(tensor.data.is_empty());
    };
    let mut told = Vec::new();
    flatten(data, &mut told);
    match &tensor.data {
        TensorData::Bool(data) => each(&told, data, |told, element| told.as_bool() == Some(*element)),
        TensorData::Uint8(data) => each(&told, data, is_whole),
        TensorData::Uint16(data) => each(&told, data, is_whole),
        TensorData::Uint32(data) => each(&told, data, is_whole),
        TensorData::Uint64(data) => each(&told, data, is_whole),
        TensorData::Int8(data) => each(&told, data, is_whole),
        TensorData::Int16(data) => each(&told, data, is_whole),
        TensorData::Int32(data) => each(&told, data, is_whole),
        TensorData::Int64(data) => each(&told, data, is_whole),
        // The nearest is off by half of its last place at most, or by half of the least there is.
        TensorData::Fp16(data) => each(&told, data, |told, element| {
            let error_max = |exact: f64| exact.abs() / 2048.0 + 2f64.powi(-25);
            number::<f64>(told).is_some_and(|exact| (element.to_f64() - exact).abs() <= error_max(exact))
        }),
        TensorData::Fp32(data) => each(&told, data, |told, element| {
            number::<f32>(told).is_some_and(|exact| exact.to_bits() == element.to_bits())
        }),
        TensorData::Fp64(data) => each(&told, data, |told, element| {
            number::<f64>(told).is_some_and(|exact| exact.to_bits() == element.to_bits())
        }),
        TensorData::Bf16(_) => panic!("BF16 is not taken in JSON"),
        TensorData::Bytes(data) => each(&told, data, |told, element| {
            told.as_str().is_some_and(|told| told.as_bytes() == element.as_slice())
        }),
    }
}

/// What stands in an array, however it is nested.
fn flatten<'a>(told: &'a Value, leaves: &mut Vec<&'a Value>) {
    match told {
        Value::Array(items) => items.iter().for_each(|item| flatten(item, leaves)),
        leaf => leaves.push(leaf),
    }
}

fn each<T: Debug>(told: &[&Value], elements: &[T], same: impl Fn(&Value, &T) -> bool) {
    assert_eq!(told.len(), elements.len());
    for (told, element) in told.iter().zip(elements) {
        assert!(same(told, element), "{told} became {element:?}");
    }
}

fn number<T: FromStr>(told: &Value) -> Option<T> {
    told.as_str()?.parse().ok()
}

/// Wide enough for every type; an unsigned one would not take the `-0` that JSON has.
fn is_whole<T: Copy + Into<i128>>(told: &Value, element: &T) -> bool {
    let element: i128 = (*element).into();
    number::<i128>(told) == Some(element)
}

/// What models take, one of each kind of shape and size of element.
fn specs() -> [TensorSpec; 5] {
    let spec = |name: &str, datatype, shape: &[Dim]| TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        labels: Vec::new(),
    };
    [
        spec("X", Datatype::Fp32, &[Dim::Any, Dim::Fixed(2)]),
        spec("S", Datatype::Bytes, &[Dim::Any]),
        spec("I", Datatype::Int64, &[Dim::Fixed(1), Dim::Any, Dim::Any]),
        spec("B", Datatype::Bool, &[Dim::Fixed(2)]),
        spec("H", Datatype::Fp16, &[]),
    ]
}

fn fits(tensor: &Tensor, spec: &TensorSpec) -> bool {
    let side = |(side, dim): (&usize, &Dim)| matches!(dim, Dim::Any) || *dim == Dim::Fixed(*side);
    tensor.data.datatype() == spec.datatype
        && tensor.shape.len() == spec.shape.len()
        && tensor.shape.iter().zip(&spec.shape).all(side)
}

fn compared_with_models(request: &InferRequest) {
    let specs = specs();
    for wanted in [&specs[..1], &specs[..2]] {
        for elements_max in [LIMITS.elements_max, 4] {
            match check_inputs(&mut request.clone(), "model", wanted, elements_max) {
                Ok(tensors) => {
                    assert_eq!(tensors.len(), wanted.len());
                    assert!(tensors.iter().zip(wanted).all(|(tensor, spec)| fits(tensor, spec)));
                    assert!(tensors.iter().map(|tensor| tensor.data.len()).sum::<usize>() <= elements_max);
                }
                Err(fault) => refused(&fault),
            }
        }
    }
    match check_audio(&mut request.clone(), "model", LIMITS.elements_max) {
        Ok(audio) => {
            assert_eq!(audio.data.datatype(), Datatype::Fp32);
            assert!(matches!(audio.shape.len(), 1 | 2), "{:?}", audio.shape);
        }
        Err(fault) => refused(&fault),
    }
}

/// The answer of a model to the request.
fn answered(request: &InferRequest) {
    let tensor = |shape: &[usize], data| Tensor::new(shape.to_vec(), data).expect("a shape of its elements");
    let scores = tensor(&[2, 3], TensorData::Fp32(vec![0.1, -0.0, 3e-39, 1e30, 1.0, 1.0]));
    let counts = tensor(&[2, 0], TensorData::Int64(Vec::new()));
    let words = tensor(&[2], TensorData::Bytes(vec![b"a\"\\\n".to_vec(), "\u{e9}".into()]));
    let labels: [Arc<str>; 2] = ["no".into(), "\"yes\"".into()];
    let output = |name, tensor, labels, batched| OutputTensor { name, tensor, labels, batched };
    let outputs = vec![
        output("P", &scores, &labels[..], true),
        output("I", &counts, &[], true),
        output("S", &words, &[], false),
    ];
    let known = check_outputs(request, "model", ["P", "I", "S"]);
    match (InferResponse { model_name: "\"model\"", model_version: 7, outputs }).encode(request) {
        Ok(encoded) => {
            assert_eq!(known, Ok(()));
            let (json, behind) = encoded.body.split_at(encoded.header_len.unwrap_or(encoded.body.len()));
            let json: Value = serde_json::from_slice(json).expect("our own JSON");
            assert_eq!(json["id"].as_str(), request.id.as_deref());
            let outputs = json["outputs"].as_array().expect("an array of outputs");
            assert_eq!(outputs.len(), request.outputs.as_ref().map_or(3, Vec::len));
            let sizes = outputs.iter().filter_map(|output| output["parameters"]["binary_data_size"].as_u64());
            assert_eq!(sizes.sum::<u64>(), behind.len() as u64);
        }
        Err(fault) => {
            refused(&fault);
            // Strings have no classes.
            let classes = request.outputs.iter().flatten().any(|output| output.classification > 0);
            assert!(known.is_err() || classes, "{fault}");
        }
    }
}

/// The inputs given back by a model and read again.
fn comes_back(request: &InferRequest) {
    let outputs = request.inputs.iter().map(|input| OutputTensor {
        name: &input.name,
        tensor: &input.tensor,
        labels: &[],
        batched: false,
    });
    let response = InferResponse { model_name: "model", model_version: 1, outputs: outputs.collect() };
    let in_json = request.inputs.iter().all(|input| match &input.tensor.data {
        TensorData::Bytes(strings) => strings.iter().all(|string| std::str::from_utf8(string).is_ok()),
        data => data.datatype() != Datatype::Bf16,
    });
    for binary_data_output in [true, false] {
        if !binary_data_output && !in_json {
            continue;
        }
        let asked = InferRequest { binary_data_output, ..InferRequest::default() };
        let encoded = response.encode(&asked).expect("all that JSON can carry");
        // An answer becomes a request by one word: an output is written as an input is.
        let (from, to) = (br#""outputs":["#, br#""inputs" :["#);
        let mut body = encoded.body;
        let at = body.windows(from.len()).position(|window| window == from).expect("outputs");
        body[at..at + to.len()].copy_from_slice(to);
        let again = InferRequest::parse(&body, encoded.header_len, &LIMITS);
        assert_eq!(again.map(|again| again.inputs).as_ref(), Ok(&request.inputs));
    }
}

/// The bytes of one tensor alone, for models of each kind.
fn raw(body: &[u8]) {
    let specs = specs();
    refused(&InferRequest::parse_raw(body, &specs, &LIMITS).expect_err("more than one input"));
    for spec in &specs {
        let request = match InferRequest::parse_raw(body, slice::from_ref(spec), &LIMITS) {
            Ok(request) => request,
            Err(fault) => {
                refused(&fault);
                continue;
            }
        };
        assert!(request.inputs.len() == 1 && request.binary_data_output);
        assert!(fits(&request.inputs[0].tensor, spec), "{:?}", request.inputs[0].tensor.shape);
        if let TensorData::Bytes(strings) = &request.inputs[0].tensor.data {
            assert_eq!(strings[..], [body]);
        }
        asked(&request);
    }
}
