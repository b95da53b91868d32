//! `entrepot cache`: shows and changes the cache of a running server, by its admin unix socket.
//!
//! `admin::answers` has the types of the replies, `admin_client` speaks HTTP over the socket, and `show` makes tables.
//! stdout gets tables for people, or the server's own replies with `--json`. stderr gets progress and questions.

mod show;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Subcommand;
use entrepot_core::digest::Digest;
use entrepot_core::docker_hub;
use entrepot_core::name::RepositoryName;
use http::Method;
use url::form_urlencoded;

use super::admin_client::{AdminClient, AdminClientError, Refusals};
use super::output::{ask, complain, fail};
use crate::admin::TagName;
use crate::admin::answers::{BlobPage, BlobState, CacheStats, Done, Freed, Verification, VerifyLine};
use entrepot_core::exit;

/// The actions on the cache.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Show hits, size, and the pulls that upstream registries still allow
    Stats,
    /// List the blobs; with --json one object on each line
    Ls,
    /// Drop blobs, or forget the digests of tags
    Rm {
        /// Blobs by digest, tags as registry/repository:tag (Docker Hub is docker.io)
        #[arg(required = true, value_name = "DIGEST|REGISTRY/REPO:TAG")]
        targets: Vec<CacheTarget>,
    },
    /// Drop everything that is neither pinned nor being read
    Clear {
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Read every blob and compare it with its digest; with --json one object on each line
    Verify,
}

/// A thing that `rm` removes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CacheTarget {
    /// The bytes of a blob.
    Blob(Digest),
    /// The digest of a tag. The bytes stay until nothing uses them.
    Tag(TagName),
}

/// The text names neither a blob nor a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither a digest (sha256:…) nor registry/repository:tag, as in docker.io/library/busybox:latest")]
pub struct CacheTargetError;

/// The streams of a command, and its question to the person.
struct CacheConsole<'a> {
    out: &'a mut dyn Write,
    /// None if stderr is not a terminal.
    progress: Option<&'a mut dyn Write>,
    /// Asks for yes or no. None if stdin is not a terminal.
    confirm: &'a mut dyn FnMut(&str) -> Option<bool>,
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum CacheError {
    #[error(transparent)]
    Client(#[from] AdminClientError),
    #[error("{0}")]
    Refused(Refusals),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    #[error("this would clear the cache; say --yes where nobody can be asked")]
    Unconfirmed,
    #[error("nothing was cleared")]
    Declined,
    #[error("{0} of the blobs were bad; the server takes them out, and fetches them anew when they are asked for")]
    Bad(u64),
    #[error("the verification stopped: {0}")]
    Stopped(String),
}

/// sysexits' EX_DATAERR: the cache contained bad bytes.
const BAD_DATA: u8 = 65;

/// Runs one command against the server behind `socket`. A failure is one line on stderr.
pub fn run(command: &CacheCommand, socket: &Path, json: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return ExitCode::from(exit::IO);
        }
    };
    let (mut out, mut progress) = (io::stdout().lock(), io::stderr());
    let watched = progress.is_terminal();
    let mut console = CacheConsole {
        out: &mut out,
        progress: watched.then_some(&mut progress as &mut dyn Write),
        confirm: &mut ask,
        json,
    };
    match runtime.block_on(execute(command, &AdminClient::new(socket), &mut console)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

async fn execute(
    command: &CacheCommand,
    client: &AdminClient,
    console: &mut CacheConsole<'_>,
) -> Result<(), CacheError> {
    match command {
        CacheCommand::Stats => {
            let stats: CacheStats = client.get("/api/cache/stats").await?;
            console.print(&stats, show::stats)
        }
        CacheCommand::Ls => list(client, console).await,
        CacheCommand::Rm { targets } => remove(targets, client, console).await,
        CacheCommand::Clear { yes } => clear(*yes, client, console).await,
        CacheCommand::Verify => verify(client, console).await,
    }
}

impl CacheConsole<'_> {
    /// Prints the server's own answer with `--json`, else the text that `show` makes of it.
    fn print<T: serde::Serialize>(&mut self, answer: &T, show: impl FnOnce(&T) -> String) -> Result<(), CacheError> {
        if self.json {
            serde_json::to_writer(&mut self.out, answer).map_err(io::Error::from)?;
            writeln!(self.out)?;
        } else {
            self.out.write_all(show(answer).as_bytes())?;
        }
        Ok(())
    }
}

async fn list(client: &AdminClient, console: &mut CacheConsole<'_>) -> Result<(), CacheError> {
    if !console.json {
        console.out.write_all(show::blob_header().as_bytes())?;
    }
    let mut target = "/api/cache/blobs?limit=1000".to_owned();
    loop {
        let page: BlobPage = client.get(&target).await?;
        for blob in &page.blobs {
            console.print(blob, |blob| show::blob(blob, show::now_unix_seconds()))?;
        }
        let Some(next) = page.next else { return Ok(()) };
        target = format!("/api/cache/blobs?limit=1000&after={next}");
    }
}

/// Tries every target, and names each that is refused. Output that fails stops no removal.
async fn remove(
    targets: &[CacheTarget],
    client: &AdminClient,
    console: &mut CacheConsole<'_>,
) -> Result<(), CacheError> {
    let (mut refusals, mut unwritten) = (Refusals::default(), None);
    for target in targets {
        let removed = match target {
            CacheTarget::Blob(digest) => remove_blob(digest, client, console).await,
            CacheTarget::Tag(name) => forget_tag(name, client, console).await,
        };
        match removed {
            Err(CacheError::Client(error @ AdminClientError::Refused { .. })) => {
                refusals.push(error.about(&target.to_string()));
            }
            Err(CacheError::Output(error)) => _ = unwritten.get_or_insert(error),
            other => other?,
        }
    }
    match unwritten {
        _ if !refusals.is_empty() => Err(CacheError::Refused(refusals)),
        Some(error) => Err(CacheError::Output(error)),
        None => Ok(()),
    }
}

async fn remove_blob(digest: &Digest, client: &AdminClient, console: &mut CacheConsole<'_>) -> Result<(), CacheError> {
    let done: Done<Freed> = client.change(Method::DELETE, &format!("/api/cache/blobs/{digest}")).await?;
    console.print(&done, |done| show::removed(digest, &done.details))
}

async fn forget_tag(name: &TagName, client: &AdminClient, console: &mut CacheConsole<'_>) -> Result<(), CacheError> {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("registry", &name.registry.to_string())
        .append_pair("repository", name.repository.as_str())
        .append_pair("tag", name.tag.as_str())
        .finish();
    let done: serde_json::Value = client.change(Method::DELETE, &format!("/api/cache/tags?{query}")).await?;
    console.print(&done, |_| format!("forgot {}\n", CacheTarget::Tag(name.clone())))
}

async fn clear(yes: bool, client: &AdminClient, console: &mut CacheConsole<'_>) -> Result<(), CacheError> {
    if !yes {
        let stats: CacheStats = client.get("/api/cache/stats").await?;
        match (console.confirm)(&show::clear_question(&stats)) {
            None => return Err(CacheError::Unconfirmed),
            Some(false) => return Err(CacheError::Declined),
            Some(true) => {}
        }
    }
    let done: Done<Freed> = client.change(Method::DELETE, "/api/cache").await?;
    console.print(&done, |done| show::cleared(&done.details))
}

async fn verify(client: &AdminClient, console: &mut CacheConsole<'_>) -> Result<(), CacheError> {
    let stats: CacheStats = client.get("/api/cache/stats").await?;
    let mut lines = client.lines(Method::POST, "/api/cache/verify").await?;
    let mut checked = 0;
    while let Some(line) = lines.next::<VerifyLine>().await? {
        if console.json {
            console.print(&line, |_| String::new())?;
        }
        match line {
            VerifyLine::Blob(blob) => {
                checked += 1;
                if let Some(progress) = &mut console.progress {
                    // A terminal that went away stops no verification.
                    let _ = write!(progress, "\rverifying {checked} of {}", stats.blobs.max(checked));
                    let _ = progress.flush();
                }
                if blob.state != BlobState::Ok && !console.json {
                    console.out.write_all(show::bad_blob(&blob).as_bytes())?;
                }
            }
            VerifyLine::Finished(Verification { checked, bad, bytes }) => {
                if let Some(progress) = &mut console.progress {
                    let _ = writeln!(progress);
                }
                if !console.json {
                    console.out.write_all(show::verified(checked, bad, bytes).as_bytes())?;
                }
                return if bad == 0 { Ok(()) } else { Err(CacheError::Bad(bad)) };
            }
            VerifyLine::Failed { error } => return Err(CacheError::Stopped(error)),
        }
    }
    Err(CacheError::Client(AdminClientError::BrokenOff("the answer ended early".into())))
}

impl CacheError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => error.exit_code(),
            Self::Refused(refusals) => refusals.exit_code(),
            Self::Output(_) | Self::Stopped(_) => exit::IO,
            Self::Unconfirmed | Self::Declined => exit::USAGE,
            Self::Bad(_) => BAD_DATA,
        }
    }
}

impl std::fmt::Display for CacheTarget {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blob(digest) => write!(formatter, "{digest}"),
            Self::Tag(TagName { registry, repository, tag }) => write!(formatter, "{registry}/{repository}:{tag}"),
        }
    }
}

impl FromStr for CacheTarget {
    type Err = CacheTargetError;

    fn from_str(text: &str) -> Result<Self, CacheTargetError> {
        if let Ok(digest) = text.parse() {
            return Ok(Self::Blob(digest));
        }
        let (registry, rest) = text.split_once('/').ok_or(CacheTargetError)?;
        let (repository, tag) = rest.rsplit_once(':').ok_or(CacheTargetError)?;
        // As in image names, the first part is a registry only if it looks like a host.
        if !registry.contains(['.', ':']) && registry != "localhost" {
            return Err(CacheTargetError);
        }
        let (registry, repository) = match registry {
            docker_hub::NAME | docker_hub::INDEX => (docker_hub::REGISTRY, official(repository)?),
            _ => (registry, repository.parse().map_err(|_| CacheTargetError)?),
        };
        let registry = registry.parse().map_err(|_| CacheTargetError)?;
        let tag = tag.parse().map_err(|_| CacheTargetError)?;
        Ok(Self::Tag(TagName { registry, repository, tag }))
    }
}

/// Docker Hub's repositories of one part are below `library/`.
fn official(repository: &str) -> Result<RepositoryName, CacheTargetError> {
    let full = if repository.contains('/') { repository.to_owned() } else { format!("library/{repository}") };
    full.parse().map_err(|_| CacheTargetError)
}
