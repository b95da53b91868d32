//! Content codings (RFC 9110 section 8.4.1) of answers that were asked for as they are.
//!
//! Registries and object stores send words that mean nothing (`aws-chunked`, `none`, `utf-8`), and label bytes as
//! compressed that are the content itself, such as a layer that is a gzip file. Where a digest names the content, the
//! digest judges. The word only tells what went wrong.

/// The first coding of a Content-Encoding that changes the bytes. None if there is no such word.
pub fn changing(content_encoding: &str) -> Option<&'static str> {
    let words = content_encoding.split(',').map(str::trim);
    words.into_iter().find_map(|word| {
        let known = [("gzip", "gzip"), ("x-gzip", "gzip"), ("deflate", "deflate"), ("br", "br"), ("zstd", "zstd")];
        known.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map(|(_, coding)| *coding)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_four_words_mean_something() {
        for (text, coding) in [
            ("gzip", Some("gzip")),
            ("GZip", Some("gzip")),
            ("x-gzip", Some("gzip")),
            ("deflate", Some("deflate")),
            ("br", Some("br")),
            ("zstd", Some("zstd")),
            ("aws-chunked, zstd", Some("zstd")),
            (" gzip ,", Some("gzip")),
            ("", None),
            ("identity", None),
            ("aws-chunked", None),
            ("none", None),
            ("utf-8", None),
            ("binary", None),
            ("gzipped", None),
            ("amz-1.0", None),
            ("application/octet-stream", None),
        ] {
            assert_eq!(changing(text), coding, "{text}");
        }
    }
}
