//! The greatest count that passes, found by doubling and then bisecting.
//!
//! Knows nothing of servers: whoever calls it says what passes. It takes for granted that what passes at some count
//! passes at every smaller one; where noise breaks that, the answer is still a count that did pass.

/// Where to look and how exactly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// The first count that is tried, at least 1.
    pub(super) start: usize,
    /// The greatest that is tried, at least 1.
    pub(super) max: usize,
    /// How far above a passing count a failing one may be, as a share of it, for the search to be over.
    pub(super) precision: f64,
}

/// What became of a count.
#[derive(Debug)]
pub(super) enum Probe<T> {
    /// It passes; with what was seen.
    Passed(T),
    /// It does not.
    Failed,
    /// There is no more time: the search ends with what it has.
    Stop,
}

/// What a search came to.
#[derive(Debug)]
pub(super) struct Greatest<T> {
    /// The greatest count that passed; 0: none did.
    pub(super) count: usize,
    /// What was seen at that count.
    pub(super) seen: Option<T>,
    /// Nothing failed up to [`Range::max`].
    pub(super) at_max: bool,
    /// The search was stopped before its end.
    pub(super) stopped: bool,
}

/// Looks for the greatest count that passes. Errors of `probe` are passed on.
pub(super) fn greatest<T, E>(
    range: Range,
    mut probe: impl FnMut(usize) -> Result<Probe<T>, E>,
) -> Result<Greatest<T>, E> {
    let mut found = Greatest { count: 0, seen: None, at_max: false, stopped: false };
    let mut failed: Option<usize> = None;
    let mut count = range.start.clamp(1, range.max);
    loop {
        match probe(count)? {
            Probe::Passed(seen) => (found.count, found.seen) = (count, Some(seen)),
            Probe::Failed => failed = Some(count),
            Probe::Stop => {
                found.stopped = true;
                return Ok(found);
            }
        }
        count = match (found.count, failed) {
            (passed, None) if passed >= range.max => {
                found.at_max = true;
                return Ok(found);
            }
            (passed, None) => (passed * 2).min(range.max),
            (0, Some(1)) => return Ok(found),
            (0, Some(failed)) => failed / 2,
            (passed, Some(failed)) => {
                let gap = failed - passed;
                if gap <= 1 || gap as f64 <= range.precision * passed as f64 {
                    return Ok(found);
                }
                passed + gap / 2
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn search(range: Range, most: usize) -> (Greatest<usize>, usize) {
        let mut probes = 0;
        let found = greatest(range, |count| {
            probes += 1;
            assert!((1..=range.max).contains(&count), "{count} is outside {range:?}");
            Ok::<_, Infallible>(if count <= most { Probe::Passed(count) } else { Probe::Failed })
        });
        let Ok(found) = found;
        (found, probes)
    }

    proptest! {
        #[test]
        fn the_greatest_passing_count_is_found_with_few_probes(
            start in 1_usize..5_000,
            max in 1_usize..5_000,
            most in 0_usize..6_000,
            precision in prop_oneof![Just(0.0), 0.0..0.5],
        ) {
            let (found, probes) = search(Range { start, max, precision }, most);
            let truth = most.min(max);
            prop_assert!(found.count <= truth);
            // A count that failed lies within the precision above.
            let gap = (precision * found.count as f64).max(1.0);
            prop_assert!(found.at_max || ((truth + 1 - found.count) as f64) <= gap, "{found:?}, not {truth}");
            prop_assert_eq!(found.at_max, truth == max);
            prop_assert_eq!(found.seen, (found.count > 0).then_some(found.count));
            // Up or down to a power of two of the start, and then once for each bit of the gap.
            prop_assert!(probes <= 2 * max.ilog2() as usize + 3, "{probes} probes up to {max}");
        }
    }

    #[test]
    fn without_precision_the_count_is_exact() {
        for most in 0..130 {
            assert_eq!(search(Range { start: 10, max: 128, precision: 0.0 }, most).0.count, most.min(128));
        }
    }

    #[test]
    fn a_search_that_is_stopped_keeps_what_passed() {
        let mut left = 2;
        let found = greatest(Range { start: 4, max: 100, precision: 0.0 }, |count| {
            left -= 1;
            Ok::<_, Infallible>(if left < 0 { Probe::Stop } else { Probe::Passed(count) })
        });
        let Ok(found) = found;
        assert_eq!((found.count, found.seen, found.stopped, found.at_max), (8, Some(8), true, false));
    }
}
