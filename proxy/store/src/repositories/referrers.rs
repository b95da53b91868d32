//! Pages of referrers: as many as fit an answer, read one by one, so that neither their number nor the length of their
//! annotations costs memory beyond a page.

use entrepot_core::digest::Digest;
use entrepot_core::name::RepositoryName;
use entrepot_core::referrer::{EntryHead, ListText};

use super::facts::Facts;
use crate::errors::StoreError;
use crate::small_files;

/// The part of a list of referrers that is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReferrersAsked {
    /// The text of the digest that the page before ended with.
    pub after: Option<String>,
    /// The only type that is wanted.
    pub artifact_type: Option<String>,
}

/// One page of a list of referrers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReferrersPage {
    /// The index that lists them.
    pub body: Vec<u8>,
    /// The digest after which the next page begins. None at the end of the list.
    pub next_after: Option<Digest>,
}

/// The entries that are looked at for one page, wanted or not.
const LOOKED_AT_MAX: usize = 10_000;

impl Facts {
    /// See [`super::Repository::referrers`].
    pub(super) fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        asked: &ReferrersAsked,
    ) -> Result<ReferrersPage, StoreError> {
        let mut digests = self.digests_in(&self.paths.referrers(repository, subject))?;
        digests.sort_by_cached_key(ToString::to_string);
        let begun = |digest: &Digest| asked.after.as_ref().is_none_or(|after| digest.to_string() > *after);
        let from = digests.partition_point(|digest| !begun(digest));
        let (mut list, mut last) = (ListText::default(), None);
        for (number, digest) in digests[from..].iter().enumerate() {
            if number == LOOKED_AT_MAX {
                return Ok(ReferrersPage { body: list.finish(), next_after: last });
            }
            let content = small_files::read(&self.paths.referrer(repository, subject, digest))?;
            // The entry of a referrer is made before its manifest and removed after it.
            let known = self.paths.pushed_manifest(repository, digest).exists();
            let Some(content) = content.filter(|_| known) else { continue };
            let Some(head) = EntryHead::read(&content) else { continue };
            let wanted = asked.artifact_type.as_ref().is_none_or(|wanted| head.artifact_type() == Some(wanted));
            if wanted && !list.add(&content, &head) {
                return Ok(ReferrersPage { body: list.finish(), next_after: last });
            }
            last = Some(*digest);
        }
        Ok(ReferrersPage { body: list.finish(), next_after: None })
    }
}
