//! The accounts of the htpasswd file, and the comparison of passwords.
//!
//! Invariants: bcrypt and the file run on the blocking pool, with a bound on the comparisons that run and on those that
//! wait. A password is never kept: only a keyed digest of a right password is, and it becomes worthless when the entry
//! changes. The refusal of an unknown account takes as long as that of a known one. A changed file is read again within
//! a second. If it cannot be read, the last good accounts stay.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use entrepot_core::client::ClientKey;
use entrepot_core::htpasswd::{Accounts, BcryptHash, HtpasswdError};
use tokio::task::spawn_blocking;

use super::comparers::Comparers;
use entrepot_core::secret::Secret;

/// The accounts of one file.
pub(super) struct Users {
    path: PathBuf,
    known: RwLock<Arc<Accounts>>,
    /// The state of the file when it was read last.
    look: Mutex<Look>,
    verified: Mutex<Verified>,
    comparers: Comparers,
}

/// The reason why a login is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotRecognised {
    /// The name or the password is wrong.
    Wrong,
    /// Too many logins wait already.
    Busy,
}

/// The most comparisons at once. Each occupies a core.
const COMPARING_MAX: usize = 2;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A file that changed less than this ago may change again within the resolution of its time stamp.
const SETTLED: Duration = Duration::from_secs(2);
const VERIFIED_MAX: usize = 1024;
/// After this time a password is compared again.
const VERIFIED_FOR: Duration = Duration::from_secs(600);
const FILE_MAX_BYTES: u64 = 4 << 20;
const FAULTS_TOLD_MAX: usize = 5;

struct Look {
    due: Instant,
    seen: Option<Seen>,
    /// The fault that the log has told of the present file.
    told: Option<String>,
}

/// The metadata that distinguishes one state of the file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    inode: u64,
    size_bytes: u64,
    changed: (i64, i64),
}

/// Digests of passwords that were right, with a key that only this process has, each with its time of expiry.
struct Verified {
    key: hmac::Key,
    until: HashMap<[u8; 32], Instant>,
}

impl Users {
    /// Reads the file. Blocks: not for the event loop. As long as it cannot be read, there are no accounts.
    pub(super) fn open(path: &Path) -> Arc<Self> {
        let mut key = [0; 32];
        // Without randomness the key could be guessed, so no password is compared and none is remembered.
        let remembers = rand::fill(&mut key).is_ok();
        let users = Arc::new(Self {
            path: path.to_owned(),
            known: RwLock::default(),
            look: Mutex::new(Look { due: Instant::now(), seen: None, told: None }),
            verified: Mutex::new(Verified { key: hmac::Key::new(hmac::HMAC_SHA256, &key), until: HashMap::new() }),
            comparers: Comparers::new(if remembers { COMPARING_MAX } else { 0 }),
        });
        users.read_if_changed();
        users
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file has this account.
    pub(super) async fn has(self: &Arc<Self>, name: &str) -> bool {
        self.look_again().await;
        self.accounts().get(name).is_some()
    }

    /// Whether the password that this client sent is the account's.
    pub(super) async fn check(
        self: &Arc<Self>,
        client: ClientKey,
        name: &str,
        password: &Secret,
    ) -> Result<(), NotRecognised> {
        self.look_again().await;
        let accounts = self.accounts();
        let hash = accounts.get(name).cloned();
        let digest = hash.as_ref().map(|hash| lock(&self.verified).digest(name, hash, password));
        if digest.is_some_and(|digest| lock(&self.verified).holds(&digest)) {
            return Ok(());
        }
        let account = hash.as_ref().map(|_| Box::from(name));
        let turn = self.comparers.turn(client, account).await.ok_or(NotRecognised::Busy)?;
        let (password, cost_max) = (password.clone(), accounts.cost_max());
        // A client that leaves meanwhile does not end the comparison, and so keeps its turn.
        let comparing = spawn_blocking(move || {
            let _turn = turn;
            compare(&password, hash.as_ref(), cost_max)
        });
        match (comparing.await, digest) {
            (Ok(true), Some(digest)) => {
                lock(&self.verified).remember(digest);
                Ok(())
            }
            _ => Err(NotRecognised::Wrong),
        }
    }

    fn accounts(&self) -> Arc<Accounts> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again if it changed, at most once in [`LOOK_INTERVAL`]. Logins meanwhile use the present
    /// accounts.
    async fn look_again(self: &Arc<Self>) {
        {
            let mut look = lock(&self.look);
            if look.due > Instant::now() {
                return;
            }
            look.due = Instant::now() + LOOK_INTERVAL;
        }
        let users = self.clone();
        // After a panic there, the accounts stay as they are.
        let _ = spawn_blocking(move || users.read_if_changed()).await;
    }

    fn read_if_changed(&self) {
        let found = fs::metadata(&self.path).map(|metadata| Seen::of(&metadata));
        let seen = found.as_ref().ok().copied().flatten();
        {
            let mut look = lock(&self.look);
            if seen.is_some() && look.seen == seen {
                return;
            }
            look.seen = seen;
        }
        let told = match read(&self.path) {
            Ok((accounts, faults)) => {
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(accounts);
                let faults: Vec<_> = faults.iter().take(FAULTS_TOLD_MAX).map(ToString::to_string).collect();
                let told = format!("some accounts cannot log in, all others can: {}", faults.join("; "));
                (!faults.is_empty()).then_some(told)
            }
            Err(error) => Some(format!("the accounts cannot be read, the present ones stay in force: {error}")),
        };
        // A file that was changed just now is read again, and its faults are the same.
        let mut look = lock(&self.look);
        if let Some(told) = told.as_ref().filter(|told| look.told.as_ref() != Some(told)) {
            tracing::error!(path = %self.path.display(), "{told} (registry.htpasswd)");
        }
        look.told = told;
    }
}

impl Seen {
    /// None if the file changed so recently that another change would look the same.
    fn of(metadata: &Metadata) -> Option<Self> {
        let settled = metadata
            .modified()
            .is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age >= SETTLED));
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        settled.then_some(Self { inode: metadata.ino(), size_bytes: metadata.size(), changed })
    }
}

impl Verified {
    fn digest(&self, name: &str, hash: &BcryptHash, password: &Secret) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name, hash.as_str(), password.expose()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }

    fn holds(&self, digest: &[u8; 32]) -> bool {
        self.until.get(digest).is_some_and(|until| *until > Instant::now())
    }

    fn remember(&mut self, digest: [u8; 32]) {
        if self.until.len() >= VERIFIED_MAX {
            let now = Instant::now();
            self.until.retain(|_, until| *until > now);
        }
        if self.until.len() >= VERIFIED_MAX {
            self.until.clear();
        }
        self.until.insert(digest, Instant::now() + VERIFIED_FOR);
    }
}

/// The accounts of the good lines, and the faults of the others. A file without any good line is no file of accounts.
fn read(path: &Path) -> Result<(Accounts, Vec<HtpasswdError>), String> {
    let mut content = Vec::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut content).map_err(|error| error.to_string())?;
    if content.len() as u64 > FILE_MAX_BYTES {
        return Err("it is larger than 4 MiB".to_owned());
    }
    match Accounts::read(&content) {
        (accounts, faults) if accounts.is_empty() && !faults.is_empty() => Err(faults[0].to_string()),
        read => Ok(read),
    }
}

/// Every refusal takes the same time: that of one comparison at the highest cost in the file. Each step of the cost
/// doubles the work, so comparisons at every cost from the account's own up to the highest add up to the missing part.
fn compare(password: &Secret, hash: Option<&BcryptHash>, cost_max: Option<u32>) -> bool {
    let right = hash.is_some_and(|hash| bcrypt::verify(password.expose(), hash.as_str()).unwrap_or(false));
    if let Some(cost_max) = cost_max.filter(|_| !right) {
        for cost in missing(hash.map(BcryptHash::cost), cost_max) {
            // The result is known. Only the time of the comparison matters.
            let _ = bcrypt::verify(password.expose(), &nobodys_hash(cost));
        }
    }
    right
}

/// The costs whose comparisons add up to the part that is missing to the highest cost.
fn missing(compared: Option<u32>, cost_max: u32) -> Range<u32> {
    compared.map_or(cost_max..cost_max + 1, |cost| cost..cost_max)
}

/// A hash that no known password has.
fn nobodys_hash(cost: u32) -> String {
    format!("$2y${cost:02}${}", ".".repeat(53))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Writes a file with these accounts, at bcrypt's lowest cost.
    pub(crate) fn write(path: &Path, accounts: &[(&str, &str)]) {
        let line = |(name, password): &(&str, &str)| format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap());
        fs::write(path, accounts.iter().map(line).collect::<String>()).unwrap();
    }

    impl Users {
        /// Reads the file now instead of within a second.
        pub(crate) fn look_now(&self) {
            self.read_if_changed();
        }
    }

    fn users(accounts: &[(&str, &str)]) -> (tempfile::TempDir, Arc<Users>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("htpasswd");
        write(&path, accounts);
        (folder, Users::open(&path))
    }

    async fn check(users: &Arc<Users>, name: &str, password: &str) -> Result<(), NotRecognised> {
        check_from(users, [192, 0, 2, 1], name, password).await
    }

    #[tokio::test]
    async fn name_and_password_must_belong_together() {
        let (_folder, users) = users(&[("alice", "canary-a"), ("bob", "canary-b")]);
        for _ in 0..2 {
            assert_eq!(check(&users, "alice", "canary-a").await, Ok(()));
            for (name, password) in
                [("alice", "canary-b"), ("bob", "canary-a"), ("carol", "canary-a"), ("", ""), ("alice", "")]
            {
                assert_eq!(check(&users, name, password).await, Err(NotRecognised::Wrong), "{name}");
            }
        }
        assert_eq!(lock(&users.verified).until.len(), 1, "only what was right is remembered");
        assert!(users.has("bob").await && !users.has("carol").await);
    }

    #[tokio::test]
    async fn a_changed_password_or_a_lost_account_is_out_at_once() {
        let (_folder, users) = users(&[("alice", "canary-old"), ("bob", "canary-b")]);
        assert_eq!(check(&users, "alice", "canary-old").await, Ok(()));
        assert_eq!(check(&users, "bob", "canary-b").await, Ok(()));
        write(users.path(), &[("alice", "canary-new")]);
        users.look_now();
        assert_eq!(check(&users, "alice", "canary-old").await, Err(NotRecognised::Wrong));
        assert_eq!(check(&users, "alice", "canary-new").await, Ok(()));
        assert_eq!(check(&users, "bob", "canary-b").await, Err(NotRecognised::Wrong));
        fs::write(users.path(), "no htpasswd file").unwrap();
        users.look_now();
        assert_eq!(check(&users, "alice", "canary-new").await, Ok(()), "the last good one stays");
        fs::remove_file(users.path()).unwrap();
        users.look_now();
        assert_eq!(check(&users, "alice", "canary-new").await, Ok(()));
        write(users.path(), &[("bob", "canary-b"), ("carol", "canary-c")]);
        let text = fs::read_to_string(users.path()).unwrap();
        fs::write(users.path(), format!("alice:!\n{text}dave:canary\n")).unwrap();
        users.look_now();
        for (name, password, expected) in [
            ("bob", "canary-b", Ok(())),
            ("carol", "canary-c", Ok(())),
            ("alice", "canary-new", Err(NotRecognised::Wrong)),
            ("dave", "canary", Err(NotRecognised::Wrong)),
        ] {
            assert_eq!(
                check(&users, name, password).await,
                expected,
                "{name}: good lines count, bad ones let nobody in"
            );
        }
    }

    async fn check_from(users: &Arc<Users>, client: [u8; 4], name: &str, password: &str) -> Result<(), NotRecognised> {
        users.check(ClientKey::of(client.into()), name, &Secret::new(password)).await
    }

    /// Strangers that guess passwords all the time, and clients with the right one.
    #[tokio::test]
    async fn wrong_passwords_lock_nobody_else_out() {
        let (_folder, users) = users(&[("alice", "canary-a"), ("bob", "canary-b")]);
        for (guesser, guessed, honest) in [
            // From one address, from many, and from the address of the honest client.
            ([198, 51, 100, 1], Some("alice"), [192, 0, 2, 1]),
            ([203, 0, 113, 0], Some("alice"), [192, 0, 2, 2]),
            ([192, 0, 2, 3], Some("alice"), [192, 0, 2, 3]),
            ([203, 0, 113, 0], None, [192, 0, 2, 4]),
        ] {
            let is_spread = guesser[3] == 0;
            let guesses = (0..300_u32).map(|number| {
                let (users, name) = (users.clone(), guessed.map_or(format!("nobody-{number}"), str::to_owned));
                let mut address = guesser;
                address[3] = if is_spread { u8::try_from(number % 200).unwrap_or(0) } else { guesser[3] };
                tokio::spawn(async move { check_from(&users, address, &name, &number.to_string()).await })
            });
            let guesses: Vec<_> = guesses.collect();
            tokio::task::yield_now().await;
            lock(&users.verified).until.clear();
            let login = check_from(&users, honest, "bob", "canary-b").await;
            assert_eq!(login, Ok(()), "{guesser:?} {guessed:?}");
            let mut busy = 0;
            for guess in guesses {
                match guess.await.unwrap() {
                    Err(NotRecognised::Busy) => busy += 1,
                    other => assert_eq!(other, Err(NotRecognised::Wrong)),
                }
            }
            assert!(busy > 0, "those that wait are bounded");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut verified = Verified { key: hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]), until: HashMap::new() };
        for number in 0..3000_u32 {
            let mut digest = [0; 32];
            digest[..4].copy_from_slice(&number.to_be_bytes());
            verified.remember(digest);
            assert!(verified.holds(&digest) && verified.until.len() <= VERIFIED_MAX);
        }
    }

    /// The work is counted instead of the time, so that the test needs no clock.
    #[test]
    fn every_refusal_takes_the_work_of_the_highest_cost() {
        assert!(bcrypt::verify("x", &nobodys_hash(4)).is_ok_and(|right| !right), "a hash that bcrypt really computes");
        for compared in [None, Some(4), Some(10), Some(12)] {
            let own = compared.map_or(0, |cost| 1_u64 << cost);
            let added: u64 = missing(compared, 12).map(|cost| 1 << cost).sum();
            assert_eq!(own + added, 1 << 12, "{compared:?}");
        }
    }
}
