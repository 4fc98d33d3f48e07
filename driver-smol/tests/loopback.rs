//! The drivers' conformance suite on smol: on an executor's thread, and as the only future of a thread.
#![allow(clippy::unwrap_used, reason = "clippy takes only functions marked as tests for tests")]

use remote_network_driver_smol as driver;

#[path = "../../driver-tokio/tests/conformance/mod.rs"]
mod conformance;

use conformance::Heard;
use driver::{Driver, DriverError, Stopped};
use remote_network_core::drive::Driven;

fn on_this_thread<N: Driven + Send + 'static>(driver: Driver<N, Heard>) -> Result<Stopped, DriverError> {
    smol::block_on(driver.run())
}

fn on_an_executor<N: Driven + Send + 'static>(driver: Driver<N, Heard>) -> Result<Stopped, DriverError> {
    smol::block_on(smol::spawn(driver.run()))
}

conformance::suite!(this_thread, crate::on_this_thread);
conformance::suite!(executor, crate::on_an_executor);
