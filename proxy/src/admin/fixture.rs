//! A door with three blobs, for the tests of the server and of the command line.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use entrepot_core::digest::{Algorithm, Digest};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::answers::{BlobState, BlobSummary, CacheStats, Freed, ImportLine, Imported, VerifiedBlob, hit_rate};
use super::registry::{
    CollectionReport, GcLine, RegistryBackend, RemoveRequest, RemovedNames, RepositoryPage, RepositorySummary, TagPage,
    TagSummary,
};
use super::server::{serve_tcp, serve_unix};
use super::{AdminBackend, AdminState, OperationError};
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
        ready: Box::new(|| Err("the index is being rebuilt".into())),
        stats: Box::new(|| CacheStats { hits: 3, misses: 1, hit_rate: hit_rate(3, 1), ..CacheStats::default() }),
        clear: Box::new(move || {
            cleared();
            Ok(Freed { freed_blobs: 3, freed_bytes: 6 })
        }),
        list: Box::new(|page| {
            let mut blobs: Vec<_> = (1..=3).map(blob).collect();
            blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
            blobs.retain(|blob| page.after.is_none_or(|after| blob.digest > after.to_string()));
            blobs.truncate(page.limit);
            Ok(blobs)
        }),
        remove: Box::new(move |wanted| {
            removed();
            Ok((wanted == digest(1)).then_some(Freed { freed_blobs: 1, freed_bytes: 1 }))
        }),
        verify: Box::new(|each| {
            for (number, state) in [(1, BlobState::Ok), (2, BlobState::Corrupt)] {
                let verified = VerifiedBlob { digest: digest(number).to_string(), size: u64::from(number), state };
                if each(verified) == ControlFlow::Break(()) {
                    break;
                }
            }
            Ok(())
        }),
        forget_tag: Box::new(move |name| {
            let note = format!("{}/{}:{}", name.registry, name.repository, name.tag);
            forgot.lock().expect("not poisoned").push(note);
            Ok(())
        }),
        registry: registry(changes),
        reload: Box::new(|| Err(OperationError::Refused("entrepot.toml:3: unknown key".into()))),
        effective_config: Box::new(|| serde_json::json!({"password": "***"})),
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
        repositories: Box::new(move |_| Ok(RepositoryPage { repositories: vec![entry()], next: None })),
        tags: Box::new(move |name| {
            let known = name.as_str() == "a/b";
            Ok(known.then(|| TagPage { name: name.to_string(), tags: vec![tag()] }))
        }),
        remove: Box::new(move |request| {
            changes.lock().expect("not poisoned").push(format!("{request:?}"));
            let known = matches!(request, RemoveRequest::Tag(_, tag) if tag.as_str() == "v1");
            Ok(known.then(|| RemovedNames { tags: vec!["v1".into()], manifests: Vec::new() }))
        }),
        import: Box::new(|directory, each| match directory.ends_with("tree") {
            true => {
                let _ = each(ImportLine::Planned { repositories: 1, blobs: 2, bytes: 3 });
                Ok(Imported { repositories: 1, ..Imported::default() })
            }
            false => Err(OperationError::Failed("no tree".into())),
        }),
        collect: Box::new(|request, each| {
            let _ = each(GcLine::Repositories { done: 1, total: 1 });
            Ok(CollectionReport {
                dry_run: request.dry_run,
                repositories: 1,
                freed_blobs: 2,
                ..CollectionReport::default()
            })
        }),
    }
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
            tokio::spawn(serve_tcp(listener, Arc::clone(&state), token.map(Secret::new), first)),
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
