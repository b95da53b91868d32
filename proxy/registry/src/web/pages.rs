//! The registry's pages as HTML. maud escapes every value.

use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::name::RepositoryName;
use entrepot_core::quantity::Size;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use maud::{Markup, html};
use time::OffsetDateTime;
use url::form_urlencoded;

use super::PATH;
use super::look::{Part, RepositoryRow, TagRow};
use crate::access::AccessControl;
use crate::collection::{Ended, Known};
use crate::forgery::Forgery;
use entrepot_net::http::reply::Reply;
use entrepot_net::page::{self, Page, visible};
use entrepot_observe::human::{age, size};
use entrepot_store::Step;

/// The facts about the visitor and the registry that every page shows.
pub(super) struct Shown<'a> {
    /// None if the visitor sent no login.
    pub(super) user: Option<&'a str>,
    pub(super) may_log_in: bool,
    pub(super) is_read_only: bool,
    pub(super) max_size: Option<Size>,
    /// The proof in the forms of this visitor. An error if the page was requested by a name that is not ours.
    pub(super) seal: Result<String, Forgery>,
    pub(super) collections: Known,
    /// The word in the address for the change that was just made.
    pub(super) done: Option<&'a str>,
    pub(super) access: Arc<AccessControl>,
}

/// A page that shows a running collection is loaded again after this time.
const RELOAD_AFTER_S: u32 = 3;
/// The digits of a digest that a page shows.
const SHORT_DIGITS: usize = 12;

/// The message about a change, by its word in the address. The sentences are ours, so an address cannot make a page say
/// anything else.
const DONE: [(&str, &str); 3] = [
    ("tag", "The tag is deleted. What nothing else needs is freed by the next collection."),
    ("repository", "The repository is deleted. What nothing else needs is freed by the next collection."),
    ("collection", "The collection was begun; what it came to is below."),
];

/// The list of repositories.
pub(super) fn repositories(shown: &Shown<'_>, part: &Part<RepositoryRow>, held_bytes: u64, may_collect: bool) -> Reply {
    let body = html! {
        h1 { "Registry" }
        p { "Pushed content takes " (of_limit(held_bytes, shown.max_size)) ". What the cache holds is not in it." }
        table class="list" {
            thead { tr { th { "Repository" } th { "Tags" } th { "Size" } th {} } }
            @for row in &part.rows {
                tr {
                    td { a href=(address("repository", &[("name", row.name.as_str())])) { (row.name.as_str()) } }
                    td data-of="tags:" { (row.tags) }
                    td data-of="size:" { (of_limit(row.held_bytes, row.quota)) }
                    td class="do" {
                        @if row.may_delete { (link_to_delete(&[("name", row.name.as_str())])) }
                    }
                }
            }
        }
        @if part.rows.is_empty() { p class="soft" { "Nothing that you may pull was pushed here yet." } }
        @if let Some(after) = &part.next { (more(&address("", &[("after", after)]))) }
        (collection(shown, may_collect))
    };
    let reload_after_s = shown.collections.running.as_ref().map(|_| RELOAD_AFTER_S);
    whole(shown, "Registry", reload_after_s, &body)
}

/// The tags of a repository.
pub(super) fn tags(
    shown: &Shown<'_>,
    repository: &RepositoryName,
    part: &Part<TagRow>,
    held_bytes: u64,
    may_delete: bool,
) -> Reply {
    let name = repository.as_str();
    let body = html! {
        h1 { (name) }
        p { "Takes " (of_limit(held_bytes, shown.access.quota(repository))) ", what it shares with others included." }
        table class="list" {
            thead { tr { th { "Tag" } th { "Image" } th { "Size" } th { "Pushed" } th {} } }
            @for row in &part.rows {
                tr {
                    td { (row.tag.as_str()) @if row.is_immutable { small { "immutable" } } }
                    td data-of="image:" { code title=(row.digest) { (short(row)) } small { (platforms(row)) } }
                    td class="tight" data-of="size:" { (size(row.size_bytes)) }
                    td class="tight" data-of="pushed:" { @if let Some(at) = row.set_at { (moment(at)) } }
                    td class="do" {
                        @if may_delete && !row.is_immutable {
                            (link_to_delete(&[("name", name), ("tag", row.tag.as_str())]))
                        }
                    }
                }
            }
        }
        @if part.rows.is_empty() { p class="soft" { "It has no tag." } }
        @if let Some(after) = &part.next { (more(&address("repository", &[("name", name), ("after", after)]))) }
        @if may_delete {
            p { a class="stop" href=(address("delete", &[("name", name)])) { "Delete the repository" } }
        }
    };
    whole(shown, name, None, &body)
}

/// The question before a deletion. Without a tag it is about the whole repository.
pub(super) fn confirm(shown: &Shown<'_>, repository: &RepositoryName, tag: Option<&TagRow>) -> Reply {
    let what = tag.map_or(repository.to_string(), |row| format!("{repository}:{}", row.tag.as_str()));
    let told = match tag {
        Some(_) => "The tag goes, and its image unless another tag leads to it.",
        None => "All its tags and images go. Whoever pulls one right now gets it to its end.",
    };
    let body = html! {
        h1 { "Delete " (what) "?" }
        p { (told) " Layers that nothing else needs are freed by the next collection." }
        p { code class="soft" { @if let Some(row) = tag { (row.digest) } } }
        form method="post" action={ (PATH) "delete" } {
            (seal(shown))
            input type="hidden" name="name" value=(repository);
            @if let Some(row) = tag {
                input type="hidden" name="tag" value=(row.tag.as_str());
                input type="hidden" name="digest" value=(row.digest);
            }
            button class="stop" { "Delete" }
        }
        " "
        a href=(address("repository", &[("name", repository.as_str())])) { "Keep it" }
    };
    whole(shown, "Delete", None, &body)
}

/// A page with a problem. Refusals begin in lower case, as the protocol's errors do.
pub(super) fn problem(status: StatusCode, text: &str) -> Reply {
    let title = status.canonical_reason().unwrap_or("Error");
    let text = visible(text);
    let mut letters = text.chars();
    let first: String = letters.next().map(|letter| letter.to_uppercase().collect()).unwrap_or_default();
    let body = html! {
        (navigation(&html! {}))
        h1 { (title) }
        p { (first) (letters.as_str()) }
    };
    sent(status, Page { title, reload_after_s: None, is_wide: true, body })
}

fn whole(shown: &Shown<'_>, title: &str, reload_after_s: Option<u32>, main: &Markup) -> Reply {
    let visitor = html! {
        @match shown.user {
            Some(name) => (visible(name)),
            None if shown.may_log_in => a href={ (PATH) "login" } { "Log in" },
            None => "no login needed",
        }
    };
    let body = html! {
        (navigation(&visitor))
        @if shown.is_read_only { (note("This registry is read-only for now: nothing is pushed or deleted.")) }
        @for (word, text) in DONE { @if shown.done == Some(word) { (note(text)) } }
        @if let Err(forgery) = &shown.seal { (note(&forgery.to_string())) }
        (main)
    };
    let title = format!("{title} · entrepot");
    sent(StatusCode::OK, Page { title: &title, reload_after_s, is_wide: true, body })
}

/// Adds the headers that every page has. No cache keeps a page, because it shows what one visitor may see. A form tells
/// its origin.
fn sent(status: StatusCode, page: Page<'_>) -> Reply {
    Reply::full(status, "text/html; charset=utf-8", page.into_string())
        .with(CONTENT_SECURITY_POLICY, &page::POLICY)
        .with(X_FRAME_OPTIONS, "DENY")
        .with(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .with(REFERRER_POLICY, "same-origin")
        .with(CACHE_CONTROL, "no-store")
}

fn navigation(visitor: &Markup) -> Markup {
    html! {
        nav {
            b { "entrepot" } " "
            a href=(PATH) { "Registry" } " "
            a href="/" { "This machine" } " "
            span class="soft" { (visitor) }
        }
    }
}

fn note(text: &str) -> Markup {
    html! { p class="note" { (text) } }
}

fn collection(shown: &Shown<'_>, may_collect: bool) -> Markup {
    let Known { running, last, counted } = &shown.collections;
    let form = |dry_run: bool, label: &str| {
        html! {
            form method="post" action={ (PATH) "collect" } {
                (seal(shown))
                @if dry_run { input type="hidden" name="dry_run" value="true"; }
                button { (label) }
            }
            " "
        }
    };
    html! {
        h2 { "Collection" }
        p class="soft" {
            "Frees what no manifest needs any more, beside pushes and pulls, some time after it was pushed."
        }
        p {
            @match (running, last) {
                (Some(running), _) => {
                    "One " (if running.dry_run { "counts" } else { "runs" }) " now"
                    (running.step.map(progress).unwrap_or_default()) "."
                }
                (None, Some(ended)) => (outcome(ended, "freed")),
                (None, None) => "None since the server started.",
            }
        }
        @if let Some(ended) = counted { p class="note" { (outcome(ended, "would free")) } }
        @if may_collect && running.is_none() {
            (form(true, "Count what it would free"))
            (form(false, "Collect now"))
        }
    }
}

/// The field with the proof of this visitor.
fn seal(shown: &Shown<'_>) -> Markup {
    html! { input type="hidden" name="seal" value=(shown.seal.as_deref().unwrap_or_default()); }
}

fn progress(step: Step) -> String {
    match step {
        Step::Repositories(done, total) => format!(", at repository {done} of {total}"),
        Step::Content(done, total) => format!(", comparing content: {} %", done * 100 / total.max(1)),
    }
}

fn outcome(ended: &Ended, verb: &str) -> Markup {
    let collected = &ended.collected;
    let mut text = format!("{verb} {} in {} blobs", size(collected.bytes), collected.blobs);
    for (number, what) in [
        (collected.kept_by_cache, "stay for the cache"),
        (collected.waiting, "wait for their grace period"),
        (collected.skipped, "repositories could not be read"),
    ] {
        if number > 0 {
            text += &format!(", {number} {what}");
        }
    }
    html! { (moment(ended.at)) ": " (text) ", in " (format!("{:.1}", ended.took.as_secs_f64())) " s." }
}

fn of_limit(held_bytes: u64, limit: Option<Size>) -> Markup {
    html! {
        (size(held_bytes))
        @if let Some(Size(max)) = limit {
            " of " (size(max)) " "
            meter min="0" max=(max) value=(held_bytes.min(max)) {}
        }
    }
}

fn link_to_delete(query: &[(&str, &str)]) -> Markup {
    html! { a class="stop" href=(address("delete", query)) { "Delete" } }
}

fn more(address: &str) -> Markup {
    html! { p { a href=(address) { "More" } } }
}

/// The address of a page.
fn address(page: &str, query: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    format!("{PATH}{page}?{query}")
}

fn short(row: &TagRow) -> String {
    let hex = row.digest.hex();
    format!("{}:{}", row.digest.algorithm().name(), hex.get(..SHORT_DIGITS).unwrap_or(&hex))
}

/// The platforms. They are in the image's own config, so any account that pushes can choose them.
fn platforms(row: &TagRow) -> String {
    visible(&row.platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

/// `2026-11-21 20:59 UTC`, and how long ago.
fn moment(at: SystemTime) -> Markup {
    let utc = OffsetDateTime::from(at);
    let (date, hour, minute) = (utc.date(), utc.hour(), utc.minute());
    // After a clock was set back, the age counts as zero.
    let ago = age(SystemTime::now().duration_since(at).unwrap_or_default());
    html! { (format!("{date} {hour:02}:{minute:02} UTC")) " " small { (ago) " ago" } }
}
