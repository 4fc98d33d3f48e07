//! The law of fairness: who sends more than its share takes nothing from others.

use super::*;

/// (Σx)² / (n Σx²): 1 when all get the same, 1/n when one gets all.
fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|x| *x as f64).sum();
    let squares: f64 = shares.iter().map(|x| (*x as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

struct Outcome {
    /// Bytes passed on of each sender.
    served: Vec<u64>,
    /// Longest wait of a packet of each sender.
    waits: Vec<Duration>,
}

/// Senders 0.. of these rates in bytes a second, one receiver each unless `one` is for all, for two seconds. A packet says when
/// it left.
fn race(rates: &[u64], total_rate: u64, one: Option<Room>) -> Outcome {
    let mut rig = rig(Config { total_rate, ..config() });
    let n = rates.len() as u64;
    (0..2 * n).for_each(|peer| host(&mut rig, peer));
    let mut outcome = Outcome { served: vec![0; rates.len()], waits: vec![Duration::ZERO; rates.len()] };
    let ids: Vec<PeerId> = (0..n).map(|peer| key(peer).peer_id()).collect();
    let mut owed = vec![0u64; rates.len()];
    let start = rig.now;
    while rig.now.since(start) < secs(2) {
        for (from, rate) in rates.iter().enumerate() {
            // Packets of different sizes: turns are about bytes.
            let len = 400 + 100 * from;
            owed[from] += rate / 1_000;
            while owed[from] >= len as u64 {
                owed[from] -= len as u64;
                let to = if one.is_some() { n } else { n + from as u64 };
                let header = Header { direction: Direction::To, peer: key(to).peer_id(), part: Part::Whole };
                let mut carried = vec![0; len - WHOLE_HEADER_BYTES];
                carried[..8].copy_from_slice(&rig.now.as_nanos().to_be_bytes());
                let bytes = header.datagram(&carried);
                assert!(rig.tell(Input::Datagram { conn: conn(from as u64), bytes }).is_empty());
            }
        }
        let mut left = one.map_or(usize::MAX, |room| room.free);
        let mut passed = Vec::new();
        while let Some((to, bytes)) = rig.machine.poll_forward(rig.now, |_| Some(Room { free: left, ..WIDE }))
        {
            left = left.saturating_sub(bytes.len());
            passed.push((to, bytes));
        }
        for (_, bytes) in passed {
            let header = Header::parse(&bytes).unwrap();
            let from = ids.iter().position(|id| *id == header.peer).unwrap();
            let left = Instant::from_nanos(u64::from_be_bytes(bytes[21..29].try_into().unwrap()));
            outcome.served[from] += bytes.len() as u64;
            outcome.waits[from] = outcome.waits[from].max(rig.now.since(left));
        }
        rig.advance(Duration::from_millis(1));
        rig.outputs();
    }
    outcome
}

#[test]
fn ten_sessions_of_which_one_sends_ten_times_as_much_are_served_alike() {
    let mut rates = [1_000_000; 10];
    rates[0] = 10_000_000;
    let o = race(&rates, 5_000_000, None);
    assert!(jain(&o.served) >= 0.95, "{:?} is {}", o.served, jain(&o.served));
    let total: u64 = o.served.iter().sum();
    assert!((9_500_000..=11_300_000).contains(&total), "two seconds of the rate and its burst: {total}");
    assert!(o.waits.iter().all(|w| *w < WAIT_MAX), "{:?}", o.waits);
}

#[test]
fn who_stays_below_its_share_loses_nothing_and_waits_one_round() {
    let mut rates = [1_000_000; 10];
    rates[0] = 50_000_000;
    let o = race(&rates, 12_000_000, None);
    for from in 1..10 {
        assert!(o.served[from] >= 1_995_000, "{from} was served {} of 2,000,000", o.served[from]);
        // Ten turns of 1,500 bytes at 12 MB/s are 1.25 ms; time passes in steps of one.
        assert!(o.waits[from] <= Duration::from_millis(3), "{from} waited {:?}", o.waits[from]);
    }
    assert!(o.served[0] >= 5_000_000, "the rest is the greedy one's: {}", o.served[0]);
}

#[test]
fn a_narrow_receiver_is_shared_alike_by_those_who_write_to_it() {
    let mut rates = [1_000_000; 10];
    rates[0] = 10_000_000;
    // It takes 4 KB a millisecond.
    let o = race(&rates, 0, Some(Room { free: 4_000, ..WIDE }));
    assert!(jain(&o.served) >= 0.95, "{:?} is {}", o.served, jain(&o.served));
}
