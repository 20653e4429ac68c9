//! The threads that post webhooks: whether and when is the core's to say, and so is what an answer means.
//!
//! As many threads as there are attempts at a time; each signs what it is given, posts it and tells what came back. No redirect is
//! followed, no proxy of the environment asked, and of an answer only the head counts. Nothing that is told names the URL
//! or the secret.

use super::doorbell::Doorbell;
use crate::auth::WebhookKey;
use crate::config::Config;
use crate::model::panic_message;
#[cfg(feature = "tls")]
use crate::pem;
use crate::server::{Post, PostAnswer, PostId};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;

/// Bytes of an answer's head, and of each buffer of a connection.
const BUFFER_BYTES: usize = 16 << 10;
/// Bytes of an answer's body that are read, so that the connection can be used again.
const BODY_BYTES_MAX: u64 = 4 << 10;
/// How long they are waited for.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// The threads, as the loop sees them.
pub(super) struct Poster {
    posts: Sender<Post>,
    answers: Receiver<(PostId, PostAnswer)>,
}

/// What each thread has.
#[derive(Clone)]
struct Receiving {
    agent: Agent,
    url: Arc<str>,
    key: Arc<WebhookKey>,
}

impl Poster {
    /// Starts the threads, if there is a receiver. They end with the poster, each after its attempt.
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    pub(super) fn start(config: &Config, bell: &Arc<Doorbell>) -> io::Result<Option<Self>> {
        let Some(receiver) = Receiving::open(config)? else { return Ok(None) };
        let (posts, queue) = bounded::<Post>(config.webhook_posts_max);
        let (tell, answers) = bounded(2 * config.webhook_posts_max);
        for number in 0..config.webhook_posts_max {
            let (receiver, queue, tell, bell) =
                (receiver.clone(), queue.clone(), tell.clone(), Arc::clone(bell));
            let work = move || {
                for post in queue {
                    if tell.send((post.id, receiver.post_safely(&post))).is_err() {
                        return;
                    }
                    bell.ring();
                }
            };
            std::thread::Builder::new().name(format!("suzu-webhook-{number}")).spawn(work)?;
        }
        Ok(Some(Self { posts, answers }))
    }

    /// Posts; the answer comes by [`Poster::poll`].
    ///
    /// # Errors
    /// Every thread is busy beyond its time, which is an answer too.
    pub(super) fn post(&self, post: Post) -> Result<(), (PostId, PostAnswer)> {
        let failed = |error: crossbeam_channel::TrySendError<Post>| {
            (error.into_inner().id, PostAnswer::Failed("earlier attempts have not come back".into()))
        };
        self.posts.try_send(post).map_err(failed)
    }

    /// Takes an answer.
    pub(super) fn poll(&self) -> Option<(PostId, PostAnswer)> {
        self.answers.try_recv().ok()
    }
}

/// Whether everything that posting needs can be had.
///
/// # Errors
/// As [`Poster::start`].
pub(super) fn check(config: &Config) -> io::Result<()> {
    Receiving::open(config).map(drop)
}

impl Receiving {
    fn open(config: &Config) -> io::Result<Option<Self>> {
        if config.webhook_url.is_empty() {
            return Ok(None);
        }
        let refuse = |why: String| io::Error::new(io::ErrorKind::InvalidInput, format!("webhooks: {why}"));
        let key = WebhookKey::load(config).map_err(refuse)?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("suzu/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(config.webhook_timeout))
            .timeout_recv_body(Some(BODY_TIMEOUT.min(config.webhook_timeout)))
            .max_response_header_size(BUFFER_BYTES)
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_idle_connections(config.webhook_posts_max)
            .max_idle_connections_per_host(config.webhook_posts_max);
        let agent = trusting(agent, config).map_err(refuse)?.build().new_agent();
        Ok(Some(Self { agent, url: config.webhook_url.as_str().into(), key: Arc::new(key) }))
    }

    /// Posts, and outlives whatever the client for HTTP may do.
    fn post_safely(&self, post: &Post) -> PostAnswer {
        catch_unwind(AssertUnwindSafe(|| self.post(post))).unwrap_or_else(|panic| {
            log::error!("posting a webhook panicked: {}", panic_message(&*panic));
            PostAnswer::Failed("posting panicked".into())
        })
    }

    fn post(&self, post: &Post) -> PostAnswer {
        let request = self
            .agent
            .post(&*self.url)
            .header("content-type", "application/json")
            .header("webhook-id", &*post.event)
            .header("webhook-timestamp", post.timestamp_s.to_string())
            .header("webhook-signature", self.key.sign(&post.event, post.timestamp_s, &post.body));
        match request.send(&post.body[..]) {
            Ok(response) => {
                let status = response.status().as_u16();
                let field = response.headers().get("retry-after").and_then(|field| field.to_str().ok());
                let retry_after = field.map(str::to_owned);
                // Only what is read to its end leaves a connection that can be used again. If it is not, no matter.
                let mut body = response.into_body().into_reader().take(BODY_BYTES_MAX);
                let _ = io::copy(&mut body, &mut io::sink());
                PostAnswer::Status { status, retry_after }
            }
            Err(error) => PostAnswer::Failed(explain(&error)),
        }
    }
}

/// What went wrong, without the URL, which some of the errors repeat.
fn explain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "the attempt took longer than webhook_timeout".into(),
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::HostNotFound => "the receiver's host has no address".into(),
        ureq::Error::Protocol(_) => "the receiver's answer is no HTTP".into(),
        #[cfg(feature = "tls")]
        ureq::Error::Rustls(error) => format!("TLS: {error}"),
        ureq::Error::ConnectionFailed => "the receiver cannot be connected to".into(),
        _ => "the attempt failed".into(),
    }
}

/// Whom it trusts to be the receiver.
#[cfg(feature = "tls")]
fn trusting(agent: ConfigBuilder<AgentScope>, config: &Config) -> Result<ConfigBuilder<AgentScope>, String> {
    use ureq::tls::{Certificate, RootCerts, TlsConfig};
    let roots = match config.webhook_ca_file.as_str() {
        "" => RootCerts::WebPki,
        path => {
            let certificates =
                pem::certificates(path.as_ref()).map_err(|why| format!("webhook_ca_file: {path}: {why}"))?;
            let trusted =
                certificates.iter().map(|certificate| Certificate::from_der(certificate).to_owned());
            RootCerts::from(trusted.collect::<Vec<_>>())
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider);
    Ok(agent.tls_config(tls.build()))
}

/// Nobody is asked for a certificate: a URL that wants one is refused with the configuration.
#[cfg(not(feature = "tls"))]
fn trusting(agent: ConfigBuilder<AgentScope>, _: &Config) -> Result<ConfigBuilder<AgentScope>, String> {
    Ok(agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(id: u64) -> Post {
        Post { id: PostId(id), event: "msg_1".into(), timestamp_s: 0, body: (*b"{}").into() }
    }

    #[test]
    fn who_finds_every_thread_busy_is_answered_at_once() {
        let (posts, _nobody_takes) = bounded(1);
        let (_tell, answers) = bounded(1);
        let poster = Poster { posts, answers };
        assert!(poster.post(post(1)).is_ok());
        let (id, answer) = poster.post(post(2)).expect_err("there is no place");
        assert_eq!(id, PostId(2));
        assert!(matches!(answer, PostAnswer::Failed(why) if why.contains("not come back")));
        assert!(poster.poll().is_none());
    }

    #[test]
    fn no_failure_repeats_the_url() {
        let errors = [
            ureq::Error::BadUri("http://planted/".into()),
            ureq::Error::RequireHttpsOnly("http://planted/".into()),
        ];
        for error in errors {
            assert!(error.to_string().contains("planted") && !explain(&error).contains("planted"));
        }
    }
}
