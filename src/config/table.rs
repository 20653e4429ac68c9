//! The table of settings. To add one, add a row here and run the tests with `UPDATE_DOCS=1`.

use super::value::{
    Kind, LogFormat, MaybeText, Number, OnnxEngine, OpenAccess, ProxyProtocol, Size, Text, Time,
    WebhookEvents, Word, parse,
};
use super::{Legacy, Setting};
use log::LevelFilter;
use std::time::Duration;

/// Makes [`Config`] and [`SETTINGS`] of one row for each setting:
/// `/// help`, `field: Type = Kind("default", "min" ..= "max"), [unit "...",] why "..." [, legacy "..." [bare "unit"]];`
macro_rules! settings {
    ($( $group:literal { $(
        $(#[doc = $help:literal])+
        $name:ident: $type:ty = $kind:ident($default:literal $(, $min:literal ..= $max:literal)?),
        $(unit $unit:literal,)?
        why $why:literal
        $(, legacy $legacy:literal $(bare $bare:literal)?)?;
    )+ } )+) => {
        /// Every setting, resolved. [`Config::default`] serves on 127.0.0.1:8080.
        ///
        /// ```
        /// use suzu::config::Config;
        /// let config = Config { port: 0, ..Config::default() };
        /// assert!(config.validate().is_ok());
        /// ```
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config { $($(
            $(#[doc = $help])+
            #[doc = concat!("\n\nDefault `", $default, "`. ", $why)]
            pub $name: $type,
        )+)+ }

        impl Default for Config {
            fn default() -> Self {
                Self { $($( $name: default_of::<$kind, $type>($default), )+)+ }
            }
        }

        /// Every setting, section by section.
        pub const SETTINGS: &[Setting] = &[ $($( Setting {
            name: stringify!($name),
            group: $group,
            default: $default,
            range: first!($(Some(($min, $max)),)? None),
            unit: first!($($unit,)? <$kind as Kind<$type>>::UNIT),
            form: <$kind as Kind<$type>>::FORM,
            help: concat!($($help),+),
            why: $why,
            legacy: &[$(Legacy { variable: $legacy, bare_unit: first!($($bare,)? "") })?],
            set: |config, text| {
                config.$name = parse::<$kind, $type>(text, first!($(Some(($min, $max)),)? None))?;
                Ok(())
            },
            get: |config| <$kind as Kind<$type>>::write(&config.$name),
        }, )+)+ ];
    };
}

/// The first of the things given.
macro_rules! first {
    ($first:expr $(, $rest:expr)*) => {
        $first
    };
}

fn default_of<K: Kind<V>, V: PartialOrd>(text: &str) -> V {
    K::read(text).unwrap_or_else(|| panic!("the default {text:?} in the table of settings cannot be read"))
}

settings! {
    "Listening" {
        /// Address or host name to listen on; `0.0.0.0` or `::` listens on every interface.
        host: String = Text("127.0.0.1"), unit "address",
            why "Nothing is reachable from outside until somebody asks for it.";

        /// TCP port to listen on; 0 takes any free one and logs which.
        port: u16 = Number("8080", "0" ..= "65535"), unit "port",
            why "The customary port of a service without root.", legacy "SERVER_PORT";

        /// Connections that the kernel holds until the server accepts them.
        listen_backlog: u32 = Number("4096", "1" ..= "65535"), unit "connections",
            why "Thousands of clients that reconnect at once after a restart fit; the usual 128 drops them.";

        /// Threads that run models; 0: one less than the cores there are and no more than `memory_max` has room for, at least one.
        workers: usize = Number("0", "0" ..= "1024"), unit "threads",
            why "One core stays free for the poll loop, which everything else waits for.";
    }

    "TLS" {
        /// File with the certificate and those above it, PEM; empty: connections are plain.
        tls_certificate: String = MaybeText(""), unit "path",
            why "Nobody has a certificate from the start; with one, the same port speaks only TLS.";

        /// File with the certificate's private key, PEM, without a password.
        tls_key: String = MaybeText(""), unit "path",
            why "It belongs to the certificate: both are set, or none.";

        /// Time in which the handshake of TLS must be done, and before it a proxy's header be there.
        tls_handshake_timeout: Duration = Time("10s", "10ms" ..= "1h"),
            why "Two round trips, and as patient with a bad mobile network as `head_timeout`.";

        /// Bytes of records half received, and of those half sent; beyond it the rest stays with the kernel.
        tls_bytes_total_max: usize = Size("2MiB", "256KiB" ..= "64GiB"),
            why "A hundred of the longest records each way; usual ones are a few KiB, and most come and go whole.";
    }

    "Capacity" {
        /// Connections at a time, of whatever kind; more are refused with 503 and `Retry-After`.
        connections_max: usize = Number("10000", "1" ..= "1000000"), unit "connections",
            why "An idle connection costs next to nothing; the descriptors that a host allows end sooner.";

        /// Streams at a time; more are refused with 503 and `Retry-After`.
        sessions_max: usize = Number("1000", "1" ..= "1000000"), unit "sessions",
            why "What one core does with the small models; a heavier model wants fewer.", legacy "MAX_CLIENTS";

        /// Memory that all limits together may imply; a configuration that could need more is refused.
        memory_max: usize = Size("512MiB", "16MiB" ..= "1024GiB"),
            why "Fits the smallest hosts that are commonly rented.";

        /// Descriptors kept back from connections for files, logs and wakers.
        descriptors_reserve: usize = Number("64", "16" ..= "65536"), unit "descriptors",
            why "The server itself holds under twenty; the rest is for what runs beside it in the process.";
    }

    "Overload" {
        /// Part of the host's measured capacity that streams may take, percent; beyond it newcomers are refused. 0: no limit.
        capacity_percent: u32 = Number("75", "0" ..= "100"), unit "%",
            why "Latency grows steeply beyond: at 75 % it is still near what it is at 70 %.";

        /// Time that a run may wait for a worker; the server refuses, cuts and closes as it comes near (`docs/tuning.md`).
        queue_wait_target: Duration = Time("1s", "1ms" ..= "1h"),
            why "Where results stop being live. Streams at full speed wait for each other, so far less would refuse a healthy server.";

        /// Time that a turn of the loop may take, in two seconds on end; the same follows as it comes near.
        loop_lag_target: Duration = Time("100ms", "1ms" ..= "1h"),
            why "A turn takes a millisecond; where each second has one of a tenth, the machine has no time for the server.";
    }

    "Access" {
        /// File of keys and tokens that are taken; empty: nobody needs credentials.
        credentials_file: String = MaybeText(""), unit "path",
            why "On one's own machine nobody else comes; `suzu token` makes what goes into the file.";

        /// Where whoever comes is served without credentials: `local` (only on loopback) or `anywhere`.
        open_access: OpenAccess = Word("local"), unit "word",
            why "A server that the network reaches and nobody guards is a mistake until somebody says otherwise.";

        /// Longest time to its end that a token in the URL (`?token=`) may have.
        query_token_lifetime_max: Duration = Time("5min", "1s" ..= "24h"),
            why "URLs are kept by histories and logs; long enough to open a page and its stream.";

        /// Longest time to its end that a signed request may have.
        signed_request_lifetime_max: Duration = Time("15min", "1s" ..= "24h"),
            why "What was signed is remembered for so long, since it is taken once.";

        /// Signed requests that are remembered so that none is taken twice; beyond that newcomers are refused with 429.
        signed_requests_max: usize = Number("2000", "1" ..= "10000000"), unit "requests",
            why "Two a second over the longest life; a service that signs more sets more.";

        /// Origins of pages that may connect, parted by spaces; `*`: all; empty: WebSockets from all, no CORS.
        allowed_origins: String = MaybeText(""), unit "origins",
            why "Programs send no origin; who serves a page names it here, and pages of others are kept out.";

        /// Addresses or networks of proxies whose `X-Forwarded-For` is believed, parted by spaces.
        trusted_proxies: String = MaybeText(""), unit "networks",
            why "Anybody can send the field; only one's own proxy tells the truth in it.";

        /// Whether the trusted proxies begin each connection with a header of the PROXY protocol: `off` or `v2`.
        proxy_protocol: ProxyProtocol = Word("off"), unit "word",
            why "Only who balances connections and not requests sends it, and then on every connection.";
    }

    "Fair shares" {
        /// Requests in a second of one principal; 0: no limit. Twice as many at once.
        requests_per_second_max: u32 = Number("0", "0" ..= "1000000"), unit "requests",
            why "Limits belong to a service with many users; entries of `credentials_file` can set their own.";

        /// WebSockets of one principal at a time; 0: no limit.
        principal_connections_max: u32 = Number("0", "0" ..= "1000000"), unit "connections",
            why "A service with many users knows how many devices one of them has.";

        /// Streams of one principal at a time; 0: no limit.
        principal_sessions_max: u32 = Number("0", "0" ..= "1000000"), unit "sessions",
            why "A service with many users knows how many streams one of them needs.";

        /// Seconds of audio in a second of one principal, all its streams together; 0: no limit. Ten seconds at once.
        principal_audio_per_second_max: u32 = Number("0", "0" ..= "1000000"), unit "seconds",
            why "A live stream sends one second in a second; whoever sends recordings wants more.";

        /// Requests in a second from one address; 0: no limit. Twice as many at once.
        address_requests_per_second_max: u32 = Number("0", "0" ..= "1000000"), unit "requests",
            why "Many users may share an address; what one user may do is limited by its credentials.";

        /// Connections from one address at a time; 0: no limit. Trusted proxies are not counted.
        address_connections_max: u32 = Number("0", "0" ..= "1000000"), unit "connections",
            why "Behind one address there may be one device or a whole office.";

        /// Wrong credentials in a minute from one address, after which it waits; 0: no limit.
        address_failures_max: u32 = Number("20", "0" ..= "1000000"), unit "failures",
            why "A person mistypes a few times; a program that guesses gets nowhere.";

        /// Principals, and as many addresses, whose use is remembered; beyond that those who used least are forgotten.
        limiters_max: usize = Number("2000", "16" ..= "10000000"), unit "entries",
            why "A flood of addresses must not take memory, nor the places of those who guess.";
    }

    "HTTP" {
        /// Bytes of a request's head (request line and header fields); more is answered with 431.
        head_bytes_max: usize = Size("16KiB", "1KiB" ..= "1MiB"),
            why "Cookies and tokens of browsers fit; common servers allow 8 to 16 KiB.";

        /// Bytes of a request's target (path and query); more is answered with 414.
        target_bytes_max: usize = Size("8KiB", "64B" ..= "1MiB"),
            why "The length that RFC 9110 asks every server to take.";

        /// Header fields of a request; more are answered with 431.
        headers_max: usize = Number("100", "8" ..= "1000"), unit "fields",
            why "Browsers and proxies together send about thirty.";

        /// Bytes of a request's body; more is answered with 413.
        body_bytes_max: usize = Size("1MiB", "0B" ..= "1GiB"),
            why "Half a minute of 16 kHz audio; a long recording belongs on a stream.";

        /// Time in which a request's whole head must arrive; it counts from the first byte or the connection's start.
        head_timeout: Duration = Time("10s", "10ms" ..= "1h"),
            why "Ends senders of one byte at a time, and bears a bad mobile network.";

        /// Time in which a request's whole body, or a WebSocket message that has begun, must arrive.
        body_timeout: Duration = Time("30s", "10ms" ..= "1h"),
            why "The largest body at 300 kbit/s.";

        /// Time that a keep-alive connection may rest between two requests.
        idle_timeout: Duration = Time("1min", "10ms" ..= "24h"),
            why "Longer than the intervals at which metrics and health are usually asked for.";
    }

    "Messages and what waits to be written" {
        /// Bytes of one WebSocket message on streams; a larger one ends the stream with 1009.
        message_bytes_max: usize = Size("1MiB", "1KiB" ..= "1GiB"),
            why "Ten seconds of 48 kHz stereo in one message, a hundred times what clients send.";

        /// Bytes of one WebSocket message on `/v1/echo`.
        echo_message_bytes_max: usize = Size("16MiB", "1KiB" ..= "1GiB"),
            why "Conformance suites send messages of that size.";

        /// Bytes of unfinished requests and messages that all connections hold together.
        incoming_bytes_total_max: usize = Size("64MiB", "64KiB" ..= "64GiB"),
            why "Whole messages are taken up at once, so only the few that are half there count.";

        /// Bytes that wait to be written to one connection; a peer that lets it fill reads too slowly and is closed.
        outgoing_bytes_max: usize = Size("256KiB", "16KiB" ..= "1GiB"),
            why "More than two seconds of denoised 48 kHz audio, or a thousand results.";

        /// Bytes that wait to be written to all connections together.
        outgoing_bytes_total_max: usize = Size("64MiB", "64KiB" ..= "64GiB"),
            why "A quarter of the sessions may be full at once.";

        /// Time in which bytes that wait for a peer must move at all; a peer that reads too slowly is closed.
        write_timeout: Duration = Time("10s", "10ms" ..= "1h"),
            why "A mobile network that is gone for longer rarely returns with the same connection.";

        /// Time in which a peer must answer a close before the socket is closed all the same.
        close_timeout: Duration = Time("5s", "10ms" ..= "10min"),
            why "Several round trips of the slowest networks.";
    }

    "Liveness" {
        /// Time between the pings to a silent peer of a WebSocket.
        ping_interval: Duration = Time("25s", "10ms" ..= "24h"),
            why "Shorter than the 30 or 60 s after which proxies and routers forget a silent connection.";

        /// Time in which a ping must be answered; any byte from the peer counts.
        pong_timeout: Duration = Time("10s", "10ms" ..= "1h"),
            why "A dead peer is noticed within 35 s, and one that changes its network survives.";

        /// Time that a stream may go on without audio and without `KeepAlive`.
        audio_idle_timeout: Duration = Time("30s", "10ms" ..= "24h"),
            why "A microphone that sends nothing for so long was forgotten and keeps its place from others.";

        /// Longest duration of one stream.
        session_duration_max: Duration = Time("24h", "100ms" ..= "8760h"),
            why "A day of monitoring in one piece; clients reconnect once a day at the least.";
    }

    "Audio" {
        /// Audio that the server holds for one stream before it has been processed: the stream's credit.
        audio_held_max: Duration = Time("4s", "100ms" ..= "10min"),
            why "Hides a busy second and stays a delay that a listener forgives.";

        /// Bytes of audio that the server holds for all streams together.
        audio_bytes_total_max: usize = Size("64MiB", "1MiB" ..= "64GiB"),
            why "All streams of the default number hold one second of 16 kHz audio each.";

        /// Time that a stream under `overflow=block` may stay full before it is closed.
        blocked_max: Duration = Time("1min", "10ms" ..= "24h"),
            why "Long enough for a burst to be worked off; a peer that is not read cannot be told from a dead one.";

        /// Time between two `AudioAdded` messages of a stream that asks for no other.
        ack_interval: Duration = Time("1s", "10ms" ..= "1h"),
            why "Fresh enough for a client to pace itself, and little traffic.";
    }

    "Batching" {
        /// Chunks of one stream that are gathered into a run on `/v1/stream`.
        stream_batch_size: usize = Number("1", "1" ..= "10000"), unit "chunks",
            why "Every chunk is processed at once: the least delay.";

        /// Time after the last chunk when a run that is not full goes all the same, on `/v1/stream`.
        stream_flush_timeout: Duration = Time("200ms", "1ms" ..= "1min"),
            why "Short of what a person notices as a pause.";

        /// Chunks of one stream that are gathered into a run on `/audio`.
        batch_size: usize = Number("10", "1" ..= "10000"), unit "chunks",
            why "What clients of `/audio` are used to: a second of audio in 100 ms chunks.", legacy "BATCH_SIZE";

        /// Time after the last chunk when a run that is not full goes all the same, on `/audio`.
        flush_timeout: Duration = Time("2s", "1ms" ..= "1min"),
            why "What clients of `/audio` are used to.", legacy "FLUSH_TIMEOUT" bare "ms";

        /// Most audio in one run, however much has gathered.
        run_max: Duration = Time("1s", "10ms" ..= "1min"),
            why "A stream that catches up cannot hold a worker for long.";

        /// Runs of different streams that go through the model together.
        batch_max: usize = Number("32", "1" ..= "1024"), unit "runs",
            why "Most of the gain of batching is had by 16, and measured models gain nothing beyond 32.";

        /// Time that a batch may wait for the runs of other streams.
        queue_delay_max: Duration = Time("0ms", "0ms" ..= "10s"),
            why "With a worker idle, waiting only adds delay; under load batches fill up by themselves.";
    }

    "Inference" {
        /// Model of a stream that names none.
        model_default: String = Text("vad"), unit "model",
            why "The cheapest model that says something about any audio.";

        /// Time that one batch may take before it is given up and its worker replaced.
        infer_timeout: Duration = Time("10s", "10ms" ..= "1h"),
            why "A thousand times what the built-in models need: whoever takes longer hangs.";

        /// Longest inference of a model inside the binary that the loop does itself; 0: none. Ten times that on one core.
        loop_infer_max: Duration = Time("200us", "0ms" ..= "10ms"),
            why "Handing a short one to a worker and back costs as much CPU again, and nobody notices such a pause.";

        /// Failures of the model in a row after which a stream is ended.
        infer_failures_max: u32 = Number("3", "1" ..= "1000"), unit "failures",
            why "One bad chunk is forgiven; a stream that always fails must not run for ever.";
    }

    "Models" {
        /// Folder of models, `<name>/<version>/model.onnx` beside a `model.toml`; empty or not there: only the models inside.
        models_dir: String = MaybeText("models"), unit "path",
            why "A folder dropped beside the server is served.";

        /// What runs ONNX models that name no platform: `rten` (inside) or `onnxruntime` (a library of the system).
        engine: OnnxEngine = Word("rten"), unit "engine",
            why "Needs nothing installed, and costs a few megabytes.";

        /// Path of `libonnxruntime.so`; empty: where the system looks for libraries.
        onnxruntime_library: String = MaybeText(""), unit "path",
            why "Packages install it where the system finds it.";

        /// Memory that a model may use while it is loaded and tried, in a process of its own.
        model_memory_max: usize = Size("512MiB", "16MiB" ..= "1024GiB"),
            why "Speech models need a tenth; one that asks for more would take it from the streams.";

        /// Time in which a model must be loaded, tried and warmed up.
        load_timeout: Duration = Time("2min", "1s" ..= "1h"),
            why "Speech models load in seconds, also on small boards.";

        /// Failures of a model in a row after which newcomers are kept from it; all its clients count.
        model_failures_max: u32 = Number("10", "1" ..= "100000"), unit "failures",
            why "A few bad inputs are forgiven; a broken model costs its clients no more time.";

        /// Time after which one newcomer may try a model that kept failing.
        model_retry_after: Duration = Time("5s", "10ms" ..= "1h"),
            why "Short enough that a mended model serves soon, long enough that a broken one costs nothing.";
    }

    "Requests for inference" {
        /// Bytes of the body of a request for inference, packed or not; more is answered with 413.
        infer_body_bytes_max: usize = Size("8MiB", "1KiB" ..= "1GiB"),
            why "A minute of 16 kHz audio as JSON, or two as binary floats.";

        /// Requests for inference that wait or are answered at a time; more are refused with 503.
        calls_max: usize = Number("1000", "1" ..= "1000000"), unit "requests",
            why "A second of work for a model of one millisecond: beyond that a client had better ask again.";

        /// Bytes of all requests for inference that wait or are answered.
        calls_bytes_total_max: usize = Size("16MiB", "1KiB" ..= "64GiB"),
            why "Two of the largest, or hundreds of usual ones.";

        /// Sequences of requests through models that remember, at a time; more are refused with 503.
        sequences_max: usize = Number("256", "1" ..= "1000000"), unit "sequences",
            why "Streams are the better way for many clients; sequences are for those who only have HTTP.";

        /// Time after which a sequence that nobody asks is forgotten.
        sequence_idle_timeout: Duration = Time("1min", "10ms" ..= "24h"),
            why "A client that pauses for longer has most likely gone without its sequence_end.";
    }

    "Webhooks" {
        /// Where events of streams are posted to, `http://` or `https://`; empty: nowhere (`docs/webhooks.md`).
        webhook_url: String = MaybeText(""), unit "URL",
            why "Nobody is told anything until the operator names a receiver; clients never can.";

        /// File with the secret by which events are signed; empty: the variable `SUZU_WEBHOOK_SECRET` holds it.
        webhook_secret_file: String = MaybeText(""), unit "path",
            why "A secret belongs neither into a configuration nor onto a command line.";

        /// Which events are posted: `all` (final results and ends of streams) or `ends`.
        webhook_events: WebhookEvents = Word("all"), unit "word",
            why "Results are what a receiver is there for; the ends alone are enough for accounts.";

        /// Attempts to deliver an event before it becomes a dead letter.
        webhook_attempts_max: u32 = Number("8", "1" ..= "100"), unit "attempts",
            why "Two minutes of attempts with the default delays: a receiver may be restarted meanwhile.";

        /// Longest wait before the second attempt; it doubles with each further one, up to 5 min.
        webhook_retry_delay: Duration = Time("1s", "1ms" ..= "1h"),
            why "A receiver that stumbled is asked again soon, one that is down is not pestered.";

        /// Time that one attempt may take, from the look-up of the host to the answer.
        webhook_timeout: Duration = Time("10s", "10ms" ..= "10min"),
            why "A receiver should answer before it works; one that does not keeps others waiting.";

        /// Attempts under way at a time, each on a thread of its own.
        webhook_posts_max: usize = Number("2", "1" ..= "64"), unit "attempts",
            why "A hundred events in a second where a round trip takes 20 ms.";

        /// Bytes of events that wait or are on their way; beyond it the next becomes a dead letter at once.
        webhook_bytes_max: usize = Size("4MiB", "16KiB" ..= "64GiB"),
            why "Some thousands of results: a restart of the receiver is outlived.";

        /// File that dead letters are appended to, JSON lines; empty: they are only counted.
        webhook_dead_letters_file: String = MaybeText(""), unit "path",
            why "Where the disk has room for them only the operator knows.";

        /// Bytes that this file may have; beyond it dead letters are lost, and counted.
        webhook_dead_letters_bytes_max: usize = Size("64MiB", "64KiB" ..= "1024GiB"),
            why "A hundred thousand events, and no disk is filled by a receiver that is gone.";

        /// File of authorities that vouch for the receiver's certificate, PEM; empty: those that browsers trust.
        webhook_ca_file: String = MaybeText(""), unit "path",
            why "Receivers on a private network often have a certificate of their owner's authority.";
    }

    "Answers, shutdown and logs" {
        /// What `Retry-After` tells a client that was refused because the server is full.
        retry_after: Duration = Time("2s", "1s" ..= "1h"),
            why "Places come free by the second; sooner would only be load.";

        /// Time to finish what is in flight after SIGTERM or SIGINT.
        drain_timeout: Duration = Time("10s", "0ms" ..= "1h"),
            why "A batch in flight and a last message fit; service managers kill after 10 to 30 s.";

        /// Requests slower than this are listed in `/api/metrics`.
        slow_request: Duration = Time("200ms", "0ms" ..= "1h"),
            why "Where a person begins to notice the wait.";

        /// Least level of what is logged. Release builds contain nothing below `info`.
        log_level: LevelFilter = Word("info"), unit "level",
            why "Starts, ends and faults, and nothing for each message.";

        /// How log lines look: `text` for people, `json` for machines (one object a line).
        log_format: LogFormat = Word("text"), unit "format",
            why "The first reader is a person at a terminal.";
    }
}
