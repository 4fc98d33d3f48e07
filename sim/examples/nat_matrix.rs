//! Every kind of NAT against every other, or pairs as the field has them.
//!
//! `cargo run --release -p remote-network-sim --example nat_matrix -- [SEEDS] [SEED] [POPULATION]`

use remote_network_sim::matrix::{MatrixSpec, Pairing, run};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize, default: u64| {
        args.get(n).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("`{text}`: {e}")))
    };
    let (seeds, seed, population) = (number(0, 3) as u32, number(1, 1), number(2, 0) as u32);
    let pairs = if population > 0 { Pairing::population(population, seed) } else { Pairing::all() };
    println!("{}", run(&MatrixSpec { pairs, seeds, seed }, |pair| println!("{pair}")));
}
