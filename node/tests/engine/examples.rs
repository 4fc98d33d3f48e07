//! The programs of `docs/examples`, one by one, on small and on odd inputs. Their workflows as a whole are in `tests/examples.rs`.

use crate::rig::Rig;
use remote_network_core::port::{EngineExit, ExitClass, Port};

const SUMMARY: &str = "summary";
const PICTURE: &str = "picture";

/// Inputs: the name of a mount, or nothing for stdin; and the bytes.
type Inputs<'a> = &'a [(&'a str, &'a [u8])];

fn example(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../docs/examples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Runs a program of the examples.
fn run(rig: &Rig, program: &str, args: &[&str], inputs: Inputs<'_>) -> EngineExit {
    let mut job = rig.order(&example(&format!("{program}.wasm")));
    job.args = args.iter().map(|a| (*a).to_owned()).collect();
    let port = |name: &str| if name.is_empty() { Port::Stdin } else { Port::Mount(name.to_owned()) };
    job.inputs = inputs.iter().map(|(name, bytes)| rig.input(port(name), bytes)).collect();
    match program {
        "species/join" => job.outputs.push(Port::Mount(SUMMARY.into())),
        "raster/mosaic" => job.outputs.push(Port::Mount(PICTURE.into())),
        _ => {}
    }
    rig.run(job)
}

fn output(rig: &Rig, program: &str, args: &[&str], inputs: Inputs<'_>) -> String {
    let exit = run(rig, program, args, inputs);
    assert_eq!(exit.class, ExitClass::Success, "{program}: {exit:?}");
    String::from_utf8_lossy(&rig.stdout(&exit)).into_owned()
}

/// A series of one pixel: red and near infrared of each year from 2018.
fn series(years: &[(u8, u8)]) -> Vec<u8> {
    let mut images = Vec::new();
    for (year, (red, infrared)) in (2018..).zip(years) {
        for (band, sample) in [("red", red), ("nir", infrared)] {
            images.extend(format!("P5\n# tile 4 2\n# year {year}\n# band {band}\n1 1\n255\n").into_bytes());
            images.push(*sample);
        }
    }
    images
}

/// A map of two by two pixels, all of this class.
fn map(tile: &str, class: u8) -> Vec<u8> {
    let mut map = format!("P5\n# tile {tile}\n# year 2018 2020\n2 2\n255\n").into_bytes();
    map.extend([class; 4]);
    map
}

#[test]
fn a_wrong_row_of_an_owner_is_told_by_its_number_and_not_by_what_it_says() {
    let rig = Rig::new();
    let (mut module, raw) =
        (example("species/north.wasm"), String::from_utf8(example("species/north.csv")).unwrap());
    let sound = rig.run(rig.order(&module));
    assert_eq!((sound.class, rig.output(&sound, &Port::Stderr)), (ExitClass::Success, Vec::new()));
    // The file is a part of the module, so a wrong one is a byte away: the first digit of a coordinate.
    let row = raw.lines().position(|l| l.starts_with("N-2021-")).unwrap();
    let text = raw.lines().nth(row).unwrap();
    let at = module.windows(text.len()).position(|part| part == text.as_bytes()).unwrap();
    let x = text.match_indices(',').nth(1).unwrap().0 + 1;
    module[at + x] = b'X';
    let wrong = rig.run(rig.order(&module));
    assert_eq!((wrong.class, wrong.code), (ExitClass::User, 2), "{wrong:?}");
    assert_eq!(rig.output(&wrong, &Port::Stderr), format!("not a number: line {}\n", row + 1).into_bytes());
    assert_eq!(rig.stdout(&wrong), b"", "no half result");
}

#[test]
fn effort_of_one_owner_counts_for_what_another_found() {
    let rig = Rig::new();
    let a = b"dataset,a\neffort,c1,2020,4,60\nspecies,c1,2020,Old lark,2,3\nwithheld,2020,1,5\n";
    let b = b"dataset,b\r\neffort,c1,2020,6,90\r\nspecies,c1,2020,Eagle,1,1\r\n";
    let inputs: [(&str, &[u8]); 3] = [("names", b"Old lark,Lark\n"), ("counts", a), ("counts", b)];
    let exit = run(&rig, "species/join", &[], &inputs);
    let table = String::from_utf8(rig.stdout(&exit)).unwrap();
    let rows: Vec<&str> = table.lines().skip(1).collect();
    assert_eq!(rows, ["c1,2020,Eagle,a+b,10,150,1,1,0.100,0.400", "c1,2020,Lark,a+b,10,150,2,3,0.200,1.200"]);
    let summary = String::from_utf8(rig.output(&exit, &Port::Mount(SUMMARY.into()))).unwrap();
    for words in ["2 owners: a, b\n", "10 visits, 2 hours, 1 cells", "1 of them visited", "1 further visits"]
    {
        assert!(summary.contains(words), "`{words}` is not in {summary}");
    }
    // Nobody observed anything: a table without rows.
    let table = output(&rig, "species/join", &[], &[("counts", b"dataset,a\n")]);
    assert_eq!(table.lines().count(), 1);
}

#[test]
fn the_year_of_a_loss_is_the_one_after_which_there_is_no_forest() {
    let rig = Rig::new();
    const FOREST: (u8, u8) = (20, 180);
    const FIELD: (u8, u8) = (100, 150);
    const CLOUD: (u8, u8) = (0, 0);
    for (years, class) in [
        (&[FOREST, FOREST, FOREST][..], 2),
        (&[FIELD, FIELD, FIELD], 1),
        (&[FOREST, FOREST, FIELD, FIELD], 4),
        (&[FOREST, FIELD], 3),
        (&[FOREST, CLOUD, FIELD, FIELD], 4),
        (&[FOREST, FIELD, FOREST, FOREST, FOREST], 2),
        (&[FIELD, FIELD, FOREST], 1),
        (&[CLOUD, FOREST, CLOUD], 0),
        (&[CLOUD, CLOUD], 0),
    ] {
        let exit = run(&rig, "raster/change", &[], &[("", &series(years))]);
        let mut expected =
            format!("P5\n# tile 4 2\n# year 2018 {}\n1 1\n255\n", 2017 + years.len()).into_bytes();
        expected.push(class);
        assert_eq!(rig.stdout(&exit), expected, "{years:?}");
    }
}

#[test]
fn where_a_tile_is_missing_nothing_is_known() {
    let rig = Rig::new();
    let (a, b) = (map("7 3", 2), map("8 4", 4));
    let exit = run(&rig, "raster/mosaic", &[], &[("maps", &a), ("maps", &b)]);
    let areas = String::from_utf8(rig.stdout(&exit)).unwrap();
    let expected = "what,pixels,hectares\nnot known,8,0.72\nnot forest,0,0.00\nforest,4,0.36\nlost in 2019,0,0.00\n\
                    lost in 2020,4,0.36\n";
    assert_eq!(areas, expected);
    let picture = rig.output(&exit, &Port::Mount(PICTURE.into()));
    assert_eq!(&picture[..8], b"\x89PNG\r\n\x1a\n");
    assert_eq!(&picture[16..24], [0, 0, 0, 4, 0, 0, 0, 4], "width and height");
}

#[test]
fn texts_of_any_kind_become_lines_with_the_title_first() {
    let rig = Rig::new();
    for (text, lines) in [
        ("", ""),
        ("One line,\nwrapped.\n\n\nAnother one.", "One line, wrapped.\nAnother one.\n"),
        ("\u{feff}# A *title*\ntext with `code` and a [link](x)\n", "A title\ntext with code and a link\n"),
        ("Title\n=====\n- one\n  more\n2. two\n> three\n```\nx = 1\n```\n", "Title\none more\ntwo\nthree\n"),
        (
            "<title>T &amp; t</title><h1>T &amp; t</h1><p>a<b>b</b> &#x263A;&eacute;&unknown; 1 < 2",
            "T & t\nab ☺é&unknown; 1 < 2\n",
        ),
        ("<p>a<!-- <p>b --><script>if (1 < 2) c()</script>d<br>e<style>f", "a\nd\ne\n"),
    ] {
        assert_eq!(output(&rig, "documents/to-text", &[], &[("", text.as_bytes())]), lines, "{text:?}");
    }
}

#[test]
fn a_summary_says_what_the_text_says_most_often() {
    let rig = Rig::new();
    let text = "The title\nPeat grows in bogs. The weather was fine on that day in May. A bog without peat is no bog.\n\
                Nobody else came to see us.\n";
    let summary = output(&rig, "documents/summarise", &["1"], &[("", text.as_bytes())]);
    let expected = "title,The title\nterm,3,bog\nterm,2,peat\nterm,1,grows\nterm,1,weather\nterm,1,fine\n\
                    sentence,A bog without peat is no bog.\n";
    assert_eq!(summary, expected);
    let digest = output(
        &rig,
        "documents/digest",
        &[],
        &[("summaries", summary.as_bytes()), ("summaries", b"title,\nterm,9,bog\n")],
    );
    assert!(digest.contains("## The title\n\n*bog, peat, grows, weather, fine*\n\n- A bog"), "{digest}");
    assert!(digest.ends_with(
        "## (no title)\n\n*bog*\n\n## In more than one of these 2 texts\n\n- bog: 12 times in 2 texts\n"
    ));
}

#[test]
fn what_a_program_does_not_understand_ends_it_with_a_reason() {
    let rig = Rig::new();
    let tile = map("0 0", 2);
    let cut = &tile[..tile.len() - 1];
    let (odd_class, max) = (map("0 0", 9), b"P5\n1 1\n0\n\0");
    let two_years = series(&[(1, 2), (3, 4)]);
    let cases: &[(&str, &[&str], Inputs<'_>, &str)] = &[
        ("species/join", &[], &[("counts", b"effort,c,2020,1\n")], "too many or too few fields"),
        ("species/join", &[], &[("counts", b"dataset,a\neffort,c,2020,x,1\n")], "not a number: x"),
        ("species/join", &[], &[("counts", b"dataset,a\neffort,c,2020,9999999999,1\n")], "not a number"),
        (
            "species/join",
            &[],
            &[("counts", b"dataset,a\nspecies,c,2020,Lark,2,3\n")],
            "more visits than there were",
        ),
        ("species/join", &[], &[("counts", b"")], "without a `dataset` line"),
        ("species/join", &[], &[("counts", b"<html>\n")], "not a line of counts"),
        ("raster/archive", &["0"], &[], "usage"),
        ("raster/archive", &["0", "1000"], &[], "usage"),
        ("raster/archive", &["0", "-1"], &[], "not a number: -1"),
        ("raster/change", &[], &[("", b"")], "lacks its nir band"),
        ("raster/change", &[], &[("", b"P6\n1 1\n255\n\0")], "not a P5 image"),
        ("raster/change", &[], &[("", max)], "too large, or empty"),
        ("raster/change", &[], &[("", b"P5\n4096 4096\n255\n\0")], "ends too early"),
        ("raster/change", &[], &[("", &two_years[..two_years.len() / 4])], "lacks its nir band"),
        ("raster/change", &[], &[("", &two_years[two_years.len() / 4..])], "red band and then its nir band"),
        ("raster/mosaic", &[], &[], "no maps"),
        ("raster/mosaic", &[], &[("maps", cut)], "ends too early"),
        ("raster/mosaic", &[], &[("maps", &odd_class)], "a class that there is not"),
        ("raster/mosaic", &[], &[("maps", &tile), ("maps", &map("900000 0", 2))], "too far apart"),
        ("species/join", &[], &[("counts", b"dataset,a\n\0effort,c,2020,4,60\n")], "no zero bytes"),
        ("documents/to-text", &[], &[("", b"a\0b")], "no zero bytes"),
        ("documents/summarise", &[], &[("", b"a")], "usage"),
        ("documents/summarise", &["many"], &[("", b"a")], "not a number: many"),
        ("documents/digest", &[], &[("summaries", b"term,1\n")], "too many or too few fields"),
    ];
    for (program, args, inputs, why) in cases {
        let exit = run(&rig, program, args, inputs);
        let said = String::from_utf8(rig.output(&exit, &Port::Stderr)).unwrap();
        assert_eq!((exit.class, exit.code), (ExitClass::User, 2), "{program} {args:?} {said}: {exit:?}");
        assert!(said.contains(why), "{program}: `{why}` is not said: {said}");
    }
}
