//! The conformance suite of whole nodes, on smol.

use remote_network_driver_smol as driver;

#[path = "../../driver-tokio/tests/nodes/bench.rs"]
mod bench;

use bench::{Loopback, NodeDriver, Runtime, to_its_end};
use remote_network_sim::conformance_suite;
use smol::future::FutureExt;
use smol::{Executor, Task, Timer};
use std::future::Future;
use std::time::Duration;

struct OneThread(Executor<'static>);

impl Runtime for OneThread {
    type Task = Task<()>;

    fn new() -> Self {
        Self(Executor::new())
    }

    fn spawn(&self, driver: NodeDriver) -> Task<()> {
        self.0.spawn(to_its_end(driver))
    }

    fn drop_task(&self, task: Task<()>) {
        // The executor drops what is cancelled, so it has to run.
        smol::block_on(self.0.run(task.cancel()));
    }

    fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let late = async {
            Timer::after(limit).await;
            None
        };
        smol::block_on(self.0.run(async { Some(future.await) }.or(late)))
    }
}

conformance_suite!(one_thread, Loopback<OneThread>);
