//! The conformance suite on the simulator's own host, with both of its cryptographies.

use remote_network_sim::conformance::SimulatedBench;
use remote_network_sim::conformance_suite;

conformance_suite!(null_session, SimulatedBench<false>);
conformance_suite!(real_tls, SimulatedBench<true>);
