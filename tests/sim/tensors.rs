//! Models of tensors for the simulation, the folder that some of them come from, and requests whose answers are known.

use crate::faults::Tally;
use crate::http::Ask;
use crate::pipe::Micros;
use crate::rng::Rng;
use crate::seed::{MS, SECOND};
use std::sync::Arc;
use suzu::model::{
    Datatype, Dim, Failure, ModelLimits, Registry, Served, State, Tensor, TensorData, TensorLane,
    TensorModel, TensorModelSpec, TensorSpec,
};
use suzu::server::{AskId, Found, RepositoryAnswer, RepositoryAsk};

/// An element that makes `pane` panic.
const POISON: u32 = 12_345;

/// Adds its version to each element; with memory it adds up all that a sequence brought.
struct Arithmetic {
    spec: TensorModelSpec,
}

impl Arithmetic {
    fn served(name: &str, version: u32, stateful: bool) -> Served {
        let port = |name: &str| TensorSpec {
            name: name.into(),
            datatype: Datatype::Uint32,
            shape: vec![Dim::Any],
            labels: Vec::new(),
        };
        let spec = TensorModelSpec {
            name: name.into(),
            version,
            platform: "simulated".into(),
            description: "For tests.".into(),
            inputs: vec![port("x")],
            outputs: vec![port("y")],
            stateful,
            batched: !stateful,
            state_bytes: 64,
            weights_bytes: 1 << 10,
            elements_max: 1000,
            limits: ModelLimits { concurrency_max: Some(1), ..ModelLimits::default() },
        };
        Served::Tensors(Arc::new(Self { spec }))
    }
}

impl TensorModel for Arithmetic {
    fn spec(&self) -> &TensorModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        Box::new(0u32)
    }

    fn infer(&self, lanes: &mut [TensorLane<'_>]) {
        for lane in lanes {
            let TensorData::Uint32(elements) = &lane.inputs[0].data else { panic!("checked before") };
            assert!(!elements.contains(&POISON), "poisoned");
            let sum: &mut u32 = lane.state.downcast_mut().expect("the state that `start` made");
            let answer: Vec<u32> = match self.spec.stateful {
                true => {
                    let add = |element: &u32| {
                        *sum = sum.wrapping_add(*element);
                        *sum
                    };
                    elements.iter().map(add).collect()
                }
                false => elements.iter().map(|element| element.wrapping_add(self.spec.version)).collect(),
            };
            let shape = vec![answer.len()];
            let tensor = Tensor::new(shape, TensorData::Uint32(answer));
            lane.outputs = tensor.map(|tensor| vec![tensor]).ok_or(Failure::WrongShape);
        }
    }
}

/// `pane` adds its version and breaks by poison; `purse` adds up what a sequence brought.
pub fn insert_into(registry: &mut Registry) {
    registry.insert_served(Arithmetic::served("pane", 1, false));
    registry.insert_served(Arithmetic::served("purse", 1, true));
}

/// The folder of models: `vane`, which changes whenever it is loaded, and one that is broken.
pub struct Folder {
    rng: Rng,
    versions: u32,
    answers: Vec<(Micros, AskId, RepositoryAsk)>,
}

impl Folder {
    pub fn new(rng: Rng) -> Self {
        Self { rng, versions: 0, answers: Vec::new() }
    }

    pub fn ask(&mut self, id: AskId, ask: RepositoryAsk, now: Micros) {
        let slow = self.rng.chance(20);
        let takes = if slow { self.rng.range(SECOND, 300 * SECOND) } else { self.rng.range(MS, 300 * MS) };
        self.answers.push((now + takes, id, ask));
    }

    pub fn poll(&mut self, now: Micros, tally: &mut Tally) -> Option<(AskId, RepositoryAnswer)> {
        let due = self.answers.iter().position(|(at, ..)| *at <= now)?;
        let (_, id, ask) = self.answers.remove(due);
        let answer = match ask {
            RepositoryAsk::Index => {
                let found = |name: &str| Found { name: name.into(), version: self.versions + 1 };
                RepositoryAnswer::Index(Ok(vec![found("vane"), found("wreck")]))
            }
            RepositoryAsk::Load(name) if name == "vane" => {
                tally.fire("model loaded");
                self.versions += 1;
                RepositoryAnswer::Loaded(Ok(Arithmetic::served("vane", self.versions, false)))
            }
            RepositoryAsk::Load(name) => {
                tally.fire("model that does not load");
                RepositoryAnswer::Loaded(Err(format!("{name} is broken")))
            }
        };
        Some((id, answer))
    }

    pub fn next_at(&self) -> Option<Micros> {
        self.answers.iter().map(|(at, ..)| *at).min()
    }
}

fn post(path: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: sim\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn infer(model: &str, elements: &[u32], parameters: &str) -> Vec<u8> {
    let (count, data) = (elements.len(), format!("{elements:?}"));
    let input = format!(r#"{{"name":"x","shape":[{count}],"datatype":"UINT32","data":{data}}}"#);
    post(&format!("/v2/models/{model}/infer"), &format!(r#"{{"inputs":[{input}]{parameters}}}"#))
}

fn answer(model: &str, version: u32, elements: &[u32]) -> Vec<u8> {
    let data: Vec<_> = elements.iter().map(u32::to_string).collect();
    let (count, data) = (elements.len(), data.join(","));
    let output = format!(r#"{{"name":"y","datatype":"UINT32","shape":[{count}],"data":[{data}]}}"#);
    format!(r#"{{"model_name":"{model}","model_version":"{version}","outputs":[{output}]}}"#).into_bytes()
}

fn elements(rng: &mut Rng) -> Vec<u32> {
    (0..rng.range(1, 6)).map(|_| rng.below(1000) as u32).collect()
}

/// Requests for inference: single ones, a sequence, or models that come and go.
pub fn asks(rng: &mut Rng, poison: bool, patient: bool, tally: &mut Tally) -> Vec<Ask> {
    match rng.below(4) {
        0 => (0..rng.range(1, 6)).map(|_| single(rng, poison, tally)).collect(),
        1 | 2 => sequence(rng, patient, tally),
        _ => (0..rng.range(1, 6)).map(|_| coming_and_going(rng, tally)).collect(),
    }
}

fn single(rng: &mut Rng, poison: bool, tally: &mut Tally) -> Ask {
    let mut asked = elements(rng);
    if poison && rng.chance(40) {
        tally.fire("poisoned request");
        asked.push(POISON);
        return Ask { bytes: infer("pane", &asked, ""), statuses: vec![500], ..Ask::get("/", &[]) };
    }
    tally.fire("request for inference");
    if rng.chance(20) {
        let wrong = [
            post("/v2/models/pane/infer", "{\"inputs\":[]}"),
            post(
                "/v2/models/pane/infer",
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[999999999999],\"datatype\":\"UINT32\",\"data\":[1]}]}",
            ),
            post("/v2/models/pane/infer", "not JSON"),
            infer("pane", &asked, ",\"outputs\":[{\"name\":\"z\"}]"),
        ];
        return Ask { bytes: rng.pick(&wrong), statuses: vec![400, 413, 500], ..Ask::get("/", &[]) };
    }
    // Those who share a batch with a poisoned request fail with it, and a worker may hang.
    let statuses = vec![200, 500];
    let sums: Vec<u32> = asked.iter().map(|element| element + 1).collect();
    Ask {
        bytes: infer("pane", &asked, ""),
        statuses,
        body: Some(answer("pane", 1, &sums)),
        ..Ask::get("/", &[])
    }
}

/// The requests of one sequence, which a patient server does not forget in between. What a lost request would have added is not known, so behind one nothing is compared.
fn sequence(rng: &mut Rng, patient: bool, tally: &mut Tally) -> Vec<Ask> {
    tally.fire("sequence");
    let name = rng.range(1, u64::from(u32::MAX));
    let count = rng.range(1, 6);
    let unbegun = rng.chance(15);
    let mut sum = 0u32;
    let mut asks = Vec::new();
    for index in 0..count {
        let asked = elements(rng);
        let (start, end) = (index == 0 && !unbegun, index + 1 == count && rng.chance(70));
        let parameters = format!(
            r#","parameters":{{"sequence_id":{name},"sequence_start":{start},"sequence_end":{end}}}"#
        );
        let add = |element: &u32| {
            sum += element;
            sum
        };
        let sums: Vec<u32> = asked.iter().map(add).collect();
        // A worker may hang.
        let statuses = match (unbegun, patient) {
            (true, _) => vec![400, 500],
            (false, true) => vec![200, 500],
            (false, false) => vec![200, 400, 500],
        };
        let body = Some(answer("purse", 1, &sums));
        let bytes = infer("purse", &asked, &parameters);
        asks.push(Ask { bytes, statuses, body, chained: true, ..Ask::get("/", &[]) });
    }
    asks
}

fn coming_and_going(rng: &mut Rng, tally: &mut Tally) -> Ask {
    let ask =
        |bytes: Vec<u8>, statuses: &[u16]| Ask { bytes, statuses: statuses.to_vec(), ..Ask::get("/", &[]) };
    match rng.below(6) {
        0 => ask(post("/v2/repository/models/vane/load", ""), &[200, 400]),
        1 => ask(post("/v2/repository/models/wreck/load", ""), &[400]),
        2 => ask(post("/v2/repository/models/vane/unload", ""), &[200, 404]),
        3 => ask(post("/v2/repository/index", ""), &[200, 400]),
        4 => {
            tally.fire("load of a model inside");
            ask(post("/v2/repository/models/vad/load", ""), &[409])
        }
        _ => ask(infer("vane", &elements(rng), ""), &[200, 404, 500]),
    }
}
