//! What a load came to, as lines for people.

use crate::load::{Latency, Report, ServerUsage};
use std::fmt::Write;

/// The figures as aligned lines.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<14} {value}");
    };
    let connections = &report.connections;
    line("target", format!("{}, {} clients, {:.1} s", report.url, report.clients, report.seconds));
    line(
        "connections",
        format!(
            "{} open, {} failed; {:.0} a second; p50 {:.1} ms, p99 {:.1} ms",
            connections.opened,
            connections.failed,
            connections.per_second,
            connections.latency_ms.p50,
            connections.latency_ms.p99
        ),
    );
    if connections.refused > 0 {
        let took = &connections.refusal_ms;
        line(
            "refused",
            format!("{} times; p50 {:.1} ms, p99 {:.1} ms", connections.refused, took.p50, took.p99),
        );
    }
    let messages = &report.messages;
    line(
        "messages",
        format!(
            "{} sent, {} answered ({:.1} a second); {} lost, {} duplicated, {} reordered, {} wrong",
            messages.sent,
            messages.answered,
            report.throughput_per_second,
            messages.lost,
            messages.duplicated,
            messages.reordered,
            messages.wrong
        ),
    );
    line("latency", latency(&report.latency_ms));
    let audio = &report.audio;
    if audio.sent_s > 0.0 {
        let ledgers = match report.ledgers_off {
            0 => "every balance is right".to_owned(),
            off => format!("{off} BALANCES ARE OFF"),
        };
        line(
            "audio",
            format!(
                "{:.1} s sent = {:.1} s processed + {:.1} s discarded; {ledgers}",
                audio.sent_s, audio.processed_s, audio.discarded_s
            ),
        );
    }
    if let Some(server) = &report.server {
        line("server", cpu(server));
        line("memory", memory(server));
    }
    for (kind, count) in &report.warnings {
        line("warning", format!("{kind}: {count} times"));
    }
    for (kind, count) in &report.failures {
        line("failure", format!("{kind}: {count} times"));
    }
    line("errors", format!("{} ({:.4} % of everything)", report.errors, report.error_rate * 100.0));
    text
}

fn cpu(server: &ServerUsage) -> String {
    format!(
        "{:.1} % of a core, {:.2} us of CPU a message, {:.1} us a connection",
        server.cpu_share * 100.0,
        server.cpu_us_per_message,
        server.cpu_us_per_connection
    )
}

fn memory(server: &ServerUsage) -> String {
    let mb = |bytes: u64| bytes as f64 / 1e6;
    format!(
        "{:.1} MB resident before, {:.1} MB under load, {:.1} MB at most",
        mb(server.resident_bytes_before),
        mb(server.resident_bytes_loaded),
        mb(server.resident_bytes_max)
    )
}

fn latency(latency: &Latency) -> String {
    format!(
        "p50 {:.2}  p90 {:.2}  p95 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms; mean {:.2}, deviation {:.2} ms",
        latency.p50,
        latency.p90,
        latency.p95,
        latency.p99,
        latency.p999,
        latency.max,
        latency.mean,
        latency.stdev
    )
}
