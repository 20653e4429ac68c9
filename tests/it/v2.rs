//! The Open Inference Protocol over real sockets, by a server with a folder of models in this process.

use crate::answer::{Answer, get, metric, request};
use crate::models_check::{folder, put};
use crate::support::{Client, TestServer, await_that, config};
use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder, ZlibEncoder};
use serde_json::{Value, json};
use std::io::Read;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::thread;
use suzu::config::Config;
use suzu::driver::EventLoop;
use suzu::model::{Registry, Repository, RepositoryOptions};
use tempfile::TempDir;

/// Of `conv.onnx`, which classifies rows of three channels of any length.
const CONV: &str = r#"[[output]]
name = "scores"
labels = ["rain", "wind", "traffic", "none"]
[batch]
max = 8
"#;

const INFER: &str = "/v2/models/conv/infer";

/// A server with a folder of models. Stopped when it goes out of scope; then its folder goes too.
struct ModelServer {
    server: TestServer,
    folder: TempDir,
}

impl ModelServer {
    /// With these models, see [`put`], and those inside the binary.
    fn start(models: &[(&str, &str, &str)]) -> Self {
        Self::start_with(models, RepositoryOptions::default())
    }

    fn start_with(models: &[(&str, &str, &str)], options: RepositoryOptions) -> Self {
        let folder = folder(models);
        let repository = Repository::new(folder.path(), options);
        let mut registry = Registry::builtin();
        for (name, loaded) in repository.load_all() {
            registry.insert_loaded(loaded.unwrap_or_else(|why| panic!("{name}: {why}")));
        }
        let models_dir = folder.path().to_str().expect("a plain path").to_owned();
        let config = Config { models_dir, ..config() };
        let event_loop = EventLoop::bind_with(config, registry, Some(repository))
            .unwrap_or_else(|error| panic!("{error}"));
        Self { server: TestServer::start_on(event_loop), folder }
    }

    /// Sends a whole request on a connection of its own and takes the answer.
    fn send(&self, bytes: &[u8]) -> Answer {
        let mut client = Client::connect(self.addr);
        client.send(bytes);
        client.answer()
    }

    /// Posts this JSON.
    fn post(&self, target: &str, json: &Value) -> Answer {
        self.send(&post(target, "", json.to_string().as_bytes()))
    }

    /// Asks the repository to `load` or to `unload` a model.
    fn order(&self, model: &str, order: &str) -> Answer {
        self.send(&post(&format!("/v2/repository/models/{model}/{order}"), "", b""))
    }

    /// Loads a model that can be loaded.
    fn load(&self, model: &str) {
        let answer = self.order(model, "load");
        assert_eq!((answer.status, answer.text()), (200, ""));
    }

    /// Puts another version into the folder.
    fn put(&self, version: &str, file: &str, manifest: &str) {
        put(self.folder.path(), version, file, manifest);
    }

    /// What the index says of a model.
    fn index(&self, model: &str) -> Value {
        let index = get(self.addr, "/v2/repository/index").json();
        let found = index.as_array().expect("a list").iter().find(|entry| entry["name"] == model);
        found.unwrap_or_else(|| panic!("{model} is missing in {index}")).clone()
    }

    /// Which version of `conv` answers.
    fn conv_version(&self) -> Value {
        let answer = self.post(INFER, &conv_json());
        assert_eq!(numbers(&answer).len(), 8);
        answer.json()["model_version"].clone()
    }
}

impl Deref for ModelServer {
    type Target = TestServer;

    fn deref(&self) -> &TestServer {
        &self.server
    }
}

fn post(target: &str, extra: &str, body: &[u8]) -> Vec<u8> {
    let head = request("POST", target, &format!("{extra}Content-Length: {}\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

/// Two rows for `conv`, those of `tests/data/tritonclient-*.http` too. Binary fractions, so that no form rounds them.
fn elements() -> Vec<f32> {
    (0..24).map(|n| (n % 7) as f32 / 8.0 - 0.25).collect()
}

fn conv_json() -> Value {
    let input = json!({"name": "input", "datatype": "FP32", "shape": [2, 3, 4], "data": elements()});
    json!({"id": "mine", "inputs": [input]})
}

fn conv_bytes() -> Vec<u8> {
    elements().iter().flat_map(|element| element.to_le_bytes()).collect()
}

/// The same with its tensor behind the JSON: the header field that says where it begins, and the body.
fn conv_binary(binary_data_output: bool) -> (String, Vec<u8>) {
    let parameters = json!({"binary_data_size": conv_bytes().len()});
    let input = json!({"name": "input", "datatype": "FP32", "shape": [2, 3, 4], "parameters": parameters});
    let parameters = json!({"binary_data_output": binary_data_output});
    let head = json!({"id": "mine", "inputs": [input], "parameters": parameters}).to_string();
    let extra = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    (extra, [head.as_bytes(), &conv_bytes()].concat())
}

/// The numbers of the one output of an answer in JSON.
fn numbers(answer: &Answer) -> Vec<f32> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    let data = json["outputs"][0]["data"].as_array().expect("data");
    data.iter().map(|number| number.as_f64().expect("a number") as f32).collect()
}

/// The JSON and the numbers of the one output of an answer in binary.
fn binary_numbers(answer: &Answer) -> (Value, Vec<f32>) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    let length = answer.header("inference-header-content-length").expect("the length of the JSON");
    let (json, behind) = answer.body.split_at(length.parse().expect("a number"));
    let (elements, rest) = behind.as_chunks::<4>();
    assert!(rest.is_empty(), "{} bytes", behind.len());
    let numbers = elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    (serde_json::from_slice(json).expect("JSON"), numbers)
}

/// The message of a refusal in the protocol's form: its one key is `error`.
fn refusal(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{}", answer.text());
    let json = answer.json();
    let message = json["error"].as_str().unwrap_or_else(|| panic!("no message: {json}"));
    assert_eq!(json, json!({ "error": message }));
    message.to_owned()
}

/// The answer as it was before it was packed.
fn unpacked(answer: Answer) -> Answer {
    match answer.header("content-encoding").map(str::to_owned).as_deref() {
        None => answer,
        Some("gzip") => {
            let body = drained(GzDecoder::new(&answer.body[..]));
            Answer { body, ..answer }
        }
        Some(other) => panic!("packed by {other}"),
    }
}

/// All that comes out of an encoder or a decoder.
fn drained(mut reader: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("what was packed as it should be");
    bytes
}

/// Kernels sum in another order for another number of rows.
fn assert_near(found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len());
    for (one, other) in found.iter().zip(wanted) {
        assert!((one - other).abs() <= 1e-5, "{found:?} and {wanted:?}");
    }
}

/// The parameters of a request that stands at the `start` of a sequence, at its `end`, or between.
fn in_sequence(id: impl Into<Value>, place: &str) -> Value {
    let (id, start, end): (Value, _, _) = (id.into(), place.contains("start"), place.contains("end"));
    json!({"sequence_id": id, "sequence_start": start, "sequence_end": end})
}

/// Asks `single`, which remembers, with a row of elements alike.
fn step(server: &ModelServer, parameters: Value, element: f32) -> Answer {
    let data = vec![element; 4];
    let input = json!({"name": "input", "datatype": "FP32", "shape": [1, 4], "data": data});
    server.post("/v2/models/single/infer", &json!({"parameters": parameters, "inputs": [input]}))
}

/// A whole sequence of requests to `gru`; each voice says something else.
fn gru_sequence(addr: SocketAddr, id: usize, voice: usize) -> Vec<f32> {
    let places = [&["start"][..], &[""; 10], &["end"]].concat();
    let mut client = Client::connect(addr);
    let mut heard = Vec::new();
    for (at, place) in places.into_iter().enumerate() {
        let element = |n: usize| ((voice * 5 + at * 3 + n) % 9) as f32 / 4.0 - 1.0;
        let data: Vec<f32> = (0..8).map(element).collect();
        let input = json!({"name": "input", "datatype": "FP32", "shape": [1, 8], "data": data});
        let body = json!({"parameters": in_sequence(id, place), "inputs": [input]}).to_string();
        client.send(post("/v2/models/gru/infer", "", body.as_bytes()));
        heard.extend(numbers(&client.answer()));
    }
    heard
}

#[test]
fn the_server_and_its_models_describe_themselves() {
    let server = ModelServer::start(&[("conv/3", "conv.onnx", CONV), ("gru/1", "gru.onnx", "")]);
    let told = |target: &str| {
        let answer = get(server.addr, target);
        let kind = answer.header("content-type");
        assert_eq!((answer.status, kind), (200, Some("application/json")), "{target}");
        answer.json()
    };
    let about = told("/v2");
    assert_eq!((&about["name"], &about["version"]), (&json!("suzu"), &json!(env!("CARGO_PKG_VERSION"))));
    for extension in ["binary_tensor_data", "classification", "sequence", "model_repository", "statistics"] {
        let extensions = about["extensions"].as_array().expect("a list");
        assert!(extensions.contains(&json!(extension)), "{extension} is missing in {about}");
    }
    assert_eq!(told("/v2/health/live"), json!({"live": true}));
    assert_eq!(told("/v2/health/ready"), json!({"ready": true}));
    for of_version in ["", "/versions/3"] {
        let target = |rest: &str| format!("/v2/models/conv{of_version}{rest}");
        let metadata = json!({
            "name": "conv",
            "versions": ["3"],
            "platform": "onnx_rten",
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3, -1]}],
            "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 4]}],
        });
        assert_eq!(told(&target("")), metadata);
        assert_eq!(told(&target("/ready")), json!({"name": "conv", "ready": true}));
        let config = told(&target("/config"));
        assert_eq!((&config["name"], &config["max_batch_size"]), (&json!("conv"), &json!(8)));
        let input = json!([{"name": "input", "data_type": "TYPE_FP32", "dims": [3, -1]}]);
        let output = json!([{"name": "scores", "data_type": "TYPE_FP32", "dims": [4]}]);
        assert_eq!((&config["input"], &config["output"]), (&input, &output));
        assert_eq!(config.get("sequence_batching"), None);
    }
    assert!(told("/v2/models/gru/config").get("sequence_batching").is_some());
    let vad = told("/v2/models/vad");
    assert_eq!(vad["inputs"], json!([{"name": "AUDIO", "datatype": "FP32", "shape": [-1, -1]}]));
}

#[test]
fn what_is_not_there_is_refused_in_the_protocols_form() {
    let server = ModelServer::start(&[("conv/3", "conv.onnx", CONV)]);
    for (target, status, said) in [
        ("/v2/models/nobody", 404, "there is no model `nobody`"),
        ("/v2/models/nobody/ready", 404, "there is no model `nobody`"),
        ("/v2/models/nobody/stats", 404, "there is no model `nobody`"),
        ("/v2/models/conv/versions/7", 404, "version 3, not 7"),
        ("/v2/models/conv/versions/7/config", 404, "version 3, not 7"),
        ("/v2/nowhere", 404, "/v2/nowhere"),
        ("/v2/models/conv/infer", 405, "POST"),
    ] {
        let message = refusal(&get(server.addr, target), status);
        assert!(message.contains(said), "{target}: {message}");
    }
}

#[test]
fn json_and_binary_give_the_same_numbers() {
    let server = ModelServer::start(&[("conv/3", "conv.onnx", CONV)]);
    let wanted = numbers(&server.post(INFER, &conv_json()));
    assert_eq!(wanted.len(), 8);
    for row in wanted.chunks(4) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "no probabilities: {wanted:?}");
    }
    let with = |key: &str, value: Value| {
        let mut asked = conv_json();
        asked[key] = value;
        server.post("/v2/models/conv/versions/3/infer", &asked)
    };
    let (extra, body) = conv_binary(true);
    for answer in [
        server.send(&post(INFER, &extra, &body)),
        with("parameters", json!({"binary_data_output": true})),
        with("outputs", json!([{"name": "scores", "parameters": {"binary_data": true}}])),
    ] {
        let (json, found) = binary_numbers(&answer);
        assert_eq!(found, wanted);
        let parameters = json!({"binary_data_size": 32});
        let output = json!({"name": "scores", "datatype": "FP32", "shape": [2, 4], "parameters": parameters});
        let about = json!({"id": "mine", "model_name": "conv", "model_version": "3", "outputs": [output]});
        assert_eq!(json, about);
    }
    let (extra, body) = conv_binary(false);
    let answer = server.send(&post(INFER, &extra, &body));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(numbers(&answer), wanted);
    // The bytes of the only input alone, of one row, in the simplest form that there is.
    let answer = server.send(&post(INFER, "Inference-Header-Content-Length: 0\r\n", &conv_bytes()[..48]));
    assert_near(&binary_numbers(&answer).1, &wanted[..4]);
}

#[test]
fn bodies_come_and_go_packed() {
    let server = ModelServer::start(&[("conv/1", "conv.onnx", CONV)]);
    let (extra, body) = conv_binary(true);
    let plain = binary_numbers(&server.send(&post(INFER, &extra, &body)));
    let gzip = |bytes: &[u8]| drained(GzEncoder::new(bytes, Compression::fast()));
    let deflated = drained(ZlibEncoder::new(&body[..], Compression::fast()));
    for (coding, packed) in [("gzip", gzip(&body)), ("deflate", deflated)] {
        let extra = format!("{extra}Content-Encoding: {coding}\r\n");
        assert_eq!(binary_numbers(&server.send(&post(INFER, &extra, &packed))), plain, "{coding}");
    }
    // So many rows that the answer is worth packing.
    let data = elements().repeat(100);
    let input = json!({"name": "input", "datatype": "FP32", "shape": [200, 3, 4], "data": data});
    let body = json!({ "inputs": [input] }).to_string();
    let plain = server.send(&post(INFER, "", body.as_bytes()));
    assert_eq!((numbers(&plain).len(), plain.header("content-encoding")), (800, None));
    let extra = "Content-Encoding: gzip\r\nAccept-Encoding: gzip\r\n";
    let packed = server.send(&post(INFER, extra, &gzip(body.as_bytes())));
    assert_eq!((packed.status, packed.header("content-encoding")), (200, Some("gzip")));
    assert!(packed.body.len() < plain.body.len() / 2, "{} bytes", packed.body.len());
    assert_eq!(unpacked(packed).text(), plain.text());
}

#[test]
fn the_best_classes_are_told_with_their_labels() {
    let server = ModelServer::start(&[("conv/1", "conv.onnx", CONV)]);
    let labels = ["rain", "wind", "traffic", "none"];
    let mut wanted = Vec::new();
    for row in numbers(&server.post(INFER, &conv_json())).chunks(4) {
        let mut order = [0, 1, 2, 3_usize];
        order.sort_by(|&one, &other| row[other].total_cmp(&row[one]));
        let best = order[..2].iter().map(|&index| format!("{:.6}:{index}:{}", row[index], labels[index]));
        wanted.extend(best);
    }
    let mut asked = conv_json();
    asked["outputs"] = json!([{"name": "scores", "parameters": {"classification": 2}}]);
    let answer = server.post(INFER, &asked);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let output = json!({"name": "scores", "datatype": "BYTES", "shape": [2, 2], "data": wanted});
    assert_eq!(answer.json()["outputs"], json!([output]));
}

#[test]
fn requests_that_do_not_fit_are_refused_and_the_connection_goes_on() {
    let server = ModelServer::start(&[("conv/1", "conv.onnx", CONV)]);
    let with = |key: &str, value: Value| {
        let mut asked = conv_json();
        asked["inputs"][0][key] = value;
        post(INFER, "", asked.to_string().as_bytes())
    };
    let (extra, body) = conv_binary(true);
    let mut client = Client::connect(server.addr);
    for (bytes, status, said) in [
        (with("name", json!("sound")), 400, "unexpected inference input 'sound'"),
        (with("datatype", json!("INT64")), 400, "'input'"),
        (with("shape", json!([2, 4, 3])), 400, "Expected [-1,3,-1], got [2,4,3]"),
        (with("shape", json!([2, 3, 5])), 400, "its shape [2,3,5]"),
        (with("shape", json!([1_u64 << 40, 3, 1_u64 << 40])), 413, "too many elements"),
        (with("data", json!(vec!["text"; 24])), 400, "element 0 of input 'input'"),
        (post(INFER, "", b"{\"inputs\": []}"), 400, "input 'input' is missing"),
        (post(INFER, "", b"{"), 400, "JSON"),
        (post(INFER, "", b""), 400, "JSON"),
        (post(INFER, &extra, &body[..body.len() - 1]), 400, "only 95 bytes"),
        (post(INFER, &extra, &[&body[..], b"x"].concat()), 400, "1 of the 97 bytes"),
        (post(INFER, "Inference-Header-Content-Length: 9999\r\n", &body), 400, "9999"),
        (post(INFER, "Content-Encoding: gzip\r\n", &body), 400, "gzip"),
        (post(INFER, "Content-Encoding: br\r\n", &body), 415, "Content-Encoding"),
    ] {
        client.send(bytes);
        let message = refusal(&client.answer(), status);
        assert!(message.contains(said), "{said:?} is missing in {message:?}");
    }
    client.send(post(INFER, &extra, &body));
    binary_numbers(&client.answer());
}

#[test]
fn interleaved_sequences_remember_each_for_itself() {
    let server = ModelServer::start(&[("single/1", "single.onnx", "")]);
    let ids = [json!(7), json!("a name")];
    // The model adds what it hears to half of the sum before.
    let mut sums = [0.0_f32; 2];
    for (which, place, element) in [
        (0, "start", 0.5),
        (1, "start", 2.0),
        (0, "", -1.0),
        (1, "", 0.125),
        (1, "", -0.5),
        (0, "", 0.0),
        (0, "start", 0.75),
        (1, "end", 1.0),
        (0, "end", 0.25),
    ] {
        let kept = if place == "start" { 0.0 } else { sums[which] / 2.0 };
        sums[which] = element + kept;
        let found = numbers(&step(&server, in_sequence(ids[which].clone(), place), element));
        assert_near(&found, &[sums[which].tanh(); 4]);
    }
    // Without a name each request is a sequence of its own.
    for _ in 0..2 {
        assert_near(&numbers(&step(&server, json!({}), 0.5)), &[0.5_f32.tanh(); 4]);
    }
}

#[test]
fn sequences_at_the_same_time_get_what_they_get_alone() {
    let server = ModelServer::start(&[("gru/1", "gru.onnx", "")]);
    let addr = server.addr;
    let alone: Vec<_> = (0..4).map(|voice| gru_sequence(addr, 1 + voice, voice)).collect();
    assert_ne!(alone[0], alone[1]);
    thread::scope(|scope| {
        let running: Vec<_> =
            (0..4).map(|voice| scope.spawn(move || gru_sequence(addr, 100 + voice, voice))).collect();
        for (sequence, wanted) in running.into_iter().zip(&alone) {
            assert_near(&sequence.join().expect("a sequence"), wanted);
        }
    });
}

#[test]
fn a_sequence_that_is_not_there_is_refused() {
    let server = ModelServer::start(&[("single/1", "single.onnx", "")]);
    let answer = step(&server, in_sequence(3, "start and end"), 0.5);
    assert_near(&numbers(&answer), &[0.5_f32.tanh(); 4]);
    for (parameters, said) in [
        (in_sequence(9, ""), "there is no sequence 9 of model `single`"),
        (in_sequence("nobody", ""), "there is no sequence 'nobody' of model `single`"),
        (in_sequence(9, "end"), "there is no sequence 9"),
        (in_sequence(3, ""), "there is no sequence 3"),
        (in_sequence(0, "start"), "without a sequence_id"),
        (json!({"sequence_end": true}), "without a sequence_id"),
    ] {
        let message = refusal(&step(&server, parameters, 0.5), 400);
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn a_model_is_loaded_replaced_and_withdrawn_while_the_server_runs() {
    let server = ModelServer::start(&[]);
    refusal(&server.post(INFER, &conv_json()), 404);
    assert!(refusal(&server.order("absent", "load"), 400).contains("there is no model `absent`"));
    server.put("conv/1", "conv.onnx", "");
    let index = |version: &str, state: &str, reason: &str| {
        let wanted = json!({"name": "conv", "version": version, "state": state, "reason": reason});
        assert_eq!(server.index("conv"), wanted);
    };
    index("1", "UNAVAILABLE", "it is not loaded");
    server.load("conv");
    index("1", "READY", "");
    let first = numbers(&server.post(INFER, &conv_json()));

    server.put("conv/2", "conv.onnx", CONV);
    assert_eq!(server.conv_version(), "1", "nobody has asked for the new one");
    server.load("conv");
    assert_eq!(server.conv_version(), "2");
    index("2", "READY", "");
    assert_eq!(get(server.addr, "/v2/models/conv").json()["versions"], json!(["2"]));
    assert_eq!(numbers(&server.post("/v2/models/conv/versions/2/infer", &conv_json())), first);
    refusal(&server.post("/v2/models/conv/versions/1/infer", &conv_json()), 404);

    let answer = server.order("conv", "unload");
    assert_eq!((answer.status, answer.text()), (200, ""));
    index("2", "UNAVAILABLE", "it is not loaded");
    for answer in [server.post(INFER, &conv_json()), get(server.addr, "/v2/models/conv/ready")] {
        refusal(&answer, 404);
    }
    refusal(&server.order("conv", "unload"), 404);
    server.load("conv");
    assert_eq!(server.conv_version(), "2");
    for order in ["load", "unload"] {
        assert!(refusal(&server.order("vad", order), 409).contains("`vad` is a model inside the server"));
    }
}

#[test]
fn a_version_that_is_broken_leaves_the_old_one_serving() {
    let server = ModelServer::start(&[("conv/1", "conv.onnx", CONV)]);
    for (version, file, manifest, said) in [
        ("conv/2", "make.py", "", "conv/2/model.onnx"),
        ("conv/3", "conv.onnx", "[audio\n", "conv/3/model.toml:1"),
        ("conv/4", "conv.onnx", "[[state]]\ninput = \"h0\"\noutput = \"hn\"\n", "state `h0` is declared"),
    ] {
        server.put(version, file, manifest);
        let message = refusal(&server.order("conv", "load"), 400);
        assert!(message.starts_with("model `conv` is not loaded: ") && message.contains(said), "{message}");
        assert_eq!(server.conv_version(), "1");
        assert_eq!(server.index("conv")["state"], "READY");
    }
    // Once it is withdrawn, the index says why there is no other.
    assert_eq!(server.order("conv", "unload").status, 200);
    let entry = server.index("conv");
    assert_eq!((&entry["state"], &entry["version"]), (&json!("UNAVAILABLE"), &json!("4")));
    assert!(entry["reason"].as_str().expect("a reason").contains("state `h0` is declared"), "{entry}");
    server.put("conv/5", "conv.onnx", CONV);
    server.load("conv");
    assert_eq!(server.conv_version(), "5");
}

#[test]
fn a_sequence_ends_on_the_version_it_began_with() {
    let server = ModelServer::start(&[("single/1", "single.onnx", "")]);
    let ask = |id: u64, place: &str| {
        let answer = step(&server, in_sequence(id, place), 0.5);
        (answer.json()["model_version"].clone(), numbers(&answer))
    };
    assert_eq!(ask(1, "start").0, "1");
    server.put("single/2", "single.onnx", "");
    server.load("single");
    assert_eq!(get(server.addr, "/v2/models/single").json()["versions"], json!(["2"]));
    let (version, found) = ask(1, "");
    assert_eq!(version, "1");
    assert_near(&found, &[0.75_f32.tanh(); 4]);
    assert_eq!(ask(2, "start").0, "2");
    assert_eq!(ask(1, "end").0, "1");
    assert_eq!(ask(2, "end").0, "2");
    assert_eq!(ask(1, "start").0, "2");
}

#[test]
fn a_reload_takes_what_is_in_the_folder_now() {
    let server = ModelServer::start(&[("conv/1", "conv.onnx", CONV), ("gru/1", "gru.onnx", "")]);
    server.put("conv/2", "conv.onnx", CONV);
    server.put("lstm/1", "lstm.onnx", "");
    std::fs::remove_dir_all(server.folder.path().join("gru")).expect("a folder");
    server.handle.reload();
    await_that("the folder is served as it is", || {
        let status = |model: &str| get(server.addr, &format!("/v2/models/{model}/ready")).status;
        (status("conv/versions/2"), status("lstm"), status("gru"), status("vad")) == (200, 200, 404, 200)
    });
    assert_eq!(server.conv_version(), "2");
}

/// The bound is one of the address space, which Linux keeps.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_asks_for_all_memory_ends_its_trial_and_not_the_server() {
    let args = ["models", "check", "--quiet", "--memory-max", "256MiB"].map(Into::into).to_vec();
    let program = assert_cmd::cargo::cargo_bin!("suzu").into();
    let trial = suzu::model::Trial { program, args, time_max: crate::support::DEADLINE / 2 };
    let options = RepositoryOptions { trial: Some(trial), ..RepositoryOptions::default() };
    let server = ModelServer::start_with(&[("conv/1", "conv.onnx", CONV)], options);
    server.put("conv/2", "hungry.onnx", "");
    let message = refusal(&server.order("conv", "load"), 400);
    assert!(message.contains("conv/2/model.onnx`") && message.contains("memory allocation of "), "{message}");
    assert_eq!(server.conv_version(), "1");
}

#[test]
fn statistics_count_rows_and_requests() {
    let server = ModelServer::start(&[("conv/1", "conv.onnx", CONV), ("gru/1", "gru.onnx", "")]);
    let told = |target: &str| get(server.addr, target).json()["model_stats"].clone();
    let figures = |stats: &Value| {
        let count = |what: &str| stats["inference_stats"][what]["count"].clone();
        json!([stats["inference_count"], stats["execution_count"], count("success"), count("fail")])
    };
    assert_eq!(figures(&told("/v2/models/conv/stats")[0]), json!([0, 0, 0, 0]));
    for rows in 1..=3 {
        let data = elements()[..12].repeat(rows);
        let input = json!({"name": "input", "datatype": "FP32", "shape": [rows, 3, 4], "data": data});
        assert_eq!(numbers(&server.post(INFER, &json!({ "inputs": [input] }))).len(), 4 * rows);
    }
    refusal(&server.post(INFER, &json!({"inputs": []})), 400);
    for target in ["/v2/models/conv/stats", "/v2/models/conv/versions/1/stats"] {
        let stats = &told(target)[0];
        assert_eq!((&stats["name"], &stats["version"]), (&json!("conv"), &json!("1")));
        assert_eq!(figures(stats), json!([6, 3, 3, 1]), "{stats}");
        assert!(stats["last_inference"].as_u64().expect("milliseconds") > 0);
    }
    let all = told("/v2/models/stats");
    let names: Vec<_> = all.as_array().expect("a list").iter().map(|stats| &stats["name"]).collect();
    assert_eq!(names, ["conv", "denoise", "echo", "gru", "vad"]);
    assert_eq!((figures(&all[0]), figures(&all[3])), (json!([6, 3, 3, 1]), json!([0, 0, 0, 0])));
}

#[test]
fn a_request_that_is_cut_short_leaves_the_server_serving() {
    let server = ModelServer::start(&[("conv/1", "conv.onnx", CONV)]);
    let (extra, body) = conv_binary(true);
    let whole = post(INFER, &extra, &body);
    for sent in [10, whole.len() / 2, whole.len() - 1, whole.len()] {
        // Whoever sends all of it does not wait for the answer either.
        Client::connect(server.addr).send(&whole[..sent]);
    }
    binary_numbers(&server.send(&whole));
    await_that("everybody else is gone and every request answered or left", || {
        let count = |what: &str| metric(server.addr, &format!("suzu_calls_{what}_total"));
        let open = get(server.addr, "/v1/status").json()["connections"]["open"].clone();
        count("received") == count("answered") + count("failed") && open == 1
    });
    assert_eq!(server.conv_version(), "1");
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = ModelServer::start(&[("conv/1", "conv.onnx", CONV)]);
    // The first takes longer than the others.
    let data = elements().repeat(250);
    let input = json!({"name": "input", "datatype": "FP32", "shape": [500, 3, 4], "data": data});
    let first = json!({"id": "long", "inputs": [input]}).to_string();
    let (extra, body) = conv_binary(true);
    let mut client = Client::connect(server.addr);
    client.send(
        [
            post(INFER, "", first.as_bytes()),
            post(INFER, &extra, &body),
            request("GET", "/v2/health/live", "").into_bytes(),
            post(INFER, "", conv_json().to_string().as_bytes()),
        ]
        .concat(),
    );
    let answer = client.answer();
    assert_eq!((answer.json()["id"].as_str(), numbers(&answer).len()), (Some("long"), 2000));
    let (json, second) = binary_numbers(&client.answer());
    assert_eq!(json["id"], "mine");
    assert_eq!(client.answer().json(), json!({"live": true}));
    assert_eq!(numbers(&client.answer()), second);
}

#[test]
fn a_request_in_pieces_gets_the_answer_of_one_in_one_piece() {
    let server = ModelServer::start(&[("conv/1", "conv.onnx", CONV)]);
    let (extra, body) = conv_binary(true);
    let whole = post(INFER, &extra, &body);
    let wanted = server.send(&whole);
    binary_numbers(&wanted);
    let mut client = Client::connect(server.addr);
    for size in [1, 7, 100] {
        whole.chunks(size).for_each(|piece| client.send(piece));
        let answer = client.answer();
        assert_eq!((answer.status, answer.body), (200, wanted.body.clone()), "pieces of {size} bytes");
    }
    client.send(request("POST", INFER, &format!("{extra}Transfer-Encoding: chunked\r\n")));
    for piece in body.chunks(9) {
        client.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.answer().body, wanted.body);
}

/// The requests are the bytes of a real client: see `tests/data/README.md`.
#[test]
fn what_tritonclient_sends_is_answered() {
    let recorded = |name: &str| {
        let file = format!("tests/data/tritonclient-{name}.http");
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("test data")
    };
    let server = ModelServer::start(&[("conv/1", "conv.onnx", CONV)]);
    let wanted = numbers(&server.post(INFER, &conv_json()));
    let check = |name: &str, answer: Answer| {
        let answer = unpacked(answer);
        let (json, found) = match name {
            "json" => (answer.json(), numbers(&answer)),
            _ => binary_numbers(&answer),
        };
        assert_eq!(json["id"], format!("golden-{name}"));
        assert_eq!(found, wanted, "{name}");
    };
    let names = ["json", "binary", "gzip"];
    for name in names {
        check(name, server.send(&recorded(name)));
    }
    let mut client = Client::connect(server.addr);
    client.send(names.map(recorded).concat());
    for name in names {
        check(name, client.answer());
    }
}
