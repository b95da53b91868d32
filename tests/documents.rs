//! What the documents say of this repository is true: their links lead somewhere, the files that they name exist, and so
//! do the tests that `docs/threats.md` names. Needs neither root nor the built program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use entrepot_tests::machine::repository;

/// Where Rust stands.
const SOURCES: [&str; 3] = ["ebpf", "proxy", "tests"];

/// All documents for people, as paths from the repository's root.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs", "image", "provision", "tests/bench", "tests/vm"] {
        for entry in std::fs::read_dir(repository().join(folder)).expect("a folder of documents") {
            let name = entry.expect("an entry").file_name();
            if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                found.push(Path::new(folder).join(name));
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The targets of `[text](target)` outside of fenced code.
fn links(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if !fenced {
            found.extend(line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target));
        }
    }
    found
}

/// The anchors that the headings of a page have, in the form of GitHub.
fn anchors(text: &str) -> Vec<String> {
    let heading = |line: &str| {
        let kept = line.trim_start_matches('#').trim().to_lowercase();
        kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
    };
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if !fenced && line.starts_with('#') {
            found.push(heading(line));
        }
    }
    found
}

/// The words between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Every Rust file below `folder`, by its path from the repository's root.
fn sources(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(repository().join(folder)).expect("a folder of sources") {
        let entry = entry.expect("an entry");
        let path = folder.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            if entry.file_name() != "target" {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = read(&path);
            found.insert(path, text);
        }
    }
}

/// Whether `path` has each part of `place` (`upstream/client`) as a folder or as a file's stem.
fn stands_at(path: &Path, place: &str) -> bool {
    let parts: Vec<String> = path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    place.split('/').all(|part| parts.iter().any(|of_path| of_path == part))
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut checked = 0;
    for document in documents() {
        for link in links(&read(&document)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                _ => document.parent().expect("a folder").join(file),
            };
            let there = repository().join(&target).exists();
            if !there || (!anchor.is_empty() && !anchors(&read(&target)).iter().any(|heading| heading == anchor)) {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
    assert!(checked > 30, "only {checked} links were found");
}

#[test]
fn every_file_that_the_maps_name_exists() {
    let mut missing = Vec::new();
    let mut checked = 0;
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/threats.md", "docs/walks.md"] {
        let page = read(Path::new(document));
        for name in quoted(&page).filter(|words| words.contains('/') && !words.contains([' ', '…', '<', ':'])) {
            let is_ours = SOURCES.iter().any(|folder| name.starts_with(&format!("{folder}/")));
            if !is_ours && !name.ends_with(".rs") {
                continue;
            }
            checked += 1;
            // ARCHITECTURE.md says where it leaves the first folder out.
            if !repository().join(name).exists() && !repository().join("proxy").join(name).exists() {
                missing.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "files that are named and are not there:\n{}", missing.join("\n"));
    assert!(checked > 100, "only {checked} files were found");
}

#[test]
fn the_walks_count_the_files_that_they_name() {
    let page = read(Path::new("docs/walks.md"));
    let mut walks = page.split("\n## ");
    let table = walks.next().expect("the table");
    let mut wrong = Vec::new();
    let mut counted = 0;
    for walk in walks {
        let title = walk.lines().next().unwrap_or_default();
        let row = table.lines().find(|line| line.starts_with(&format!("| [{title}]"))).expect(title);
        let told: usize = row.split('|').nth(4).and_then(|cell| cell.trim().parse().ok()).expect("a number");
        let files: std::collections::BTreeSet<_> =
            quoted(walk).filter(|words| words.contains('/') && words.ends_with(".rs")).collect();
        counted += 1;
        if files.len() != told {
            wrong.push(format!("{title}: names {} files, and the table says {told}", files.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(counted, 5);
}

#[test]
fn every_test_that_the_threats_name_exists() {
    let mut files = BTreeMap::new();
    for folder in SOURCES {
        sources(Path::new(folder), &mut files);
    }
    let page = read(Path::new("docs/threats.md"));
    let mut missing = Vec::new();
    let mut checked = 0;
    for name in quoted(&page).filter(|words| !words.contains(' ')) {
        let Some((place, test)) = name.split_once("::").filter(|(_, test)| *test != "…") else { continue };
        checked += 1;
        let definition = format!("fn {test}(");
        if !files.iter().any(|(path, text)| stands_at(path, place) && text.contains(&definition)) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "tests that docs/threats.md names and nobody wrote:\n{}", missing.join("\n"));
    assert!(checked > 100, "only {checked} tests were found");
}
