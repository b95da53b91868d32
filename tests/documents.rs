//! The documents are right about this repository: their links lead somewhere, the files that they name exist, and so do
//! the tests that `docs/threats.md` names. Needs neither root nor the built program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use entrepot_tests::machine::repository;

/// Where Rust stands.
const SOURCES: [&str; 3] = ["ebpf", "proxy", "tests"];

/// The folders at the top of the repository that documents name files of.
const FOLDERS: [&str; 7] = [".ci", "docs", "ebpf", "image", "provision", "proxy", "tests"];

/// The folders of a build's results. A document may name them, and a fresh clone does not have them.
const BUILT: [&str; 1] = ["image/out"];

/// All documents for people, as paths from the repository's root.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(Path::new(""), "md", &mut found);
    found.sort();
    assert!(found.len() > 20, "only {} documents were found", found.len());
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

/// Every file below `folder` that ends in `.extension`, by its path from the repository's root.
fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(repository().join(folder)).expect("a folder") {
        let entry = entry.expect("an entry");
        let path = folder.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            let is_ours = path != Path::new(".git") && entry.file_name() != "target";
            if is_ours && !BUILT.iter().any(|built| path == Path::new(built)) {
                files(&path, extension, found);
            }
        } else if path.extension().is_some_and(|of_path| of_path == extension) {
            found.push(path);
        }
    }
}

/// Every Rust file of the repository, by its path from the root.
fn sources() -> BTreeMap<PathBuf, String> {
    let mut found = Vec::new();
    SOURCES.iter().for_each(|folder| files(Path::new(folder), "rs", &mut found));
    found.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// Whether a word between backquotes is the name of a file or a folder of this repository.
fn names_a_file(word: &str) -> bool {
    let is_path = !word.contains([' ', '…', '<', ':', '*', '=', '$']) && !word.starts_with('/');
    let is_ours = word.split_once('/').is_some_and(|(first, _)| FOLDERS.contains(&first));
    is_path && (is_ours || word.ends_with(".md") || (word.contains('/') && word.ends_with(".rs")))
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
fn every_file_that_a_document_names_exists() {
    let mut missing = Vec::new();
    let mut checked = 0;
    for document in documents() {
        let page = read(&document);
        for name in quoted(&page).filter(|word| names_a_file(word) && !BUILT.contains(word)) {
            checked += 1;
            // ARCHITECTURE.md says where it leaves the first folder out, and a README speaks of its own folder.
            let places = [Path::new(""), Path::new("proxy"), document.parent().expect("a folder")];
            if !places.iter().any(|place| repository().join(place).join(name).exists()) {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "files that are named and are not there:\n{}", missing.join("\n"));
    assert!(checked > 200, "only {checked} files were found");
}

#[test]
fn every_section_of_the_configuration_is_in_its_table() {
    let page = read(Path::new("docs/configuration.md"));
    let example = read(Path::new("provision/entrepot.toml"));
    let headers = example
        .lines()
        .map(|line| line.trim_start_matches(['#', ' ']))
        .filter(|line| line.starts_with('[') && line.ends_with(']') && !line.contains([' ', ',']));
    let mut checked = 0;
    for header in headers {
        checked += 1;
        // The table has a word for the registry that the example names.
        let name = if header.starts_with("[registries.") { "[registries.\"HOST\"]" } else { header };
        assert!(page.contains(&format!("`{name}`")), "docs/configuration.md lacks {name}");
    }
    assert!(checked > 15, "only {checked} sections were found");
    // The names of keys between backquotes are keys.
    for (section, key) in quoted(&page).filter_map(|word| word.split_once('.')) {
        let Some((_, rest)) = example.split_once(&format!("\n[{section}]\n")) else { continue };
        let block = rest.split("\n[").next().unwrap_or_default();
        let is_key = |line: &str| line.strip_prefix(&format!("#{key} = ")).is_some();
        assert!(block.lines().any(is_key), "docs/configuration.md names {section}.{key}");
    }
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
    let files = sources();
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
