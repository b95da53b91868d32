//! Answers for other registries under our name, once `meant` has told which: all of them by `entrepot_cache::pull`, under
//! its rights, from its cache.
//!
//! Only registries that are intercepted as well can be meant (T5), and rules hold for them under their hosts' names
//! (T14). A login that came with the request is for us, and is never passed on: upstream is asked anonymously, or with
//! the administrator's account where that is shared.

use std::sync::Arc;

use entrepot_core::docker_hub;
use entrepot_core::error::ErrorCode;
use entrepot_core::host::RegistryHost;
use entrepot_core::link;
use entrepot_core::name::RepositoryName;
use entrepot_core::route::Route;
use http::header::{AUTHORIZATION, LINK};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::body::Incoming;

use super::meant::Way;
use entrepot_cache::pull::{Pull, RequestContext, RequestScope};
use entrepot_config::ready::AccessMode;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;
use entrepot_upstream::credential::Credential;
use entrepot_upstream::own::has_passed;

/// The name of another registry's repository in rules: below its host's name, whatever the port. None if that is no
/// repository's name (an IPv6 address, or more than 255 characters), so that no rule can be about it.
pub(super) fn name_in_rules(host_name: &str, repository: &RepositoryName) -> Option<RepositoryName> {
    format!("{host_name}/{repository}").parse().ok()
}

/// Added to the refusal of a push to Docker Hub's names.
const DOCKER_HUB_INSTEAD: &str = "; library/… is Docker Hub's here, so push under another name, such as team/…";

/// A request to another registry, made through us.
pub(super) struct Mirrored {
    pub(super) scope: RequestScope,
    pub(super) host: RegistryHost,
    pub(super) method: Method,
    pub(super) path_and_query: String,
    pub(super) way: Way,
    pub(super) headers: HeaderMap,
}

impl Mirrored {
    /// The answer of the pipeline that interception uses.
    pub(super) async fn answer(self, pull: &Arc<Pull>, body: Incoming) -> Reply {
        if has_passed(&self.headers, &self.scope.snapshot.upstream.memory().via) {
            return Reply::error(ErrorCode::Loop, "").because(Refused::Loop);
        }
        if !matches!(self.method, Method::GET | Method::HEAD) {
            let instead = if self.host.name() == docker_hub::REGISTRY { DOCKER_HUB_INSTEAD } else { "" };
            let message = format!("entrepot: this is a mirror of {}, which takes no pushes{instead}", self.host);
            return Reply::error(ErrorCode::Denied, &message).because(Refused::Mirror);
        }
        let (path, query) = self
            .path_and_query
            .split_once('?')
            .map_or((&*self.path_and_query, None), |(path, query)| (path, Some(query)));
        let route = match Route::parse(&self.method, path, query) {
            Ok(
                route @ (Route::Manifest { .. } | Route::Blob { .. } | Route::Tags { .. } | Route::Referrers { .. }),
            ) => route,
            Ok(_) => return Reply::error(ErrorCode::Unsupported, "").because(Refused::Mirror),
            Err(error) => {
                return Reply::error(error.code, "").because(Refused::Grammar);
            }
        };
        let registry = self.scope.snapshot.registry(&self.host).heard_of_by(&self.headers);
        let is_shared = registry.access == AccessMode::Shared;
        let account = self.scope.snapshot.account(&registry.origin, route.repository()).filter(|_| is_shared);
        let mut headers = self.headers;
        headers.remove(AUTHORIZATION);
        let (way, place) = (self.way, self.path_and_query.clone());
        let RequestScope { connection, snapshot, trail } = self.scope;
        let request = RequestContext {
            connection,
            snapshot,
            trail,
            registry,
            credential: Credential::Answered(account),
            method: self.method,
            path_and_query: self.path_and_query,
            headers,
        };
        let mut reply = pull.answer(&request, route, body).await;
        lead_links(&mut reply.headers, &way, &place);
        let is_login_asked = matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if !is_login_asked || reply.refused == Some(Refused::AccountRefused) {
            return reply;
        }
        // The challenge is not one that can be answered here. A client with a login gets the image without a mirror.
        let message = format!(
            "entrepot: {} asks for a login; give entrepot an account for it ([[credentials]]), or pull without the mirror",
            self.host
        );
        Reply::error(ErrorCode::Denied, &message).because(Refused::Mirror)
    }
}

/// Makes the link to a list's next page lead here by the way that the client came. A client that followed the
/// registry's own link would leave us, or name a repository of ours.
fn lead_links(headers: &mut HeaderMap, way: &Way, list: &str) {
    let values = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let next = link::next(values).and_then(|target| way.leading_to(target, list));
    headers.remove(LINK);
    if let Some(value) = next.and_then(|next| HeaderValue::try_from(format!("<{next}>; rel=\"next\"")).ok()) {
        headers.insert(LINK, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_other_registries_without_their_port() {
        let longest = "a".repeat(255);
        for (host, repository, expected) in [
            ("ghcr.io", "a/b", Some("ghcr.io/a/b")),
            ("reg.example:5000", "a/b", Some("reg.example/a/b")),
            ("127.0.0.1:5000", "a", Some("127.0.0.1/a")),
            ("[::1]:5000", "a", None),
            ("ghcr.io", &longest, None),
        ] {
            let (host, repository): (RegistryHost, RepositoryName) =
                (host.parse().expect(host), repository.parse().expect(repository));
            let name = name_in_rules(host.name(), &repository);
            assert_eq!(name.as_ref().map(RepositoryName::as_str), expected, "{host} {repository}");
        }
    }
}
