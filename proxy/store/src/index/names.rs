//! Rows that say which names lead to which content: links, tags, artefacts, media types, and the marks of repositories
//! that were seen public. All of them are answers of upstream, which can be asked for again.

use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::media::AcceptClass;
use entrepot_core::name::Tag;
use redb::{Error, ReadTransaction};

use super::tables::{ARTEFACTS, Key, LINKS, MEDIA_TYPES, PUBLIC, TAGS, Tables, digest_of, ms_of, time_of};
use crate::entries::{ArtefactEntry, TagEntry, TagKey};
use crate::memory::Stale;
use crate::place::Place;

impl Tables<'_> {
    pub(crate) fn link(&mut self, place: &Place, digest: &Digest, at_ms: u64) -> Result<(), Error> {
        let (registry, repository) = row_of(place);
        self.links.insert((Key::of(digest).as_slice(), &*registry, repository), at_ms)?;
        Ok(())
    }

    pub(crate) fn unlink(&mut self, place: &Place, digest: &Digest) -> Result<(), Error> {
        self.stale.push(Stale::Link(place.clone(), *digest));
        let (registry, repository) = row_of(place);
        self.links.remove((Key::of(digest).as_slice(), &*registry, repository))?;
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
        let (registry, repository) = row_of(&key.place);
        self.tags.insert((&*registry, repository, key.tag.as_str(), key.accept_class), row)?;
        Ok(())
    }

    /// Forgets a tag in all its Accept classes.
    pub(crate) fn forget_tag(&mut self, place: &Place, tag: &Tag) -> Result<(), Error> {
        self.stale.push(Stale::TagName(place.clone(), tag.clone()));
        let (registry, repository) = row_of(place);
        let class = |class: u16| (&*registry, repository, tag.as_str(), class);
        self.tags.retain_in(class(0)..=class(u16::MAX), |_, _| false)?;
        Ok(())
    }

    /// Marks a repository as seen public, or takes the mark away.
    pub(crate) fn set_public(&mut self, place: &Place, at_ms: Option<u64>) -> Result<(), Error> {
        let (registry, repository) = row_of(place);
        let key = (&*registry, repository);
        match at_ms {
            Some(at_ms) => self.public.insert(key, at_ms)?,
            None => self.public.remove(key)?,
        };
        Ok(())
    }

    pub(crate) fn set_artefact(
        &mut self,
        registry: &RegistryHost,
        path_and_query: &str,
        entry: &ArtefactEntry,
    ) -> Result<(), Error> {
        let digest = Key::of(&entry.digest);
        let headers = entry.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let row = (digest.as_slice(), entry.size_bytes, entry.content_type.as_str(), headers);
        self.artefacts.insert((&*registry.to_string(), path_and_query), row)?;
        Ok(())
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
    (place.registry().to_string(), place.repository().as_str())
}

pub(crate) fn linked(transaction: &ReadTransaction, place: &Place, digest: &Digest) -> Result<bool, Error> {
    let key = Key::of(digest);
    let (registry, repository) = row_of(place);
    Ok(transaction.open_table(LINKS)?.get((key.as_slice(), &*registry, repository))?.is_some())
}

/// The first `limit` repositories that have the content.
pub(crate) fn places(transaction: &ReadTransaction, digest: &Digest, limit: usize) -> Result<Vec<Place>, Error> {
    let key = Key::of(digest);
    let mut found = Vec::new();
    for row in transaction.open_table(LINKS)?.range((key.as_slice(), "", "")..)? {
        let (row, _) = row?;
        let (linked, registry, repository) = row.value();
        if linked != key.as_slice() || found.len() >= limit {
            break;
        }
        let damaged = || Error::Corrupted("a link names no repository".to_owned());
        let registry = registry.parse().map_err(|_| damaged())?;
        found.push(Place::new(registry, repository.parse().map_err(|_| damaged())?));
    }
    Ok(found)
}

pub(crate) fn media_type(transaction: &ReadTransaction, digest: &Digest) -> Result<Option<String>, Error> {
    let row = transaction.open_table(MEDIA_TYPES)?.get(Key::of(digest).as_slice())?;
    Ok(row.map(|row| row.value().to_owned()))
}

pub(crate) fn tag(transaction: &ReadTransaction, key: &TagKey) -> Result<Option<TagEntry>, Error> {
    let (registry, repository) = row_of(&key.place);
    let table = transaction.open_table(TAGS)?;
    let row = table.get((&*registry, repository, key.tag.as_str(), key.accept_class))?;
    row.map(|row| tag_entry(row.value())).transpose()
}

pub(crate) fn tag_in_all_classes(
    transaction: &ReadTransaction,
    place: &Place,
    tag: &Tag,
) -> Result<Vec<(AcceptClass, TagEntry)>, Error> {
    let (registry, repository) = row_of(place);
    let class = |class: u16| (&*registry, repository, tag.as_str(), class);
    let rows = transaction.open_table(TAGS)?.range(class(0)..=class(u16::MAX))?;
    rows.map(|row| {
        let (key, row) = row?;
        Ok((AcceptClass::from_bits(key.value().3), tag_entry(row.value())?))
    })
    .collect()
}

fn tag_entry((digest, media_type, size_bytes, validated_at_ms): (&[u8], &str, u64, u64)) -> Result<TagEntry, Error> {
    Ok(TagEntry {
        digest: digest_of(digest)?,
        media_type: media_type.to_owned(),
        size_bytes,
        validated_at: time_of(validated_at_ms),
    })
}

pub(crate) fn last_public(transaction: &ReadTransaction, place: &Place) -> Result<Option<u64>, Error> {
    let (registry, repository) = row_of(place);
    let row = transaction.open_table(PUBLIC)?.get((&*registry, repository))?;
    Ok(row.map(|row| row.value()))
}

pub(crate) fn artefact(
    transaction: &ReadTransaction,
    registry: &RegistryHost,
    path_and_query: &str,
) -> Result<Option<ArtefactEntry>, Error> {
    let row = transaction.open_table(ARTEFACTS)?.get((&*registry.to_string(), path_and_query))?;
    row.map(|row| {
        let (digest, size_bytes, content_type, headers) = row.value();
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Ok(ArtefactEntry {
            digest: digest_of(digest)?,
            size_bytes,
            content_type: content_type.to_owned(),
            headers: headers.into_iter().map(owned).collect(),
        })
    })
    .transpose()
}
