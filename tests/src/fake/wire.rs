//! The fake's answers as bytes. Requests are read head by head. An answer is a plan (a head, a body, the fault and its
//! place) that is written byte by byte.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{MissedTickBehavior, interval};

use super::{Answer, Resource, Shared};
use crate::images::sha256;
use crate::serve::Conn;

struct Asked {
    method: Method,
    path: String,
    headers: HeaderMap,
}

/// The output for one request: the head, the body up to `trouble_at`, then the fault.
struct Plan {
    head: String,
    body: Bytes,
    trouble_at: usize,
    trouble: Trouble,
}

enum Trouble {
    None,
    Reset,
    Stall,
    Close,
    Gate,
}

impl Shared {
    /// Answers the requests of one connection until it ends. The error is the reason of the end.
    pub(super) async fn converse(&self, mut conn: Conn) -> io::Result<()> {
        loop {
            let asked = read_head(&mut conn).await?;
            self.ledger.record(&asked.method, &asked.path, &asked.headers);
            match self.take(asked.path.split('?').next().unwrap_or_default()) {
                None => write_status(&mut conn, 404, "", &asked).await?,
                Some((_, Answer::Status(code, lines))) => write_status(&mut conn, code, &lines, &asked).await?,
                Some((_, Answer::Redirect(code, to))) => {
                    write_status(&mut conn, code, &format!("Location: {to}\r\n"), &asked).await?;
                }
                Some((resource, answer)) => self.write(&mut conn, &resource, &asked, &answer).await?,
            }
            conn.flush().await?;
        }
    }

    fn take(&self, path: &str) -> Option<(Resource, Answer)> {
        let mut resources = self.resources.lock().expect("no holder panics");
        let resource = resources.get_mut(path)?;
        let answer = match resource.answers.len() {
            0 | 1 => resource.answers.front()?.clone(),
            _ => resource.answers.pop_front()?,
        };
        Some((resource.clone(), answer))
    }

    async fn write(&self, conn: &mut Conn, resource: &Resource, asked: &Asked, answer: &Answer) -> io::Result<()> {
        let plan = plan(resource, asked, answer);
        conn.write_all(plan.head.as_bytes()).await?;
        match answer {
            _ if asked.method == Method::HEAD => Ok(()),
            Answer::Paced(pause) => {
                let mut ticks = interval(*pause);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for piece in plan.body.chunks(65536) {
                    ticks.tick().await;
                    self.send(conn, piece).await?;
                    conn.flush().await?;
                }
                Ok(())
            }
            Answer::Chunked => {
                for piece in plan.body.chunks(10_000) {
                    conn.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
                    self.send(conn, piece).await?;
                    conn.write_all(b"\r\n").await?;
                }
                conn.write_all(b"0\r\n\r\n").await
            }
            _ => self.carry_out(conn, &plan).await,
        }
    }

    async fn carry_out(&self, conn: &mut Conn, plan: &Plan) -> io::Result<()> {
        let (before, after) = plan.body.split_at(plan.trouble_at.min(plan.body.len()));
        self.send(conn, before).await?;
        conn.flush().await?;
        match plan.trouble {
            Trouble::None => return Ok(()),
            Trouble::Gate => {
                let _ = self.gate.subscribe().wait_for(|open| *open).await;
                return self.send(conn, after).await;
            }
            Trouble::Reset => conn.reset_on_close(),
            Trouble::Close => conn.shutdown().await?,
            Trouble::Stall => drop(conn.read_u8().await),
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    async fn send(&self, conn: &mut Conn, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(65536) {
            conn.write_all(piece).await?;
            self.ledger.count_blob_bytes(piece.len());
        }
        Ok(())
    }
}

fn plan(resource: &Resource, asked: &Asked, answer: &Answer) -> Plan {
    let whole = &resource.body;
    let range = match answer {
        Answer::IgnoreRange | Answer::Gzip => None,
        _ => range_of(asked, whole.len()),
    };
    let mut body = whole.slice(range.clone().unwrap_or(0..whole.len()));
    let mut lines = String::new();
    if let Some(range) = &range {
        lines = format!("Content-Range: bytes {}-{}/{}\r\n", range.start, range.end - 1, whole.len());
    }
    match answer {
        Answer::LongBy(extra) => body = [body, vec![b'x'; *extra].into()].concat().into(),
        Answer::Gzip => {
            body = gzip(&body).into();
            lines += "Content-Encoding: gzip\r\n";
        }
        _ => {}
    }
    lines += &match answer {
        Answer::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let (trouble_at, trouble) = match *answer {
        Answer::ResetAfter(at) => (at, Trouble::Reset),
        Answer::StallAfter(at) => (at, Trouble::Stall),
        Answer::ShortAfter(at) => (at, Trouble::Close),
        Answer::Gate(at) => (at, Trouble::Gate),
        _ => (body.len(), Trouble::None),
    };
    let digest = match asked.path.rsplit('/').next().filter(|last| last.starts_with("sha256:")) {
        Some(named) => named.to_owned(),
        None => sha256(whole),
    };
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let content_type = &resource.content_type;
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nDocker-Content-Digest: {digest}\r\n{lines}\r\n");
    Plan { head, body, trouble_at, trouble }
}

async fn write_status(conn: &mut Conn, code: u16, lines: &str, asked: &Asked) -> io::Result<()> {
    let body = if asked.method == Method::HEAD { "" } else { r#"{"errors":[{"code":"UNKNOWN"}]}"# };
    let length = r#"{"errors":[{"code":"UNKNOWN"}]}"#.len();
    let head = format!("HTTP/1.1 {code} As Told\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
    conn.write_all(format!("{head}{lines}\r\n{body}").as_bytes()).await
}

async fn read_head(conn: &mut Conn) -> io::Result<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(conn.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head);
    let mut lines = text.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().and_then(|text| text.parse().ok()).unwrap_or(Method::GET);
    let path = first.next().unwrap_or("/").to_owned();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.trim().parse::<HeaderValue>()) {
            headers.append(name, value);
        }
    }
    Ok(Asked { method, path, headers })
}

/// The one range that was asked for, within the body.
fn range_of(asked: &Asked, length: usize) -> Option<std::ops::Range<usize>> {
    let (first, last) = asked.headers.get("range")?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let end = last.parse().map_or(length, |last: usize| length.min(last + 1));
    (first < end).then_some(first..end)
}

/// A gzip file of stored blocks.
fn gzip(body: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let last = body.len().div_ceil(65535).saturating_sub(1);
    for (number, block) in body.chunks(65535).enumerate() {
        let length = u16::try_from(block.len()).expect("at most 65535");
        file.push(u8::from(number == last));
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(&(!length).to_le_bytes());
        file.extend_from_slice(block);
    }
    let crc = body.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    file.extend_from_slice(&(!crc).to_le_bytes());
    file.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    file
}
