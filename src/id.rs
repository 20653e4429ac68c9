//! Identities: newtypes with a generation, so that a late event for a reused slot misses.

use std::fmt;

macro_rules! slot_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            /// Place in the table that holds it; reused after its end.
            pub slot: u32,
            /// Which holder of that place: never repeats within a server's life.
            pub generation: u32,
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.slot, self.generation)
            }
        }
    };
}

slot_id! {
    /// One TCP peer. Issued by the server; the driver keeps its socket at `slot`.
    ConnId
}

slot_id! {
    /// One stream and its results. Outlives its connection until its last batch is home.
    SessionId
}

slot_id! {
    /// One request for inference. Outlives its connection until its batch is home.
    CallId
}

slot_id! {
    /// One version of a model as long as it is served, or in use after that.
    ModelId
}

/// One batch on its way through the workers. Counts up from 0; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);
