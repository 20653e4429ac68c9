//! What a sweep came to, as a page that needs nothing beside itself.

use super::measure::Row;
use crate::cli::load::page::{Curve, document, escape, plot};
use std::fmt::Write;

/// A page of the rows: `table` as text, clients and latency by the number of the row.
pub(super) fn html(title: &str, rows: &[Row], table: &str, words: &str) -> String {
    let curve = |name: &str, value: fn(&Row) -> f64| -> Curve {
        let held = rows.iter().enumerate().filter(|(_, row)| row.clients > 0);
        (name.to_owned(), held.map(|(number, row)| ((number + 1) as f64, value(row))).collect())
    };
    let clients = [curve("clients", |row| row.clients as f64)];
    let latency = [curve("p50", |row| row.p50_ms), curve("p99", |row| row.p99_ms)];
    let mut body = format!("<pre>{}</pre>\n<pre>{}</pre>\n", escape(table), escape(words));
    // Between two whole numbers there is no row.
    let tick = |x: &f64| if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { String::new() };
    for (title, y, curves) in [
        ("Clients by row of the table", "clients", &clients[..]),
        ("Latency at that number", "ms", &latency[..]),
    ] {
        let _ = writeln!(body, "<h2>{title}</h2>\n{}", plot(title, ("row", y), curves, &tick));
    }
    document(title, &body)
}
