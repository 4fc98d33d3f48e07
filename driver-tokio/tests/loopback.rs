//! The drivers' conformance suite on tokio, on both kinds of runtime.
#![allow(clippy::unwrap_used, reason = "clippy takes only functions marked as tests for tests")]

use remote_network_driver_tokio as driver;

mod conformance;

use conformance::Heard;
use driver::{Driver, DriverError, Stopped};
use remote_network_core::drive::Driven;
use tokio::runtime::Builder;

fn on_current_thread<N: Driven + Send + 'static>(driver: Driver<N, Heard>) -> Result<Stopped, DriverError> {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(driver.run())
}

fn on_multi_thread<N: Driven + Send + 'static>(driver: Driver<N, Heard>) -> Result<Stopped, DriverError> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(runtime.spawn(driver.run())).unwrap()
}

conformance::suite!(current_thread, crate::on_current_thread);
conformance::suite!(multi_thread, crate::on_multi_thread);
