//! From ready streams to a batch, and from a batch that is home to results.

use crate::batch::{Batch, Streams, Work};
use crate::id::{ModelId, SessionId};
use crate::model::{EventKind, Failure, Outcome, OutputSpec, Run, TensorData};
use crate::reason::{Fault, Reason};
use crate::server::batcher::{Formed, Member, Overdue, Queue};
use crate::server::session::{Finalize, RunInFlight, Session, Stage, round_ms};
use crate::server::{Output, Server};
use crate::wire::message::{ErrorMessage, Framing, Results, ServerMessage, SpeechBoundary, Tensor, Timing};
use crate::wire::{message, pcm, websocket};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// What a whole batch has in common when it is home.
#[derive(Clone, Copy)]
pub(super) struct BatchFacts {
    /// Runs or requests in it.
    pub size: usize,
    /// How long it took in its worker.
    pub infer_time: Duration,
}

impl Server {
    /// The next batch for the workers, if one should go now and there is a place for it.
    pub(super) fn form_batch(&mut self) -> Option<Batch> {
        let now = self.now.instant;
        loop {
            let sessions = &self.sessions;
            let run_max = self.config.run_max;
            let cost = |member| match member {
                Member::Session(id) => sessions.get(id).map_or(0, |session| session.run_cost(run_max)),
                Member::Call(_) => 1,
            };
            let formed = self.batcher.form(now, cost)?;
            let run_max = run_max.min(Duration::from_micros(formed.each_max));
            let work = match formed.queue {
                Queue::Streams(model) => self.cut_runs(model, &formed.members, run_max),
                Queue::Calls(model) => self.gather_calls(model, &formed.members, false),
                Queue::Unread(model) => self.gather_calls(model, &formed.members, true),
            };
            let Some((work, members)) = work else { continue };
            self.metrics.counters.batches += 1;
            let id = formed.id;
            self.batcher.depart(Formed { members, ..formed }, now);
            return Some(Batch::new(id, work));
        }
    }

    /// The next runs of these streams, of those that have one.
    fn cut_runs(
        &mut self,
        model: ModelId,
        members: &[Member],
        run_max: Duration,
    ) -> Option<(Work, Vec<Member>)> {
        let mut sessions = Vec::with_capacity(members.len());
        let mut runs = Vec::with_capacity(members.len());
        for member in members {
            let Member::Session(session) = *member else { continue };
            if let Some(run) = self.cut_run(session, run_max) {
                sessions.push(session);
                runs.push(run);
            }
        }
        if runs.is_empty() {
            return None;
        }
        self.metrics.counters.runs += runs.len() as u64;
        let members = sessions.iter().copied().map(Member::Session).collect();
        let model = Arc::clone(self.catalog.get(model).served.audio()?);
        Some((Work::Streams(Streams { model, sessions, runs }), members))
    }

    /// Cuts the stream's next run; None if there is nothing left to infer.
    fn cut_run(&mut self, id: SessionId, run_max: Duration) -> Option<Run> {
        let now = self.now.instant;
        self.discard_stale(id);
        let session = self.sessions.get_mut(id)?;
        session.queued = false;
        if !session.wants_run() {
            // What it wanted to infer has been discarded as stale; somebody may wait for just that.
            self.advance(id);
            return None;
        }
        let finish = session.stage != Stage::Open;
        let cut = session.buffer.cut(session.samples_in(run_max) as usize, finish)?;
        // What a full run leaves behind must not wait for chunks that may never come.
        session.flush = session.buffer.has_unit();
        let state = session.state.take().expect("the state is here while no run is in flight");
        session.run =
            Some(RunInFlight { newest: cut.newest, departed: now, skipped: cut.skipped, last: cut.last });
        self.charge_audio(id);
        self.arm(id);
        Some(Run::new(state, cut.samples, cut.last))
    }

    /// A batch is home.
    pub(super) fn on_inferred(&mut self, batch: Batch) {
        if !self.batcher.complete(batch.id, batch.infer_time) {
            // It exceeded its time limit: its streams have been told and are gone.
            return;
        }
        self.metrics.inferred(batch.len(), batch.infer_time);
        self.capacity.worked(batch.infer_time);
        let facts = BatchFacts { size: batch.len(), infer_time: batch.infer_time };
        match batch.work {
            Work::Streams(Streams { sessions, runs, .. }) => {
                self.learn_cost(&sessions, batch.cpu_time);
                for (session, run) in sessions.into_iter().zip(runs) {
                    self.on_outcome(session, run, facts);
                }
            }
            Work::Calls(calls) => self.on_calls(calls, facts),
        }
    }

    /// What a batch with the runs of these streams took.
    fn learn_cost(&mut self, sessions: &[SessionId], cpu_time: Duration) {
        let seconds =
            |session: &Session| session.buffer.in_flight() as f64 / f64::from(session.params.sample_rate_hz);
        let sessions = || sessions.iter().filter_map(|id| self.sessions.get(*id));
        let audio_s = sessions().map(seconds).sum();
        if let Some(model) = sessions().next().map(|session| session.model_id) {
            self.catalog.get_mut(model).cost.learn(cpu_time, audio_s);
        }
    }

    fn on_outcome(&mut self, id: SessionId, run: Run, facts: BatchFacts) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(flight) = session.run.take() else { return };
        session.state = Some(run.state);
        drop(run.samples);
        match run.outcome.failure.clone() {
            Some(failure) => self.on_failure(id, &failure),
            None => self.on_success(id, run.outcome, flight, facts),
        }
        self.charge_audio(id);
        self.after_run(id, flight.last);
    }

    fn on_success(&mut self, id: SessionId, outcome: Outcome, flight: RunInFlight, facts: BatchFacts) {
        let now = self.now.instant;
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.failures = 0;
        self.metrics.counters.samples_processed += session.buffer.in_flight();
        session.buffer.complete();
        self.metrics.answered((now - flight.newest).saturating_sub(facts.infer_time));
        self.note_run(id, &outcome, flight, facts);
        self.tell_outcome(id, outcome, flight, facts);
    }

    /// The model failed on this run: its audio is discarded, its state started afresh, and the client told.
    fn on_failure(&mut self, id: SessionId, failure: &Failure) {
        self.metrics.counters.failures += 1;
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.failures += 1;
        let model = session.model_id;
        let fatal = session.whole_audio || session.failures >= self.config.infer_failures_max;
        let stretch = session.buffer.lose();
        log::warn!(session = session.name.as_str(), model = session.params.model.as_str(); "the model {failure}");
        let request_id = session.request_id.clone();
        self.note_failure(model);
        self.report_discarded(id, stretch, Reason::InferenceFailed);
        // What a model says when it panics is for the operator's log, not for its clients.
        let fault =
            Fault::new(Reason::InferenceFailed, "the model failed on this audio and has been started afresh");
        if fatal {
            return self.fail_hard(id, fault);
        }
        self.tell(id, &ServerMessage::Error(Box::new(ErrorMessage::new(&fault, &request_id, false))));
    }

    /// Ends the stream by a failed inference, whatever its stage.
    fn fail_hard(&mut self, id: SessionId, fault: Fault) {
        let Some(session) = self.sessions.get(id) else { return };
        let error = ErrorMessage::new(&fault, &session.request_id, true);
        self.tell(id, &ServerMessage::Error(Box::new(error)));
        self.end(id, fault);
    }

    /// A run is home: what it left to do.
    fn after_run(&mut self, id: SessionId, last: bool) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if last {
            session.stage.end_after_last_run();
        }
        self.advance(id);
    }

    fn tell_outcome(&mut self, id: SessionId, outcome: Outcome, flight: RunInFlight, facts: BatchFacts) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let model = Arc::clone(&session.model);
        let model_rate = model.spec().rate_for(session.params.sample_rate_hz);
        let shift_ms = session.ms(flight.skipped);
        let at_ms = |sample: u64| round_ms(sample as f64 * 1000.0 / f64::from(model_rate) + shift_ms);
        for event in &outcome.findings.events {
            let Some(session) = self.sessions.get_mut(id) else { return };
            let boundary =
                SpeechBoundary { message_seq: session.next_message_seq(), at_ms: at_ms(event.at_sample) };
            let message = match event.kind {
                EventKind::SpeechStarted => ServerMessage::SpeechStarted(boundary),
                EventKind::SpeechEnded => ServerMessage::SpeechEnded(boundary),
            };
            self.tell(id, &message);
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let finalize = session.pop_finalize();
        let silent = outcome.windows == 0 && outcome.findings.audio.is_empty();
        if silent && finalize.is_none() {
            return;
        }
        let message_seq = session.next_message_seq();
        session.results += 1;
        let timing = session.params.timing.then(|| timing(flight, facts));
        let outputs = tensors(&model.spec().outputs, outcome.findings.outputs);
        self.tell_audio(id, message_seq, &outcome.findings.audio);
        let results = Results {
            message_seq,
            start_ms: round_ms(outcome.start_ms + shift_ms),
            duration_ms: round_ms(outcome.duration_ms),
            is_final: true,
            from_finalize: finalize.is_some(),
            finalize_id: finalize.and_then(|finalize| finalize.id),
            speech_probability: outcome.findings.speech_probability,
            is_speech: outcome.findings.is_speech,
            detections: outcome
                .findings
                .detections
                .iter()
                .map(|found| message::Detection {
                    label: found.label.to_string(),
                    score: found.score,
                    at_ms: at_ms(found.at_sample),
                })
                .collect(),
            classes: outcome
                .findings
                .classes
                .iter()
                .map(|class| message::Class { label: class.label.to_string(), score: class.score })
                .collect(),
            outputs,
            timing,
        };
        self.tell_all(id, &ServerMessage::Results(results));
    }

    /// Sends processed audio back in the stream's own encoding.
    fn tell_audio(&mut self, id: SessionId, message_seq: u64, audio: &[f32]) {
        let Some(session) = self.sessions.get(id) else { return };
        let (Some(conn), false) = (session.conn, audio.is_empty()) else { return };
        if self.is_upload(conn) {
            return self.tell_upload_audio(conn, id, audio);
        }
        let (encoding, framing) = (session.params.encoding, session.params.framing);
        let header = pcm::AudioHeader {
            kind: pcm::AudioKind::Output,
            flags: 0,
            channel: 0,
            seq: message_seq as u32,
            capture_time_us: self.now.unix_ms * 1000,
        };
        let header_bytes = if framing == Framing::Seq { pcm::AUDIO_HEADER_BYTES } else { 0 };
        let payload_bytes = header_bytes + audio.len() * encoding.sample_bytes();
        self.write(conn, |out| {
            websocket::encode_binary_header(out, payload_bytes, None);
            if framing == Framing::Seq {
                header.encode(out);
            }
            pcm::encode(encoding, audio, out);
        });
    }

    /// Answers every `Finalize` whose audio has been dealt with by an empty result.
    pub(super) fn answer_finalizes(&mut self, id: SessionId) {
        while let Some((session, finalize)) = self.next_finalize(id) {
            let message_seq = session.next_message_seq();
            session.results += 1;
            let clock = session.buffer.clock();
            let results = Results {
                message_seq,
                start_ms: session.ms(clock),
                is_final: true,
                from_finalize: true,
                finalize_id: finalize.id,
                ..Results::default()
            };
            self.tell_all(id, &ServerMessage::Results(results));
        }
    }

    fn next_finalize(&mut self, id: SessionId) -> Option<(&mut Session, Finalize)> {
        let session = self.sessions.get_mut(id)?;
        let finalize = session.pop_finalize()?;
        Some((session, finalize))
    }

    /// Batches over their time limit: their streams end, and the driver sees to the worker.
    pub(super) fn on_overdue(&mut self) {
        while let Some(overdue) = self.batcher.pop_overdue(self.now.instant) {
            self.metrics.counters.overdue += 1;
            log::warn!("batch {} exceeded infer_timeout with {} runs", overdue.id.0, overdue.members.len());
            self.note_failure(overdue.queue.model());
            self.give_up_batch(overdue, Reason::InferenceFailed);
        }
    }

    /// A batch is not waited for any longer: the driver sees to its worker, its members are told.
    pub(super) fn give_up_batch(&mut self, overdue: Overdue, reason: Reason) {
        self.outputs.push_back(Output::Abandon(overdue.id));
        for member in overdue.members {
            match member {
                Member::Session(session) => self.on_run_lost(session, reason),
                Member::Call(call) => self.on_call_lost(call, reason),
            }
        }
    }

    /// A run will not come home: its audio is discarded, and the stream, whose state is gone with it, ends.
    pub(super) fn on_run_lost(&mut self, id: SessionId, reason: Reason) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.run.take().is_none() {
            return;
        }
        let stretch = session.buffer.lose();
        self.report_discarded(id, stretch, reason);
        let message = match reason {
            Reason::Draining => "the server shuts down before the inference is done",
            _ => "the inference took longer than the server allows",
        };
        self.fail_hard(id, Fault::new(reason, message));
    }
}

fn timing(flight: RunInFlight, facts: BatchFacts) -> Timing {
    Timing {
        queue_ms: round_ms((flight.departed - flight.newest).as_secs_f64() * 1000.0),
        batch_size: facts.size,
        infer_ms: round_ms(facts.infer_time.as_secs_f64() * 1000.0),
    }
}

/// The model's tensors with their names.
fn tensors(names: &[OutputSpec], outputs: Vec<TensorData>) -> Vec<Tensor> {
    let named = names.iter().zip(outputs);
    let tensor = |(spec, data): (&OutputSpec, TensorData)| {
        let rows = data.len() / spec.row_len().max(1);
        let shape = std::iter::once(rows).chain(spec.shape.iter().copied()).collect();
        Tensor { name: Cow::Owned(spec.name.to_string()), shape, data }
    };
    named.map(tensor).collect()
}
