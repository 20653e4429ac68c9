//! Requests for inference: from a body to an answer, by way of the workers, and in order within a sequence.
//!
//! ```text
//! on_infer -> [Unread -> on_read ->] [sequence] -> Calls -> on_answered -> the connection
//! ```
//!
//! A model without memory reads and answers a request in one visit to a worker. For one that remembers, the request is
//! read first, since only its body says to which sequence it belongs.

use crate::batch::{Call, CallStage, Calls, Question, Work};
use crate::id::{CallId, ConnId, ModelId};
use crate::reason::{Fault, Reason};
use crate::server::Server;
use crate::server::batcher::{Member, Queue};
use crate::server::calls::{PendingCall, Sequence, SequenceKey};
use crate::server::connection::Asked;
use crate::server::fair::Tenant;
use crate::server::on_batch::BatchFacts;
use crate::wire::oip;
use std::collections::VecDeque;

impl Server {
    /// A request for inference with its whole body. Answered at once only if it is refused.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn on_infer(
        &mut self,
        conn: ConnId,
        model: ModelId,
        question: Question,
        tenant: Tenant,
    ) -> Result<Asked, Fault> {
        if self.calls.len() >= self.config.calls_max {
            let message =
                format!("{} requests wait or are answered already; try again later", self.calls.len());
            return Err(Fault::new(Reason::Overloaded, message));
        }
        let bytes = question.bytes();
        if self.budgets.calls + bytes > self.config.calls_bytes_total_max {
            let message = "the requests that wait hold all the memory there is for them; try again later";
            return Err(Fault::new(Reason::Overloaded, message));
        }
        if self.batcher.is_stuck() {
            return Err(Fault::new(Reason::Overloaded, "every worker hangs; try again later"));
        }
        self.check_pressure()?;
        self.admit_to(model)?;
        let now = self.now.instant;
        let pending = PendingCall {
            tenant,
            conn: Some(conn),
            model,
            call: None,
            queue: None,
            sequence: None,
            charged: bytes,
            since: now,
            departed: now,
        };
        self.catalog.acquire(model);
        self.budgets.calls += bytes;
        let id = self.calls.insert(pending);
        self.metrics.counters.calls_received += 1;
        let stateful = self.catalog.get(model).served.is_stateful();
        let queue = if stateful { Queue::Unread(model) } else { Queue::Calls(model) };
        self.queue_call(id, Box::new(Call::new(question)), queue);
        Ok(Asked::Call(id))
    }

    fn queue_call(&mut self, id: CallId, call: Box<Call>, queue: Queue) {
        let Some(pending) = self.calls.get_mut(id) else { return };
        pending.call = Some(call);
        pending.queue = Some(queue);
        self.batcher.admit(queue, &pending.tenant, Member::Call(id), self.now.instant);
    }

    /// Puts requests together for a worker: to be read only, or to be answered.
    pub(super) fn gather_calls(
        &mut self,
        model: ModelId,
        members: &[Member],
        read_only: bool,
    ) -> Option<(Work, Vec<Member>)> {
        let (mut ids, mut calls) = (Vec::new(), Vec::new());
        for member in members {
            let Member::Call(id) = *member else { continue };
            let Some(pending) = self.calls.get_mut(id) else { continue };
            let Some(call) = pending.call.take() else { continue };
            pending.queue = None;
            pending.departed = self.now.instant;
            ids.push(id);
            calls.push(*call);
        }
        if ids.is_empty() {
            return None;
        }
        let members = ids.iter().copied().map(Member::Call).collect();
        let stage = if read_only { CallStage::Read } else { CallStage::Answer };
        let served = self.catalog.get(model).served.clone();
        let bytes_max = self.config.infer_body_bytes_max;
        Some((Work::Calls(Calls { stage, served, bytes_max, ids, calls }), members))
    }

    /// Requests are home.
    pub(super) fn on_calls(&mut self, calls: Calls, facts: BatchFacts) {
        let Calls { stage, ids, calls, .. } = calls;
        for (id, call) in ids.into_iter().zip(calls) {
            match stage {
                _ if self.calls.get(id).is_none() => {}
                CallStage::Read if call.reply.is_none() => self.on_read(id, call),
                CallStage::Read | CallStage::Answer => self.on_answered(id, call, facts),
            }
        }
    }

    /// A request has been read: now it is known to which sequence it belongs.
    fn on_read(&mut self, id: CallId, call: Call) {
        let Some(pending) = self.calls.get(id) else { return };
        if pending.conn.is_none() {
            return self.leave_call(id);
        }
        let model = pending.model;
        let Some(oip::Sequence { key: name, start, end }) = call.sequence() else {
            return self.queue_call(id, Box::new(call), Queue::Calls(model));
        };
        let key = SequenceKey { model: self.catalog.get(model).served.name().clone(), id: name };
        let mut call = call;
        call.keeps = !end;
        match self.join_sequence(id, model, &key, start) {
            Ok(()) => {
                if let Some(pending) = self.calls.get_mut(id) {
                    pending.sequence = Some(key.clone());
                    pending.call = Some(Box::new(call));
                }
                self.advance_sequence(&key);
            }
            Err(fault) => self.reply(id, Err(fault)),
        }
    }

    /// Queues a request behind those of its sequence, which it may begin.
    fn join_sequence(
        &mut self,
        id: CallId,
        model: ModelId,
        key: &SequenceKey,
        start: bool,
    ) -> Result<(), Fault> {
        let now = self.now.instant;
        if let Some(sequence) = self.sequences.get_mut(key) {
            sequence.waiting.push_back((id, start));
            sequence.last_asked = now;
            return Ok(());
        }
        if !start {
            let message = format!(
                "there is no sequence {} of model `{}`: its first request says sequence_start, and it ends by \
                 sequence_end or when nothing is asked of it for a while",
                key.id, key.model
            );
            return Err(Fault::new(Reason::UnknownSequence, message).at("sequence_id"));
        }
        if self.sequences.len() >= self.config.sequences_max {
            let message = format!("all {} sequences are taken; try again later", self.config.sequences_max);
            return Err(Fault::new(Reason::TooManySessions, message));
        }
        self.catalog.acquire(model);
        let waiting = VecDeque::from([(id, start)]);
        let sequence = Sequence { model, memory: None, busy: false, waiting, last_asked: now };
        self.sequences.insert(key.clone(), sequence);
        self.sweep_due.get_or_insert(now);
        Ok(())
    }

    /// Lets the next request of a sequence go, if none is on its way.
    fn advance_sequence(&mut self, key: &SequenceKey) {
        while let Some(sequence) = self.sequences.get_mut(key).filter(|sequence| !sequence.busy) {
            let Some((id, start)) = sequence.waiting.pop_front() else {
                if sequence.memory.is_none() {
                    self.end_sequence(key);
                }
                return;
            };
            let model = sequence.model;
            let memory = sequence.memory.take().filter(|_| !start);
            let forgotten = memory.is_none() && !start;
            sequence.busy = !forgotten;
            let Some(pending) = self.calls.get_mut(id) else {
                // Its client has gone; what is remembered stays.
                if let Some(sequence) = self.sequences.get_mut(key) {
                    sequence.busy = false;
                    sequence.memory = memory;
                }
                continue;
            };
            if forgotten {
                let message = format!("sequence {} of model `{}` has ended", key.id, key.model);
                self.reply(id, Err(Fault::new(Reason::UnknownSequence, message).at("sequence_id")));
                continue;
            }
            let Some(mut call) = pending.call.take() else { continue };
            call.memory = memory;
            self.queue_call(id, call, Queue::Calls(model));
        }
    }

    fn end_sequence(&mut self, key: &SequenceKey) {
        if let Some(sequence) = self.sequences.remove(key) {
            self.leave_model(sequence.model);
        }
    }

    /// A request has its answer, or could not be read.
    fn on_answered(&mut self, id: CallId, call: Call, facts: BatchFacts) {
        let Some(pending) = self.calls.get(id) else { return };
        let (model, queued) = (pending.model, pending.departed - pending.since);
        match &call.reply {
            Some(Ok(reply)) => self.note_success(model, reply.rows, queued, call.times, facts.size),
            Some(Err(fault)) if fault.reason == Reason::InferenceFailed => self.note_failure(model),
            _ => self.catalog.get_mut(model).stats.note_failure(self.now.unix_ms),
        }
        if let Some(key) = pending_key(self.calls.get_mut(id)) {
            if let Some(sequence) = self.sequences.get_mut(&key) {
                sequence.busy = false;
                sequence.memory = call.memory.filter(|_| call.keeps);
            }
            self.advance_sequence(&key);
        }
        if let Some(reply) = call.reply {
            self.reply(id, reply);
        }
    }

    /// A request will not come home: its client is told, and its sequence, whose memory is lost with it, ends.
    pub(super) fn on_call_lost(&mut self, id: CallId, reason: Reason) {
        let Some(pending) = self.calls.get_mut(id) else { return };
        let key = pending_key(Some(pending));
        let message = match reason {
            Reason::Draining => "the server shuts down before the inference is done",
            _ => "the inference took longer than the server allows",
        };
        self.reply(id, Err(Fault::new(reason, message)));
        if let Some(key) = key {
            if let Some(sequence) = self.sequences.get_mut(&key) {
                sequence.busy = false;
                sequence.memory = None;
            }
            self.advance_sequence(&key);
        }
    }

    /// Tells the answer to whoever still waits for it, and the request is gone.
    fn reply(&mut self, id: CallId, reply: Result<crate::batch::Reply, Fault>) {
        let conn = self.calls.get(id).and_then(|pending| pending.conn);
        self.forget_call(id);
        self.metrics.counters.calls_answered += u64::from(reply.is_ok());
        self.metrics.counters.calls_failed += u64::from(reply.is_err());
        if let Some(conn) = conn {
            self.answer_call(conn, reply);
        }
    }

    fn forget_call(&mut self, id: CallId) {
        let Some(pending) = self.calls.remove(id) else { return };
        self.budgets.calls -= pending.charged;
        if let Some(queue) = pending.queue {
            self.batcher.forget(queue, &pending.tenant, Member::Call(id));
        }
        self.leave_model(pending.model);
    }

    /// Nobody waits for this request any more. What a worker or a sequence has begun is finished all the same.
    pub(super) fn abandon_call(&mut self, id: CallId) {
        let Some(pending) = self.calls.get_mut(id) else { return };
        pending.conn = None;
        let unread = matches!(pending.queue, Some(Queue::Unread(_)));
        let alone = pending.queue.is_some() && pending.sequence.is_none();
        if unread || alone {
            self.leave_call(id);
        }
    }

    /// A request that nobody waits for is not taken any further.
    fn leave_call(&mut self, id: CallId) {
        self.metrics.counters.calls_failed += 1;
        self.forget_call(id);
    }

    /// Every request that waits is refused, and no sequence goes on.
    pub(super) fn give_up_calls(&mut self) {
        for id in self.calls.keys() {
            let message = "the server shuts down before the request's turn";
            self.reply(id, Err(Fault::new(Reason::Draining, message)));
        }
        let keys: Vec<_> = self.sequences.iter().map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.end_sequence(&key);
        }
    }

    /// Sequences that nobody has asked for too long are forgotten.
    pub(super) fn sweep_sequences(&mut self) {
        let idle = self.config.sequence_idle_timeout;
        let now = self.now.instant;
        for key in self.sequences.stale(now, idle) {
            log::debug!("sequence {} of model {} has been idle for {idle:?}", key.id, key.model);
            self.end_sequence(&key);
        }
    }
}

fn pending_key(pending: Option<&mut PendingCall>) -> Option<SequenceKey> {
    pending?.sequence.clone()
}
