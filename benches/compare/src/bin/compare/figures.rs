//! What the generator tells, what of it is shown, and the table.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What is read of the JSON of `suzu load`.
#[derive(Debug, Deserialize)]
pub struct Report {
    connections: Connections,
    messages: Messages,
    errors: u64,
    #[serde(default)]
    ledgers_off: u64,
    /// What failed, and how often.
    #[serde(default)]
    failures: BTreeMap<String, u64>,
    throughput_per_second: f64,
    latency_ms: Latency,
    server: Option<Usage>,
}

#[derive(Debug, Deserialize)]
struct Connections {
    wanted: u64,
    opened: u64,
    failed: u64,
    per_second: f64,
}

#[derive(Debug, Deserialize)]
struct Messages {
    sent: u64,
    answered: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    wrong: u64,
}

#[derive(Debug, Deserialize)]
struct Latency {
    p50: f64,
    p99: f64,
}

#[derive(Debug, Deserialize)]
struct Usage {
    cpu_us_per_message: f64,
    #[serde(default)]
    cpu_us_per_connection: Option<f64>,
    resident_bytes_before: u64,
    resident_bytes_loaded: u64,
}

/// Columns of figures.
const COLUMNS: [&str; 9] = [
    "most streams",
    "answers / s",
    "CPU s / million",
    "p50 ms",
    "p99 ms",
    "MB before",
    "MB with all",
    "connects / s",
    "CPU us / connect",
];
const MOST: usize = 0;
const CPU: usize = 2;

/// Which columns mean something for a load.
#[derive(Clone, Copy)]
pub struct Shown([bool; 9]);

impl Shown {
    /// Closed loops: as much as goes.
    pub const CLOSED: Shown = Shown([false, true, true, true, true, false, true, false, false]);
    /// Open loops: as much as is due.
    pub const OPEN: Shown = Shown([false, false, true, true, true, false, true, false, false]);
    /// As many as the server holds, and what an open loop shows with those.
    pub const MOST: Shown = Shown([true, false, true, true, true, false, true, false, false]);
    /// Connections that rest.
    pub const IDLE: Shown = Shown([false, false, false, false, false, true, true, true, true]);
}

/// One measurement, or the medians of several; `None` where there is nothing to show.
#[derive(Clone, Default)]
pub struct Figures([Option<f64>; 9]);

/// The rows of one load. The first is what the others are compared with.
pub struct Section {
    pub title: String,
    pub rows: Vec<(String, Figures)>,
}

impl Report {
    /// # Errors
    /// What went wrong, of which nothing may.
    pub fn check(&self) -> Result<(), String> {
        let Messages { sent, answered, lost, duplicated, reordered, wrong } = self.messages;
        let connections = &self.connections;
        let right = self.errors + self.ledgers_off + lost + duplicated + reordered + wrong == 0
            && connections.failed == 0
            && connections.opened >= connections.wanted
            && sent > 0
            && sent == answered;
        if right {
            return Ok(());
        }
        Err(format!(
            "{} errors, {} ledgers off, {} of {} connections failed; {:?}; {:?}",
            self.errors,
            self.ledgers_off,
            connections.failed,
            connections.wanted,
            self.messages,
            self.failures
        ))
    }

    /// What 99 of 100 answers took at most, in milliseconds.
    pub fn p99_ms(&self) -> f64 {
        self.latency_ms.p99
    }

    pub fn figures(&self, shown: Shown) -> Figures {
        let usage = self.server.as_ref();
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let all = [
            Some(self.connections.wanted as f64),
            Some(self.throughput_per_second),
            usage.map(|usage| usage.cpu_us_per_message),
            Some(self.latency_ms.p50),
            Some(self.latency_ms.p99),
            usage.map(|usage| mb(usage.resident_bytes_before)),
            usage.map(|usage| mb(usage.resident_bytes_loaded)),
            Some(self.connections.per_second),
            usage.and_then(|usage| usage.cpu_us_per_connection),
        ];
        let mut figures = Figures(all);
        for (figure, shown) in figures.0.iter_mut().zip(shown.0) {
            *figure = figure.filter(|_| shown);
        }
        figures
    }
}

impl Figures {
    /// Of a model without a server: microseconds of CPU for each message, which are seconds for a million.
    pub fn of_loop(cpu_us: f64) -> Figures {
        let mut figures = Figures::default();
        figures.0[CPU] = Some(cpu_us);
        figures
    }

    /// Of a server that does not even hold the fewest streams that were tried.
    pub fn of_none() -> Figures {
        let mut figures = Figures::default();
        figures.0[MOST] = Some(0.0);
        figures
    }

    /// The median of each column.
    pub fn median(rounds: &[Figures]) -> Figures {
        let mut medians = Figures::default();
        for (column, median) in medians.0.iter_mut().enumerate() {
            let mut values: Vec<f64> = rounds.iter().filter_map(|figures| figures.0[column]).collect();
            values.sort_by(f64::total_cmp);
            let middle = values.len() / 2;
            *median = match values.len() {
                0 => None,
                odd if odd % 2 == 1 => Some(values[middle]),
                _ => Some((values[middle - 1] + values[middle]) / 2.0),
            };
        }
        medians
    }
}

/// The table as Markdown, its columns made even. A figure is followed by how many times that of the section's first row
/// it is.
pub fn table(sections: &[Section]) -> String {
    let mut lines =
        vec![["load", "server"].into_iter().chain(COLUMNS).map(str::to_owned).collect::<Vec<_>>()];
    for section in sections {
        let first = section.rows.first().map(|(_, figures)| figures.clone()).unwrap_or_default();
        for (place, (name, figures)) in section.rows.iter().enumerate() {
            let title = if place == 0 { section.title.as_str() } else { "" };
            let mut line = vec![title.to_owned(), name.clone()];
            let pairs = figures.0.iter().zip(first.0);
            line.extend(pairs.map(|(figure, first)| cell(*figure, first.filter(|_| place > 0))));
            lines.push(line);
        }
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for (place, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 | 1 => write!(text, "| {cell:width$} "),
                _ => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
        if place == 0 {
            for (column, width) in widths.iter().enumerate() {
                let _ = write!(text, "|{}{}", "-".repeat(width + 1), if column < 2 { "-" } else { ":" });
            }
            text.push_str("|\n");
        }
    }
    text
}

/// A figure with three digits that count, and its ratio.
fn cell(figure: Option<f64>, first: Option<f64>) -> String {
    let Some(figure) = figure else { return String::new() };
    let digits = |value: f64| match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    match first {
        Some(first) if first > 0.0 => format!("{} ({}x)", digits(figure), digits(figure / first)),
        _ => digits(figure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(first: f64, second: Option<f64>) -> Figures {
        let mut figures = Figures::default();
        (figures.0[0], figures.0[1]) = (Some(first), second);
        figures
    }

    #[test]
    fn the_median_is_that_of_each_column() {
        let rounds = [figures(3.0, None), figures(1.0, Some(5.0)), figures(20.0, None)];
        let median = Figures::median(&rounds);
        assert_eq!(median.0[..3], [Some(3.0), Some(5.0), None]);
        assert_eq!(Figures::median(&rounds[..2]).0[0], Some(2.0));
        assert_eq!(Figures::median(&[]).0[0], None);
    }

    #[test]
    fn a_ratio_is_that_to_the_first_row_of_the_section() {
        let rows =
            vec![("Suzu".to_owned(), figures(200.0, Some(4.0))), ("other".to_owned(), figures(50.0, None))];
        let text = table(&[Section { title: "echo".into(), rows }]);
        let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let lines: Vec<_> = text.lines().map(cells).collect();
        assert_eq!(lines[2][1..5], ["echo", "Suzu", "200", "4.00"]);
        assert_eq!(lines[3][1..5], ["", "other", "50.0 (0.25x)", ""]);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
    }

    #[test]
    fn a_report_with_anything_lost_is_refused() {
        let report = |lost: u64, failed: u64| -> Report {
            let text = serde_json::json!({
                "connections": { "wanted": 2, "opened": 2, "failed": failed, "per_second": 10.0 },
                "messages": { "sent": 5, "answered": 5 - lost, "lost": lost, "duplicated": 0, "reordered": 0, "wrong": 0 },
                "errors": 0, "throughput_per_second": 1.0, "latency_ms": { "p50": 1.0, "p99": 2.0 }, "server": null,
            });
            serde_json::from_value(text).expect("a report")
        };
        assert_eq!(report(0, 0).check(), Ok(()));
        assert!(report(1, 0).check().is_err());
        assert!(report(0, 1).check().is_err());
    }
}
