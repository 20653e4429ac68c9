//! Requests and answers, forth and back, and what is refused.

use super::*;
use crate::model::{Datatype, Dim, Tensor, TensorData, TensorSpec, elements};
use half::{bf16, f16};
use proptest::prelude::*;

const LIMITS: InferLimits = InferLimits { tensors_max: 8, elements_max: 100_000 };

fn parse(json: &str) -> Result<InferRequest, Fault> {
    InferRequest::parse(json.as_bytes(), None, &LIMITS)
}

fn input(datatype: &str, shape: &str, data: &str) -> Result<TensorData, Fault> {
    let body = |fields: &str| format!(r#"{{"inputs":[{{"name":"X",{fields}}}]}}"#);
    let told = format!(r#""shape":{shape},"datatype":"{datatype}""#);
    let parsed = [format!(r#"{told},"data":{data}"#), format!(r#""data":{data},{told}"#)]
        .map(|fields| parse(&body(&fields)).map(|mut request| request.inputs.remove(0).tensor.data));
    let [before, behind] = parsed;
    assert_eq!(before, behind, "the order of keys makes no difference");
    before
}

#[track_caller]
fn refused(result: Result<impl std::fmt::Debug, Fault>, words: &[&str]) {
    let message = result.expect_err("it is refused").message;
    for word in words {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
}

#[test]
fn data_is_flat_or_nested_as_its_shape() {
    let expected = TensorData::Fp32(vec![1.0, 2.5, -3.0, 4e2]);
    for data in ["[1, 2.5, -3, 4e2]", "[[1, 2.5], [-3, 4e2]]", " [ [1,2.5 ] ,\n[ -3.0,400 ] ] "] {
        assert_eq!(input("FP32", "[2,2]", data), Ok(expected.clone()), "{data}");
    }
    assert_eq!(input("INT8", "[2,1,2]", "[[[1,2]],[[3,-4]]]"), Ok(TensorData::Int8(vec![1, 2, 3, -4])));
    assert_eq!(input("BOOL", "[2]", "[true,false]"), Ok(TensorData::Bool(vec![true, false])));
    assert_eq!(input("BYTES", "[2]", r#"["a]\n",""]"#), Ok(TensorData::Bytes(vec![b"a]\n".into(), vec![]])));
    assert_eq!(input("UINT64", "[1]", "[18446744073709551615]"), Ok(TensorData::Uint64(vec![u64::MAX])));
    assert_eq!(input("INT64", "[1]", "[-9223372036854775808]"), Ok(TensorData::Int64(vec![i64::MIN])));
    for data in ["[]", "[[],[]]"] {
        assert_eq!(input("FP32", "[2,0]", data), Ok(TensorData::Fp32(vec![])), "{data}");
    }
    for data in [
        "[[1],[2]]",
        "[[1,2,3],[4]]",
        "[[1,2]]",
        "[1,[2,3,4]]",
        "[[1,2],3,4]",
        "[[[1,2]],[[3,4]]]",
        "[1,2,3]",
    ] {
        refused(input("FP32", "[2,2]", data), &["'X'", "[2,2]"]);
    }
    refused(input("FP32", "[2]", "[1,2,3]"), &["'X'", "more elements"]);
    // A scalar has no dimension that could nest.
    assert_eq!(input("FP32", "[]", "[1]"), Ok(TensorData::Fp32(vec![1.0])));
    refused(input("FP32", "[]", "[[1]]"), &["'X'", "nested"]);
}

#[test]
fn an_element_that_does_not_fit_is_named() {
    for (datatype, value) in [
        ("UINT8", "300"),
        ("UINT8", "-1"),
        ("INT32", "1.5"),
        ("INT32", "2147483648"),
        ("UINT64", "18446744073709551616"),
        ("FP32", "NaN"),
        ("FP32", "-Infinity"),
        ("FP32", "1e39"),
        ("FP64", "1e309"),
        ("FP16", "70000"),
        ("FP32", "01"),
        ("FP32", "1."),
        ("FP32", "+1"),
        ("FP32", "null"),
        ("BOOL", "1"),
        ("BYTES", "1"),
    ] {
        let good = match datatype {
            "BOOL" => "true",
            "BYTES" => "\"\"",
            _ => "1",
        };
        refused(
            input(datatype, "[2]", &format!("[{good}, {value}]")),
            &["element 1", "'X'", value, datatype],
        );
    }
    refused(input("BF16", "[1]", "[1]"), &["'X'", "binary"]);
}

#[test]
fn declared_sizes_are_compared_before_anything_is_allocated() {
    refused(input("FP32", "[9223372036854775807,9223372036854775807]", "[1]"), &["'X'"]);
    refused(input("FP32", "[100001]", "[1]"), &["'X'", "100000"]);
    refused(input("FP32", "[-1]", "[1]"), &["'X'", "-1"]);
    let binary = |size: &str, behind: &[u8], datatype: &str| {
        let json = format!(
            r#"{{"inputs":[{{"name":"X","shape":[2],"datatype":"{datatype}","parameters":{{"binary_data_size":{size}}}}}]}}"#
        );
        let body = [json.as_bytes(), behind].concat();
        InferRequest::parse(&body, Some(json.len()), &LIMITS)
    };
    assert!(binary("8", &[0; 8], "FP32").is_ok());
    refused(binary("8", &[0; 7], "FP32"), &["'X'", "8", "7"]);
    refused(binary("8", &[0; 9], "FP32"), &["belong to no input"]);
    refused(binary("7", &[0; 7], "FP32"), &["'X'", "7 bytes"]);
    refused(binary("18446744073709551615", &[0; 8], "FP32"), &["'X'"]);
    refused(binary("8", &[0, 0, 0, 0, 0, 0, 0xc0, 0x7f], "FP32"), &["element 1", "'X'", "NaN"]);
    refused(binary("8", &[255; 8], "BYTES"), &["element 0", "'X'"]);
    refused(binary("2", &[0, 2], "BOOL"), &["element 1", "'X'"]);
    refused(InferRequest::parse(b"{}", Some(3), &LIMITS), &["3", "2 bytes"]);
}

#[test]
fn what_is_said_twice_or_nests_without_end_is_refused() {
    let one = r#"{"name":"X","shape":[1],"datatype":"INT8","data":[1]}"#;
    refused(parse(&format!(r#"{{"inputs":[{one},{one}]}}"#)), &["'X'", "twice"]);
    refused(parse(r#"{"inputs":[],"inputs":[]}"#), &["'inputs'", "twice"]);
    let both = one.replace("\"data\"", r#""parameters":{"binary_data_size":1},"data""#);
    refused(parse(&format!(r#"{{"inputs":[{both}]}}"#)), &["both"]);
    let deep = "[".repeat(200_000);
    refused(parse(&format!(r#"{{"other":{deep}"#)), &["JSON"]);
    let told = r#"{"inputs":[{"name":"X","shape":[1],"datatype":"FP32","data":"#;
    refused(parse(&format!("{told}{deep}")), &["'X'", "nested"]);
    refused(parse(&format!(r#"{{"inputs":[{{"data":{deep}"#)), &["JSON ends"]);
    refused(parse(r#"{"inputs":[],"parameters":{"sequence_end":true}}"#), &["sequence_id"]);
}

#[test]
fn sequences_and_outputs_are_read() {
    let request = parse(
        r#"{"id":"7","outputs":[{"name":"a","parameters":{"classification":3}},
            {"name":"b","parameters":{"binary_data":false}}],"inputs":[],"parameters":{"sequence_id":5,
            "sequence_start":true,"sequence_end":false,"priority":2,"timeout":1500,"binary_data_output":true}}"#,
    )
    .unwrap();
    let output = |name: &str, binary_data, classification| RequestedOutput {
        name: name.into(),
        binary_data,
        classification,
    };
    assert_eq!(request.id.as_deref(), Some("7"));
    assert_eq!(request.outputs, Some(vec![output("a", true, 3), output("b", false, 0)]));
    assert_eq!(request.sequence, Some(Sequence { key: SequenceKey::Number(5), start: true, end: false }));
    assert_eq!(request.timeout, Some(std::time::Duration::from_micros(1500)));
}

#[test]
fn inputs_are_compared_with_the_specification() {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        datatype: Datatype::Fp32,
        shape: vec![Dim::Any, Dim::Fixed(2)],
        labels: vec![],
    };
    let check = |name: &str, datatype: &str, shape: &str| {
        let text = format!(
            r#"{{"inputs":[{{"name":"{name}","shape":{shape},"datatype":"{datatype}","data":[1,2]}}]}}"#
        );
        check_inputs(&mut parse(&text).unwrap(), "m", &[spec("X")], 10)
    };
    assert_eq!(check("X", "FP32", "[1,2]").unwrap()[0].data, TensorData::Fp32(vec![1.0, 2.0]));
    refused(check("X", "FP32", "[2,1]"), &["'X'", "'m'", "Expected [-1,2], got [2,1]"]);
    refused(check("X", "FP32", "[2]"), &["Expected [-1,2], got [2]"]);
    refused(check("X", "INT32", "[1,2]"), &["'INT32'", "'FP32'"]);
    refused(check("Y", "FP32", "[1,2]"), &["unexpected", "'Y'"]);
    refused(
        check_inputs(&mut parse(r#"{"inputs":[]}"#).unwrap(), "m", &[spec("X")], 10),
        &["missing", "'X'"],
    );
}

#[test]
fn a_raw_body_fills_the_one_free_dimension() {
    let spec = TensorSpec {
        name: "X".into(),
        datatype: Datatype::Int16,
        shape: vec![Dim::Any, Dim::Any, Dim::Fixed(2)],
        labels: vec![],
    };
    let request =
        InferRequest::parse_raw(&[1, 0, 2, 0, 3, 0, 4, 0], std::slice::from_ref(&spec), &LIMITS).unwrap();
    let expected = Tensor::new(vec![1, 2, 2], TensorData::Int16(vec![1, 2, 3, 4])).unwrap();
    assert_eq!(request.inputs[0].tensor, expected);
    refused(InferRequest::parse_raw(&[0; 7], &[spec], &LIMITS), &["'X'", "7 bytes"]);
}

#[test]
fn the_best_classes_are_told_row_by_row() {
    let tensor = Tensor::new(vec![2, 3], TensorData::Fp32(vec![0.1, 0.7, 0.2, 3.0, 1.0, 3.0])).unwrap();
    let labels = ["no".into(), "yes".into()];
    let output = OutputTensor { name: "p", tensor: &tensor, labels: &labels, batched: true };
    let response = InferResponse { model_name: "m", model_version: 2, outputs: vec![output] };
    let request =
        parse(r#"{"id":"a","inputs":[],"outputs":[{"name":"p","parameters":{"classification":2}}]}"#)
            .unwrap();
    assert_eq!(
        String::from_utf8(response.encode(&request).unwrap().body).unwrap(),
        r#"{"id":"a","model_name":"m","model_version":"2","outputs":[{"name":"p","datatype":"BYTES","shape":[2,2],"data":["0.700000:1:yes","0.200000:2","3.000000:0:no","3.000000:2"]}]}"#
    );
    let other = parse(r#"{"inputs":[],"outputs":[{"name":"q"}]}"#).unwrap();
    refused(response.encode(&other), &["'q'"]);
}

fn tensors() -> impl Strategy<Value = Tensor> {
    let raw = prop::collection::vec(any::<u64>(), 0..20);
    (0..Datatype::ALL.len(), raw).prop_map(|(datatype, raw)| {
        macro_rules! of {
            ($variant:ident, $make:expr) => {
                TensorData::$variant(raw.iter().map($make).collect())
            };
        }
        let data = match Datatype::ALL[datatype] {
            Datatype::Bool => of!(Bool, |raw| raw % 2 == 1),
            Datatype::Uint8 => of!(Uint8, |raw| *raw as u8),
            Datatype::Uint16 => of!(Uint16, |raw| *raw as u16),
            Datatype::Uint32 => of!(Uint32, |raw| *raw as u32),
            Datatype::Uint64 => of!(Uint64, |raw| *raw),
            Datatype::Int8 => of!(Int8, |raw| *raw as i8),
            Datatype::Int16 => of!(Int16, |raw| *raw as i16),
            Datatype::Int32 => of!(Int32, |raw| *raw as i32),
            Datatype::Int64 => of!(Int64, |raw| *raw as i64),
            // An exponent with a zero bit is that of a finite number.
            Datatype::Fp16 => of!(Fp16, |raw| f16::from_bits(*raw as u16 & !0x0400)),
            Datatype::Bf16 => of!(Bf16, |raw| bf16::from_bits(*raw as u16 & !0x0080)),
            Datatype::Fp32 => of!(Fp32, |raw| f32::from_bits(*raw as u32 & !(1 << 23))),
            Datatype::Fp64 => of!(Fp64, |raw| f64::from_bits(*raw & !(1 << 52))),
            Datatype::Bytes => {
                of!(Bytes, |raw| char::from(*raw as u8).to_string().repeat(*raw as usize % 4).into())
            }
        };
        Tensor { shape: vec![data.len()], data }
    })
}

proptest! {
    #[test]
    fn parse_after_encode_is_the_identity(tensor in tensors(), binary: bool) {
        // BF16 is not taken in JSON.
        let binary = binary || tensor.data.datatype() == Datatype::Bf16;
        let output = OutputTensor { name: "X", tensor: &tensor, labels: &[], batched: false };
        let response = InferResponse { model_name: "m", model_version: 1, outputs: vec![output] };
        let request = InferRequest { binary_data_output: binary, ..InferRequest::default() };
        let encoded = response.encode(&request).unwrap();
        prop_assert_eq!(encoded.header_len.is_some(), binary);
        // An answer becomes a request by one word: an output is written as an input is.
        let (from, to) = (br#""outputs":["#, br#""inputs" :["#);
        let at = encoded.body.windows(from.len()).position(|window| window == from).unwrap();
        let mut body = encoded.body;
        body[at..at + to.len()].copy_from_slice(to);
        let parsed = InferRequest::parse(&body, encoded.header_len, &LIMITS).unwrap();
        prop_assert_eq!(&parsed.inputs[0].tensor, &tensor);
        prop_assert_eq!(elements(&tensor.shape), Some(tensor.data.len()));
    }

    #[test]
    fn floats_are_those_of_the_standard_library(text in floats()) {
        let expected = text.parse::<f32>().unwrap();
        // At the end of the text, and with much behind it: the short way looks ahead.
        let more = " ".repeat(40);
        for data in [format!("[{text}]"), format!("[{text}{more}]"), format!("[{text},{more}{text}]")] {
            let shape = if data.contains(',') { "[2]" } else { "[1]" };
            match input("FP32", shape, &data) {
                Ok(TensorData::Fp32(data)) => {
                    prop_assert!(data.iter().all(|x| x.to_bits() == expected.to_bits()), "{text}: {data:?}");
                }
                _ => prop_assert!(!expected.is_finite(), "{}", text),
            }
        }
        let expected = text.parse::<f64>().unwrap();
        match input("FP64", "[1]", &format!("[{text}]")) {
            Ok(TensorData::Fp64(data)) => prop_assert_eq!(data[0].to_bits(), expected.to_bits(), "{}", text),
            _ => prop_assert!(!expected.is_finite(), "{}", text),
        }
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(body: Vec<u8>, header_len: Option<u8>) {
        let _ = InferRequest::parse(&body, header_len.map(usize::from), &LIMITS);
        let _ = parse_index(&body);
        let _ = parse_load(&body);
    }
}

#[test]
fn a_long_fraction_makes_up_for_a_great_exponent() {
    let number = |zeros: usize, exponent: u32| format!("[0.{}1e{exponent}]", "0".repeat(zeros));
    let read = |text: &str, datatype: &str| input(datatype, "[1]", text);
    assert_eq!(read(&number(99_990, 100_050), "FP64").unwrap(), TensorData::Fp64(vec![1e59]));
    assert!(read(&number(99_990, 100_050), "FP32").is_err(), "an FP32 is finite");
    assert_eq!(read(&number(99_990, 99_990), "FP32").unwrap(), TensorData::Fp32(vec![0.1]));
    assert_eq!(read("[0.0e99999999999]", "FP32").unwrap(), TensorData::Fp32(vec![0.0]));
    assert_eq!(read("[1e-99999999999]", "FP64").unwrap(), TensorData::Fp64(vec![0.0]));
}

/// Numbers of JSON's grammar: of any digits, as Python prints them, and in and about the middle of two FP32.
fn floats() -> impl Strategy<Value = String> {
    let middle = (any::<u32>(), -2i64..3).prop_map(|(bits, off)| {
        let low = f32::from_bits(bits & !(1 << 23)).abs();
        let middle = (f64::from(low) + f64::from(f32::from_bits(low.to_bits() + 1))) / 2.0;
        let near = f64::from_bits(middle.to_bits().saturating_add_signed(off));
        format!("{near:e}")
    });
    // The same as fractions, cut to every length from which the middle may or may not be told.
    let cut_middle = (0.0001f32..9.9, 3usize..60).prop_map(|(low, digits)| {
        let middle = (f64::from(low) + f64::from(f32::from_bits(low.to_bits() + 1))) / 2.0;
        format!("{middle:.digits$}")
    });
    prop_oneof![
        "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?",
        "-?[0-9]\\.[0-9]{1,26}",
        "-?0\\.0{0,4}[1-9][0-9]{5,17}",
        any::<u32>().prop_map(|bits| format!("{:?}", f64::from(f32::from_bits(bits & !(1 << 23))))),
        middle,
        cut_middle,
    ]
}
