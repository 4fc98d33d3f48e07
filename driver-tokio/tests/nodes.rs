//! The conformance suite of whole nodes, on tokio.

use remote_network_driver_tokio as driver;

#[path = "nodes/bench.rs"]
mod bench;

use bench::{Loopback, NodeDriver, Runtime, to_its_end};
use remote_network_sim::conformance_suite;
use std::future::Future;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::task::JoinHandle;

struct CurrentThread(tokio::runtime::Runtime);

impl Runtime for CurrentThread {
    type Task = JoinHandle<()>;

    fn new() -> Self {
        Self(Builder::new_current_thread().enable_all().build().expect("a runtime can be built"))
    }

    fn spawn(&self, driver: NodeDriver) -> JoinHandle<()> {
        self.0.spawn(to_its_end(driver))
    }

    fn drop_task(&self, task: JoinHandle<()>) {
        task.abort();
        if let Err(why) = self.0.block_on(task) {
            assert!(why.is_cancelled(), "the driver panicked: {why}");
        }
    }

    fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        self.0.block_on(async { tokio::time::timeout(limit, future).await.ok() })
    }
}

conformance_suite!(current_thread, Loopback<CurrentThread>);
