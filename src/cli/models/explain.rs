//! What `suzu models check` prints of a model.

use crate::model::onnx::manifest::Postprocess;
use crate::model::onnx::{Batching, Calibration, Division, Graph, Manifest, Port};
use crate::model::{
    Datatype, Event, EventKind, Failure, Findings, IndexEntry, Lane, Loaded, MODEL_FILE, Model, ModelSpec,
    Served, Tensor, TensorData, TensorLane, TensorModel, elements,
};
use bytesize::ByteSize;
use std::sync::Arc;
use std::time::Duration;

/// Width of the first column.
const COLUMN: usize = 12;
/// Numbers of a constant or an output that are shown.
const SHOWN: usize = 8;

/// All that is known of a model before it ran.
pub(super) fn text(entry: &IndexEntry, loaded: &Loaded) -> String {
    let Loaded { served, manifest, graph, .. } = loaded;
    let mut page = Page::default();
    page.text.push_str(&format!("{}: {} version {}\n", entry.folder.display(), entry.name, entry.version));
    if !manifest.description.is_empty() {
        page.line("", &manifest.description);
    }
    let kind = graph.engine().kind();
    page.line("file", &format!("{MODEL_FILE}, run by {} ({})", kind.name(), kind.platform()));
    page.line("model.toml", if loaded.has_manifest { "read" } else { "not there: everything is found out" });
    let takes = match served {
        Served::Audio(_) => "audio streams",
        Served::Tensors(_) => "requests with tensors",
    };
    page.line("takes", takes);
    ports(&mut page, graph);
    if let Served::Audio(model) = served {
        audio(&mut page, model.spec(), manifest);
    }
    batching(&mut page, served, loaded);
    let whose = if served.audio().is_some() { "stream" } else { "sequence" };
    let bytes = ByteSize::b(served.state_bytes_max() as u64);
    match served.is_stateful() {
        true => page.line("memory", &format!("at most {bytes} for each {whose}")),
        false => page.line("memory", "none: it remembers nothing from request to request"),
    }
    page.text
}

/// Lines with a word before them.
#[derive(Default)]
struct Page {
    text: String,
    last: String,
}

impl Page {
    fn line(&mut self, word: &str, line: &str) {
        let shown = if word == self.last { "" } else { word };
        self.text.push_str(format!("  {shown:<COLUMN$}{line}").trim_end());
        self.text.push('\n');
        self.last = word.to_owned();
    }
}

fn ports(page: &mut Page, graph: &Graph) {
    let rows = |axis: &Option<usize>| match axis {
        Some(axis) => format!("rows along dimension {axis}"),
        None => "the same for all rows".into(),
    };
    for (port, axis) in graph.inputs().iter().zip(graph.input_axes()) {
        page.line("inputs", &format!("{port}, {}", rows(axis)));
    }
    for (port, axis) in graph.outputs().iter().zip(graph.output_axes()) {
        page.line("outputs", &format!("{port}, {}", rows(axis)));
    }
    let states = graph.states();
    for state in &states {
        let rows = match state.axis {
            Some(axis) => format!("rows along dimension {axis}"),
            None => "for one row only".into(),
        };
        let bytes = ByteSize::b(state.initial.data.bytes() as u64);
        let (input, output) = (state.input, &state.output.name);
        page.line("states", &format!("{input} <- `{output}`, {rows}, {bytes} a row"));
    }
    if states.is_empty() {
        page.line("states", "none");
    }
    for constant in graph.constants() {
        page.line("constants", &format!("{} = {}", constant.input, numbers(&constant.value.data)));
    }
}

fn audio(page: &mut Page, spec: &ModelSpec, manifest: &Manifest) {
    let rate = spec.rate_for(crate::model::SAMPLE_RATE_HZ_MIN);
    let ms = |samples: usize| {
        format!("{samples} samples ({} ms)", rounded(samples as f64 * 1e3 / f64::from(rate)))
    };
    let window = format!("{rate} Hz; window {}, hop {}", ms(spec.window), ms(spec.hop));
    page.line("audio", &window);
    if spec.audio_out {
        page.line("audio", &format!("gives audio back, latency {}", ms(spec.latency)));
    }
    if let Some(features) = &manifest.features {
        let frames = format!("window {}, hop {}", ms(features.win), ms(features.hop));
        page.line("features", &format!("log-mel spectrum of {} bands; {frames}", features.n_mels));
    }
    for output in &spec.outputs {
        let shape = if output.shape.is_empty() { String::new() } else { format!(" {:?}", output.shape) };
        let labels = if output.labels.is_empty() { "" } else { "; " };
        let line = format!(
            "`{}` {}{shape}{labels}{}",
            output.name,
            output.datatype.name(),
            output.labels.join(", ")
        );
        page.line("results", &line);
    }
    if let Some(postprocess) = &manifest.postprocess {
        page.line("makes", &what_is_made(postprocess));
    }
}

fn what_is_made(postprocess: &Postprocess) -> String {
    match postprocess {
        Postprocess::Speech(speech) => format!(
            "speech: starts at {}, goes on at {}; at least {:?}, pauses from {:?}, {:?} added around",
            speech.on, speech.off, speech.min_on, speech.min_off, speech.pad
        ),
        Postprocess::Classify(classify) => {
            format!("classify: the {} likeliest labels, mean of {} windows", classify.top_k, classify.smooth)
        }
        Postprocess::Keyword(keyword) => format!(
            "keyword: from {} on, mean of {} windows; {:?} of silence after a word",
            keyword.threshold, keyword.smooth, keyword.refractory
        ),
    }
}

fn batching(page: &mut Page, served: &Served, loaded: &Loaded) {
    match loaded.graph.batching() {
        Batching::Shared { rows_max } => {
            page.line("batching", &format!("up to {rows_max} rows share a call"));
        }
        Batching::Alone(why) => page.line("batching", &format!("each row has a call of its own: {why}")),
    }
    if let Served::Tensors(model) = served
        && !model.spec().batched
        && matches!(loaded.graph.batching(), Batching::Shared { .. })
    {
        page.line("batching", "requests do not share calls: not every input and output has rows");
    }
    if let Some(Calibration { table, best }) = &loaded.calibration {
        page.line("batching", &format!("{:>6} {:>10}", "rows", "us/row"));
        let division = Division::of(table);
        for timed in table {
            let parts = division.parts(timed.rows);
            let mark = match parts[..] {
                _ if timed.rows == *best => "  <- best".to_owned(),
                [_] | [] => String::new(),
                [first, ..] if parts.iter().all(|part| *part == first) => {
                    format!("  faster in {} calls of {first}", parts.len())
                }
                _ => format!(
                    "  faster in calls of {}",
                    parts.iter().map(usize::to_string).collect::<Vec<_>>().join(" + ")
                ),
            };
            page.line("batching", &format!("{:>6} {:>10.1}{mark}", timed.rows, timed.us_per_row));
        }
    }
}

/// Runs the model once, on a second of a quiet tone or on zeros, and tells what came out.
pub(super) fn run_once(loaded: &Loaded, now: &dyn Fn() -> Duration) -> Result<String, String> {
    match &loaded.served {
        Served::Audio(model) => hear(model, now),
        Served::Tensors(model) => ask(model, &loaded.graph, now),
    }
}

fn hear(model: &Arc<dyn Model>, now: &dyn Fn() -> Duration) -> Result<String, String> {
    let spec = model.spec();
    let rate = spec.rate_for(crate::model::SAMPLE_RATE_HZ_MIN);
    let count = (rate as usize / spec.hop).max(1);
    let samples: Vec<f32> = (0..(count - 1) * spec.hop + spec.window)
        .map(|n| 0.1 * (std::f32::consts::TAU * 440.0 * n as f32 / rate as f32).sin())
        .collect();
    let mut state = model.start();
    let mut findings = Findings::empty(spec);
    let mut failure = None;
    let begun = now();
    model.infer(&mut [Lane {
        state: &mut state,
        samples: &samples,
        count,
        first_window: 0,
        ends_at: None,
        findings: &mut findings,
        failure: &mut failure,
    }]);
    let taken = now().saturating_sub(begun);
    if let Some(failure) = failure {
        return Err(format!("it fails on a second of a tone: {}", told(&failure)));
    }
    let mut page = Page::default();
    let seconds = rounded(samples.len() as f64 / f64::from(rate));
    page.line("a trial", &format!("{seconds} s of a tone, {count} windows, in {}", in_ms(taken)));
    for (output, data) in spec.outputs.iter().zip(&findings.outputs) {
        if data.len() != count * output.row_len() {
            return Err(format!("output `{}` has {} elements for {count} windows", output.name, data.len()));
        }
        page.line("a trial", &format!("`{}` {}", output.name, summary(data)?));
    }
    if spec.audio_out {
        let audio = TensorData::Fp32(findings.audio);
        page.line("a trial", &format!("audio of {} samples, {}", audio.len(), summary(&audio)?));
    }
    for Event { kind, at_sample } in &findings.events {
        let what = match kind {
            EventKind::SpeechStarted => "speech starts",
            EventKind::SpeechEnded => "speech ends",
        };
        page.line("a trial", &format!("{what} at sample {at_sample}"));
    }
    for class in &findings.classes {
        page.line("a trial", &format!("{} {:.3}", class.label, class.score));
    }
    for found in &findings.detections {
        page.line("a trial", &format!("{} {:.3} at sample {}", found.label, found.score, found.at_sample));
    }
    Ok(page.text)
}

fn ask(model: &Arc<dyn TensorModel>, graph: &Graph, now: &dyn Fn() -> Duration) -> Result<String, String> {
    let inputs: Vec<Tensor> = graph
        .inputs()
        .iter()
        .zip(graph.sample_shapes())
        .map(|(port, shape)| zeros(port, shape))
        .collect::<Option<_>>()
        .ok_or("its inputs are too large to be made")?;
    let mut state = model.start();
    let mut lanes = [TensorLane { state: &mut state, inputs: &inputs, outputs: Ok(Vec::new()) }];
    let begun = now();
    model.infer(&mut lanes);
    let taken = now().saturating_sub(begun);
    let [TensorLane { outputs, .. }] = lanes;
    let mut page = Page::default();
    let shapes: Vec<_> = graph.sample_shapes().iter().map(|shape| format!("{shape:?}")).collect();
    page.line("a trial", &format!("zeros of {}, in {}", shapes.join(", "), in_ms(taken)));
    match outputs {
        // Zeros may well be divided by; that says nothing of real inputs.
        Err(Failure::NotFinite) => page.line("a trial", "NaN or infinity came out"),
        Err(failure) => return Err(format!("it fails on zeros: {}", told(&failure))),
        Ok(outputs) => {
            for (spec, output) in model.spec().outputs.iter().zip(&outputs) {
                page.line(
                    "a trial",
                    &format!("`{}` {:?}: {}", spec.name, output.shape, summary(&output.data)?),
                );
            }
        }
    }
    Ok(page.text)
}

fn zeros(port: &Port, shape: &[usize]) -> Option<Tensor> {
    let count = elements(shape)?;
    let data = match port.datatype {
        Datatype::Bool => TensorData::Bool(vec![false; count]),
        Datatype::Fp16 => TensorData::Fp16(vec![half::f16::ZERO; count]),
        Datatype::Bf16 => TensorData::Bf16(vec![half::bf16::ZERO; count]),
        Datatype::Bytes => TensorData::Bytes(vec![Vec::new(); count]),
        other => TensorData::from_f64(other, &vec![0.0; count])?,
    };
    Tensor::new(shape.to_vec(), data)
}

/// The least and the greatest of many numbers, or the few that there are.
fn summary(data: &TensorData) -> Result<String, String> {
    if !data.is_finite() {
        return Err("NaN or infinity came out".into());
    }
    if data.len() <= SHOWN || data.numbers().next().is_none() {
        return Ok(numbers(data));
    }
    let least = data.numbers().fold(f64::INFINITY, f64::min);
    let most = data.numbers().fold(f64::NEG_INFINITY, f64::max);
    Ok(format!("{} numbers from {} to {}", data.len(), rounded(least), rounded(most)))
}

fn numbers(data: &TensorData) -> String {
    let shown: Vec<_> = data.numbers().take(SHOWN).map(rounded).collect();
    match (shown.is_empty(), data.len() > SHOWN) {
        (true, _) => format!("{} elements of {}", data.len(), data.datatype().name()),
        (false, true) => format!("{} ... ({})", shown.join(" "), data.len()),
        (false, false) => shown.join(" "),
    }
}

/// Four digits behind the point, without zeros at the end.
fn rounded(number: f64) -> String {
    let text = format!("{number:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn in_ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn told(failure: &Failure) -> String {
    match failure {
        Failure::Panicked(why) | Failure::Engine(why) | Failure::Refused(why) => why.clone(),
        Failure::NotFinite => "NaN or infinity came out".into(),
        Failure::WrongShape => "another number of rows came out than windows went in".into(),
    }
}
