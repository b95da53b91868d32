//! The pages themselves: templates and what is put in.

use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::name::RepositoryName;
use entrepot_core::quantity::Size;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use time::OffsetDateTime;
use url::form_urlencoded;

use super::PATH;
use super::csrf::Forgery;
use super::look::{Part, RepositoryRow, TagRow};
use crate::access::Access;
use crate::collection::{Ended, Known};
use entrepot_net::html::{self, Html};
use entrepot_net::http::reply::Reply;
use entrepot_observe::human::{age, size};
use entrepot_store::Step;

/// What every page tells of the visitor and the registry.
pub(super) struct Shown<'a> {
    pub(super) user: Option<&'a str>,
    pub(super) may_log_in: bool,
    pub(super) is_read_only: bool,
    pub(super) max_size: Option<Size>,
    /// For forms of this visitor; none where the page is looked at by a name that is not ours.
    pub(super) seal: Result<String, Forgery>,
    pub(super) collections: Known,
    /// What was just done.
    pub(super) done: Option<&'a str>,
    pub(super) access: Arc<Access>,
}

const BODY: &str = include_str!("body.html");
const LIST: &str = include_str!("repositories.html");
const LIST_ROW: &str = "<tr><td><a href=\"@LINK@\">@NAME@</a><td data-of=\"tags:\">@TAGS@<td data-of=\"size:\">@SIZE@\
    <td class=\"do\">@DELETE@</tr>\n";
const TAGS: &str = include_str!("tags.html");
const TAG_ROW: &str = "<tr><td>@TAG@@KEPT@<td data-of=\"image:\"><code title=\"@DIGEST@\">@SHORT@</code>\
    <small>@PLATFORMS@</small><td class=\"tight\" data-of=\"size:\">@SIZE@\
    <td class=\"tight\" data-of=\"pushed:\">@AT@<td class=\"do\">@DELETE@</tr>\n";
const CONFIRM: &str = include_str!("confirm.html");
const COLLECTION: &str = include_str!("collection.html");
const FORM: &str = "<form method=\"post\" action=\"@PATH@collect\"><input type=\"hidden\" name=\"seal\" value=\"@SEAL@\">\
    @FIELD@<button>@LABEL@</button></form>\n";
const DELETE: &str = "<a class=\"stop\" href=\"@LINK@\">Delete</a>";
const DELETE_ALL: &str = "<p><a class=\"stop\" href=\"@LINK@\">Delete the repository</a>\n";
const NEXT: &str = "<p><a href=\"@LINK@\">More</a>\n";
const NOTE: &str = "<p class=\"note\">@TEXT@\n";
const METER: &str = " <meter min=\"0\" max=\"@MAX@\" value=\"@VALUE@\"></meter>";
const HIDDEN: &str = "<input type=\"hidden\" name=\"@NAME@\" value=\"@VALUE@\">\n";
/// A page that shows a running collection is loaded again.
const AGAIN: &str = "\n<meta http-equiv=\"refresh\" content=\"3\">";
/// Digits of a digest that eyes compare.
const SHORT_DIGITS: usize = 12;

/// What was done, by the word that the address has for it; the words are ours, so no address makes a page say anything.
const DONE: [(&str, &str); 3] = [
    ("tag", "The tag is deleted. What nothing else needs is freed by the next collection."),
    ("repository", "The repository is deleted. What nothing else needs is freed by the next collection."),
    ("collection", "The collection was begun; what it came to is below."),
];

/// The list of repositories.
pub(super) fn repositories(shown: &Shown<'_>, part: &Part<RepositoryRow>, held_bytes: u64, collects: bool) -> Reply {
    let row = |row: &RepositoryRow| {
        let name = row.name.as_str();
        let delete = if row.may_delete { link_to_delete(&[("name", name)]) } else { Html::default() };
        Html::fill(
            LIST_ROW,
            &[
                ("LINK", address("repository", &[("name", name)])),
                ("NAME", Html::text(name)),
                ("TAGS", Html::text(&row.tags.to_string())),
                ("SIZE", of_limit(row.held_bytes, row.quota)),
                ("DELETE", delete),
            ],
        )
    };
    let empty = "<p class=\"soft\">Nothing that you may pull was pushed here yet.\n";
    let body = Html::fill(
        LIST,
        &[
            ("HELD", of_limit(held_bytes, shown.max_size)),
            ("ROWS", part.rows.iter().map(row).collect()),
            ("EMPTY", if part.rows.is_empty() { Html::literal(empty) } else { Html::default() }),
            ("NEXT", next(part.next.as_deref(), |after| address("", &[("after", after)]))),
            ("COLLECTION", collection(shown, collects)),
        ],
    );
    let is_running = shown.collections.running.is_some();
    page(StatusCode::OK, "Registry", shown, if is_running { Html::literal(AGAIN) } else { Html::default() }, body)
}

/// The tags of one.
pub(super) fn tags(
    shown: &Shown<'_>,
    repository: &RepositoryName,
    part: &Part<TagRow>,
    held_bytes: u64,
    may_delete: bool,
) -> Reply {
    let name = repository.as_str();
    let row = |row: &TagRow| {
        let kept = if row.is_immutable { "<small>immutable</small>" } else { "" };
        let deletes = may_delete && !row.is_immutable;
        let question = [("name", name), ("tag", row.tag.as_str())];
        Html::fill(
            TAG_ROW,
            &[
                ("TAG", Html::text(row.tag.as_str())),
                ("KEPT", Html::literal(kept)),
                ("DIGEST", Html::text(&row.digest.to_string())),
                ("SHORT", short(row)),
                ("PLATFORMS", platforms(row)),
                ("SIZE", Html::text(&size(row.size_bytes))),
                ("AT", row.set_at.map(moment).unwrap_or_default()),
                ("DELETE", if deletes { link_to_delete(&question) } else { Html::default() }),
            ],
        )
    };
    let all = address("delete", &[("name", name)]);
    let after = |after: &str| address("repository", &[("name", name), ("after", after)]);
    let empty = "<p class=\"soft\">It has no tag.\n";
    let body = Html::fill(
        TAGS,
        &[
            ("NAME", Html::text(name)),
            ("HELD", of_limit(held_bytes, shown.access.quota(repository))),
            ("ROWS", part.rows.iter().map(row).collect()),
            ("EMPTY", if part.rows.is_empty() { Html::literal(empty) } else { Html::default() }),
            ("NEXT", next(part.next.as_deref(), after)),
            ("DELETE", if may_delete { Html::fill(DELETE_ALL, &[("LINK", all)]) } else { Html::default() }),
        ],
    );
    page(StatusCode::OK, name, shown, Html::default(), body)
}

/// The question before a deletion; of a whole repository where there is no tag.
pub(super) fn confirm(shown: &Shown<'_>, repository: &RepositoryName, tag: Option<&TagRow>) -> Reply {
    let hidden = |name, value: &str| Html::fill(HIDDEN, &[("NAME", Html::literal(name)), ("VALUE", Html::text(value))]);
    let mut fields =
        vec![hidden("seal", shown.seal.as_deref().unwrap_or_default()), hidden("name", repository.as_str())];
    let (what, told) = match tag {
        Some(row) => {
            fields.extend([hidden("tag", row.tag.as_str()), hidden("digest", &row.digest.to_string())]);
            let what = format!("{repository}:{}", row.tag.as_str());
            (what, "The tag goes, and its image unless another tag leads to it.")
        }
        None => (repository.to_string(), "All its tags and images go. Whoever pulls one right now gets it to its end."),
    };
    let body = Html::fill(
        CONFIRM,
        &[
            ("WHAT", Html::text(&what)),
            ("TOLD", Html::literal(told)),
            ("IMAGE", tag.map(|row| Html::text(&row.digest.to_string())).unwrap_or_default()),
            ("FIELDS", fields.into_iter().collect()),
            ("PATH", Html::text(PATH)),
            ("BACK", address("repository", &[("name", repository.as_str())])),
        ],
    );
    page(StatusCode::OK, "Delete", shown, Html::default(), body)
}

/// Why there is nothing else.
pub(super) fn problem(status: StatusCode, text: &str) -> Reply {
    let title = status.canonical_reason().unwrap_or("Error");
    let main = Html::fill("<h1>@TITLE@</h1>\n<p>@TEXT@\n", &[("TITLE", Html::text(title)), ("TEXT", sentence(text))]);
    sent(status, title, Html::default(), Html::fill(BODY, &[("PATH", Html::text(PATH)), ("MAIN", main)]))
}

fn page(status: StatusCode, title: &str, shown: &Shown<'_>, head: Html, main: Html) -> Reply {
    let log_in = Html::fill("<a href=\"@PATH@login\">Log in</a>", &[("PATH", Html::text(PATH))]);
    let who = match shown.user {
        Some(name) => Html::text(name),
        None if shown.may_log_in => log_in,
        None => Html::literal("no login needed"),
    };
    let read_only = shown.is_read_only.then_some("This registry is read-only for now: nothing is pushed or deleted.");
    let done = DONE.iter().find(|(word, _)| Some(*word) == shown.done).map(|(_, text)| *text);
    let notes = read_only.into_iter().chain(done).map(Html::literal);
    let notes = notes.chain(shown.seal.as_ref().err().map(|forgery| Html::text(&forgery.to_string())));
    let notes = notes.map(|text| Html::fill(NOTE, &[("TEXT", text)]));
    let values = [("PATH", Html::text(PATH)), ("WHO", who), ("NOTES", notes.collect()), ("MAIN", main)];
    sent(status, &format!("{title} · entrepot"), head, Html::fill(BODY, &values))
}

/// With the headers that every page has. What one person may see is kept by nobody, and a form tells its origin.
fn sent(status: StatusCode, title: &str, head: Html, body: Html) -> Reply {
    Reply::full(status, "text/html; charset=utf-8", Html::page(title, head, body).into_string())
        .with(CONTENT_SECURITY_POLICY, &html::POLICY)
        .with(X_FRAME_OPTIONS, "DENY")
        .with(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .with(REFERRER_POLICY, "same-origin")
        .with(CACHE_CONTROL, "no-store")
}

fn collection(shown: &Shown<'_>, collects: bool) -> Html {
    let Known { running, last, counted } = &shown.collections;
    let told = match (running, last) {
        (Some(running), _) => {
            let verb = if running.dry_run { "counts" } else { "runs" };
            Html::text(&format!("One {verb} now{}.", running.step.map(far).unwrap_or_default()))
        }
        (None, Some(ended)) => outcome(ended, "freed"),
        (None, None) => Html::literal("None since the server started."),
    };
    let would = counted.as_ref().map(|ended| Html::fill(NOTE, &[("TEXT", outcome(ended, "would free"))]));
    let form = |field, label| {
        let (path, seal) = (Html::text(PATH), Html::text(shown.seal.as_deref().unwrap_or_default()));
        Html::fill(FORM, &[("PATH", path), ("SEAL", seal), ("FIELD", field), ("LABEL", Html::literal(label))])
    };
    let dry_run = Html::literal("<input type=\"hidden\" name=\"dry_run\" value=\"true\">");
    let forms = [form(dry_run, "Count what it would free"), form(Html::default(), "Collect now")];
    let forms = if collects && running.is_none() { forms.into_iter().collect() } else { Html::default() };
    Html::fill(COLLECTION, &[("TOLD", told), ("WOULD", would.unwrap_or_default()), ("FORMS", forms)])
}

fn far(step: Step) -> String {
    match step {
        Step::Repositories(done, total) => format!(", at repository {done} of {total}"),
        Step::Content(done, total) => format!(", comparing content: {} %", done * 100 / total.max(1)),
    }
}

fn outcome(ended: &Ended, verb: &str) -> Html {
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
    [moment(ended.at), Html::text(&format!(": {text}, in {:.1} s.", ended.took.as_secs_f64()))].into_iter().collect()
}

fn of_limit(held_bytes: u64, limit: Option<Size>) -> Html {
    let Some(Size(max)) = limit else { return Html::text(&size(held_bytes)) };
    let number = |number: u64| Html::text(&number.to_string());
    let meter = Html::fill(METER, &[("MAX", number(max)), ("VALUE", number(held_bytes.min(max)))]);
    [Html::text(&format!("{} of {}", size(held_bytes), size(max))), meter].into_iter().collect()
}

fn link_to_delete(query: &[(&str, &str)]) -> Html {
    Html::fill(DELETE, &[("LINK", address("delete", query))])
}

fn next(after: Option<&str>, link: impl FnOnce(&str) -> Html) -> Html {
    after.map(|after| Html::fill(NEXT, &[("LINK", link(after))])).unwrap_or_default()
}

/// A page's address, ready for an attribute.
fn address(page: &str, query: &[(&str, &str)]) -> Html {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    Html::text(&format!("{PATH}{page}?{query}"))
}

fn short(row: &TagRow) -> Html {
    let hex = row.digest.hex();
    Html::text(&format!("{}:{}", row.digest.algorithm().name(), hex.get(..SHORT_DIGITS).unwrap_or(&hex)))
}

fn platforms(row: &TagRow) -> Html {
    Html::text(&row.platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

/// `2026-11-21 20:59 UTC`, and how long ago.
fn moment(at: SystemTime) -> Html {
    let utc = OffsetDateTime::from(at);
    let (date, hour, minute) = (utc.date(), utc.hour(), utc.minute());
    // A clock that was set back makes it now.
    let ago = age(SystemTime::now().duration_since(at).unwrap_or_default());
    let at = Html::text(&format!("{date} {hour:02}:{minute:02} UTC"));
    Html::fill("@AT@ <small>@AGO@ ago</small>", &[("AT", at), ("AGO", Html::text(&ago))])
}

/// Refusals begin in lower case, as the protocol's errors do.
fn sentence(text: &str) -> Html {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().collect::<String>()).unwrap_or_default();
    Html::text(&(first + letters.as_str()))
}
