//! The bytes that a request wants of content that is not here yet: the range that a fetch begins with. `pipeline` asks for
//! blobs, `artefacts` for artefacts.

use entrepot_core::range::{self, ByteSpec, RangeHeader};

use crate::fetch::table::Wish;
use crate::pull::asking::{Asked, Wanted};
use crate::pull::error::PullError;
use crate::pull::rights::Object;
use crate::pull::{Pull, RequestContext};
use entrepot_upstream::operation::{ByteRange, Operation};

impl Pull {
    /// What a request with this Range header wants of content that is not here yet.
    pub(super) async fn wish(
        &self,
        request: &RequestContext,
        object: &Object,
        header: Option<&str>,
        head: Operation,
    ) -> Result<Wish, PullError> {
        let asked = self.asked_part(request, object, header, head).await?;
        let range = asked.map(|(start, end)| ByteRange { start, end }).filter(|r| r.start > 0 || r.end.is_some());
        let whole = range.is_none_or(|range| range.end.is_none());
        Ok(Wish { range, whole, complete_up_to_bytes: request.snapshot.config.cache.complete_up_to.0 })
    }

    /// The range of content that is not here yet. A suffix needs the length, which upstream's HEAD tells.
    async fn asked_part(
        &self,
        request: &RequestContext,
        object: &Object,
        header: Option<&str>,
        head: Operation,
    ) -> Result<Option<(u64, Option<u64>)>, PullError> {
        let RangeHeader::Single(spec) = header.map_or(RangeHeader::Ignored, range::parse) else {
            return Ok(None);
        };
        match spec {
            ByteSpec::From(start) => Ok(Some((start, None))),
            ByteSpec::FromTo(start, last) => Ok(Some((start, last.checked_add(1)))),
            ByteSpec::Suffix(_) => {
                let answer = match self.ask_about(request, object, &head, Wanted::Content(None)).await {
                    Asked::Allowed(answer, _) | Asked::Unproven(answer) => answer,
                    Asked::Refused(error) | Asked::Down(error) => return Err(error),
                };
                match answer.content_length().map(|size| (size, range::resolve(spec, size))) {
                    Some((_, Some((start, end)))) => Ok(Some((start, Some(end)))),
                    Some((size_bytes, None)) => Err(PullError::Range { size_bytes }),
                    None => Ok(None),
                }
            }
        }
    }
}
