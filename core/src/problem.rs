//! What people wrote and what is wrong with it: told all at once, with places, never as the first error alone.

use std::fmt;

/// Something wrong with a workflow or a service: where, what, and how to mend it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The place, in the words of the text form: `nodes.count.service`, `edges[3].to`.
    pub place: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}
