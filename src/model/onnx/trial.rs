//! Trying a graph before it serves: whether it batches, how fast it is at which size, and warming it up.

use super::graph::Graph;
use std::time::Duration;

/// How lanes share calls of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Batching {
    /// Any number of rows up to this share a call.
    Shared {
        /// Rows in one call at most.
        rows_max: usize,
    },
    /// Each lane has a call of its own; why.
    Alone(String),
}

/// How long calls of one size take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// Rows in a call.
    pub rows: usize,
    /// Microseconds for each row.
    pub us_per_row: f64,
}

/// Which sizes of calls are worth it.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Every size tried, ascending.
    pub table: Vec<Timed>,
    /// The size with the least time for a row; the smaller one where they hardly differ.
    pub best: usize,
}

impl Graph {
    /// How lanes share calls.
    pub fn batching(&self) -> &Batching {
        todo!()
    }

    /// Runs calls of each of these sizes once, so that the first real one meets warm memory.
    ///
    /// # Errors
    /// What the engine said.
    pub fn warm_up(&self, sizes: &[usize]) -> Result<(), String> {
        let _ = sizes;
        todo!()
    }

    /// Measures how long calls of these sizes take, about 50 ms each; sizes beyond what shares a call are left out.
    /// `clock` tells the time since any origin.
    ///
    /// # Errors
    /// What the engine said.
    pub fn calibrate(&self, sizes: &[usize], clock: &dyn Fn() -> Duration) -> Result<Calibration, String> {
        let _ = (sizes, clock);
        todo!()
    }
}
