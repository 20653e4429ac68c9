//! `suzu load` against the real server: every kind of target, the environment of an earlier client, bounds and exit codes.

#[cfg(feature = "tls")]
use crate::bridge::Certificates;
use crate::cli::suzu;
use crate::support::TestServer;
#[cfg(feature = "tls")]
use crate::support::config;
use serde_json::Value;
use std::time::Duration;
use suzu::load::{Length, Pace, Plan, Pooling, Report, run};

/// A load of one second's worth, whose answers must all be right.
fn clean(url: &str, change: impl FnOnce(&mut Plan)) -> Report {
    let mut plan = Plan::new(url).expect("a plan");
    plan.length = Length::Messages { count: 12, time_max: None };
    change(&mut plan);
    let report = run(&plan, |_| ()).expect("the load is made");
    assert_eq!(report.errors, 0, "{report:?}");
    assert_eq!(report.messages.answered, report.messages.sent, "{report:?}");
    report
}

#[test]
fn streams_are_checked_to_the_last_sample() {
    let server = TestServer::start();
    let url = format!("ws://{}", server.addr);
    let report = clean(&url, |plan| plan.pace = Pace::Every(Duration::from_millis(20)));
    assert_eq!(report.messages.sent, 120);
    assert_eq!((report.audio.sent_s, report.audio.discarded_s), (report.audio.processed_s, 0.0));
    assert_eq!(report.ledgers_off, 0);
}

#[test]
fn checksums_of_the_model_echo_are_compared_with_what_was_sent() {
    let server = TestServer::start();
    let url = format!("ws://{}", server.addr);
    // 250 samples a chunk: windows of 320 lie across chunks, and the last one is not full.
    let report = clean(&url, |plan| {
        let params = suzu::wire::message::StreamParams { model: "echo".into(), ..Default::default() };
        plan.audio = std::sync::Arc::new(suzu::load::Audio::synthetic_for(params));
        plan.message_bytes = 500;
        plan.pace = Pace::Every(Duration::from_millis(5));
    });
    assert_eq!(report.messages.sent, 120);
}

#[cfg(feature = "tls")]
#[test]
fn by_tls_everything_is_answered_as_without() {
    let certificates = Certificates::new();
    let models = suzu::model::Registry::builtin();
    let server = TestServer::start_bare(certificates.on(config()), models);
    let address = format!("localhost:{}", server.addr.port());
    let trusting = |plan: &mut Plan| plan.target.ca_file = Some(certificates.path("ca.pem"));
    let report = clean(&format!("wss://{address}"), |plan| {
        trusting(plan);
        plan.pace = Pace::Every(Duration::from_millis(20));
    });
    assert_eq!((report.messages.sent, report.ledgers_off), (120, 0));
    // Longer than a record, and more of them on the way than the kernel takes.
    let report = clean(&format!("wss://{address}/v1/echo"), |plan| {
        trusting(plan);
        plan.message_bytes = 200_000;
        plan.pace = Pace::InFlight { count: 4, think: Duration::ZERO };
    });
    assert_eq!(report.messages.sent, 120);
    clean(&format!("https://{address}/health/live"), trusting);

    let mut plan = Plan::new(&format!("wss://{address}")).expect("a plan");
    let other = Certificates::new();
    plan.target.ca_file = Some(other.path("ca.pem"));
    plan.clients = 2;
    plan.length = Length::Messages { count: 1, time_max: None };
    let report = run(&plan, |_| ()).expect("refusals stand in the report");
    assert_eq!((report.connections.opened, report.connections.failed), (0, 2));
    assert!(format!("{report:?}").contains("UnknownIssuer"), "{report:?}");
    plan.target.ca_file = Some(other.path("none.pem"));
    assert!(run(&plan, |_| ()).unwrap_err().to_string().contains("none.pem"));
}

#[test]
fn echoes_requests_and_heartbeats_are_answered() {
    let server = TestServer::start();
    let address = server.addr;
    let report = clean(&format!("ws://{address}/v1/echo"), |plan| {
        plan.pace = Pace::InFlight { count: 4, think: Duration::from_millis(1) };
    });
    assert_eq!(report.messages.sent, 120);
    clean(&format!("http://{address}/health/live"), |_| ());
    clean(&format!("ws://{address}"), |plan| {
        plan.target.ask = suzu::load::Ask::Stream { heartbeat: true };
        plan.pace = Pace::Every(Duration::from_millis(5));
        plan.connect_rate = Some(200.0);
    });
}

#[test]
fn a_stretch_of_time_counts_from_when_all_are_connected() {
    let server = TestServer::start();
    let report = clean(&format!("ws://{}/v1/echo", server.addr), |plan| {
        plan.length = Length::For(Duration::from_millis(300));
        plan.warm_up = Duration::from_millis(50);
        plan.server_pid = Some(std::process::id());
    });
    assert!((0.3..5.0).contains(&report.seconds), "{report:?}");
    let server = report.server.expect("the process was named");
    assert!(server.resident_bytes_loaded > 0 && server.cpu_seconds > 0.0);
    assert!(!report.moments.is_empty() && !report.percentiles.is_empty());
}

#[test]
fn those_who_rest_are_still_there_at_the_end() {
    let server = TestServer::start();
    let report = clean(&format!("ws://{}/v1/echo", server.addr), |plan| {
        plan.clients = 200;
        plan.pace = Pace::Idle;
        plan.length = Length::For(Duration::from_millis(200));
    });
    assert_eq!((report.connections.opened, report.messages.answered), (200, 400));
}

#[test]
fn clients_take_turns_on_a_pool() {
    let server = TestServer::start();
    for (path, connections) in
        [("ws://{}/v1/echo", 3), ("http://{}/health/live", 3), ("ws://{}/v1/stream", 20)]
    {
        let report = clean(&path.replace("{}", &server.addr.to_string()), |plan| {
            plan.clients = 20;
            plan.pool = Some(Pooling { connections: 3, idle_max: Duration::from_secs(5) });
            plan.pace = Pace::Every(Duration::from_millis(1));
        });
        // A stream ends with its connection; echoes and requests go on with the one there is.
        assert_eq!(report.connections.opened, connections, "{path}");
        assert_eq!(report.messages.sent, 240, "{path}");
    }
}

fn json(out: &[u8]) -> Value {
    serde_json::from_slice(out).expect("JSON")
}

#[test]
fn the_variables_of_the_earlier_client_work() {
    let server = TestServer::start();
    let mut command = suzu(&["load", "--json", "--model", "echo"]);
    command
        .env("SERVER_URL", format!("ws://{}/audio", server.addr))
        .envs([
            ("CLIENT_COUNT", "6"),
            ("CHUNKS_PER_CLIENT", "4"),
            ("CHUNK_INTERVAL", "5"),
            ("CHUNK_SIZE", "1024"),
        ])
        .envs([
            ("USE_CONNECTION_POOL", "true"),
            ("POOL_SIZE", "2"),
            ("CONNECT_TIMEOUT", "5s"),
            ("IDLE_TIMEOUT", "1"),
        ])
        .env("TEST_DURATION", "30s");
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = json(&output.stdout);
    assert_eq!((&report["clients"], &report["messages"]["answered"]), (&6.into(), &24.into()), "{report}");
    assert_eq!(report["errors"], 0, "{report}");
}

#[test]
fn a_request_for_inference_is_made_of_what_the_model_says_of_itself() {
    let server = TestServer::start();
    for form in ["json", "binary"] {
        let url = format!("http://{}/v2/models/vad/infer", server.addr);
        let output = suzu(&[
            "load",
            "--url",
            &url,
            "-c",
            "2",
            "--chunks",
            "3",
            "--form",
            form,
            "--error-rate-max",
            "0",
        ])
        .output()
        .expect("it starts");
        let told =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("6 answered"), "{form}: {told}");
    }
}

#[test]
fn a_missed_bound_is_exit_code_1_and_named() {
    let server = TestServer::start();
    let url = format!("http://{}/health/live", server.addr);
    let base = ["load", "--url", &url, "-c", "2", "--chunks", "5"];
    let mut kept = suzu(&base);
    kept.args(["--p99-max", "1h", "--error-rate-max", "0", "--throughput-min", "0.001"]);
    kept.assert().success();
    for (bound, value) in [("--p99-max", "1ns"), ("--throughput-min", "1000000000")] {
        let output = suzu(&base).args([bound, value]).output().expect("it starts");
        let told = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(bound), "{told}");
    }
    let url = format!("http://{}/nothing/here", server.addr);
    let output = suzu(&["load", "--url", &url, "--chunks", "1", "--error-rate-max", "0.1"])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn figures_go_into_files_and_the_page_has_its_plots() {
    let server = TestServer::start();
    let folder = tempfile::tempdir().expect("a folder");
    let (page, figures) = (folder.path().join("load.html"), folder.path().join("load.json"));
    let url = format!("ws://{}/v1/echo", server.addr);
    let mut command = suzu(&["load", "--url", &url, "-d", "1200ms", "--warm-up", "0s"]);
    let output = command.arg("--report").arg(&page).arg("--json").arg(&figures).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("0 lost"));
    assert_eq!(json(&std::fs::read(figures).expect("a file"))["messages"]["lost"], 0);
    let page = std::fs::read_to_string(page).expect("a file");
    assert_eq!(page.matches("<svg ").count(), 3, "{page}");
}

#[test]
fn mistakes_in_what_is_asked_are_exit_code_2_and_say_what_to_do() {
    for (arguments, word) in [
        (&["--url", "ftp://x"][..], "ws://"),
        (&["--url", "tcp://127.0.0.1:9", "--chunk-bytes", "3"], "12 bytes"),
        (&["--url", "tcp://127.0.0.1:9", "--interval", "soon"], "--interval"),
        (&["--think", "1s"], "--in-flight"),
        (&["--pool"], "--chunks"),
        (&["--param", "encodin=x"], "encoding"),
    ] {
        let output = suzu(&["load"]).args(arguments).output().expect("it starts");
        let told = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(word), "{arguments:?}: {told}");
    }
    let output = suzu(&["load", "--url", "tcp://127.0.0.1:1"]).output().expect("it starts");
    let told = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("Is the server running"), "{told}");
}
