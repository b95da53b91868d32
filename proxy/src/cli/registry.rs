//! `entrepot registry`: the push registry of a running server, by its admin unix socket or by the admin door's URL.
//!
//! `admin::answers` has the types of the replies, `admin_client` speaks HTTP, and `show` makes tables. stdout gets
//! tables for people, or the server's own answers with `--json`: for lists, one object on each line. Progress goes to
//! stderr.

mod show;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use entrepot_core::digest::Digest;
use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::quantity::parse_duration;
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use url::form_urlencoded;

use super::address::Address;
use super::admin_client::{AdminClient, AdminClientError, Refusals};
use super::output::{ask, complain, fail};
use crate::admin::answers::{Done, ImportLine};
use crate::admin::registry::{GcLine, RemovedNames, RepositoryPage, TagPage};
use entrepot_core::exit;
use entrepot_core::secret::Secret;

/// The server that is asked.
#[derive(Debug, Args)]
pub struct AdminAddress {
    /// The admin door's http or https address [default: the unix socket of this machine's server]
    #[arg(long, global = true, value_name = "URL")]
    url: Option<Address>,
    /// A file with the token that changes need at that address (admin.token_file)
    #[arg(long, value_name = "FILE", global = true, requires = "url")]
    token_file: Option<PathBuf>,
}

/// The actions on our own registry.
#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// List the repositories; with --json one object on each line
    Ls,
    /// List the tags of a repository; with --json one object on each line
    Tags {
        /// The repository, such as team/app
        repository: RepositoryName,
    },
    /// Remove tags, manifests or whole repositories; a collection frees the layers that nothing else needs, once
    /// registry.grace has passed since they were pushed
    Rm {
        /// Remove whole repositories without a question
        #[arg(long)]
        all: bool,
        /// A tag as repository:tag, a manifest as repository@digest, or a repository
        #[arg(required = true, value_name = "REPO[:TAG|@DIGEST]")]
        targets: Vec<RegistryTarget>,
    },
    /// Free content that no manifest needs, while pushes and pulls go on; with --json one object on each line
    Gc {
        /// Count, and free nothing
        #[arg(long)]
        dry_run: bool,
        /// Remove manifests without a tag as well
        #[arg(long)]
        untagged: bool,
        /// Content that was pushed more recently stays [default: registry.grace]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        grace: Option<Duration>,
    },
    /// Import the data of Docker's registry from a directory on the server's machine; with --json one object on each
    /// line
    Import {
        /// The directory that holds docker/registry/v2
        directory: PathBuf,
    },
}

/// A thing that `rm` removes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegistryTarget {
    /// A repository with everything in it.
    Repository(RepositoryName),
    /// One tag. Its manifest goes too, unless another tag points to it.
    Tag(RepositoryName, Tag),
    /// One manifest, and the tags that point to it.
    Manifest(RepositoryName, Digest),
}

/// The text names neither a repository, nor a tag, nor a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not repository:tag, repository@digest or a repository, as in team/app:v1")]
pub struct RegistryTargetError;

/// The streams of a command.
struct RegistryConsole<'a> {
    out: &'a mut dyn Write,
    /// The first failure to write to `out`. Nothing is written after it.
    unwritten: Option<io::Error>,
    bar: ProgressBar,
    /// Asks for yes or no. None if stdin is not a terminal.
    confirm: &'a mut dyn FnMut(&str) -> Option<bool>,
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum RegistryError {
    #[error(transparent)]
    Client(#[from] AdminClientError),
    #[error("{0}")]
    Refused(Refusals),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    #[error("{0} is a whole repository: say --all to remove it with all its tags, or name one tag as {0}:TAG")]
    Unconfirmed(RepositoryName),
    #[error("nothing was removed")]
    Declined,
    #[error("cannot read the token in {path}: {source}", path = path.display())]
    Token { path: PathBuf, source: io::Error },
    #[error("{path} cannot be found: {source}", path = path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("the collection stopped: {0}")]
    Collection(String),
    #[error("the import stopped: {0}")]
    Import(String),
    #[error("{0} things could not be taken over; they are named above, and the rest is here")]
    Skipped(u64),
}

/// sysexits' EX_DATAERR and EX_NOINPUT.
const BAD_DATA: u8 = 65;
const NO_INPUT: u8 = 66;

/// Runs one command against the server behind `socket`, or at a URL. A failure is one line on stderr.
pub fn run(command: &RegistryCommand, server: &AdminAddress, socket: &Path, json: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return ExitCode::from(exit::IO);
        }
    };
    let mut out = io::stdout().lock();
    // The bar draws nothing if stderr is not a terminal.
    let bar = ProgressBar::no_length();
    let mut console = RegistryConsole { out: &mut out, unwritten: None, bar, confirm: &mut ask, json };
    let outcome = client(server, socket)
        .and_then(|client| runtime.block_on(execute(command, &client, server.url.is_none(), &mut console)));
    console.bar.finish_and_clear();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn client(server: &AdminAddress, socket: &Path) -> Result<AdminClient, RegistryError> {
    let Some(url) = &server.url else { return Ok(AdminClient::new(socket)) };
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| RegistryError::Token { path: path.clone(), source })?;
        Ok::<_, RegistryError>(Secret::new(text.trim_end_matches(['\r', '\n'])))
    };
    Ok(AdminClient::at(url.clone(), server.token_file.as_ref().map(read).transpose()?))
}

/// Output that fails ends a list, but nothing that changes something.
async fn execute(
    command: &RegistryCommand,
    client: &AdminClient,
    is_here: bool,
    console: &mut RegistryConsole<'_>,
) -> Result<(), RegistryError> {
    carry_out(command, client, is_here, console).await?;
    console.unwritten.take().map_or(Ok(()), |error| Err(error.into()))
}

async fn carry_out(
    command: &RegistryCommand,
    client: &AdminClient,
    is_here: bool,
    console: &mut RegistryConsole<'_>,
) -> Result<(), RegistryError> {
    match command {
        RegistryCommand::Ls => list(client, console).await,
        RegistryCommand::Tags { repository } => tags(repository, client, console).await,
        RegistryCommand::Rm { all, targets } => {
            if !all {
                confirm(targets, client, console).await?;
            }
            remove(targets, client, console).await
        }
        RegistryCommand::Gc { dry_run, untagged, grace } => {
            let mut query = vec![("dry_run", dry_run.to_string()), ("untagged", untagged.to_string())];
            query.extend(grace.map(|grace| ("grace", format!("{}s", grace.as_secs()))));
            collect(&target("gc", &query), client, console).await
        }
        RegistryCommand::Import { directory } => {
            // The server's working directory is not ours.
            let found = if is_here { directory.canonicalize() } else { Ok(directory.clone()) };
            let found = found.map_err(|source| RegistryError::Directory { path: directory.clone(), source })?;
            import(&target("import", &[("directory", found.to_string_lossy().into_owned())]), client, console).await
        }
    }
}

/// A path of the API with its query.
fn target(path: &str, query: &[(&str, String)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    format!("/api/registry/{path}?{query}")
}

impl RegistryConsole<'_> {
    /// Prints the server's own answer with `--json`, else the text that `show` makes of it.
    fn print<T: serde::Serialize>(&mut self, answer: &T, show: impl FnOnce(&T) -> String) {
        match serde_json::to_string(answer) {
            Ok(line) if self.json => self.write(&(line + "\n")),
            Ok(_) => self.write(&show(answer)),
            Err(error) => _ = self.unwritten.get_or_insert(error.into()),
        }
    }

    fn write(&mut self, text: &str) {
        if self.unwritten.is_none() {
            // The bar is on the same screen.
            let out = &mut self.out;
            self.unwritten = self.bar.suspend(|| out.write_all(text.as_bytes())).err();
        }
    }

    fn progress(&self, what: &'static str, done: u64, total: u64) {
        self.bar.set_message(what);
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

async fn list(client: &AdminClient, console: &mut RegistryConsole<'_>) -> Result<(), RegistryError> {
    if !console.json {
        console.write(&show::repository_header());
    }
    let mut after = Vec::new();
    loop {
        let page: RepositoryPage = client.get(&target("repositories", &after)).await?;
        for repository in &page.repositories {
            console.print(repository, show::repository);
        }
        let Some(next) = page.next.filter(|_| console.unwritten.is_none()) else { return Ok(()) };
        after = vec![("after", next)];
    }
}

async fn tags(
    repository: &RepositoryName,
    client: &AdminClient,
    console: &mut RegistryConsole<'_>,
) -> Result<(), RegistryError> {
    let list: TagPage = client.get(&target("tags", &[("repository", repository.to_string())])).await?;
    if !console.json {
        console.write(&show::tag_header());
    }
    for tag in &list.tags {
        console.print(tag, show::tag);
    }
    Ok(())
}

/// Asks about each whole repository among the targets. Nothing is removed before all questions are answered.
async fn confirm(
    targets: &[RegistryTarget],
    client: &AdminClient,
    console: &mut RegistryConsole<'_>,
) -> Result<(), RegistryError> {
    for wanted in targets {
        let RegistryTarget::Repository(repository) = wanted else { continue };
        let list = client.get::<TagPage>(&target("tags", &[("repository", repository.to_string())])).await;
        let list = list.map_err(|error| error.about(&repository.to_string()))?;
        match (console.confirm)(&show::remove_question(repository, &list)) {
            None => return Err(RegistryError::Unconfirmed(repository.clone())),
            Some(false) => return Err(RegistryError::Declined),
            Some(true) => {}
        }
    }
    Ok(())
}

/// Tries every target, and names each that is refused.
async fn remove(
    targets: &[RegistryTarget],
    client: &AdminClient,
    console: &mut RegistryConsole<'_>,
) -> Result<(), RegistryError> {
    let mut refusals = Refusals::default();
    for wanted in targets {
        let (path, more) = match wanted {
            RegistryTarget::Repository(_) => ("repositories", None),
            RegistryTarget::Tag(_, tag) => ("tags", Some(("tag", tag.to_string()))),
            RegistryTarget::Manifest(_, digest) => ("manifests", Some(("digest", digest.to_string()))),
        };
        let query: Vec<_> = [("repository", wanted.repository().to_string())].into_iter().chain(more).collect();
        match client.change::<Done<RemovedNames>>(Method::DELETE, &target(path, &query)).await {
            Ok(done) => console.print(&done, |done| show::removed(wanted, &done.details)),
            Err(error @ AdminClientError::Refused { .. }) => refusals.push(error.about(&wanted.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    if refusals.is_empty() { Ok(()) } else { Err(RegistryError::Refused(refusals)) }
}

async fn collect(target: &str, client: &AdminClient, console: &mut RegistryConsole<'_>) -> Result<(), RegistryError> {
    console.bar.set_style(style("collecting: {msg} {bar:30} {pos} of {len}"));
    let mut lines = client.lines(Method::POST, target).await?;
    while let Some(line) = lines.next::<GcLine>().await? {
        if console.json {
            console.print(&line, |_| String::new());
        }
        match line {
            GcLine::Repositories { done, total } => console.progress("repositories", done, total),
            GcLine::Content { done, total } => console.progress("content", done, total),
            GcLine::Finished(_) if console.json => return Ok(()),
            GcLine::Finished(collection) => {
                console.print(&collection, show::collected);
                return Ok(());
            }
            GcLine::Failed { error } => return Err(RegistryError::Collection(error)),
        }
    }
    Err(cut_off())
}

async fn import(target: &str, client: &AdminClient, console: &mut RegistryConsole<'_>) -> Result<(), RegistryError> {
    console.bar.set_style(style("{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"));
    let mut lines = client.lines(Method::POST, target).await?;
    while let Some(line) = lines.next::<ImportLine>().await? {
        if console.json {
            console.print(&line, |_| String::new());
        }
        match line {
            ImportLine::Planned { repositories, blobs, bytes } => {
                console.bar.set_length(bytes);
                console.bar.set_message(format!("{repositories} repositories, {blobs} blobs"));
            }
            ImportLine::Blob { size, .. } => console.bar.inc(size),
            ImportLine::Finished(imported) => {
                if !console.json {
                    console.print(&imported, show::imported);
                }
                return if imported.skipped == 0 { Ok(()) } else { Err(RegistryError::Skipped(imported.skipped)) };
            }
            ImportLine::Failed { error } => return Err(RegistryError::Import(error)),
            news if !console.json => console.print(&news, show::news),
            _ => {}
        }
    }
    Err(cut_off())
}

fn cut_off() -> RegistryError {
    AdminClientError::BrokenOff("the answer ended early; the server's log says why".into()).into()
}

/// Our own templates are well formed. If one were not, the bar would have the default style.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

impl RegistryError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => error.exit_code(),
            Self::Refused(refusals) => refusals.exit_code(),
            Self::Unconfirmed(_) | Self::Declined => exit::USAGE,
            Self::Output(_) | Self::Collection(_) | Self::Import(_) => exit::IO,
            Self::Token { .. } | Self::Directory { .. } => NO_INPUT,
            Self::Skipped(_) => BAD_DATA,
        }
    }
}

impl RegistryTarget {
    fn repository(&self) -> &RepositoryName {
        match self {
            Self::Repository(repository) | Self::Tag(repository, _) | Self::Manifest(repository, _) => repository,
        }
    }
}

impl fmt::Display for RegistryTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(repository) => write!(formatter, "{repository}"),
            Self::Tag(repository, tag) => write!(formatter, "{repository}:{tag}"),
            Self::Manifest(repository, digest) => write!(formatter, "{repository}@{digest}"),
        }
    }
}

impl FromStr for RegistryTarget {
    type Err = RegistryTargetError;

    fn from_str(text: &str) -> Result<Self, RegistryTargetError> {
        let repository = |text: &str| text.parse::<RepositoryName>().map_err(|_| RegistryTargetError);
        if let Some((name, digest)) = text.split_once('@') {
            return Ok(Self::Manifest(repository(name)?, digest.parse().map_err(|_| RegistryTargetError)?));
        }
        match text.rsplit_once(':') {
            Some((name, tag)) => Ok(Self::Tag(repository(name)?, tag.parse().map_err(|_| RegistryTargetError)?)),
            None => repository(text).map(Self::Repository),
        }
    }
}
