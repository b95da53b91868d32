//! Arrows point downwards only: between the crates by the table of layers, inside a crate without a circle between its
//! folders. Needs neither root nor packages: `cargo test -p entrepot-tests --test structure`.
//!
//! Cargo forbids circles between crates. This test also forbids a dependency that Cargo would allow, and says which
//! line of the table it breaks.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use source::Source;

/// Every crate of the workspace and its layer. A crate may depend on crates of lower layers only, so two crates of one
/// layer know nothing of each other.
const LAYERS: &[(&str, u32)] = &[
    ("entrepot-core", 1),
    ("entrepot-ebpf-common", 1),
    ("entrepot-kernel", 1),
    ("entrepot-record", 2),
    ("entrepot-config", 3),
    ("entrepot-observe", 4),
    ("entrepot-net", 5),
    ("entrepot-store", 5),
    ("entrepot-upstream", 5),
    ("entrepot-cache", 6),
    ("entrepot-redirect", 7),
    ("entrepot-registry", 7),
    ("entrepot-setup", 7),
    ("entrepot", 8),
    ("entrepot-tests", 9),
    ("entrepot-bench", 10),
];

/// The crates of this workspace that one crate may use, where its layer allows more.
const ONLY: &[(&str, &[&str])] = &[
    // The TLS record layer has nothing of this product in it.
    ("entrepot-record", &[]),
    // The tests look at the product from outside.
    ("entrepot-tests", &[]),
];

/// The crates that the core may use. None of them opens a file or a socket, or asks the time. A further one needs a
/// look at its source first.
const USED_BY_CORE: &[&str] = &[
    "aws-lc-rs",
    "base64",
    "http",
    "httparse",
    "memchr",
    "regex",
    "serde",
    "serde_json",
    "thiserror",
    "url",
    "zeroize",
];

/// The parts of `std` that the core may use: without input or output, clock, thread or environment. Each stands for
/// everything below it.
const STD_WITHOUT_IO: &[&str] = &[
    "array",
    "borrow",
    "cell",
    "cmp",
    "collections",
    "convert",
    "error",
    "fmt",
    "hash",
    "iter",
    "marker",
    "mem",
    "net::AddrParseError",
    "net::IpAddr",
    "net::Ipv4Addr",
    "net::Ipv6Addr",
    "net::SocketAddr",
    "num",
    "ops",
    "slice",
    "str",
    "string",
    "sync::Arc",
    "sync::Mutex",
    "sync::MutexGuard",
    "sync::PoisonError",
    "time::Duration",
    "vec",
];

/// Macros and methods that need no import for it. `include` brings in code that this test does not read, and
/// `socket_addrs` is the lookup of names of the crate `url`.
const IO_BY_NAME: &[&str] = &["dbg", "eprint", "eprintln", "include", "print", "println", "socket_addrs"];

/// Where `unsafe` may be written: the fence around it, and the programs that the kernel runs.
const UNSAFE_FOLDERS: &[&str] = &["proxy/kernel", "ebpf/src"];

/// A crate of the workspace.
struct Crate {
    name: String,
    folder: PathBuf,
    /// Names of its dependencies, those of its tests and builds too.
    dependencies: BTreeSet<String>,
    /// Those of the product itself.
    in_product: BTreeSet<String>,
}

#[test]
fn every_crate_has_a_layer_and_depends_on_lower_ones_only() {
    let layer = |name: &str| LAYERS.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer);
    let mut wrong = Vec::new();
    for Crate { name, dependencies, .. } in workspace() {
        let Some(own) = layer(&name) else {
            wrong.push(format!("{name} is not in the table of layers"));
            continue;
        };
        for dependency in dependencies.iter().filter(|dependency| **dependency != name) {
            match layer(dependency) {
                Some(other) if other >= own => {
                    wrong.push(format!("{name} (layer {own}) depends on {dependency} (layer {other})"));
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "tests/structure/main.rs has the table of layers:\n{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_crate_that_is_gone() {
    let known: BTreeSet<String> = workspace().into_iter().map(|one| one.name).collect();
    let gone: Vec<_> = LAYERS.iter().filter(|(name, _)| !known.contains(*name)).collect();
    assert!(gone.is_empty(), "no such crates in the workspace: {gone:?}");
}

#[test]
fn the_map_has_every_arrow() {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the map");
    let crates = workspace();
    let ours: BTreeSet<&str> = crates.iter().map(|one| one.name.as_str()).collect();
    let mut wrong = Vec::new();
    for one in crates.iter().filter(|one| one.folder.starts_with(root().join("proxy"))) {
        let used: Vec<&str> = one.in_product.iter().map(String::as_str).filter(|name| ours.contains(name)).collect();
        let told = match used.as_slice() {
            [] => "none".to_owned(),
            used => used.iter().map(|name| name.trim_start_matches("entrepot-")).collect::<Vec<_>>().join(", "),
        };
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", one.name)));
        let cell = row.and_then(|row| row.split('|').nth(3)).map_or("nothing", str::trim);
        if cell != told {
            wrong.push(format!("{}: ARCHITECTURE.md says {cell}, and Cargo says {told}", one.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn some_crates_use_less_than_their_layer_allows() {
    let crates = workspace();
    let ours: BTreeSet<&str> = crates.iter().map(|one| one.name.as_str()).collect();
    let mut wrong = Vec::new();
    for (name, allowed) in ONLY {
        let one = crates.iter().find(|one| one.name == *name).unwrap_or_else(|| panic!("{name} is missing"));
        let used = one.dependencies.iter().filter(|dependency| ours.contains(dependency.as_str()));
        wrong.extend(used.filter(|used| !allowed.contains(&used.as_str())).map(|used| format!("{name} uses {used}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_does_no_io() {
    let crates = workspace();
    let core = crates.iter().find(|one| one.name == "entrepot-core").expect("the core");
    let mut wrong: Vec<String> =
        core.in_product.iter().filter(|one| !USED_BY_CORE.contains(&one.as_str())).cloned().collect();
    let sources = source::of_crate(&core.folder.join("src"));
    assert!(sources.len() > 10, "only {} files of the core were found", sources.len());
    for source in sources {
        wrong.extend(ways_to_io(&source).into_iter().map(|way| format!("{}: {way}", source.path.display())));
    }
    assert!(wrong.is_empty(), "entrepot-core has input or output, or nobody has looked yet:\n{}", wrong.join("\n"));
}

/// The forbidden input and output that a file of the core has.
fn ways_to_io(source: &Source) -> Vec<String> {
    let is_allowed = |path: &str| {
        STD_WITHOUT_IO
            .iter()
            .any(|part| path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")))
    };
    let mut found: Vec<String> = source.paths("std").iter().map(|path| path.join("::")).collect();
    found.retain(|path| !path.strip_prefix("std::").is_some_and(is_allowed));
    // `use std as x` and `extern crate std` lead to all of it under another name.
    found.extend(source.bare("std").then(|| "std by another name".to_owned()));
    found.extend(source.has(&["#", "[", "path"]).then(|| "a module by #[path]".to_owned()));
    found.extend(IO_BY_NAME.iter().filter(|word| source.has(&[word])).map(|word| (*word).to_owned()));
    found
}

#[test]
fn unsafe_is_fenced() {
    let root = root();
    let fences: Vec<PathBuf> = UNSAFE_FOLDERS.iter().map(|folder| root.join(folder)).collect();
    let outside = source::files(&root).into_iter().filter(|path| !fences.iter().any(|fence| path.starts_with(fence)));
    let is_unsafe = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).expect("a source file");
        source::tokens(&text).iter().any(|token| token == "unsafe")
    };
    let wrong: Vec<PathBuf> = outside.filter(is_unsafe).collect();
    assert!(wrong.is_empty(), "`unsafe` outside {UNSAFE_FOLDERS:?}: {wrong:#?}");
}

#[test]
fn no_circle_between_the_folders_of_a_crate() {
    let mut wrong = Vec::new();
    for Crate { name, folder, .. } in workspace() {
        let src = folder.join("src");
        let arrows = arrows(&source::of_crate(&src));
        for circle in circles(&arrows) {
            // Files beside each other are one room.
            if !circle.iter().any(|room| src.join(room).is_dir()) {
                continue;
            }
            wrong.push(format!("{name}: {}", circle.iter().copied().collect::<Vec<_>>().join(", ")));
            let inside = arrows.iter().filter(|((from, to), _)| circle.contains(&**from) && circle.contains(&**to));
            wrong.extend(inside.map(|((from, to), file)| format!("    {from} → {to}: {}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "folders that need each other, each arrow with a file:\n{}", wrong.join("\n"));
}

/// Which room uses which other, and a file that shows it. A room is a top-level module of the crate.
fn arrows(sources: &[Source]) -> BTreeMap<(String, String), PathBuf> {
    let rooms: BTreeSet<&String> = sources.iter().filter_map(|source| source.module.first()).collect();
    let mut exports = BTreeMap::new();
    for source in sources.iter().filter(|source| source.module.is_empty()) {
        for (name, path) in source.exports() {
            let first = path.iter().find(|word| !["crate", "self"].contains(&word.as_str()));
            if let Some(room) = first.filter(|word| rooms.contains(word)) {
                exports.insert(name, room.clone());
            }
        }
    }
    let mut found = BTreeMap::new();
    for source in sources {
        let Some(from) = source.module.first() else { continue };
        let by_root = source.paths("crate").into_iter().map(|path| path[1..].to_vec());
        // As many steps up as the file is deep lead to the root.
        let depth = source.module.len();
        let up = source.paths("super").into_iter().filter_map(|path| {
            let steps = path.iter().take_while(|word| *word == "super").count();
            (steps == depth).then(|| path[steps..].to_vec())
        });
        for path in by_root.chain(up) {
            let Some(first) = path.first() else { continue };
            let to = rooms.get(first).copied().or_else(|| exports.get(first));
            if let Some(to) = to.filter(|to| *to != from) {
                found.entry((from.clone(), to.clone())).or_insert_with(|| source.path.clone());
            }
        }
    }
    found
}

/// The groups of rooms that reach each other.
fn circles(arrows: &BTreeMap<(String, String), PathBuf>) -> Vec<BTreeSet<&str>> {
    let rooms: BTreeSet<&str> = arrows.keys().flat_map(|(from, to)| [from.as_str(), to.as_str()]).collect();
    let reached: BTreeMap<&str, BTreeSet<&str>> = rooms.iter().map(|room| (*room, reach(arrows, room))).collect();
    let mut found: Vec<BTreeSet<&str>> = Vec::new();
    for room in &rooms {
        let circle: BTreeSet<&str> =
            reached[room].iter().filter(|other| reached[**other].contains(room)).copied().collect();
        if circle.len() > 1 && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

/// Every room that can be reached from one.
fn reach<'a>(arrows: &'a BTreeMap<(String, String), PathBuf>, from: &str) -> BTreeSet<&'a str> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(room) = open.pop() {
        for (_, to) in arrows.keys().filter(|(start, _)| *start == room) {
            if reached.insert(to.as_str()) {
                open.push(to.clone());
            }
        }
    }
    reached
}

/// The crates of the workspace, as Cargo tells them.
fn workspace() -> Vec<Crate> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut asking = Command::new(cargo);
    asking.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).current_dir(root());
    let answer = asking.output().expect("cargo");
    assert!(answer.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&answer.stderr));
    let answer: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    answer["packages"].as_array().expect("packages").iter().map(Crate::read).collect()
}

impl Crate {
    fn read(package: &Value) -> Self {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let all = package["dependencies"].as_array().expect("dependencies");
        // The kind is null for the product, else "dev" or "build".
        let in_product = all.iter().filter(|one| one["kind"].is_null()).map(|one| text(&one["name"])).collect();
        Self {
            name: text(&package["name"]),
            folder: Path::new(&text(&package["manifest_path"])).parent().expect("a folder").to_owned(),
            dependencies: all.iter().map(|one| text(&one["name"])).collect(),
            in_product,
        }
    }
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in it").to_owned()
}

#[test]
fn a_circle_is_found_however_long() {
    let arrow = |from: &str, to: &str| ((from.to_owned(), to.to_owned()), PathBuf::new());
    let arrows = BTreeMap::from([arrow("a", "b"), arrow("b", "c"), arrow("c", "a"), arrow("c", "d"), arrow("d", "e")]);
    assert_eq!(circles(&arrows), [BTreeSet::from(["a", "b", "c"])]);
}

#[test]
fn io_of_the_core_is_found_however_it_is_written() {
    let pure = "use std::net::{IpAddr, SocketAddr}; use std::time::Duration; use std::fmt::{self, Write as _}; \
                fn f() -> std::vec::Vec<u8> { std::mem::take(x) } #[cfg(test)] mod tests { use std::fs; }";
    assert_eq!(ways_to_io(&Source::of_text(pure)), Vec::<String>::new());
    for text in [
        "use std::fs;",
        "use std::{fmt, fs::File};",
        "fn f() { ::std::fs::read(x) }",
        "fn f() -> <T as ::std::io::Read>::X {}",
        "use std::net;",
        "use std::net::*;",
        "use std::net::{IpAddr, TcpStream};",
        "use std::*;",
        "use std::{self};",
        "use std as s;",
        "use {std as s, x::y};",
        "extern crate std as s;",
        "pub use std::time;",
        "fn f() { std::time::SystemTime::now() }",
        "use std::time::{Duration, Instant};",
        "fn f() { std::thread::spawn(g) }",
        "fn f() { std::env::var(x) }",
        "fn f() { println!(\"x\") }",
        "fn f() { url.socket_addrs(g) }",
        "include!(\"x\");",
        "#[path = \"../../x.rs\"] mod x;",
    ] {
        assert_eq!(ways_to_io(&Source::of_text(text)).len(), 1, "{text}");
    }
}
