//! Upstreams whose bytes do not have the digest: no client completes, nothing is stored, and the next pull is clean.

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_observe::labels::FetchFailure;
use futures_util::future::join_all;

use crate::doors::raw;
use crate::harness::{Answer, Image, Proxy, Upstream, bytes, digest_of};

fn path(digest: &Digest) -> String {
    format!("/v2/team/app/blobs/{digest}")
}

fn flipped(content: &Bytes, at: usize) -> Bytes {
    let mut wrong = content.to_vec();
    wrong[at] ^= 1;
    wrong.into()
}

/// Pulls the blob while upstream answers `bad`, then while it is honest.
async fn is_refused_then_clean(name: &str, content: &Bytes, bad: Answer) -> FetchFailure {
    use entrepot_observe::labels::Label;
    let upstream = Upstream::start().await;
    let digest = digest_of(content);
    upstream.blob_as("team/app", &digest, bad);
    let proxy = Proxy::before(&[&upstream]).await;
    let clients = (0..5).map(|_| proxy.get(&upstream, &path(&digest)).try_send());
    for reply in join_all(clients).await.into_iter().flatten() {
        assert_eq!(reply.status, 502, "{name}: a client took it for complete");
    }
    proxy.publishes_nothing().await;
    let failures = FetchFailure::ALL.iter().copied().find(|failure| proxy.pull.metrics.fills_failed.get(*failure) > 0);
    if failures == Some(FetchFailure::WrongDigest) {
        proxy.holds_nothing().await;
    }
    upstream.blob("team/app", content);
    proxy.get(&upstream, &path(&digest)).send().await.is_whole(content);
    proxy.landed().await;
    assert!(proxy.has(&digest), "{name}");
    failures.unwrap_or_else(|| panic!("{name}: not counted"))
}

#[tokio::test]
async fn wrong_bytes() {
    // Sizes around that of the bytes that are held back, and smaller blobs.
    for size in [1, 1000, 64 * 1024, 64 * 1024 + 1, 300_000] {
        let content = bytes(1, size);
        for at in [0, size / 2, size - 1] {
            let bad = Answer::content(flipped(&content, at));
            let failure = is_refused_then_clean(&format!("bit at {at} of {size}"), &content, bad).await;
            assert_eq!(failure, FetchFailure::WrongDigest);
        }
    }
}

#[tokio::test]
async fn wrong_bytes_without_a_length() {
    let content = bytes(2, 300_000);
    for bad in [
        Answer::content(flipped(&content, 299_999)).chunked(),
        Answer::content(flipped(&content, 0)).until_close(),
        Answer::content(content.slice(..299_999)).chunked(),
        Answer::content(content.slice(..299_999)).until_close(),
        Answer::content([&content[..], b"x"].concat()).chunked(),
        Answer::content([&content[..], b"x"].concat()).until_close(),
    ] {
        let failure = is_refused_then_clean("no length", &content, bad).await;
        assert_eq!(failure, FetchFailure::WrongDigest);
    }
}

#[tokio::test]
async fn one_byte_short_or_long_with_a_length_that_fits() {
    let content = bytes(3, 300_000);
    for bad in [content.slice(..299_999), [&content[..], b"x"].concat().into()] {
        let failure = is_refused_then_clean("another length", &content, Answer::content(bad)).await;
        assert_eq!(failure, FetchFailure::WrongDigest);
    }
}

#[tokio::test]
async fn nothing_at_all_in_place_of_something() {
    let content = bytes(4, 300_000);
    let failure = is_refused_then_clean("empty", &content, Answer::content(Bytes::new())).await;
    assert_eq!(failure, FetchFailure::WrongDigest);
}

#[tokio::test]
async fn less_than_the_length_says() {
    let content = bytes(5, 300_000);
    let bad = Answer::content(content.slice(..200_000)).ignoring_range().saying_length(300_000);
    let failure = is_refused_then_clean("less than announced", &content, bad).await;
    assert!(matches!(failure, FetchFailure::Broken | FetchFailure::WrongLength), "{failure:?}");
}

#[tokio::test]
async fn a_length_that_changes_between_two_answers() {
    let content = bytes(6, 300_000);
    let upstream = Upstream::start().await;
    let digest = digest_of(&content);
    let (whole, longer) = (content.clone(), [&content[..], &content[..]].concat());
    upstream.on(&path(&digest), move |seen| match seen.header("range") {
        "" => Answer::content(whole.clone()).reset_after(200_000),
        _ => Answer::content(longer.clone()),
    });
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &path(&digest)).try_send().await.expect_err("not a whole body");
    assert_eq!(proxy.pull.metrics.fills_failed.get(FetchFailure::WrongLength), 1);
    proxy.holds_nothing().await;
}

#[tokio::test]
async fn an_honest_blob_without_a_length_is_stored() {
    for (seed, size) in [(7, 0), (8, 10), (9, 300_000), (10, 5 << 20)] {
        for until_close in [false, true] {
            let upstream = Upstream::start().await;
            let content = bytes(seed, size);
            let digest = digest_of(&content);
            let answer = Answer::content(content.clone());
            let answer = if until_close { answer.until_close() } else { answer.chunked() };
            upstream.blob_as("team/app", &digest, answer);
            let proxy = Proxy::before(&[&upstream]).await;
            for _ in 0..2 {
                proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
                proxy.landed().await;
            }
            assert_eq!(upstream.seen().len(), 1);
        }
    }
}

/// Words that mean nothing, and codings that the bytes turn out not to have.
#[tokio::test]
async fn the_digest_judges_whether_a_blob_is_encoded() {
    let upstream = Upstream::start().await;
    let words = [
        "aws-chunked",
        "identity",
        "none",
        "utf-8",
        "binary",
        "gzip",
        "x-gzip",
        "deflate",
        "br",
        "zstd",
        "aws-chunked, gzip",
    ];
    for (number, word) in words.into_iter().enumerate() {
        for size in [1000, 3 << 20] {
            let content = bytes(200 + number as u64, size);
            let digest = digest_of(&content);
            let answer = Answer::content(content.clone()).header("content-encoding", word);
            upstream.blob_as("team/app", &digest, answer);
            let proxy = Proxy::before(&[&upstream]).await;
            let whole = proxy.get(&upstream, &path(&digest)).send().await;
            whole.is_whole(&content);
            assert_eq!(whole.header("content-encoding"), "", "{word}");
            let part = proxy.get(&upstream, &path(&digest)).range("100-199").send().await;
            assert!(part.status == 206 && part.body == content[100..200], "{word}");
            proxy.landed().await;
            assert!(proxy.has(&digest), "{word}");
        }
    }
    assert_eq!(upstream.seen()[0].header("accept-encoding"), "identity");
}

#[tokio::test]
async fn a_compressed_blob_is_refused() {
    let upstream = Upstream::start().await;
    for (number, word) in ["gzip", "deflate", "br", "zstd", "ZSTD", "identity, gzip"].into_iter().enumerate() {
        let content = bytes(300 + number as u64, 3 << 20);
        for size in [1000, 3 << 20] {
            let digest = digest_of(&content.slice(..size));
            // Of another length, as compression makes it.
            let compressed = flipped(&content.slice(..size * 4 / 5), 10);
            let answer = Answer::content(compressed).header("content-encoding", word);
            upstream.blob_as("team/app", &digest, answer.clone());
            let proxy = Proxy::before(&[&upstream]).await;
            match size {
                1000 => proxy.get(&upstream, &path(&digest)).send().await.is_error(502, "BAD_GATEWAY"),
                _ => drop(proxy.get(&upstream, &path(&digest)).try_send().await.expect_err("no whole body")),
            }
            // Nobody checks a part, so it is not given at all.
            if let Ok(part) = proxy.get(&upstream, &path(&digest)).range("100-199").try_send().await {
                part.is_error(502, "BAD_GATEWAY");
            }
            assert!(proxy.pull.metrics.fills_failed.get(FetchFailure::Encoded) >= 1, "{word}");
            proxy.holds_nothing().await;
            upstream.blob("team/app", &content.slice(..size));
            proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content.slice(..size));
        }
    }
}

#[tokio::test]
async fn a_part_that_is_not_the_one_asked_for_is_refused() {
    let upstream = Upstream::start().await;
    let content = bytes(12, 300_000);
    let digest = digest_of(&content);
    for (range, part) in [
        ("bytes 0-999/300000", content.slice(..1000)),
        ("bytes 2000-2999/300000", content.slice(2000..3000)),
        ("nonsense", content.slice(1000..2000)),
    ] {
        let answer = Answer::json(206, part).header("content-range", range);
        upstream.blob_as("team/app", &digest, answer);
        let proxy = Proxy::before(&[&upstream]).await;
        proxy.get(&upstream, &path(&digest)).range("1000-1999").send().await.is_error(502, "BAD_GATEWAY");
        proxy.holds_nothing().await;
    }
}

#[tokio::test]
async fn a_wrong_part_poisons_nothing() {
    let upstream = Upstream::start().await;
    let content = bytes(13, 300_000);
    let digest = digest_of(&content);
    upstream.blob_as("team/app", &digest, Answer::content(flipped(&content, 150_000)));
    let proxy = Proxy::before(&[&upstream]).await;
    // A part in the middle cannot be checked before it is sent. It must not be kept after its client.
    proxy.get(&upstream, &path(&digest)).range("1000-1999").send().await;
    for whole in ["0-", "0-299999", "-300000", "0-999999"] {
        let outcome = proxy.get(&upstream, &path(&digest)).range(whole).try_send().await;
        assert!(outcome.is_err(), "bytes={whole} was completed with wrong bytes");
    }
    proxy.holds_nothing().await;
}

/// Sends a GET of HTTP/1.0, in which a body without a length ends with the connection, however that ends. Returns the
/// status and the body.
async fn old_get(proxy: &Proxy, upstream: &Upstream, path: &str) -> (u16, String) {
    let request = format!("GET http://{}{path} HTTP/1.0\r\n\r\n", upstream.host());
    let answer = raw(proxy, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let length = head.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    assert_eq!(length, Some(body.len()), "a whole body of a known length: {head}");
    (status, body.to_owned())
}

#[tokio::test]
async fn http_1_0_gets_nothing_that_may_break_off_unnoticed() {
    let honest = |size: usize| Bytes::from("0123456789".repeat(size / 10));
    for size in [1000, 1_000_000] {
        let content = honest(size);
        for bad in [
            Answer::content(flipped(&content, size - 1)).chunked(),
            Answer::content(flipped(&content, 0)).until_close(),
        ] {
            let upstream = Upstream::start().await;
            let digest = digest_of(&content);
            upstream.blob_as("team/app", &digest, bad);
            let proxy = Proxy::before(&[&upstream]).await;
            let (status, body) = old_get(&proxy, &upstream, &path(&digest)).await;
            assert!(status >= 500 && body.contains(r#""message":"entrepot: "#), "{status} {body:.300}");
            // The same for a body that is only relayed.
            upstream.on("/v2/team/app/tags/list", move |_| Answer::json(200, "{}").chunked().reset_after(1));
            assert_eq!(old_get(&proxy, &upstream, "/v2/team/app/tags/list").await.0, 502);
        }
    }
    // A short complete body arrives. A long one needs HTTP/1.1 until its length is known.
    let upstream = Upstream::start().await;
    let (short, long) = (honest(1000), honest(1_000_000));
    for content in [&short, &long] {
        upstream.blob_as("team/app", &digest_of(content), Answer::content(content.clone()).chunked());
    }
    let list = r#"{"name":"team/app","tags":["1"]}"#;
    upstream.on("/v2/team/app/tags/list", move |_| Answer::json(200, list).chunked());
    let proxy = Proxy::before(&[&upstream]).await;
    assert_eq!(old_get(&proxy, &upstream, "/v2/team/app/tags/list").await, (200, list.to_owned()));
    let (short_path, long_path) = (path(&digest_of(&short)), path(&digest_of(&long)));
    assert_eq!(old_get(&proxy, &upstream, &short_path).await.1.as_bytes(), short);
    let (status, told) = old_get(&proxy, &upstream, &long_path).await;
    assert!(status == 505 && told.contains("ask by HTTP/1.1"), "{status} {told:.300}");
    proxy.get(&upstream, &long_path).send().await.is_whole(&long);
    proxy.landed().await;
    let (status, body) = old_get(&proxy, &upstream, &long_path).await;
    assert!(status == 200 && body.as_bytes() == long, "{status}");
}

#[tokio::test]
async fn a_rotten_blob_is_fetched_anew_when_a_client_asks_again() {
    for (first, second) in [(None, None), (Some("0-"), None), (None, Some("0-"))] {
        let upstream = Upstream::start().await;
        let proxy = Proxy::before(&[&upstream]).await;
        let image = Image::new("library/app", 1);
        image.publish(&upstream, "v1");
        let ask = |range: Option<&str>| {
            let ask = proxy.get(&upstream, &image.layer_path());
            range.iter().fold(ask, |ask, range| ask.range(range)).send()
        };
        assert_eq!(ask(Some("1-")).await.status, 206);
        proxy.landed().await;
        let rotten = vec![9; image.layer.len()];
        std::fs::write(proxy.file_of(&image.layer_digest), &rotten).expect("rotten");
        assert_eq!(ask(first).await.body, rotten, "{first:?}: no reason to doubt");
        assert!(ask(second).await.body == image.layer, "{first:?} {second:?}: fetched anew");
        proxy.landed().await;
        assert!(std::fs::read(proxy.file_of(&image.layer_digest)).expect("there") == image.layer);
        assert!(!proxy.data().join("set-aside").exists(), "cached content can be fetched again");
    }
}
