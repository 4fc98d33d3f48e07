//! One packet past the congestion window.
//!
//! When a path dies under a bulk transfer the window is full of packets that will never be acknowledged, and nothing may
//! be sent until a probe timeout, which doubles each time and may by then be as long as the outage was. Whoever knows that there
//! is a working path again opens this gate, sends a PING, and closes it: its acknowledgement lets loss detection do the rest within
//! about 1.5 round trips, where waiting takes up to the length of the outage (measured in the simulator, docs/NAT.md).

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Open while one packet of one connection is taken out.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(super) fn set(&self, open: bool) {
        self.0.store(open, Ordering::Relaxed);
    }
}

/// Makes CUBIC controllers behind a gate.
pub(super) struct Gated(pub(super) Gate);

impl ControllerFactory for Gated {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::new(CubicConfig::default()).build(now, current_mtu);
        Box::new(GatedController { inner, gate: self.0.clone() })
    }
}

struct GatedController {
    inner: Box<dyn Controller>,
    gate: Gate,
}

impl Controller for GatedController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        // Half of the range, so that nobody who adds to it overflows.
        if self.gate.0.load(Ordering::Relaxed) { u64::MAX / 2 } else { self.inner.window() }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), gate: self.gate.clone() })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
