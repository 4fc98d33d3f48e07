//! What a service runs, and how that is spelt in services, plans, orders and receipts.
//!
//! | key | value |
//! |---|---|
//! | `mod` | a WebAssembly module: its digest, 32 bytes |
//! | `img` | a container image: `{ep?, id, n, wd?}` – entry point, id, name, working directory |
//! | `exe` | a native executable: `{arch, d, os}` – processor, digest, system |
//! | `data` | a directory: `{d, len}` – digest and length of its manifest |
//! | `mnt` | where mounts lie in the guest, when not at `/` and their name: names and paths in turn; absent when empty |
//! | `trees` | mounts that hold directories: names, and `tree` or `trees`, in turn; absent when empty |
//!
//! Exactly one of the first four is there. What is absent has its default, so that a new field changes no digest of what does not
//! use it.

use super::{MOUNTS_MAX, NAME_MAX, valid_name};
use crate::codec::{DecodeError, Dict, Value};
use crate::manifest::MANIFEST_BYTES_MAX;
use crate::port::{Dataset, Executable, Image, Layout, MountPath, Program, Target};

/// Longest name of an image in bytes.
pub const IMAGE_NAME_MAX: usize = 255;
/// Most words of an image's entry point.
pub const ENTRYPOINT_MAX: usize = 16;
/// Longest of them, and longest path in a guest, in bytes.
pub const PATH_MAX: usize = 255;

/// Longest name of a processor or a system in bytes.
pub const TARGET_WORD_MAX: usize = 16;
const MANIFEST_LEN_MAX: u64 = MANIFEST_BYTES_MAX as u64;
/// What lies at the root of an executable's sandbox, where its mounts lie too.
const NATIVE_ROOT: [&str; 13] =
    ["bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "sbin", "sys", "tmp", "usr"];

/// Adds a program to a dictionary.
pub fn write(d: Dict, program: &Program) -> Dict {
    match program {
        Program::Wasm(module) => d.with("mod", module),
        Program::Image(image) => d.with("img", image_dict(image)),
        Program::Native(exe) => d.with("exe", executable_dict(exe)),
        Program::Data(data) => d.with("data", Dict::new().with("d", &data.manifest).with("len", data.len)),
    }
}

/// Reads what [`write()`] added.
pub fn read(d: &Dict) -> Result<Program, DecodeError> {
    let mut found = ["mod", "img", "exe", "data"].into_iter().filter(|key| d.get(key).is_some());
    let key = found.next().ok_or(DecodeError::Missing("mod"))?;
    if let Some(other) = found.next() {
        return Err(DecodeError::invalid(other, "beside another program"));
    }
    Ok(match key {
        "mod" => Program::Wasm(d.digest("mod")?),
        "img" => Program::Image(Box::new(image_of(d.dict("img")?)?)),
        "exe" => Program::Native(Box::new(executable_of(d.dict("exe")?)?)),
        _ => Program::Data(dataset_of(d.dict("data")?)?),
    })
}

fn dataset_of(d: &Dict) -> Result<Dataset, DecodeError> {
    let dataset = Dataset { manifest: d.digest("d")?, len: d.u64("len")? };
    match dataset.len {
        1..=MANIFEST_LEN_MAX => Ok(dataset),
        len => Err(DecodeError::invalid("len", format!("{len} bytes are no list of files"))),
    }
}

fn executable_dict(exe: &Executable) -> Dict {
    Dict::new()
        .with("arch", exe.target.arch.as_str())
        .with("d", &exe.object)
        .with("os", exe.target.os.as_str())
}

fn executable_of(d: &Dict) -> Result<Executable, DecodeError> {
    let word = |key| {
        let word = d.text(key, TARGET_WORD_MAX)?;
        match valid_target_word(&word) {
            true => Ok(word),
            false => Err(DecodeError::invalid(key, "not a word of a-z, 0-9 and `_`")),
        }
    };
    Ok(Executable { object: d.digest("d")?, target: Target { arch: word("arch")?, os: word("os")? } })
}

fn image_dict(image: &Image) -> Dict {
    let entrypoint: Vec<Value> = image.entrypoint.iter().map(|s| Value::from(s.as_str())).collect();
    Dict::new()
        .with_some("ep", (!entrypoint.is_empty()).then_some(entrypoint))
        .with("id", &image.id[..])
        .with("n", image.name.as_str())
        .with_some("wd", image.workdir.as_deref())
}

fn image_of(d: &Dict) -> Result<Image, DecodeError> {
    let name = d.text("n", IMAGE_NAME_MAX)?;
    if !valid_image_name(&name) {
        return Err(DecodeError::invalid("n", "not the name of an image"));
    }
    let entrypoint = match d.get("ep") {
        None => Vec::new(),
        Some(_) => texts(d, "ep", ENTRYPOINT_MAX)?,
    };
    let workdir = d.get("wd").map(|_| d.text("wd", PATH_MAX)).transpose()?;
    if let Some(path) = workdir.as_deref().filter(|path| !valid_path(path)) {
        return Err(DecodeError::invalid("wd", format!("`{path}` is no plain absolute path")));
    }
    Ok(Image { name, id: d.array("id")?, entrypoint, workdir })
}

/// Adds what is unusual about mounts.
pub fn write_paths(d: Dict, mounts: &[MountPath]) -> Dict {
    let lying = mounts.iter().filter_map(|m| Some([m.name.as_str(), m.path.as_deref()?]));
    let lying: Vec<Value> = lying.flatten().map(Value::from).collect();
    let holding = mounts.iter().filter_map(|m| Some([m.name.as_str(), layout_text(m.layout)?]));
    let holding: Vec<Value> = holding.flatten().map(Value::from).collect();
    d.with_some("mnt", (!lying.is_empty()).then_some(lying))
        .with_some("trees", (!holding.is_empty()).then_some(holding))
}

/// Reads what [`write_paths()`] added: those with a path first, as [`super::Service::paths`] tells them.
pub fn read_paths(d: &Dict) -> Result<Vec<MountPath>, DecodeError> {
    let mut mounts: Vec<MountPath> = Vec::new();
    for (name, path) in pairs(d, "mnt")? {
        if !valid_name(&name) || !valid_mount_path(&path) {
            return Err(DecodeError::invalid("mnt", format!("`{name}` at `{path}`")));
        }
        mounts.push(MountPath { name, path: Some(path), layout: Layout::Files });
    }
    for (name, layout) in pairs(d, "trees")? {
        let layout = layout_named(layout.as_bytes()).filter(|_| valid_name(&name));
        let layout = layout.ok_or_else(|| DecodeError::invalid("trees", "names, and `tree` or `trees`"))?;
        match mounts.iter_mut().find(|m| m.name == name) {
            Some(known) if known.layout.is_tree() => {
                return Err(DecodeError::invalid("trees", "a mount that is named twice"));
            }
            Some(known) => known.layout = layout,
            None => mounts.push(MountPath { name, path: None, layout }),
        }
    }
    Ok(mounts)
}

/// How a layout is spelt; the usual one is not.
pub fn layout_text(layout: Layout) -> Option<&'static str> {
    match layout {
        Layout::Files => None,
        Layout::Tree => Some("tree"),
        Layout::Trees => Some("trees"),
    }
}

/// Reads what [`layout_text`] gave.
pub fn layout_named(text: &[u8]) -> Option<Layout> {
    match text {
        b"tree" => Some(Layout::Tree),
        b"trees" => Some(Layout::Trees),
        _ => None,
    }
}

/// Texts in turn, two by two; an empty list is not written.
fn pairs(d: &Dict, key: &'static str) -> Result<Vec<(String, String)>, DecodeError> {
    if d.get(key).is_none() {
        return Ok(Vec::new());
    }
    let flat = texts(d, key, MOUNTS_MAX * 2)?;
    let pairs = flat.chunks_exact(2);
    if !pairs.remainder().is_empty() || flat.is_empty() {
        return Err(DecodeError::invalid(key, "two texts in turn"));
    }
    Ok(pairs.map(|p| (p[0].clone(), p[1].clone())).collect())
}

fn texts(d: &Dict, key: &'static str, max: usize) -> Result<Vec<String>, DecodeError> {
    let text = |v: &Value| {
        let bytes = v.as_bytes().filter(|b| b.len() <= PATH_MAX.max(NAME_MAX) && !b.contains(&0));
        let text = bytes.and_then(|b| std::str::from_utf8(b).ok());
        text.map(str::to_owned).ok_or_else(|| DecodeError::invalid(key, "not a short text"))
    };
    d.list(key, max)?.iter().map(text).collect()
}

/// Whether `name` may name an image: what registries and engines allow, without spaces and control characters.
pub fn valid_image_name(name: &str) -> bool {
    (1..=IMAGE_NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b))
        && !name.starts_with(['-', '.', '/', ':', '@'])
}

/// Whether `path` is absolute, has plain components only, and is no longer than [`PATH_MAX`].
pub fn valid_path(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.len() <= PATH_MAX
        && !path.chars().any(|c| c.is_control() || c == ':' || c == ',')
        && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain))
}

/// The same for a mount: not over what the engine itself mounts.
pub fn valid_mount_path(path: &str) -> bool {
    let over = |dir: &str| path == dir || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    valid_path(path) && !["/proc", "/sys", "/dev"].into_iter().any(over)
}

/// Whether a mount of an executable may have this name: it lies at `/` and its name, beside what every program needs.
pub fn valid_native_mount(name: &str) -> bool {
    !NATIVE_ROOT.contains(&name)
}

/// Whether `word` may name a processor or a system.
pub fn valid_target_word(word: &str) -> bool {
    (1..=TARGET_WORD_MAX).contains(&word.len())
        && word.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;

    fn native(arch: &str, os: &str) -> Program {
        let target = Target { arch: arch.into(), os: os.into() };
        Program::Native(Box::new(Executable { object: Digest([5; 32]), target }))
    }

    fn image() -> Image {
        Image {
            name: "registry.example:5000/tools/count@sha256:00".into(),
            id: [7; 32],
            entrypoint: vec!["/bin/sh".into(), "-c".into()],
            workdir: Some("/work".into()),
        }
    }

    #[test]
    fn programs_come_out_as_they_went_in_and_defaults_are_absent() {
        let bare = Image { entrypoint: Vec::new(), workdir: None, ..image() };
        assert!(image_dict(&bare).get("ep").or(image_dict(&bare).get("wd")).is_none());
        for program in [
            Program::Wasm(Digest([3; 32])),
            Program::Image(Box::new(image())),
            Program::Image(Box::new(bare)),
            native("x86_64", "linux"),
            Program::Data(Dataset { manifest: Digest([4; 32]), len: 9 }),
        ] {
            let d = write(Dict::new(), &program);
            assert_eq!(read(&Dict::decode(&d.encode(), 4_096).unwrap()), Ok(program));
        }
        let both =
            write(write(Dict::new(), &Program::Wasm(Digest([3; 32]))), &Program::Image(Box::new(image())));
        assert!(read(&both).is_err());
        for other in [Program::Wasm(Digest([3; 32])), Program::Image(Box::new(image()))] {
            assert!(read(&write(write(Dict::new(), &other), &native("x86_64", "linux"))).is_err());
        }
        assert!(read(&Dict::new()).is_err());
        for len in [0, MANIFEST_LEN_MAX + 1] {
            let odd = Program::Data(Dataset { manifest: Digest([4; 32]), len });
            assert!(read(&write(Dict::new(), &odd)).is_err(), "{len}");
        }
    }

    #[test]
    fn executables_name_their_machine_in_short_plain_words() {
        for (arch, os) in
            [("", "linux"), ("x86-64", "linux"), ("x86_64", "Linux"), ("x86_64", &"x".repeat(17))]
        {
            assert!(read(&write(Dict::new(), &native(arch, os))).is_err(), "{arch} {os}");
        }
        assert!(valid_native_mount("data") && !valid_native_mount("usr") && !valid_native_mount("proc"));
    }

    #[test]
    fn mounts_lie_at_plain_paths_outside_of_the_engines_own() {
        let paths =
            vec![MountPath { name: "in".into(), path: Some("/data/in".into()), layout: Layout::Files }];
        assert_eq!(read_paths(&write_paths(Dict::new(), &paths)), Ok(paths));
        assert_eq!(read_paths(&Dict::new()), Ok(Vec::new()));
        for good in ["/a", "/data/in.d", "/proc-like", "/x y", "/ä"] {
            assert!(valid_mount_path(good), "{good}");
        }
        let long = format!("/{}", "x".repeat(PATH_MAX));
        for bad in
            ["", "/", "a", "/a/", "//a", "/a/../b", "/./a", "/proc", "/sys/fs", "/dev", "/a:b", "/a\n", &long]
        {
            assert!(!valid_mount_path(bad), "{bad:?}");
        }
        let odd = Dict::new().with("mnt", vec![Value::from("in")]);
        assert!(read_paths(&odd).is_err());
        let root = Dict::new().with("mnt", vec![Value::from("in"), Value::from("/proc/self")]);
        assert!(read_paths(&root).is_err());
    }

    #[test]
    fn what_mounts_hold_is_told_beside_where_they_lie() {
        let mount = |name: &str, path: Option<&str>, layout| MountPath {
            name: name.into(),
            path: path.map(str::to_owned),
            layout,
        };
        let mounts = vec![
            mount("b", Some("/data/b"), Layout::Trees),
            mount("c", Some("/data/c"), Layout::Files),
            mount("a", None, Layout::Tree),
        ];
        let written = write_paths(Dict::new(), &mounts);
        assert_eq!(read_paths(&Dict::decode(&written.encode(), 4_096).unwrap()), Ok(mounts));
        let text = |items: &[&str]| {
            Dict::new().with("trees", items.iter().map(|i| Value::from(*i)).collect::<Vec<_>>())
        };
        for odd in [&["a"][..], &[], &["a", "files"], &["a", "tree", "a", "trees"], &["../a", "tree"]] {
            assert!(read_paths(&text(odd)).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn images_have_names_that_no_command_line_takes_for_something_else() {
        for good in ["alpine", "alpine:3.20", "ghcr.io/a/b@sha256:0f", "a_b-c.d"] {
            assert!(valid_image_name(good), "{good}");
        }
        for bad in ["", "-v", "a b", "a\u{1b}", "ä", "/etc", &"x".repeat(256)] {
            assert!(!valid_image_name(bad), "{bad:?}");
        }
    }
}
