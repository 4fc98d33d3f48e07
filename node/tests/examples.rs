//! The examples of `docs/examples`: the commands of their page on three nodes, and the results beside what is committed.
//! `docs/examples/build.sh --check` proves the other half, that programs and data are what their sources make.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

mod network;

use network::{Node, Plan, Said, command, wait_for};
use remote_network_core::id::Digest;
use remote_network_core::job::receipt::{Report, Verdict, verify_file};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(60);

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples")
}

fn example(name: &str) -> Vec<u8> {
    std::fs::read(examples().join(name)).unwrap()
}

/// The commands of the part of the page under this heading: the number of the node, and what is typed there.
fn commands(heading: &str) -> Vec<(usize, Vec<String>)> {
    let page = String::from_utf8(example("README.md")).unwrap();
    let part = page.split("\n## ").find(|p| p.starts_with(heading)).unwrap();
    let typed = part.lines().filter_map(|l| l.strip_prefix("$ node"));
    typed
        .map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            (words.next().unwrap().parse::<usize>().unwrap(), words.collect())
        })
        .collect()
}

/// Three nodes that know each other, and a directory for results.
struct Lab {
    dir: tempfile::TempDir,
    nodes: Vec<Node>,
}

impl Lab {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let starting: Vec<_> = Plan::network(dir.path(), 3, 1).iter().map(Plan::spawn).collect();
        let nodes: Vec<Node> = starting.into_iter().map(network::Starting::ready).collect();
        for (from, to) in [(0, 1), (0, 2), (1, 2)] {
            wait_for("way from one to the other", WITHIN, || {
                let said = nodes[from].cli(&["peers", "connect", &nodes[to].key]);
                if said.code == 0 { Ok(()) } else { Err(said.stderr) }
            });
        }
        Self { dir, nodes }
    }

    /// Types one command of the page. What differs from reader to reader is put in: a key, and where results go.
    fn typed(&self, node: usize, words: &[String]) -> Said {
        let results = format!("{}/results/", self.dir.path().display());
        let words = words.iter().map(|w| match w.as_str() {
            "KEY_OF_NODE_1" => self.nodes[0].key.clone(),
            other => other.replace("results/", &results),
        });
        let output = command()
            .current_dir(examples())
            .arg("--data-dir")
            .arg(&self.nodes[node - 1].plan.dir)
            .args(words)
            .output()
            .unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Types all commands under a heading. Services become known to other nodes in their time, so a plan is asked for until there
    /// is one.
    fn typed_all(&self, heading: &str) {
        let all = commands(heading);
        assert!(all.iter().any(|(_, words)| words[..2] == ["workflow", "run"]), "{all:?}");
        for (node, words) in &all {
            if words[..2] == ["workflow", "plan"] {
                wait_for("plan", WITHIN, || {
                    let said = self.typed(*node, words);
                    if said.code == 0 { Ok(()) } else { Err(said.stderr) }
                });
            } else {
                self.typed(*node, words).ok();
            }
        }
    }

    fn result(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join("results").join(name)).unwrap()
    }

    /// Asserts that a result is, byte for byte, what is committed.
    fn compare(&self, result: &str, expected: &str) {
        let (result_bytes, expected_bytes) = (self.result(result), example(expected));
        assert!(
            result_bytes == expected_bytes,
            "{result} is not {expected}:\n{}",
            String::from_utf8_lossy(&result_bytes)
        );
    }

    /// The receipts of a run by task, each of them valid and for what was kept.
    fn receipts(&self, example: &str) -> BTreeMap<String, Report> {
        let files = std::fs::read_dir(self.dir.path().join("results").join(example)).unwrap();
        let receipts =
            files.map(|f| f.unwrap().path()).filter(|f| f.extension().is_some_and(|e| e == "receipt"));
        receipts
            .map(|file| {
                let report = verify_file(&std::fs::read(&file).unwrap()).unwrap();
                assert_eq!(report.verdict.0, Verdict::Won);
                (report.task.clone(), report)
            })
            .collect()
    }
}

/// Every file below a directory. What goes while it is looked at is not there.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(_) => found.push(entry.path()),
            Err(_) => {}
        }
    }
    found
}

/// Files of a node in which one of these words stands.
fn files_with(node: &Node, words: &[&str]) -> Vec<PathBuf> {
    let with = |file: &PathBuf| {
        let bytes = std::fs::read(file).unwrap_or_default();
        words.iter().any(|w| bytes.windows(w.len()).any(|part| part == w.as_bytes()))
    };
    files(&node.plan.dir).into_iter().filter(with).collect()
}

/// Does `work` and returns the names of all objects that were in the stores of the nodes meanwhile, as far as looking without
/// a pause sees them. Objects on their way count as well.
fn objects_seen(nodes: &[Node], work: impl FnOnce()) -> Vec<BTreeSet<String>> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = |node: &Node| {
            let (dir, over) = (node.plan.dir.clone(), &over);
            scope.spawn(move || {
                let mut seen = BTreeSet::new();
                while !over.load(Ordering::Relaxed) {
                    for file in ["blobs", "partial"].iter().flat_map(|d| files(&dir.join(d))) {
                        seen.insert(file.file_name().unwrap().to_string_lossy().into_owned());
                    }
                    std::thread::yield_now();
                }
                seen
            })
        };
        let watching: Vec<_> = nodes.iter().map(watch).collect();
        work();
        over.store(true, Ordering::Relaxed);
        watching.into_iter().map(|w| w.join().unwrap()).collect()
    })
}

/// Parts of `whole` in thousandths, halves up.
fn thousandths(part: u64, whole: u64) -> String {
    let n = (2_000 * part + whole) / (2 * whole);
    format!("{}.{:03}", n / 1_000, n % 1_000)
}

/// The table of the species example, worked out from the owners' files without their programs.
fn table_of_the_raw_data() -> String {
    #[derive(Default)]
    struct Effort {
        owners: Vec<&'static str>,
        visits: u64,
        minutes: u64,
    }
    type Place = (String, String);
    let names = String::from_utf8(example("species/names.csv")).unwrap();
    let names: BTreeMap<&str, &str> = names.lines().map(|l| l.split_once(',').unwrap()).collect();
    let mut efforts: BTreeMap<Place, Effort> = BTreeMap::new();
    let mut found: BTreeMap<(Place, String), (u64, u64)> = BTreeMap::new();
    for owner in ["north", "south"] {
        let raw = String::from_utf8(example(&format!("species/{owner}.csv"))).unwrap();
        let mut visits: BTreeMap<Place, BTreeMap<&str, u64>> = BTreeMap::new();
        let mut sightings: Vec<(Place, &str, u64)> = Vec::new();
        for row in raw.lines().skip(1) {
            let field: Vec<&str> = row.split(',').collect();
            let tens_of_km = |metres: &str| metres.parse::<u64>().unwrap() / 10_000;
            let place =
                (format!("10kmE{}N{}", tens_of_km(field[2]), tens_of_km(field[3])), field[1][..4].to_owned());
            visits.entry(place.clone()).or_default().insert(field[0], field[5].parse().unwrap());
            if !field[6].is_empty() {
                sightings.push((place, field[6], field[7].parse().unwrap()));
            }
        }
        visits.retain(|_, there| there.len() >= 3);
        for (place, there) in &visits {
            let effort = efforts.entry(place.clone()).or_default();
            effort.owners.push(owner);
            effort.visits += there.len() as u64;
            effort.minutes += there.values().sum::<u64>();
        }
        for (place, species, individuals) in sightings {
            if visits.contains_key(&place) {
                let species = names.get(species).copied().unwrap_or(species).to_owned();
                let sum = found.entry((place, species)).or_default();
                *sum = (sum.0 + 1, sum.1 + individuals);
            }
        }
    }
    let mut table = String::from(
        "cell,year,species,datasets,visits,minutes,detections,individuals,reporting_rate,individuals_per_hour\n",
    );
    for ((place, species), (detections, individuals)) in found {
        let Effort { owners, visits, minutes } = &efforts[&place];
        let (rate, hourly) = (thousandths(detections, *visits), thousandths(individuals * 60, *minutes));
        let (cell, year, owners) = (place.0, place.1, owners.join("+"));
        writeln!(
            table,
            "{cell},{year},{species},{owners},{visits},{minutes},{detections},{individuals},{rate},{hourly}"
        )
        .unwrap();
    }
    table
}

#[test]
fn two_owners_counts_are_joined_and_what_they_observed_stays_with_them() {
    let lab = Lab::start();
    let seen = objects_seen(&lab.nodes, || lab.typed_all("Species"));
    lab.compare("species/table-0", "species/expected/table.csv");
    lab.compare("species/summary-0", "species/expected/summary.txt");
    assert_eq!(String::from_utf8(lab.result("species/table-0")).unwrap(), table_of_the_raw_data());
    let page = String::from_utf8(example("README.md")).unwrap();
    assert!(
        page.contains(&String::from_utf8(lab.result("species/summary-0")).unwrap()),
        "the page shows another"
    );

    let receipts = lab.receipts("species");
    for (task, node) in [("north", 1), ("south", 2), ("join", 0)] {
        assert_eq!(receipts[task].executor.to_string(), lab.nodes[node].key, "{task}");
    }
    // What each owner told was seen on its way at who asked, so the watch does see what is there for a moment.
    for (owner, at, marks) in
        [("north", 1, ["N-2019-", "observer-N"]), ("south", 2, ["S-2019-", "observer-S"])]
    {
        let told = lab.result(&format!("species/told-{owner}-0"));
        assert!(seen[0].contains(&Digest::of(&told).to_string()), "{owner}'s counts came");
        for raw in [format!("species/{owner}.csv"), format!("species/{owner}.wasm")] {
            let name = Digest::of(&example(&raw)).to_string();
            let holders: Vec<usize> = (0..3).filter(|n| seen[*n].contains(&name)).collect();
            assert_eq!(holders, if raw.ends_with(".wasm") { vec![at] } else { vec![] }, "{raw}");
        }
        for (n, node) in lab.nodes.iter().enumerate() {
            let found = files_with(node, &marks);
            assert_eq!(n == at, !found.is_empty(), "node {} has rows of {owner} in {found:?}", n + 1);
        }
    }
    // Who is not named may not even ask.
    let plan = ["workflow", "plan", "species/workflow.yaml"].map(str::to_owned);
    lab.typed(3, &plan).fails(4, &["nodes.north", "observations"]);
}

#[test]
fn six_tiles_become_one_map_of_lost_forest() {
    let lab = Lab::start();
    lab.typed_all("Raster");
    lab.compare("raster/areas-0", "raster/expected/areas.csv");
    lab.compare("raster/picture-0", "raster/expected/picture.png");
    let areas = String::from_utf8(lab.result("raster/areas-0")).unwrap();
    let pixels = areas.lines().skip(1).map(|l| l.split(',').nth(1).unwrap().parse::<u32>().unwrap());
    assert_eq!(pixels.sum::<u32>(), 3 * 128 * 2 * 128, "each pixel of six tiles is of one class");
    let receipts = lab.receipts("raster");
    assert_eq!(receipts.len(), 13);
    for (task, report) in receipts {
        let executor = report.executor.to_string();
        let offers = |n: usize| lab.nodes[n].key == executor;
        assert!(
            match task.split('-').next().unwrap() {
                "archive" => offers(1),
                "change" => offers(1) || offers(2),
                _ => offers(0),
            },
            "{task} at {executor}"
        );
    }
}

#[test]
fn documents_of_three_kinds_become_one_digest() {
    let lab = Lab::start();
    lab.typed_all("Documents");
    lab.compare("documents/result-0", "documents/expected/digest.md");
    let digest = String::from_utf8(lab.result("documents/result-0")).unwrap();
    for noise in ["<", "&", "](", "**", "not text", "font-family", "gate ="] {
        assert!(!digest.contains(noise), "`{noise}` is no text of a document");
    }
    // A summary by extraction says only what the documents say.
    let texts = std::fs::read_dir(examples().join("documents/texts")).unwrap();
    let said: String = texts.map(|t| std::fs::read_to_string(t.unwrap().path()).unwrap()).collect();
    let said = said.replace("&quot;", "\"").replace(['*', '\n'], " ");
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let sentences: Vec<&str> =
        digest.split("\n## In more").next().unwrap().lines().filter_map(|l| l.strip_prefix("- ")).collect();
    assert_eq!(sentences.len(), 10);
    for sentence in sentences {
        assert!(plain(&said).contains(&plain(sentence)), "nobody says `{sentence}`");
    }
    assert_eq!(lab.receipts("documents").len(), 11);
}
