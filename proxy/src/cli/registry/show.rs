//! The texts and tables about the registry for people.

use std::time::{Duration, UNIX_EPOCH};

use entrepot_core::name::RepositoryName;

use super::RegistryTarget;
use crate::admin::answers::{ImportLine, Imported};
use crate::admin::registry::{CollectionReport, RemovedNames, RepositorySummary, TagPage, TagSummary};
use entrepot_net::tls::authority::rfc3339;
use entrepot_observe::human::{age, size};

pub(super) fn repository_header() -> String {
    format!("{:50} {:>6} {:>9} {:>10}\n", "REPOSITORY", "TAGS", "MANIFESTS", "SIZE")
}

pub(super) fn repository(entry: &RepositorySummary) -> String {
    format!("{:50} {:>6} {:>9} {:>10}\n", entry.name, entry.tags, entry.manifests, size(entry.size))
}

pub(super) fn tag_header() -> String {
    format!("{:30} {:71} {:>10}  {}\n", "TAG", "DIGEST", "SIZE", "TYPE")
}

pub(super) fn tag(entry: &TagSummary) -> String {
    format!("{:30} {:71} {:>10}  {}\n", entry.tag, entry.digest, size(entry.size), entry.media_type)
}

pub(super) fn remove_question(repository: &RepositoryName, list: &TagPage) -> String {
    format!("Remove {repository} with {}?", count(list.tags.len() as u64, "tag"))
}

pub(super) fn removed(what: &RegistryTarget, removed: &RemovedNames) -> String {
    let (tags, manifests) = (removed.tags.len() as u64, removed.manifests.len() as u64);
    let layers = match removed.freed_from_unix_seconds {
        None => String::new(),
        Some(from) => {
            let every = match removed.collected_every_seconds {
                0 => "`entrepot registry gc` after that".to_owned(),
                every => format!("the next collection after that, at most {} later", age(Duration::from_secs(every))),
            };
            let from = rfc3339(UNIX_EPOCH + Duration::from_secs(from));
            format!("; layers that nothing else needs are kept until {from}, and freed by {every}")
        }
    };
    format!("removed {what} ({}, {}){layers}\n", count(tags, "tag"), count(manifests, "manifest"))
}

pub(super) fn collected(collection: &CollectionReport) -> String {
    let freed = if collection.dry_run { "would free" } else { "freed" };
    let mut text = format!("{freed} {}: {}", size(collection.freed_bytes), count(collection.freed_blobs, "blob"));
    for (number, what) in [
        (collection.manifests, "manifest without a tag"),
        (collection.kept_by_cache, "blob that the cache keeps"),
        (collection.waiting, "blob still in the grace period"),
        (collection.skipped, "repository that could not be read"),
    ] {
        if number > 0 {
            text += &format!(", {}", count(number, what));
        }
    }
    text + "\n"
}

pub(super) fn imported(imported: &Imported) -> String {
    format!(
        "took over {}, {}, {}; {} ({}) were new\n",
        count(imported.repositories, "repository"),
        count(imported.manifests, "manifest"),
        count(imported.tags, "tag"),
        count(imported.blobs, "blob"),
        size(imported.bytes)
    )
}

/// The messages during an import. The bar shows the progress.
pub(super) fn news(line: &ImportLine) -> String {
    match line {
        ImportLine::Repository { name, manifests, tags } => {
            format!("{name}: {}, {}\n", count(*manifests, "manifest"), count(*tags, "tag"))
        }
        ImportLine::Skipped { what, why } => format!("left out {what}: {why}\n"),
        ImportLine::Incomplete { what, missing } => format!("incomplete, as in the tree: {what} lacks {missing}\n"),
        _ => String::new(),
    }
}

/// `1 tag`, `2 repositories`: the first word gets the plural.
fn count(number: u64, what: &str) -> String {
    if number == 1 {
        return format!("1 {what}");
    }
    let (first, rest) = what.split_once(' ').map_or((what, String::new()), |(first, rest)| (first, format!(" {rest}")));
    match first.strip_suffix('y') {
        Some(stem) => format!("{number} {stem}ies{rest}"),
        None => format!("{number} {first}s{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_words() {
        for (number, what, shown) in [
            (1, "tag", "1 tag"),
            (0, "tag", "0 tags"),
            (2, "repository", "2 repositories"),
            (2, "manifest without a tag", "2 manifests without a tag"),
        ] {
            assert_eq!(count(number, what), shown);
        }
    }

    #[test]
    fn a_collection_tells_what_it_freed_or_would() {
        let found = CollectionReport { freed_blobs: 1, freed_bytes: 2048, waiting: 2, ..CollectionReport::default() };
        assert_eq!(collected(&found), "freed 2.0 KiB: 1 blob, 2 blobs still in the grace period\n");
        assert_eq!(
            collected(&CollectionReport { dry_run: true, ..CollectionReport::default() }),
            "would free 0 B: 0 blobs\n"
        );
    }
}
