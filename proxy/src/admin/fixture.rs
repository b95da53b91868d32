//! A door with three blobs, for the tests of the server and of the command line.

use std::sync::{Arc, Mutex};

use entrepot_core::digest::{Algorithm, Digest};
use futures_util::future::{self, BoxFuture, FutureExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::answers::{
    BlobState, BlobSummary, CacheStats, Freed, ImportLine, Imported, Verification, VerifiedBlob, VerifyLine, hit_rate,
};
use super::registry::{
    CollectionReport, GcLine, RegistryBackend, RemoveRequest, RemovedNames, RepositoryPage, RepositorySummary, TagPage,
    TagSummary,
};
use super::server::{serve_tcp, serve_unix};
use super::{AdminBackend, AdminState, OperationError, TcpRights};
use entrepot_core::secret::Secret;
use entrepot_net::admin_socket::AdminSocket;
use entrepot_observe::metrics::Metrics;

pub(crate) fn digest(number: u8) -> Digest {
    Digest::of(Algorithm::Sha256, &[number])
}

fn blob(number: u8) -> BlobSummary {
    BlobSummary {
        digest: digest(number).to_string(),
        size: u64::from(number),
        last_used_unix_seconds: 0,
        pinned: false,
        repositories: vec!["ghcr.io/a/b".into()],
    }
}

/// A backend of three blobs. It notes each change.
pub(crate) fn backend(changes: &Arc<Mutex<Vec<String>>>) -> AdminBackend {
    let note = |text: String| {
        let changes = Arc::clone(changes);
        move || changes.lock().expect("not poisoned").push(text.clone())
    };
    let (cleared, removed, forgot) = (note("clear".into()), note("remove".into()), Arc::clone(changes));
    AdminBackend {
        ready: Box::new(|| now(Err("the index is being rebuilt".into()))),
        stats: Box::new(|| now(CacheStats { hits: 3, misses: 1, hit_rate: hit_rate(3, 1), ..CacheStats::default() })),
        clear: Box::new(move || {
            cleared();
            now(Ok(Freed { freed_blobs: 3, freed_bytes: 6 }))
        }),
        list: Box::new(|page| {
            let mut blobs: Vec<_> = (1..=3).map(blob).collect();
            blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
            blobs.retain(|blob| page.after.is_none_or(|after| blob.digest > after.to_string()));
            blobs.truncate(page.limit);
            now(Ok(blobs))
        }),
        remove: Box::new(move |wanted| {
            removed();
            now(Ok((wanted == digest(1)).then_some(Freed { freed_blobs: 1, freed_bytes: 1 })))
        }),
        verify: Box::new(|lines| {
            async move {
                for (number, state) in [(1, BlobState::Ok), (2, BlobState::Corrupt)] {
                    let verified = VerifiedBlob { digest: digest(number).to_string(), size: u64::from(number), state };
                    lines.send(VerifyLine::Blob(verified)).await.expect("a client");
                }
                Ok(Verification { checked: 2, bad: 1, bytes: 3 })
            }
            .boxed()
        }),
        forget_tag: Box::new(move |name| {
            let note = format!("{}/{}:{}", name.registry, name.repository, name.tag);
            forgot.lock().expect("not poisoned").push(note);
            now(Ok(name.tag.as_str() == "v1"))
        }),
        registry: registry(changes),
        reload: Box::new(|| now(Err(OperationError::Refused("entrepot.toml:3: unknown key".into())))),
        effective_config: Box::new(|| now(serde_json::json!({"password": "***"}))),
    }
}

/// A registry with one repository, which has one tag.
fn registry(changes: &Arc<Mutex<Vec<String>>>) -> RegistryBackend {
    let changes = Arc::clone(changes);
    let entry = || RepositorySummary { name: "a/b".into(), tags: 1, manifests: 1, size: 7 };
    let tag = || TagSummary {
        tag: "v1".into(),
        digest: digest(1).to_string(),
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        size: 7,
    };
    RegistryBackend {
        repositories: Box::new(move |_| now(Ok(RepositoryPage { repositories: vec![entry()], next: None }))),
        tags: Box::new(move |name| {
            let known = name.as_str() == "a/b";
            now(Ok(known.then(|| TagPage { name: name.to_string(), tags: vec![tag()] })))
        }),
        remove: Box::new(move |request| {
            changes.lock().expect("not poisoned").push(format!("{request:?}"));
            let known = matches!(request, RemoveRequest::Tag(_, tag) if tag.as_str() == "v1");
            now(Ok(known.then(|| RemovedNames { tags: vec!["v1".into()], ..RemovedNames::default() })))
        }),
        import: Box::new(|directory, lines| {
            async move {
                if !directory.ends_with("tree") {
                    return Err(OperationError::Failed("no tree".into()));
                }
                lines.send(ImportLine::Planned { repositories: 1, blobs: 2, bytes: 3 }).await.expect("a client");
                Ok(Imported { repositories: 1, ..Imported::default() })
            }
            .boxed()
        }),
        collect: Box::new(|request, lines| {
            async move {
                lines.send(GcLine::Repositories { done: 1, total: 1 }).await.expect("a client");
                let counted = CollectionReport { repositories: 1, freed_blobs: 2, ..CollectionReport::default() };
                Ok(CollectionReport { dry_run: request.dry_run, ..counted })
            }
            .boxed()
        }),
    }
}

/// An operation that ends at once.
pub(crate) fn now<T: Send + 'static>(result: T) -> BoxFuture<'static, T> {
    future::ready(result).boxed()
}

pub(crate) struct TestDoor {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) socket: std::path::PathBuf,
    pub(crate) changes: Arc<Mutex<Vec<String>>>,
    stop: Vec<oneshot::Sender<()>>,
    tasks: Vec<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl TestDoor {
    pub(crate) async fn open(token: Option<&str>) -> Self {
        let changes = Arc::default();
        Self::open_with(backend(&changes), changes, token).await
    }

    pub(crate) async fn open_with(
        backend: AdminBackend,
        changes: Arc<Mutex<Vec<String>>>,
        token: Option<&str>,
    ) -> Self {
        let rights = TcpRights { token: token.map(Secret::new), loopback_changes: false };
        Self::open_for(backend, changes, rights).await
    }

    pub(crate) async fn open_for(backend: AdminBackend, changes: Arc<Mutex<Vec<String>>>, rights: TcpRights) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("admin.sock");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let unix = AdminSocket::bind(&socket).expect("bound");
        let state = Arc::new(AdminState::new(Arc::new(Metrics::new()), backend));
        let (stop, stopped): (Vec<_>, Vec<_>) = (0..2).map(|_| oneshot::channel::<()>()).unzip();
        let mut stopped = stopped.into_iter().map(|stopped| async { _ = stopped.await });
        let (first, second) = (stopped.next().expect("one"), stopped.next().expect("two"));
        let tasks = vec![
            tokio::spawn(serve_tcp(listener, Arc::clone(&state), rights, first)),
            tokio::spawn(serve_unix(unix, state, second)),
        ];
        Self { address, socket, changes, stop, tasks, _folder: folder }
    }

    pub(crate) async fn close(self) {
        drop(self.stop);
        for task in self.tasks {
            task.await.expect("the door ends in order");
        }
        assert!(!self.socket.exists(), "the socket's file is gone");
    }
}
