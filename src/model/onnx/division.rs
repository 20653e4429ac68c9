//! Into which calls of an engine so many rows are best divided.
//!
//! The time of a call does not always grow by the row: engines that pack weights anew for each call of more than one row
//! take longer for two than for twice one. So what was measured at load decides: for each number of rows the division
//! with the least time in all.

use super::trial::Timed;

/// How much less time several calls must take than one. What is measured within some 50 ms is no better than that.
const GAIN: f64 = 1.05;

/// For each number of rows the first call; the rest is divided in turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Division {
    /// By the number of rows; empty: nothing was measured, and all go together.
    first: Vec<usize>,
}

impl Division {
    /// As a table of sizes, ascending from 1, tells. Between two sizes the time of a call is taken to lie on the line.
    pub fn of(table: &[Timed]) -> Division {
        let Some(last) = table.last() else { return Division::default() };
        let (mut first, mut least) = (vec![0], vec![0.0]);
        for rows in 1..=last.rows {
            let together = call(table, rows);
            let (mut size, mut time) = (rows, together);
            for part in 1..rows {
                let divided = call(table, part) + least[rows - part];
                if divided < time && divided * GAIN < together {
                    (size, time) = (part, divided);
                }
            }
            first.push(size);
            least.push(time);
        }
        Division { first }
    }

    /// How many of so many rows go in the next call.
    pub fn next(&self, rows: usize) -> usize {
        self.first.get(rows).copied().unwrap_or(rows)
    }

    /// The calls for so many rows.
    pub fn parts(&self, mut rows: usize) -> Vec<usize> {
        let mut parts = Vec::new();
        while rows > 0 {
            let part = self.next(rows);
            parts.push(part);
            rows -= part;
        }
        parts
    }
}

/// Microseconds of a call of so many rows.
fn call(table: &[Timed], rows: usize) -> f64 {
    let total = |timed: &Timed| timed.us_per_row * timed.rows as f64;
    let above = table.iter().position(|timed| timed.rows >= rows).unwrap_or(table.len() - 1);
    let Some(below) = above.checked_sub(1).filter(|_| table[above].rows != rows) else {
        return total(&table[above]);
    };
    let (below, above) = (&table[below], &table[above]);
    let share = (rows - below.rows) as f64 / (above.rows - below.rows) as f64;
    total(below) + share * (total(above) - total(below))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(times: &[(usize, f64)]) -> Vec<Timed> {
        times.iter().map(|&(rows, us_per_row)| Timed { rows, us_per_row }).collect()
    }

    #[test]
    fn what_was_not_measured_goes_together() {
        assert_eq!(Division::default().parts(7), [7]);
        let measured = Division::of(&table(&[(1, 10.0), (2, 6.0)]));
        assert_eq!(measured.parts(5), [5], "more rows than were measured");
        assert_eq!(measured.parts(0), [0; 0]);
    }

    #[test]
    fn rows_go_together_where_that_is_cheaper_and_alone_where_it_is_not() {
        // A GRU of 300,000 parameters in rten, as `suzu models check` measured it.
        let gru = [(1, 62.5), (2, 141.7), (4, 56.4), (8, 36.9), (16, 23.3), (32, 17.8)];
        let division = Division::of(&table(&gru));
        assert_eq!(division.parts(1), [1]);
        assert_eq!(division.parts(2), [1, 1]);
        assert_eq!(division.parts(3), [1, 1, 1]);
        assert_eq!(division.parts(8), [8]);
        assert_eq!(division.parts(32), [32]);
    }

    #[test]
    fn a_gain_that_may_be_noise_divides_nothing() {
        let division = Division::of(&table(&[(1, 10.0), (2, 10.3), (4, 10.2)]));
        assert_eq!((division.parts(2), division.parts(4)), (vec![2], vec![4]));
    }

    proptest! {
        #[test]
        fn every_row_goes_once_and_no_division_is_dearer_than_one_call(
            times in prop::collection::vec(1.0f64..100.0, 1..7),
            rows in 1usize..64,
        ) {
            let sizes = times.iter().enumerate();
            let table: Vec<Timed> =
                sizes.map(|(power, us)| Timed { rows: 1 << power, us_per_row: *us }).collect();
            let parts = Division::of(&table).parts(rows);
            prop_assert_eq!(parts.iter().sum::<usize>(), rows);
            if rows <= 1 << (times.len() - 1) {
                let divided: f64 = parts.iter().map(|part| call(&table, *part)).sum();
                prop_assert!(divided <= call(&table, rows) * 1.000_001, "{parts:?}");
            }
        }
    }
}
