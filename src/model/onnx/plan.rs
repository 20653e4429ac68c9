//! What is to be done with a file's inputs and outputs: which are states, which are constant, where the batch is.
//!
//! A [`Plan`] is what the owner of a model declares; all of it may be left out. It is resolved against what the file
//! says, and what contradicts the file is an error that names both.

/// What the owner of a model declares about a file. [`Plan::default`] leaves everything to be found out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Which outputs become inputs of the next call.
    pub states: States,
    /// Inputs that are the same in every call, and nobody's business.
    pub constants: Vec<Constant>,
    /// Along which dimension an input or output that is no state has its rows, or that it has none. What is not named
    /// is found: the dimension with the symbol of the batch, else the first one, if its size is not fixed.
    pub axes: Vec<Axis>,
    /// Outputs to hide besides states; they are not even computed where the engine can leave them out.
    pub hidden: Vec<String>,
    /// Rows in one call of the engine at most. `Some` of more than 1 makes it an error if the file cannot batch; with
    /// `None` it is then run with each lane alone.
    pub batch_max: Option<usize>,
    /// The dimensions of an input in rehearsals, the batch among them as 1, where the file leaves them open. Open
    /// dimensions of inputs that are not named are tried as 1, 16 and 160.
    pub samples: Vec<(String, Vec<usize>)>,
}

/// How a plan tells states.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum States {
    /// By name: `X` and `XN`, `X_in` and `X_out`, `h0` and `hn`, `past_X` and `present_X`, `cached_X` and
    /// `new_cached_X`, `state` and `stateN`, of the same type and a shape that is fixed but for the batch.
    #[default]
    Detected,
    /// These and no others.
    Declared(Vec<StatePlan>),
}

/// A state: an output that is the input of the next call.
#[derive(Clone, Debug, PartialEq)]
pub struct StatePlan {
    /// The input.
    pub input: String,
    /// The output.
    pub output: String,
    /// The dimensions, `None` for the batch; left out: as the file says.
    pub shape: Option<Vec<Option<usize>>>,
    /// The value at the start of a stream or sequence.
    pub initial: Initial,
}

/// The value of a state at the start, for one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Initial {
    /// Every element is this.
    Fill(f64),
    /// One number for each element of a row.
    Values(Vec<f64>),
}

/// An input that is the same in every call.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// The input.
    pub input: String,
    /// The dimensions; left out: as the file says, if it leaves none open.
    pub shape: Option<Vec<usize>>,
    /// The elements, which the type of the input must hold. One number for several elements is repeated.
    pub values: Vec<f64>,
}

/// Where the rows of an input or output are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// The input or output.
    pub port: String,
    /// The dimension along which it has one row for each row of the batch; `None`: it is the same for all of them.
    pub axis: Option<usize>,
}

impl Default for Initial {
    fn default() -> Self {
        Initial::Fill(0.0)
    }
}
