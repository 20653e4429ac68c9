//! Requests for inference in a worker's hands: reading, inferring, writing the answer.
//!
//! All that costs time in proportion to a request happens here and not in the loop: unpacking, parsing, inference,
//! encoding, packing. Requests to one model go through it together; a fault of one is its own.

use super::audio;
use crate::id::CallId;
use crate::model::{self, Failure, Served, State, StreamState, Tensor, TensorLane, TensorModel};
use crate::reason::{Fault, Reason};
use crate::time::Instant;
use crate::wire::compress::{self, Coding};
use crate::wire::oip::AUDIO;
use crate::wire::oip::{
    InferLimits, InferRequest, InferResponse, OutputTensor, Sequence, check_inputs, check_outputs, signature,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Answers shorter than this are not packed: the packing would cost more than it saves.
const PACK_BYTES_MIN: usize = 1024;

/// Fast: answers are of floats, which hardly become smaller by trying harder.
const PACK_LEVEL: u32 = 1;

/// Tensors of a request at most; models have a dozen at the outside.
const TENSORS_MAX: usize = 256;

/// Requests that go to a worker together.
pub struct Calls {
    /// How far they are to be taken.
    pub stage: CallStage,
    /// The model that they ask.
    pub served: Served,
    /// What a body may grow to by being unpacked, bytes.
    pub bytes_max: usize,
    /// Which requests; as many as there are calls.
    pub ids: Vec<CallId>,
    /// The requests themselves.
    pub calls: Vec<Call>,
}

/// How far requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallStage {
    /// Only read, to know to which sequence they belong.
    Read,
    /// Read, if they are not yet, and answered.
    Answer,
}

/// One request for inference.
pub struct Call {
    /// What is asked.
    pub question: Question,
    /// What a model that remembers knows of the request's sequence; None: nothing yet. Afterwards what it knows now.
    pub memory: Option<Memory>,
    /// Whether its sequence goes on after it.
    pub keeps: bool,
    /// The answer, once there is one.
    pub reply: Option<Result<Reply, Fault>>,
    /// Where the time went.
    pub times: CallTimes,
}

/// What is asked.
pub enum Question {
    /// As it came.
    Raw {
        /// The body.
        body: Vec<u8>,
        /// How it is packed.
        coding: Coding,
        /// Length of the JSON at the beginning of a binary body.
        header_len: Option<usize>,
        /// How the answer is to be packed.
        accept: Coding,
    },
    /// Read.
    Read {
        /// The request.
        request: InferRequest,
        /// How the answer is to be packed.
        accept: Coding,
    },
    /// Answered; what it held is free.
    Done,
}

/// What a model remembers of a sequence.
pub enum Memory {
    /// A model that hears streams.
    Audio(Box<StreamState>),
    /// A model of tensors.
    Tensors(State),
}

/// The answer to a request.
#[derive(Debug)]
pub struct Reply {
    /// The body.
    pub body: Vec<u8>,
    /// Length of the JSON at the beginning of a binary body.
    pub header_len: Option<usize>,
    /// How the body is packed.
    pub coding: Coding,
    /// Rows that were inferred.
    pub rows: u64,
}

/// Where a request's time went in its worker. What was spent on several together counts for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTimes {
    /// Unpacking and parsing.
    pub read: Duration,
    /// The model.
    pub infer: Duration,
    /// Encoding and packing.
    pub write: Duration,
}

impl Question {
    /// Bytes of the body as it came.
    pub fn bytes(&self) -> usize {
        match self {
            Question::Raw { body, .. } => body.capacity(),
            Question::Read { .. } | Question::Done => 0,
        }
    }
}

impl Call {
    /// A request that nothing has been done about.
    pub fn new(question: Question) -> Self {
        Self { question, memory: None, keeps: false, reply: None, times: CallTimes::default() }
    }

    /// The sequence that a request belongs to, once it is read.
    pub fn sequence(&self) -> Option<Sequence> {
        match &self.question {
            Question::Read { request, .. } => request.sequence.clone(),
            _ => None,
        }
    }

    fn read(&mut self, served: &Served, bytes_max: usize) {
        let Question::Raw { body, coding, header_len, accept } = &mut self.question else { return };
        let (accept, coding, header_len) = (*accept, *coding, *header_len);
        let body = std::mem::take(body);
        let unpacked = match coding {
            Coding::Identity => Ok(body),
            _ => compress::decompress(coding, &body, bytes_max),
        };
        match unpacked.and_then(|body| parse(&body, header_len, served, bytes_max)) {
            Ok(request) => self.question = Question::Read { request, accept },
            Err(fault) => self.refuse(fault),
        }
    }

    pub(super) fn refuse(&mut self, fault: Fault) {
        self.reply = Some(Err(fault));
    }

    pub(super) fn fail(&mut self, failure: &Failure) {
        self.refuse(match failure {
            Failure::Refused(message) => Fault::new(Reason::InvalidValue, message.clone()),
            // What a model says when it panics is for the operator's log, not for its clients.
            Failure::Panicked(_) => Fault::new(Reason::InferenceFailed, "the model failed on this request"),
            other => Fault::new(Reason::InferenceFailed, format!("the model {other}")),
        });
    }

    /// Encodes the outputs as the request wants them.
    pub(super) fn answer(&mut self, served: &Served, outputs: &[Tensor], rows: u64) {
        let Question::Read { request, accept } = std::mem::replace(&mut self.question, Question::Done) else {
            return;
        };
        let reply = response(served, outputs).encode(&request).map(|encoded| {
            let coding = if encoded.body.len() < PACK_BYTES_MIN { Coding::Identity } else { accept };
            let body = match coding {
                Coding::Identity => encoded.body,
                _ => compress::compress(coding, &encoded.body, PACK_LEVEL),
            };
            Reply { body, header_len: encoded.header_len, coding, rows }
        });
        self.reply = Some(reply);
    }
}

impl Calls {
    /// Does as much as the stage says. What a request is found at fault with is its reply.
    pub(super) fn execute(&mut self, clock: &dyn Fn() -> Instant) {
        let Calls { stage, served, bytes_max, calls, .. } = self;
        for call in calls.iter_mut() {
            let began = clock();
            call.read(served, *bytes_max);
            call.times.read += clock() - began;
        }
        if *stage == CallStage::Read {
            return;
        }
        let outputs = match served {
            Served::Tensors(model) => infer(&**model, calls, clock),
            Served::Audio(model) => audio::infer(&**model, calls, clock),
        };
        for (call, outputs) in calls.iter_mut().zip(outputs) {
            let Some((outputs, rows)) = outputs else { continue };
            let began = clock();
            call.answer(served, &outputs, rows);
            call.times.write += clock() - began;
        }
    }

    /// Every request that has no answer gets this one.
    pub(super) fn fail(&mut self, why: &str) {
        for call in &mut self.calls {
            if call.reply.is_none() {
                call.fail(&Failure::Panicked(why.to_owned()));
            }
        }
    }
}

fn parse(
    body: &[u8],
    header_len: Option<usize>,
    served: &Served,
    bytes_max: usize,
) -> Result<InferRequest, Fault> {
    let elements_max = match served {
        Served::Tensors(model) => model.spec().elements_max,
        // More does not fit in a body; the pipeline takes audio of any length.
        Served::Audio(_) => bytes_max,
    };
    let limits = InferLimits { tensors_max: TENSORS_MAX, elements_max };
    match header_len {
        Some(0) => InferRequest::parse_raw(body, &signature(served).inputs, &limits),
        _ => InferRequest::parse(body, header_len, &limits),
    }
}

/// A model's outputs with their names.
fn response<'a>(served: &'a Served, outputs: &'a [Tensor]) -> InferResponse<'a> {
    let mut named = Vec::with_capacity(outputs.len());
    match served {
        Served::Tensors(model) => {
            let spec = model.spec();
            for (output, tensor) in spec.outputs.iter().zip(outputs) {
                named.push(OutputTensor {
                    name: &output.name,
                    tensor,
                    labels: &output.labels,
                    batched: spec.batched,
                });
            }
        }
        Served::Audio(model) => {
            let specs = model.spec().outputs.iter().map(|output| (&*output.name, &*output.labels));
            for ((name, labels), tensor) in specs.chain([(AUDIO, [].as_slice())]).zip(outputs) {
                named.push(OutputTensor { name, tensor, labels, batched: true });
            }
        }
    }
    InferResponse { model_name: served.name(), model_version: served.version(), outputs: named }
}

/// The outputs of each request and how many rows were inferred for it; `None` where it has its reply already.
pub(super) type Inferred = Vec<Option<(Vec<Tensor>, u64)>>;

/// Lets a model of tensors answer those that have no reply yet.
fn infer(model: &dyn TensorModel, calls: &mut [Call], clock: &dyn Fn() -> Instant) -> Inferred {
    let spec = model.spec();
    let mut inputs: Vec<Vec<Tensor>> = Vec::with_capacity(calls.len());
    for call in calls.iter_mut() {
        let taken = match &mut call.question {
            Question::Read { request, .. } if call.reply.is_none() => {
                let outputs = spec.outputs.iter().map(|output| &*output.name);
                check_outputs(request, &spec.name, outputs)
                    .and_then(|()| check_inputs(request, &spec.name, &spec.inputs, spec.elements_max))
            }
            _ => Ok(Vec::new()),
        };
        inputs.push(taken.unwrap_or_else(|fault| {
            call.refuse(fault);
            Vec::new()
        }));
        if !matches!(call.memory, Some(Memory::Tensors(_))) {
            call.memory = Some(Memory::Tensors(model.start()));
        }
    }
    let mut lanes = Vec::with_capacity(calls.len());
    for (call, inputs) in calls.iter_mut().zip(&inputs) {
        if let (None, Some(Memory::Tensors(state))) = (&call.reply, &mut call.memory) {
            lanes.push(TensorLane { state, inputs, outputs: Ok(Vec::new()) });
        }
    }
    let began = clock();
    // A state that a panic left half changed is not kept.
    let panicked = catch_unwind(AssertUnwindSafe(|| model.infer(&mut lanes))).err();
    let took = clock() - began;
    let panicked = panicked.map(|payload| Failure::Panicked(model::panic_message(&*payload)));
    let outputs: Vec<_> = lanes.into_iter().map(|lane| lane.outputs).collect();
    let mut outputs = outputs.into_iter();
    let mut answer = |(call, inputs): (&mut Call, &Vec<Tensor>)| {
        if call.reply.is_some() {
            return None;
        }
        call.times.infer += took;
        let outputs = outputs.next().unwrap_or(Err(Failure::WrongShape));
        if panicked.is_some() {
            call.memory = None;
        }
        let checked = match &panicked {
            Some(failure) => Err(failure.clone()),
            None => outputs.and_then(|outputs| oip_checked(spec.outputs.len(), outputs)),
        };
        match checked {
            Ok(outputs) => Some((outputs, rows_of(inputs, spec.batched))),
            Err(failure) => {
                if let Failure::Panicked(message) = &failure {
                    log::warn!("model {} panicked on a request: {message}", spec.name);
                }
                call.fail(&failure);
                None
            }
        }
    };
    calls.iter_mut().zip(&inputs).map(&mut answer).collect()
}

/// Whether the model kept its word.
fn oip_checked(count: usize, outputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    if outputs.len() != count {
        return Err(Failure::WrongShape);
    }
    let finite = outputs.iter().all(|tensor| tensor.data.is_finite());
    if finite { Ok(outputs) } else { Err(Failure::NotFinite) }
}

/// Rows of a request to a model whose rows share a batch; otherwise it is one.
fn rows_of(inputs: &[Tensor], batched: bool) -> u64 {
    let rows = inputs.first().and_then(|tensor| tensor.shape.first()).filter(|_| batched);
    rows.map_or(1, |rows| *rows as u64)
}
