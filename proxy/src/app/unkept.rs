//! The things that the start could not keep because the file system of `data_dir` takes no writes. The server goes on
//! without them, and one line says all of it: pulls pass through, and hits are served.

use std::io;
use std::path::Path;

use entrepot_kernel::disk_refusal::DiskRefusal;
use entrepot_store::Trouble;

/// The things that were not kept, and why.
#[derive(Default)]
pub(super) struct Unkept {
    things: Vec<&'static str>,
    refusal: Option<DiskRefusal>,
}

/// The source of an error that is one of the system's itself.
pub(super) fn itself(error: &io::Error) -> Option<&io::Error> {
    Some(error)
}

impl Unkept {
    /// Goes on without `thing` if the file system takes no writes. Any other error is returned.
    pub(super) fn without<T, E>(
        &mut self,
        thing: &'static str,
        outcome: Result<T, E>,
        source: impl FnOnce(&E) -> Option<&io::Error>,
    ) -> Result<Option<T>, E> {
        outcome.map(Some).or_else(|error| {
            let refusal = source(&error).and_then(DiskRefusal::of).ok_or(error)?;
            self.refusal = Some(refusal);
            self.things.push(thing);
            Ok(None)
        })
    }

    /// The one line. None if nothing is wrong.
    pub(super) fn line(&self, data_dir: &Path, troubles: &[Trouble]) -> Option<String> {
        if self.things.is_empty() && troubles.is_empty() {
            return None;
        }
        let data_dir = data_dir.display();
        let cause = match self.refusal {
            Some(refusal) => format!("the file system of {data_dir} {refusal}"),
            None => troubles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        };
        let without = match &*self.things {
            [] => String::new(),
            things => format!(", without {}", things.join(", ")),
        };
        let remedy = self.refusal.map_or("see to its disk", DiskRefusal::remedy);
        Some(format!(
            "{cause}: pulls pass through and what is cached is served{without}; {remedy}, or choose another data_dir"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_one_line_with_the_right_remedy() {
        const EROFS: i32 = 30;
        const ENOSPC: i32 = 28;
        const EACCES: i32 = 13;
        let refused = |code| -> Result<(), io::Error> { Err(io::Error::from_raw_os_error(code)) };
        for (codes, closed, expected) in [
            (&[][..], false, None),
            (
                &[EROFS, EROFS],
                true,
                Some(
                    "the file system of /data is read-only: pulls pass through and what is cached is served, without a \
                     thing, a thing; mount it writable, or choose another data_dir",
                ),
            ),
            (
                &[ENOSPC],
                false,
                Some(
                    "the file system of /data is full: pulls pass through and what is cached is served, without a thing; \
                     free space on it, or choose another data_dir",
                ),
            ),
            (
                &[],
                true,
                Some(
                    "the cache's index cannot be opened: it broke: pulls pass through and what is cached is served; see \
                     to its disk, or choose another data_dir",
                ),
            ),
        ] {
            let mut unkept = Unkept::default();
            for code in codes {
                let kept = unkept.without("a thing", refused(*code), itself).expect("tolerated");
                assert_eq!(kept, None);
            }
            assert!(unkept.without("a thing", refused(EACCES), itself).is_err(), "a matter of the configuration");
            let troubles = closed.then(|| Trouble::IndexClosed("it broke".to_owned()));
            let line = unkept.line(Path::new("/data"), troubles.as_slice());
            assert_eq!(line.as_deref(), expected);
        }
    }
}
