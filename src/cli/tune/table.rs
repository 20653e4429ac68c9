//! Rows as a table for people: line by line while they come, and whole at the end.

use super::measure::Row;
use comfy_table::{Cell, CellAlignment, Table, presets};

const HEADER: [&str; 9] = ["#", "setting", "clients", "p50 ms", "p99 ms", "CPU us", "core", "batch", ""];

/// The rows under their header; the best of them is marked.
pub(super) fn table(rows: &[Row], best: Option<usize>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(HEADER);
    for (number, row) in rows.iter().enumerate() {
        let note = if best == Some(number) { "<- best" } else { row.note.as_str() };
        table.add_row(cells(number, row, note));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

fn cells(number: usize, row: &Row, note: &str) -> Vec<Cell> {
    let held = row.clients > 0;
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let figure = |value: Option<f64>, digits: usize| {
        right(value.filter(|_| held).map_or_else(|| "-".into(), |value| format!("{value:.digits$}")))
    };
    vec![
        right((number + 1).to_string()),
        Cell::new(&row.setting),
        right(clients(row)),
        figure(Some(row.p50_ms), 1),
        figure(Some(row.p99_ms), 1),
        figure(row.cpu_us_per_message, 0),
        right(
            row.cpu_share
                .filter(|_| held)
                .map_or_else(|| "-".into(), |share| format!("{:.0} %", 100.0 * share)),
        ),
        figure(row.batch_mean, 1),
        Cell::new(note),
    ]
}

/// How many, with a mark if the end was not found.
fn clients(row: &Row) -> String {
    format!("{}{}", row.clients, if row.at_max { "+" } else { "" })
}

/// A row that has just been measured, on a line.
pub(super) fn line(number: usize, row: &Row) -> String {
    let mut line = format!("{:>3}  {:<44} {:>6} clients", number + 1, row.setting, clients(row));
    if row.clients > 0 {
        line.push_str(&format!("  p50 {:>6.1} ms  p99 {:>6.1} ms", row.p50_ms, row.p99_ms));
    }
    if !row.note.is_empty() {
        line.push_str(&format!("  ({})", row.note));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let first = Row {
            setting: "as it is".into(),
            clients: 320,
            p50_ms: 1.26,
            p99_ms: 78.0,
            cpu_us_per_message: Some(311.4),
            cpu_share: Some(0.987),
            batch_mean: Some(4.25),
            ..Row::default()
        };
        let second = Row { setting: "batch_max 1".into(), clients: 1000, at_max: true, ..first.clone() };
        let third = Row { setting: "workers 2".into(), note: "p99 140.0 ms".into(), ..Row::default() };
        vec![first, second, third]
    }

    #[test]
    fn the_table_has_every_figure_in_its_column_and_marks_the_best() {
        let text = table(&rows(), Some(0));
        let columns = |word: &str| {
            let line = text.lines().find(|line| line.contains(word)).unwrap_or_default();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            columns("as it is"),
            ["1", "as", "it", "is", "320", "1.3", "78.0", "311", "99", "%", "4.2", "<-", "best"]
        );
        assert_eq!(columns("batch_max 1")[3], "1000+");
        assert_eq!(
            columns("workers 2"),
            ["3", "workers", "2", "0", "-", "-", "-", "-", "-", "p99", "140.0", "ms"]
        );
        assert_eq!(text.matches("best").count(), 1, "{text}");
    }

    #[test]
    fn a_line_says_how_many_or_why_none() {
        let lines: Vec<_> = rows().iter().enumerate().map(|(number, row)| line(number, row)).collect();
        assert!(lines[0].contains("320 clients  p50    1.3 ms"), "{}", lines[0]);
        assert!(lines[1].contains("1000+ clients"), "{}", lines[1]);
        assert!(lines[2].ends_with("0 clients  (p99 140.0 ms)"), "{}", lines[2]);
    }
}
