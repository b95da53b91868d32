//! A connection of the fake upstream: HTTP/1.1 by hand, because no library breaks it on purpose.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::Length;
use super::upstream::Shared;
use super::{Answer, Seen};

const PIECE_BYTES: usize = 64 * 1024;

/// Answers requests until one side ends the connection.
pub(super) async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut read = BytesMut::new();
    // Some tests break the connection on purpose.
    while let Ok(Some(seen)) = request(&mut stream, &mut read).await {
        let answer = shared.answer(seen.clone());
        match send(&mut stream, &shared, &seen, &answer).await {
            Ok(true) => {}
            _ => return,
        }
    }
}

async fn request(stream: &mut TcpStream, read: &mut BytesMut) -> io::Result<Option<Seen>> {
    loop {
        if let Some((seen, length)) = head(read) {
            read.advance(length);
            let body = body(stream, read, &seen.headers).await?;
            return Ok(Some(Seen { body, ..seen }));
        }
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
}

fn head(read: &[u8]) -> Option<(Seen, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(read).expect("entrepot speaks HTTP") {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return None,
    };
    let mut headers = HeaderMap::new();
    for field in request.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).expect("a header's name");
        headers.append(name, HeaderValue::from_bytes(field.value).expect("a header's value"));
    }
    let target = request.path.expect("a target");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let method = Method::from_bytes(request.method.expect("a method").as_bytes()).expect("a method");
    Some((Seen { method, path: path.into(), query: query.into(), headers, body: Bytes::new() }, length))
}

async fn body(stream: &mut TcpStream, read: &mut BytesMut, headers: &HeaderMap) -> io::Result<Bytes> {
    if headers.contains_key("transfer-encoding") {
        return chunked_body(stream, read).await;
    }
    let length = headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    fill_to(stream, read, length).await?;
    Ok(read.split_to(length).freeze())
}

async fn chunked_body(stream: &mut TcpStream, read: &mut BytesMut) -> io::Result<Bytes> {
    let mut body = BytesMut::new();
    loop {
        let line = loop {
            match read.windows(2).position(|pair| pair == b"\r\n") {
                Some(end) => break read.split_to(end + 2),
                None => fill_to(stream, read, read.len() + 1).await?,
            }
        };
        let size = std::str::from_utf8(&line).expect("hex").trim();
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        fill_to(stream, read, size + 2).await?;
        body.extend_from_slice(&read.split_to(size));
        read.advance(2);
        if size == 0 {
            return Ok(body.freeze());
        }
    }
}

async fn fill_to(stream: &mut TcpStream, read: &mut BytesMut, length: usize) -> io::Result<()> {
    while read.len() < length {
        if stream.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Returns true while the connection can be used again.
async fn send(stream: &mut TcpStream, shared: &Shared, seen: &Seen, answer: &Answer) -> io::Result<bool> {
    if let Some(gate) = &answer.before_head {
        gate.pass().await;
    }
    if answer.hangs_up {
        return Ok(false);
    }
    let size = answer.body.len() as u64;
    let (status, part) = part_of(seen, answer);
    stream.write_all(head_text(status, &part, size, answer).as_bytes()).await?;
    if seen.method == Method::HEAD {
        return Ok(true);
    }
    let mut position = part.start;
    while position < part.end {
        let mut end = part.end.min(position + PIECE_BYTES as u64);
        if let Some((byte, gate)) = &answer.before_byte {
            if position == *byte {
                gate.pass().await;
            } else if position < *byte {
                end = end.min(*byte);
            }
        }
        if let Some(limit) = answer.reset_after.map(|after| part.start + after) {
            if position >= limit {
                return reset(stream).await;
            }
            end = end.min(limit);
        }
        let piece = answer.body.slice(position as usize..end as usize);
        send_piece(stream, &piece, answer.length).await?;
        shared.body_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        position = end;
    }
    match answer.length {
        Length::Exact if answer.reset_after.is_some_and(|after| after >= part.end - part.start) => reset(stream).await,
        Length::Exact => Ok(true),
        Length::Chunked => stream.write_all(b"0\r\n\r\n").await.map(|()| true),
        Length::Close | Length::Says(_) => stream.shutdown().await.map(|()| false),
    }
}

async fn send_piece(stream: &mut TcpStream, piece: &[u8], length: Length) -> io::Result<()> {
    if length == Length::Chunked {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        stream.write_all(piece).await?;
        return stream.write_all(b"\r\n").await;
    }
    stream.write_all(piece).await
}

/// The status and the bytes that the request gets.
fn part_of(seen: &Seen, answer: &Answer) -> (u16, Range<u64>) {
    let size = answer.body.len() as u64;
    let asked = seen.header("range").strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let (Some((first, last)), 200, false) = (asked, answer.status, answer.ignores_range) else {
        return (answer.status, 0..size);
    };
    let start: u64 = first.parse().expect("entrepot asks from a first byte on");
    let end = last.parse().map_or(size, |last: u64| (last + 1).min(size));
    if start < end { (206, start..end) } else { (416, 0..0) }
}

fn head_text(status: u16, part: &Range<u64>, size: u64, answer: &Answer) -> String {
    use std::fmt::Write;
    let mut head = format!("HTTP/1.1 {status} Fake\r\n");
    for (name, value) in &answer.headers {
        write!(head, "{name}: {value}\r\n").expect("text");
    }
    let told = answer.headers.iter().any(|(name, _)| name == "content-range");
    match status {
        _ if told => {}
        206 => write!(head, "content-range: bytes {}-{}/{size}\r\n", part.start, part.end - 1).expect("text"),
        416 => write!(head, "content-range: bytes */{size}\r\n").expect("text"),
        _ => {}
    }
    match answer.length {
        Length::Exact => write!(head, "content-length: {}\r\n", part.end - part.start).expect("text"),
        Length::Says(length) => write!(head, "content-length: {length}\r\n").expect("text"),
        Length::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
        Length::Close => head.push_str("connection: close\r\n"),
    }
    head + "\r\n"
}

/// Ends the connection with a RST, as a crashed peer or a strict firewall does.
async fn reset(stream: &mut TcpStream) -> io::Result<bool> {
    stream.flush().await?;
    SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
    Ok(false)
}
