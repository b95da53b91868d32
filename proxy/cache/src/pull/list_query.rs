//! The queries of lists: which of them name a list that may be kept, and the page of a list of tags that is made here.
//! Pure; `lists` asks and keeps.
//!
//! A query that may hold a secret names nothing (T1 in `docs/threats.md`): what it was answered is for its sender alone.
//! So only parameters are known that filter or page, and whatever upstream itself wrote into a `Link`.

use std::collections::BTreeSet;

use entrepot_core::digest::Digest;
use entrepot_core::name::RepositoryName;
use entrepot_core::referrer;
use entrepot_core::route::Route;
use http::HeaderMap;
use http::header::LINK;
use serde_json::Value;

/// The list that a path names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ListKind {
    /// The tags of a repository.
    Tags,
    /// The referrers of a manifest.
    Referrers(Digest),
}

/// Parameters that filter or page, and hold nothing else.
const HARMLESS: [&str; 3] = ["artifactType", "n", "last"];
/// containerd names the registry by this parameter. It is not the registry's.
const NAMESPACE: &str = "ns";

impl ListKind {
    pub(super) fn of(route: &Route) -> Option<(Self, &RepositoryName)> {
        match route {
            Route::Tags { repository } => Some((Self::Tags, repository)),
            Route::Referrers { repository, digest } => Some((Self::Referrers(*digest), repository)),
            _ => None,
        }
    }

    /// Whether the text is such a list. A page for people, which answers everything with 200, is none.
    pub(super) fn is_list(self, text: &[u8]) -> bool {
        match self {
            Self::Referrers(_) => referrer::is_list(text),
            Self::Tags => listed_tags(text).is_some(),
        }
    }
}

/// The name of a list: path and query, the parameters in order. None if the query may hold a secret; `is_told` is whether
/// upstream has written it into a `Link`.
pub(super) fn key(path_and_query: &str, is_told: bool) -> Option<String> {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    if query.contains(';') {
        return None;
    }
    let mut pairs: Vec<_> =
        url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != NAMESPACE).collect();
    if !is_told && !pairs.iter().all(|(name, _)| HARMLESS.contains(&&**name)) {
        return None;
    }
    pairs.sort();
    if pairs.is_empty() {
        return Some(path.to_owned());
    }
    Some(format!("{path}?{}", url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()))
}

/// The value of a parameter. None if it is missing or there twice.
pub(super) fn parameter(path_and_query: &str, name: &str) -> Option<String> {
    let (_, query) = path_and_query.split_once('?')?;
    let mut values = url::form_urlencoded::parse(query.as_bytes()).filter(|(known, _)| known == name);
    let value = values.next()?.1.into_owned();
    values.next().is_none().then_some(value)
}

/// The addresses of further pages of the same list, as upstream's `Link` has them: path and query.
pub(super) fn told_pages(path: &str, headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let targets = values.flat_map(|value| value.split('<').skip(1)).filter_map(|rest| rest.split_once('>'));
    let pages = targets.filter_map(|(target, _)| {
        let base = url::Url::parse("http://registry.invalid").ok()?.join(path).ok()?;
        let url = base.join(target).ok()?;
        Some(url[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
    });
    pages.filter(|page| page.split('?').next() == Some(path)).collect()
}

/// The names in a list of tags. None if it is no such list.
pub(super) fn listed_tags(text: &[u8]) -> Option<Vec<String>> {
    let list: serde_json::Map<String, Value> = serde_json::from_slice(text).ok()?;
    match list.get("tags")? {
        // distribution answers so for a repository whose tags are all deleted.
        Value::Null => Some(Vec::new()),
        Value::Array(tags) => tags.iter().map(|tag| tag.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// A page of tags that is made here.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct TagPage {
    pub(super) body: String,
    /// The `Link` to the next page. None if this is the last one.
    pub(super) link: Option<String>,
}

/// The page of these tags that `n` and `last` of the query ask for (OCI Distribution 1.1, "Listing Tags").
pub(super) fn page_of_tags(repository: &RepositoryName, tags: &BTreeSet<String>, path_and_query: &str) -> TagPage {
    let last = parameter(path_and_query, "last").unwrap_or_default();
    let n = parameter(path_and_query, "n").and_then(|n| n.parse::<usize>().ok()).unwrap_or(usize::MAX);
    let after: Vec<_> = tags.iter().filter(|tag| **tag > last).collect();
    let page = &after[..n.min(after.len())];
    let link = page.last().filter(|_| page.len() < after.len()).map(|end| {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("n", &n.to_string())
            .append_pair("last", end)
            .finish();
        format!("</v2/{repository}/tags/list?{query}>; rel=\"next\"")
    });
    let body = serde_json::json!({ "name": repository.as_str(), "tags": page }).to_string();
    TagPage { body, link }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_query_names_a_list_if_it_can_hold_no_secret() {
        for (asked, is_told, expected) in [
            ("/l", false, Some("/l")),
            ("/l?", false, Some("/l")),
            ("/l?ns=docker.io", false, Some("/l")),
            ("/l?artifactType=a%2Fb", false, Some("/l?artifactType=a%2Fb")),
            ("/l?artifactType=a/b", false, Some("/l?artifactType=a%2Fb")),
            ("/l?n=5&last=x", false, Some("/l?last=x&n=5")),
            ("/l?last=x&n=5&ns=a", false, Some("/l?last=x&n=5")),
            ("/l?private_token=x", false, None),
            ("/l?n=5&key=x", false, None),
            ("/l?N=5", false, None),
            ("/l?n=5;private_token=x", true, None),
            ("/l?nextToken=abc&n=5", false, None),
            ("/l?nextToken=abc&n=5", true, Some("/l?n=5&nextToken=abc")),
        ] {
            assert_eq!(key(asked, is_told).as_deref(), expected, "{asked}");
        }
    }

    #[test]
    fn further_pages_of_the_same_list_are_read_from_link() {
        let pages = |links: &[&str]| {
            let values = links.iter().map(|link| (LINK, HeaderValue::from_str(link).expect("a value")));
            told_pages("/v2/a/tags/list", &values.collect())
        };
        let page = "/v2/a/tags/list?next_page=x%3D";
        for links in [
            &["</v2/a/tags/list?next_page=x%3D>; rel=\"next\""][..],
            &["<https://reg.example/v2/a/tags/list?next_page=x%3D>; rel=\"next\""],
            &["<?next_page=x%3D>;rel=next"],
            &["<list?next_page=x%3D#f>"],
        ] {
            assert_eq!(pages(links), [page], "{links:?}");
        }
        assert_eq!(pages(&["</v2/a/tags/list?n=1>, </v2/a/tags/list?n=2>", "<?n=3>"]).len(), 3);
        for links in [&["</v2/b/tags/list?n=1>"][..], &["/v2/a/tags/list?n=1"], &["<"], &["<>x"], &[]] {
            assert!(pages(links).iter().all(|page| page == "/v2/a/tags/list"), "{links:?}");
        }
    }

    #[test]
    fn tags_are_read_and_paged_as_specified() {
        let read = |text: &str| listed_tags(text.as_bytes());
        assert_eq!(read(r#"{"name":"a","tags":["2","1"]}"#), Some(vec!["2".to_owned(), "1".to_owned()]));
        assert_eq!(read(r#"{"name":"a","tags":null}"#), Some(Vec::new()));
        for none in [r#"{"name":"a"}"#, r#"{"tags":"x"}"#, r#"{"tags":[1]}"#, "[]", "<html>", ""] {
            assert_eq!(read(none), None, "{none}");
        }
        let repository: RepositoryName = "team/app".parse().expect("a name");
        let tags = ["c", "a", "b"].map(str::to_owned).into();
        let next = |n: u32, last: &str| format!("</v2/team/app/tags/list?n={n}&last={last}>; rel=\"next\"");
        for (query, expected, link) in [
            ("", r#"["a","b","c"]"#, None),
            ("?n=2", r#"["a","b"]"#, Some(next(2, "b"))),
            ("?n=3", r#"["a","b","c"]"#, None),
            ("?n=2&last=b", r#"["c"]"#, None),
            ("?n=1&last=a", r#"["b"]"#, Some(next(1, "b"))),
            ("?last=aa", r#"["b","c"]"#, None),
            ("?n=0", "[]", None),
            ("?last=z", "[]", None),
            ("?n=many", r#"["a","b","c"]"#, None),
        ] {
            let page = page_of_tags(&repository, &tags, &format!("/v2/team/app/tags/list{query}"));
            let body = format!(r#"{{"name":"team/app","tags":{expected}}}"#);
            assert_eq!(page, TagPage { body, link }, "{query}");
        }
    }
}
