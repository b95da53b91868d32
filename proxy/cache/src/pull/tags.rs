//! Manifests by tag: the only mutable thing that is cached. Upstream's HEAD decides (`revalidate`), or a time (`ttl`);
//! when upstream cannot say, what is known is given, marked stale, to those who may read it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use entrepot_core::digest::{DOCKER_CONTENT_DIGEST, Digest};
use entrepot_core::freshness::{self, Tier};
use entrepot_core::media::AcceptClass;
use entrepot_core::name::{Reference, RepositoryName, Tag};
use entrepot_core::outcome::{CacheStatus, RequestType};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method, StatusCode};

use crate::fetch::source::Refusal;
use crate::pull::manifests::{Asked, Manifest, Wanted, accept_class, hit, manifest_reply, place_of};
use crate::pull::{Call, Pull, offload, replies};
use entrepot_config::ready::{Access, TagMode, TagPolicy};
use entrepot_net::http::reply::{Note, Reply};
use entrepot_store::{TagEntry, TagKey};
use entrepot_upstream::credential::Credential;
use entrepot_upstream::operation::Operation;

/// A tag in the middle of being answered.
struct TagCall<'a> {
    call: &'a Call,
    repository: &'a RepositoryName,
    tag: &'a Tag,
    class: AcceptClass,
    /// What was known before.
    entry: Option<TagEntry>,
}

impl Pull {
    pub(super) async fn tag(self: &Arc<Self>, call: &Call, repository: &RepositoryName, tag: &Tag) -> Reply {
        let policy = &call.snapshot.config.tags;
        let class = accept_class(&call.headers);
        let key = tag_key(call, repository, tag, class);
        let entry = match self.store.tag_now(&key) {
            Some(entry) => Some(entry),
            None => {
                let store = self.store.clone();
                offload(move || store.tag(&key)).await.flatten()
            }
        };
        let tier = tier(policy, tag);
        let tag_call = TagCall { call, repository, tag, class, entry };
        let reply = self.answer_tag(&tag_call, tag_time(policy, tag, tier)).await;
        let status = reply.note.cache_status;
        reply.noted(request_type(policy, tier), status)
    }

    async fn answer_tag(self: &Arc<Self>, tag: &TagCall<'_>, time: Duration) -> Reply {
        let (call, repository) = (tag.call, tag.repository);
        if let Some(entry) = &tag.entry
            && is_fresh(entry, time)
            && self.may_read(call, repository)
            && let Some(manifest) = self.stored_manifest(call, repository, &entry.digest).await
        {
            return manifest_reply(call, &manifest, hit(CacheStatus::Hit));
        }
        if let Some(refusal) = self.negatives.get(&tag.name(), call.credential.id()) {
            return replies::refused(refusal).because("negative");
        }
        let operation = Operation::manifest(Method::HEAD, repository, &tag.reference(), tag.class);
        match self.ask(call, repository, &operation, Wanted::Manifest).await {
            Asked::Allowed(answer) if answer.status == StatusCode::OK => match answer.digest {
                Some(digest) => self.tag_is(tag, digest, replies::relayed(*answer).without_body()).await,
                None => self.fetch_tag(tag, Some(replies::relayed(*answer).without_body())).await,
            },
            Asked::Allowed(_) => self.fetch_tag(tag, None).await,
            Asked::Unproven(answer) if call.is_head() => replies::relayed(*answer).without_body(),
            Asked::Unproven(_) => self.fetch_tag(tag, None).await,
            Asked::Refused(reply) => {
                // Blocked, not refused: what everybody may have is still given.
                let blocked = reply.status == StatusCode::FORBIDDEN && self.is_public(call, repository).await;
                if blocked { self.stale_tag(tag, *reply).await } else { self.refused_tag(tag, *reply).await }
            }
            Asked::Down(reply) => self.stale_tag(tag, *reply).await,
        }
    }

    /// Upstream's HEAD told the digest.
    async fn tag_is(self: &Arc<Self>, tag: &TagCall<'_>, digest: Digest, head: Reply) -> Reply {
        let (call, repository) = (tag.call, tag.repository);
        if let Some(manifest) = self.stored_manifest(call, repository, &digest).await {
            let known = tag.entry.as_ref().is_some_and(|entry| entry.digest == digest);
            self.keep_tag(tag, &manifest).await;
            let status = if known { CacheStatus::Revalidated } else { CacheStatus::Hit };
            return manifest_reply(call, &manifest, Note { cache_status: status, ..head.note });
        }
        if call.is_head() {
            // The GET by digest that follows brings the manifest; the tag is known from now on. What is known already
            // stays until then: it is what can be served should upstream go away.
            self.keep_told_tag(tag, digest, &head.headers).await;
            return head
                .with(DOCKER_CONTENT_DIGEST, &digest.to_string())
                .of(digest)
                .noted(RequestType::Unknown, CacheStatus::Miss);
        }
        let _turn = self.manifest_locks.lock(&place_of(call, repository, &digest)).await;
        if let Some(manifest) = self.stored_manifest(call, repository, &digest).await {
            self.keep_tag(tag, &manifest).await;
            return manifest_reply(call, &manifest, Note { cache_status: CacheStatus::Updating, ..head.note });
        }
        match self.fetch_manifest(call, repository, &Reference::Digest(digest), tag.class).await {
            Ok(fetched) => self.fetched_tag(tag, fetched).await,
            // A registry that tells a digest and knows no manifest by it.
            Err(reply) if reply.status == StatusCode::NOT_FOUND => self.fetch_tag(tag, None).await,
            Err(reply) => self.stale_or(tag, *reply).await,
        }
    }

    /// Upstream tells no digest, or takes no HEAD: the manifest itself has to be read.
    async fn fetch_tag(self: &Arc<Self>, tag: &TagCall<'_>, head: Option<Reply>) -> Reply {
        if let Some(head) = head.filter(|_| tag.call.is_head()) {
            return head.noted(RequestType::Unknown, CacheStatus::Miss);
        }
        let _turn = self.manifest_locks.lock(&tag.name()).await;
        match self.fetch_manifest(tag.call, tag.repository, &tag.reference(), tag.class).await {
            Ok(fetched) => self.fetched_tag(tag, fetched).await,
            Err(reply) => self.stale_or(tag, *reply).await,
        }
    }

    async fn fetched_tag(&self, tag: &TagCall<'_>, (manifest, note): (Manifest, Note)) -> Reply {
        self.keep_tag(tag, &manifest).await;
        let status = if tag.entry.is_some() { CacheStatus::Expired } else { CacheStatus::Miss };
        manifest_reply(tag.call, &manifest, Note { cache_status: status, ..note })
    }

    async fn keep_told_tag(&self, tag: &TagCall<'_>, digest: Digest, headers: &HeaderMap) {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if tag.entry.is_some() {
            return;
        }
        if let (Some(media_type), Some(Ok(size))) = (text(CONTENT_TYPE), text(CONTENT_LENGTH).map(str::parse)) {
            self.keep_tag_entry(tag, digest, media_type.to_owned(), size).await;
        }
    }

    async fn keep_tag(&self, tag: &TagCall<'_>, manifest: &Manifest) {
        let size_bytes = manifest.bytes.len() as u64;
        self.keep_tag_entry(tag, manifest.digest, manifest.media_type.clone(), size_bytes).await;
    }

    async fn keep_tag_entry(&self, tag: &TagCall<'_>, digest: Digest, media_type: String, size_bytes: u64) {
        if !tag.call.snapshot.config.cache.enabled {
            return;
        }
        let key = tag_key(tag.call, tag.repository, tag.tag, tag.class);
        let entry = TagEntry { digest, media_type, size_bytes, validated_at: SystemTime::now() };
        let store = self.store.clone();
        offload(move || store.set_tag(key, entry)).await;
    }

    /// Upstream said no to the client's own credential. Where access is shared, the administrator's account is asked.
    async fn refused_tag(self: &Arc<Self>, tag: &TagCall<'_>, reply: Reply) -> Reply {
        if let Some(shared) = shared_call(tag.call, tag.repository) {
            return Box::pin(self.tag(&shared, tag.repository, tag.tag)).await;
        }
        if reply.status == StatusCode::NOT_FOUND
            && let entrepot_net::http::body::ReplyBody::Full(body) = &reply.body
        {
            let refusal = Refusal { status: reply.status, headers: reply.headers.clone(), body: body.clone() };
            let time = tag.call.snapshot.config.tags.negative_time;
            self.negatives.note(&tag.name(), tag.call.credential.id(), refusal, time);
        }
        reply
    }

    /// A fetch failed after the HEAD had succeeded.
    async fn stale_or(&self, tag: &TagCall<'_>, reply: Reply) -> Reply {
        if reply.status.is_server_error() || reply.status == StatusCode::TOO_MANY_REQUESTS {
            self.stale_tag(tag, reply).await
        } else {
            reply
        }
    }

    /// What is known of the tag stands in for upstream's answer, for those who may read it.
    async fn stale_tag(&self, tag: &TagCall<'_>, reply: Reply) -> Reply {
        let known = self.known_digests(tag).await;
        if known.is_empty() || !self.may_read_offline(tag.call, tag.repository).await {
            return reply;
        }
        for digest in known {
            if let Some(manifest) = self.stored_manifest(tag.call, tag.repository, &digest).await {
                return manifest_reply(tag.call, &manifest, hit(CacheStatus::Stale))
                    .with(http::header::WARNING, "110 entrepot \"Response is Stale\"");
            }
        }
        reply
    }

    /// What the client was told of the tag, which it has pulled most likely; then what others were told that it would have
    /// been told as well, the last said first.
    async fn known_digests(&self, tag: &TagCall<'_>) -> Vec<Digest> {
        let (store, registry) = (self.store.clone(), tag.call.registry.host.clone());
        let (repository, name) = (tag.repository.clone(), tag.tag.clone());
        let entries =
            offload(move || store.tag_in_all_classes(&registry, &repository, &name)).await.unwrap_or_default();
        let shared = |(class, entry): &(AcceptClass, TagEntry)| tag.class.shares_answer_of(*class, &entry.media_type);
        let others = entries.into_iter().filter(shared).map(|(_, entry)| entry);
        tag.entry.clone().into_iter().chain(others).map(|entry| entry.digest).collect()
    }
}

impl TagCall<'_> {
    fn reference(&self) -> Reference {
        Reference::Tag(self.tag.clone())
    }

    /// Names the tag in the small memories.
    fn name(&self) -> String {
        format!("{}/{}:{} {}", self.call.registry.host, self.repository, self.tag, self.class.bits())
    }
}

/// The same request with the administrator's account, where access is shared and the client's own was refused.
pub(super) fn shared_call(call: &Call, repository: &RepositoryName) -> Option<Call> {
    let own = matches!(call.credential, Credential::Header(_));
    let login = call.snapshot.account(&call.registry.host, Some(repository))?;
    (own && call.registry.access == Access::Shared).then(|| call.with_credential(Credential::Answered(Some(login))))
}

fn tag_key(call: &Call, repository: &RepositoryName, tag: &Tag, class: AcceptClass) -> TagKey {
    TagKey {
        registry: call.registry.host.clone(),
        repository: repository.clone(),
        tag: tag.clone(),
        accept_class: class.bits(),
    }
}

fn tier(policy: &TagPolicy, tag: &Tag) -> Tier {
    let regex = |tier: &Option<entrepot_config::ready::Tier>| tier.as_ref().map(|tier| tier.regex.clone());
    freshness::tag_tier(tag, regex(&policy.primary).as_ref(), regex(&policy.secondary).as_ref())
}

/// How long an answer about this tag is trusted without asking.
fn tag_time(policy: &TagPolicy, tag: &Tag, tier: Tier) -> Duration {
    if policy.mode == TagMode::Revalidate || freshness::is_always_revalidated(tag) {
        return policy.revalidate_interval;
    }
    let of = |tier: &Option<entrepot_config::ready::Tier>| tier.as_ref().map(|tier| tier.time);
    let time = match tier {
        Tier::Primary => of(&policy.primary),
        Tier::Secondary => of(&policy.secondary),
        Tier::Default => None,
    };
    time.unwrap_or(policy.default_time)
}

fn request_type(policy: &TagPolicy, tier: Tier) -> RequestType {
    match (policy.mode, tier) {
        (TagMode::Revalidate, _) => RequestType::ManifestDefaultDisabled,
        (TagMode::Ttl, Tier::Primary) => RequestType::ManifestPrimary,
        (TagMode::Ttl, Tier::Secondary) => RequestType::ManifestSecondary,
        (TagMode::Ttl, Tier::Default) => RequestType::ManifestDefault,
    }
}

/// A validation in the future (the clock stepped back) is none.
fn is_fresh(entry: &TagEntry, time: Duration) -> bool {
    entry.validated_at.elapsed().is_ok_and(|age| age < time)
}
