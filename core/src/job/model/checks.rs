//! What must hold of every record, at the moment it is written.

use super::expected_result;
use super::world::World;
use crate::command::RunState;
use crate::id::Digest;
use crate::job::run::RunRecord;

impl World {
    /// What must hold at the moment a record is written.
    pub(super) fn check_record(&self, record: &RunRecord) {
        let cancelled = self.history.contains(&RunRecord::CancelRequested);
        let ended = self.history.iter().any(|r| matches!(r, RunRecord::Ended { .. }));
        assert!(!ended, "nothing is written after the end: {record:?}");
        match record {
            RunRecord::Attempt { task, order } => {
                assert!(!cancelled, "an order after the cancel");
                for r in &self.history {
                    if let RunRecord::Attempt { task: other, order: before } = r
                        && other == task
                    {
                        assert!(before.fence < order.fence, "fences rise");
                    }
                }
                for input in order.inputs.iter().filter(|i| i.digest != Digest::of(b"in")) {
                    let produced = self.history.iter().any(|r| match r {
                        RunRecord::Committed { receipt, .. } => {
                            receipt.outputs.iter().any(|o| o.digest == input.digest)
                        }
                        _ => false,
                    });
                    assert!(produced, "an input that nobody committed");
                }
            }
            RunRecord::Committed { task, fence, receipt, .. } => {
                let twice = self
                    .history
                    .iter()
                    .any(|r| matches!(r, RunRecord::Committed { task: t, .. } if t == task));
                assert!(!twice, "a task is committed once");
                let order = self.history.iter().find_map(|r| match r {
                    RunRecord::Attempt { task: t, order } if t == task && order.fence == *fence => {
                        Some(order)
                    }
                    _ => None,
                });
                assert_eq!(receipt.answers(order.unwrap()), Ok(()));
            }
            RunRecord::Ended { state: RunState::Succeeded, .. } => {
                assert!(!cancelled);
                assert!(self.here.contains(&expected_result()), "a success whose result is not here");
            }
            _ => {}
        }
    }
}
