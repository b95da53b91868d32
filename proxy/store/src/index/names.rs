//! Rows that say which names lead to which content: links with their public proofs, tags, artefacts, media types. All
//! of them are answers of upstream, which can be asked for again.
//!
//! A link's proof counts only while its repository has a row in `PROOFS`, and only if it is later than that row's end.
//! So a refusal ends all proofs of a repository by one row. A row that was dropped took all proofs with it. A new one
//! begins with an end of its own, so it brings no earlier proof back.

use entrepot_core::digest::Digest;
use entrepot_core::media::AcceptClass;
use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::origin::Origin;
use redb::{Error, ReadTransaction, ReadableTable};

use super::tables::{ARTEFACTS, Key, LINKS, MEDIA_TYPES, PROOFS, TAGS, Tables, digest_of};
use crate::entries::{ArtefactEntry, Link, TagEntry, TagKey};
use crate::memory::Stale;
use crate::place::{Holder, Place};
use crate::times::{ms_of, time_of};

/// The first proof of a repository is noted at most this long after it was made: a large blob is linked when all of it
/// is here. Rows of `PROOFS` are kept this much longer than anything else.
pub(super) const PROOF_LAG_MS: u64 = 3_600_000;

impl Tables<'_> {
    /// Links content to a repository. A link that exists keeps its age. `public_ms` is when an anonymous client was
    /// served it there, 0 if none was.
    pub(crate) fn link(&mut self, place: &Place, digest: &Digest, at_ms: u64, public_ms: u64) -> Result<(), Error> {
        let public_ms = if self.memory.admits_proof(&place.into(), public_ms) { public_ms } else { 0 };
        let (origin, repository) = row_of(place);
        let digest_key = Key::of(digest);
        let key = (digest_key.as_slice(), &*origin, repository);
        let known = self.links.get(key)?.map(|row| row.value());
        match known {
            None => _ = self.links.insert(key, (at_ms, public_ms))?,
            Some((_, earlier_ms)) if public_ms <= earlier_ms => {}
            Some((linked_ms, _)) => {
                self.links.insert(key, (linked_ms, public_ms))?;
                self.stale.push(Stale::Link(place.clone(), *digest));
            }
        }
        self.note_proof(place, public_ms)
    }

    /// Notes a public proof of a link. A proof from before the link was made says nothing about it.
    pub(crate) fn prove_public(&mut self, place: &Place, digest: &Digest, public_ms: u64) -> Result<(), Error> {
        let (origin, repository) = row_of(place);
        let digest_key = Key::of(digest);
        let key = (digest_key.as_slice(), &*origin, repository);
        let known = self.links.get(key)?.map(|row| row.value());
        match known {
            Some((linked_ms, earlier_ms))
                if public_ms >= linked_ms
                    && public_ms > earlier_ms
                    && self.memory.admits_proof(&place.into(), public_ms) =>
            {
                self.links.insert(key, (linked_ms, public_ms))?;
                self.stale.push(Stale::Link(place.clone(), *digest));
                self.note_proof(place, public_ms)
            }
            _ => Ok(()),
        }
    }

    fn note_proof(&mut self, place: &Place, public_ms: u64) -> Result<(), Error> {
        if public_ms == 0 {
            return Ok(());
        }
        let (origin, repository) = row_of(place);
        let key = (&*origin, repository);
        let known = self.proofs.get(key)?.map(|row| row.value());
        let (newest_ms, ended_ms) = known.unwrap_or((0, public_ms.saturating_sub(PROOF_LAG_MS)));
        if public_ms > newest_ms {
            self.proofs.insert(key, (public_ms, ended_ms))?;
        }
        Ok(())
    }

    /// Ends every public proof of a repository that was made at that time or before.
    pub(crate) fn refuse_public(&mut self, place: &Place, at_ms: u64) -> Result<(), Error> {
        let (origin, repository) = row_of(place);
        let key = (&*origin, repository);
        let known = self.proofs.get(key)?.map(|row| row.value());
        let (newest_ms, ended_ms) = known.unwrap_or_default();
        let end_ms = at_ms.max(ended_ms);
        if newest_ms > ended_ms && end_ms > ended_ms {
            self.proofs.insert(key, (newest_ms, end_ms))?;
            self.stale.push(Stale::Proofs(place.clone()));
        }
        self.memory.set_proofs_count(&place.into(), newest_ms > end_ms);
        Ok(())
    }

    pub(crate) fn unlink(&mut self, place: &Place, digest: &Digest) -> Result<(), Error> {
        self.stale.push(Stale::Link(place.clone(), *digest));
        let (origin, repository) = row_of(place);
        self.links.remove((Key::of(digest).as_slice(), &*origin, repository))?;
        Ok(())
    }

    pub(crate) fn set_media_type(&mut self, digest: &Digest, media_type: &str) -> Result<(), Error> {
        self.stale.push(Stale::MediaType(*digest));
        self.media_types.insert(Key::of(digest).as_slice(), media_type)?;
        Ok(())
    }

    pub(crate) fn set_tag(&mut self, key: &TagKey, entry: &TagEntry) -> Result<(), Error> {
        self.stale.push(Stale::Tag(key.clone()));
        let digest = Key::of(&entry.digest);
        let row = (digest.as_slice(), entry.media_type.as_str(), entry.size_bytes, ms_of(entry.validated_at));
        let (origin, repository) = row_of(&key.place);
        self.tags.insert((&*origin, repository, key.tag.as_str(), key.accept_class), row)?;
        Ok(())
    }

    /// Forgets a tag in all its Accept classes.
    pub(crate) fn forget_tag(&mut self, place: &Place, tag: &Tag) -> Result<(), Error> {
        self.stale.push(Stale::TagName(place.clone(), tag.clone()));
        let (origin, repository) = row_of(place);
        let class = |class: u16| (&*origin, repository, tag.as_str(), class);
        self.tags.retain_in(class(0)..=class(u16::MAX), |_, _| false)?;
        Ok(())
    }

    /// Notes the content of an artefact. Its public proof is left out if a refusal came since.
    pub(crate) fn set_artefact(
        &mut self,
        origin: &Origin,
        path_and_query: &str,
        mut entry: ArtefactEntry,
    ) -> Result<(), Error> {
        let holder = Holder::artefact(origin, path_and_query);
        entry.link.public_at = entry.link.public_at.filter(|at| self.memory.admits_proof(&holder, ms_of(*at)));
        self.put_artefact(origin, path_and_query, &entry)
    }

    fn put_artefact(&mut self, origin: &Origin, path_and_query: &str, entry: &ArtefactEntry) -> Result<(), Error> {
        let digest = Key::of(&entry.digest);
        let headers = entry.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (linked_ms, public_ms) = (ms_of(entry.link.linked_at), entry.link.public_at.map_or(0, ms_of));
        let row = (digest.as_slice(), entry.size_bytes, entry.content_type.as_str(), headers, linked_ms, public_ms);
        self.artefacts.insert((&*origin.to_string(), path_and_query), row)?;
        Ok(())
    }

    /// Notes a public proof of an artefact, unless it has a later one, was linked later or was refused since.
    pub(crate) fn prove_artefact_public(
        &mut self,
        origin: &Origin,
        path_and_query: &str,
        public_ms: u64,
    ) -> Result<(), Error> {
        let (holder, memory) = (Holder::artefact(origin, path_and_query), self.memory);
        self.change_artefact(origin, path_and_query, |link| {
            let proven_at = Some(time_of(public_ms));
            if proven_at >= Some(link.linked_at)
                && proven_at > link.public_at
                && memory.admits_proof(&holder, public_ms)
            {
                link.public_at = proven_at;
            }
        })
    }

    /// Takes an artefact's public proof away, if it was made at that time or before.
    pub(crate) fn refuse_artefact(&mut self, origin: &Origin, path_and_query: &str, at_ms: u64) -> Result<(), Error> {
        let mut counts = false;
        self.change_artefact(origin, path_and_query, |link| {
            link.public_at = link.public_at.filter(|public_at| ms_of(*public_at) > at_ms);
            counts = link.public_at.is_some();
        })?;
        self.memory.set_proofs_count(&Holder::artefact(origin, path_and_query), counts);
        Ok(())
    }

    fn change_artefact(
        &mut self,
        origin: &Origin,
        path_and_query: &str,
        change: impl FnOnce(&mut Link),
    ) -> Result<(), Error> {
        let known = self.artefacts.get((&*origin.to_string(), path_and_query))?;
        let Some(mut entry) = known.map(|row| artefact_entry(row.value())).transpose()? else { return Ok(()) };
        let before = entry.link;
        change(&mut entry.link);
        if entry.link == before { Ok(()) } else { self.put_artefact(origin, path_and_query, &entry) }
    }

    /// Forgets every tag and artefact.
    pub(crate) fn forget_names(&mut self) -> Result<(), Error> {
        self.stale.push(Stale::Tags);
        self.tags.retain(|_, _| false)?;
        self.artefacts.retain(|_, _| false)?;
        Ok(())
    }
}

/// A place in the form that the keys of rows have.
fn row_of(place: &Place) -> (String, &str) {
    (place.origin().to_string(), place.repository().as_str())
}

/// Reads a row's place. A text that names none means that the index is damaged.
pub(super) fn place_of(origin: &str, repository: &str) -> Result<Place, Error> {
    match (origin.parse(), RepositoryName::of_upstream(repository)) {
        (Ok(origin), Ok(repository)) => Ok(Place::new(origin, repository)),
        _ => Err(Error::Corrupted("a row names no repository".to_owned())),
    }
}

/// The link of a repository to content. None if it has none.
pub(crate) fn link_of(transaction: &ReadTransaction, place: &Place, digest: &Digest) -> Result<Option<Link>, Error> {
    let key = Key::of(digest);
    let (origin, repository) = row_of(place);
    let row = transaction.open_table(LINKS)?.get((key.as_slice(), &*origin, repository))?.map(|row| row.value());
    row.map(|row| link(transaction, &origin, repository, row)).transpose()
}

/// The first `limit` repositories that have the content, with their links.
pub(crate) fn links(transaction: &ReadTransaction, digest: &Digest, limit: usize) -> Result<Vec<(Place, Link)>, Error> {
    let key = Key::of(digest);
    let mut found = Vec::new();
    for row in transaction.open_table(LINKS)?.range((key.as_slice(), "", "")..)? {
        let (row, times) = row?;
        let (linked, origin, repository) = row.value();
        if linked != key.as_slice() || found.len() >= limit {
            break;
        }
        found.push((place_of(origin, repository)?, link(transaction, origin, repository, times.value())?));
    }
    Ok(found)
}

/// The first `limit` repositories that have the content.
pub(crate) fn places(transaction: &ReadTransaction, digest: &Digest, limit: usize) -> Result<Vec<Place>, Error> {
    Ok(links(transaction, digest, limit)?.into_iter().map(|(place, _)| place).collect())
}

/// A link's row, with its proof if that counts.
fn link(
    transaction: &ReadTransaction,
    origin: &str,
    repository: &str,
    (linked_ms, public_ms): (u64, u64),
) -> Result<Link, Error> {
    let counts = public_ms > 0 && {
        let row = transaction.open_table(PROOFS)?.get((origin, repository))?.map(|row| row.value());
        row.is_some_and(|(_, ended_ms)| public_ms > ended_ms)
    };
    Ok(Link { linked_at: time_of(linked_ms), public_at: counts.then(|| time_of(public_ms)) })
}

/// Whether a public proof of the repository may count.
pub(crate) fn proofs_count(transaction: &ReadTransaction, place: &Place) -> Result<bool, Error> {
    let (origin, repository) = row_of(place);
    let row = transaction.open_table(PROOFS)?.get((&*origin, repository))?.map(|row| row.value());
    Ok(row.is_some_and(|(newest_ms, ended_ms)| newest_ms > ended_ms))
}

pub(crate) fn media_type(transaction: &ReadTransaction, digest: &Digest) -> Result<Option<String>, Error> {
    let row = transaction.open_table(MEDIA_TYPES)?.get(Key::of(digest).as_slice())?;
    Ok(row.map(|row| row.value().to_owned()))
}

pub(crate) fn tag(transaction: &ReadTransaction, key: &TagKey) -> Result<Option<TagEntry>, Error> {
    let (origin, repository) = row_of(&key.place);
    let table = transaction.open_table(TAGS)?;
    let row = table.get((&*origin, repository, key.tag.as_str(), key.accept_class))?;
    row.map(|row| tag_entry(row.value())).transpose()
}

pub(crate) fn tag_in_all_classes(
    transaction: &ReadTransaction,
    place: &Place,
    tag: &Tag,
) -> Result<Vec<(AcceptClass, TagEntry)>, Error> {
    let (origin, repository) = row_of(place);
    let class = |class: u16| (&*origin, repository, tag.as_str(), class);
    let rows = transaction.open_table(TAGS)?.range(class(0)..=class(u16::MAX))?;
    rows.map(|row| {
        let (key, row) = row?;
        Ok((AcceptClass::from_bits(key.value().3), tag_entry(row.value())?))
    })
    .collect()
}

/// The first `limit` tags of a repository after one of this name, each with the manifests that it pointed to.
pub(crate) fn tags_after(
    transaction: &ReadTransaction,
    place: &Place,
    after: &str,
    limit: usize,
) -> Result<Vec<(Tag, Vec<Digest>)>, Error> {
    let (origin, repository) = row_of(place);
    let mut found: Vec<(Tag, Vec<Digest>)> = Vec::new();
    for row in transaction.open_table(TAGS)?.range((&*origin, repository, after, 0)..)? {
        let (key, row) = row?;
        let (row_origin, row_repository, tag, _) = key.value();
        if (row_origin, row_repository) != (&*origin, repository) {
            break;
        }
        let digest = digest_of(row.value().0)?;
        let is_full = found.len() >= limit;
        match found.last_mut() {
            _ if tag == after => {}
            Some((last, digests)) if last.as_str() == tag => digests.push(digest),
            _ if is_full => break,
            _ => {
                let tag = tag.parse().map_err(|_| Error::Corrupted("a tag's key names no tag".to_owned()))?;
                found.push((tag, vec![digest]));
            }
        }
    }
    Ok(found)
}

fn tag_entry((digest, media_type, size_bytes, validated_at_ms): (&[u8], &str, u64, u64)) -> Result<TagEntry, Error> {
    Ok(TagEntry {
        digest: digest_of(digest)?,
        media_type: media_type.to_owned(),
        size_bytes,
        validated_at: time_of(validated_at_ms),
    })
}

pub(crate) fn artefact(
    transaction: &ReadTransaction,
    origin: &Origin,
    path_and_query: &str,
) -> Result<Option<ArtefactEntry>, Error> {
    let row = transaction.open_table(ARTEFACTS)?.get((&*origin.to_string(), path_and_query))?;
    row.map(|row| artefact_entry(row.value())).transpose()
}

type ArtefactRow<'r> = (&'r [u8], u64, &'r str, Vec<(&'r str, &'r str)>, u64, u64);

fn artefact_entry(
    (digest, size_bytes, content_type, headers, linked_ms, public_ms): ArtefactRow<'_>,
) -> Result<ArtefactEntry, Error> {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Ok(ArtefactEntry {
        digest: digest_of(digest)?,
        size_bytes,
        content_type: content_type.to_owned(),
        headers: headers.into_iter().map(owned).collect(),
        link: Link { linked_at: time_of(linked_ms), public_at: (public_ms > 0).then(|| time_of(public_ms)) },
    })
}
