//! Webhooks as the server meets them: which messages of a stream are told, what the outside answered, and the shutdown.

use crate::config::WebhookEvents;
use crate::id::SessionId;
use crate::server::contract::{DeadLetter, PostAnswer, PostId};
use crate::server::webhooks::News;
use crate::server::{Output, Server};
use crate::time::Instant;
use crate::wire::message::{ServerMessage, WebhookData, WebhookEvent, rfc3339};

impl Server {
    /// Tells a stream's client, and the receiver of webhooks if it wants to know.
    pub(super) fn tell_all(&mut self, id: SessionId, message: &ServerMessage) {
        self.tell(id, message);
        self.announce(id, message);
    }

    fn announce(&mut self, id: SessionId, message: &ServerMessage) {
        let (Some(webhooks), Some(session)) = (&mut self.webhooks, self.sessions.get(id)) else { return };
        let kind = match message {
            ServerMessage::Results(results)
                if results.is_final && self.config.webhook_events == WebhookEvents::All =>
            {
                "stream.results"
            }
            ServerMessage::Termination(_) => "stream.ended",
            _ => return,
        };
        let data = WebhookData {
            session_id: &session.name,
            request_id: &session.request_id,
            user: &session.principal.user,
            model: &session.params.model,
            tag: session.params.tag.as_deref(),
            message,
        };
        let body = WebhookEvent { kind, timestamp: rfc3339(self.now.unix_ms), data }.encode();
        let crowded_out = webhooks.figures().crowded_out;
        let letter = webhooks.push(id, body, self.now);
        if crowded_out == 0 && webhooks.figures().crowded_out > 0 {
            log::warn!(
                "events beyond webhook_bytes_max become dead letters: the receiver of webhooks is too slow"
            );
        }
        self.outputs.extend(letter.map(Output::DeadLetter));
    }

    /// Asks for the attempts that are due.
    pub(super) fn post_webhooks(&mut self) {
        let Some(webhooks) = &mut self.webhooks else { return };
        while let Some(post) = webhooks.next_post(self.now) {
            self.outputs.push_back(Output::Post(post));
        }
    }

    /// An attempt was answered.
    pub(super) fn on_posted(&mut self, id: PostId, answer: &PostAnswer) {
        let Some(webhooks) = &mut self.webhooks else { return };
        let (news, letter) = webhooks.on_answer(id, answer, self.now);
        match news {
            Some(News::Trouble(why)) => log::warn!("webhooks do not arrive: {why}"),
            Some(News::Recovered) => log::info!("webhooks arrive again"),
            None => {}
        }
        if let Some(DeadLetter { event, attempts, why, .. }) = &letter {
            log::debug!("event {event} is a dead letter after {attempts} attempts: {why}");
        }
        let hopeless = webhooks.is_hopeless();
        self.outputs.extend(letter.map(Output::DeadLetter));
        if hopeless {
            self.close_webhooks();
        }
    }

    /// Attempts that were not answered in time.
    pub(super) fn on_late_posts(&mut self) {
        let now = self.now.instant;
        while let Some(id) = self.webhooks.as_ref().and_then(|webhooks| webhooks.overdue(now)) {
            self.on_posted(id, &PostAnswer::Failed("there was no answer within webhook_timeout".into()));
        }
    }

    /// The shutdown begins, and ends at the latest at `end`.
    pub(super) fn hurry_webhooks(&mut self, end: Instant) {
        if let Some(webhooks) = &mut self.webhooks {
            webhooks.hurry(self.now.instant, end);
        }
    }

    /// The shutdown waits no longer: what is left becomes dead letters, and so does what may still be made.
    pub(super) fn close_webhooks(&mut self) {
        let Some(webhooks) = &mut self.webhooks else { return };
        let pending = webhooks.figures().pending;
        if pending > 0 {
            log::warn!("{pending} events were not delivered before the end: they are dead letters");
        }
        while let Some(letter) = webhooks.close(self.now) {
            self.outputs.push_back(Output::DeadLetter(letter));
        }
    }

    /// When webhooks want to be looked at.
    pub(super) fn webhooks_due(&self) -> Option<Instant> {
        self.webhooks.as_ref()?.due()
    }
}
