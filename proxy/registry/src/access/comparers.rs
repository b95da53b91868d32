//! The order in which passwords are compared. A comparison occupies a core for a tenth of a second, so only a few run at
//! once, and a client that guesses passwords could keep all others waiting.
//!
//! The next turn belongs to the login whose address and account have had the fewest turns of late, taken together. So
//! guesses from one address wait behind every other address, guesses at one account behind every other account, and an
//! account's owner at a quiet address goes before those who guess its password elsewhere. When too many wait, the one
//! that crowds most is sent away. Names that are no account count as one, because a client can make up any number.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use entrepot_core::client::ClientKey;
use tokio::sync::oneshot;

/// Logins that wait, in all.
const WAITING_MAX: usize = 64;
/// Turns count for this time, and for as long again as the recent past.
const RECENT: Duration = Duration::from_secs(30);

/// The turns of all logins of one file of accounts. Clones share them.
#[derive(Clone)]
pub(super) struct Comparers {
    line: Arc<Mutex<Line>>,
}

/// The right to compare one password. The next login has its turn when it is dropped.
pub(super) struct Turn {
    comparers: Comparers,
}

/// The account that a login is for. None if there is no account of that name.
type Account = Option<Box<str>>;

struct Line {
    at_once: usize,
    free: usize,
    arrivals: u64,
    waiting: Vec<Waiting>,
    of_client: Counts<ClientKey>,
    of_account: Counts<Account>,
}

struct Waiting {
    client: ClientKey,
    account: Account,
    arrival: u64,
    called: oneshot::Sender<Turn>,
}

/// Turns of late. There are no more entries than turns within twice [`RECENT`].
struct Counts<K> {
    since: Instant,
    now: HashMap<K, u64>,
    before: HashMap<K, u64>,
}

impl Comparers {
    /// At most `at_once` comparisons run. With none, no login has a turn.
    pub(super) fn new(at_once: usize) -> Self {
        let (of_client, of_account) = (Counts::new(), Counts::new());
        let line = Line { at_once, free: at_once, arrivals: 0, waiting: Vec::new(), of_client, of_account };
        Self { line: Arc::new(Mutex::new(line)) }
    }

    /// Waits for a turn. None if too many wait, and this client or account crowds most.
    pub(super) async fn turn(&self, client: ClientKey, account: Account) -> Option<Turn> {
        let (called, call) = oneshot::channel();
        let away = {
            let mut line = self.line();
            if line.at_once == 0 {
                return None;
            }
            line.arrivals += 1;
            let arrival = line.arrivals;
            line.waiting.push(Waiting { client, account, arrival, called });
            line.send_one_away()
        };
        // Wakes the login that is sent away, which may be this one.
        drop(away);
        self.call();
        call.await.ok()
    }

    /// Gives free turns to those who are next.
    fn call(&self) {
        loop {
            let next = {
                let mut line = self.line();
                let Some(next) = line.next(Instant::now()) else { return };
                line.free -= 1;
                next
            };
            // A login that has left drops its turn here, which calls the next one.
            let _ = next.called.send(Turn { comparers: self.clone() });
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.comparers.line().free += 1;
        self.comparers.call();
    }
}

impl Line {
    /// Takes out the login whose turn is next, and counts the turn. None if nothing is free, or nobody waits.
    fn next(&mut self, now: Instant) -> Option<Waiting> {
        self.waiting.retain(|waiting| !waiting.called.is_closed());
        if self.free == 0 {
            return None;
        }
        self.of_client.age(now);
        self.of_account.age(now);
        let next = (0..self.waiting.len()).min_by_key(|at| self.rank(&self.waiting[*at]))?;
        let next = self.waiting.swap_remove(next);
        self.of_client.count(next.client);
        self.of_account.count(next.account.clone());
        Some(next)
    }

    /// Takes out the login that crowds most, if too many wait.
    fn send_one_away(&mut self) -> Option<Waiting> {
        self.waiting.retain(|waiting| !waiting.called.is_closed());
        if self.waiting.len() <= WAITING_MAX {
            return None;
        }
        let crowding = |at: &usize| {
            let login = &self.waiting[*at];
            let same =
                |other: &Waiting| u64::from(other.client == login.client) + u64::from(other.account == login.account);
            (self.turns(login) + self.before(login).map(same).sum::<u64>(), login.arrival)
        };
        let last = (0..self.waiting.len()).max_by_key(crowding)?;
        Some(self.waiting.swap_remove(last))
    }

    /// The lowest has its turn next. A login that waits behind others of its client for its account comes after them.
    fn rank(&self, login: &Waiting) -> (u64, u64) {
        let is_same = |other: &&Waiting| other.client == login.client && other.account == login.account;
        let before = self.before(login).filter(is_same).count() as u64;
        (self.turns(login) + 2 * before, login.arrival)
    }

    fn turns(&self, login: &Waiting) -> u64 {
        self.of_client.of(&login.client) + self.of_account.of(&login.account)
    }

    fn before(&self, login: &Waiting) -> impl Iterator<Item = &Waiting> {
        let arrival = login.arrival;
        self.waiting.iter().filter(move |other| other.arrival < arrival)
    }
}

impl<K: Eq + Hash> Counts<K> {
    fn new() -> Self {
        Self { since: Instant::now(), now: HashMap::new(), before: HashMap::new() }
    }

    fn age(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age < RECENT {
            return;
        }
        self.since = now;
        self.before = std::mem::take(&mut self.now);
        if age >= RECENT * 2 {
            self.before.clear();
        }
    }

    fn count(&mut self, key: K) {
        *self.now.entry(key).or_insert(0) += 1;
    }

    fn of(&self, key: &K) -> u64 {
        let count = |counts: &HashMap<K, u64>| counts.get(key).copied().unwrap_or(0);
        count(&self.now) + count(&self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A login of an account, from an address with this last byte, that waits.
    fn login(line: &mut Line, account: &str, last: u8) -> oneshot::Receiver<Turn> {
        let (called, call) = oneshot::channel();
        line.arrivals += 1;
        let account = (!account.is_empty()).then(|| account.into());
        let client = ClientKey::of([192, 0, 2, last].into());
        line.waiting.push(Waiting { client, account, arrival: line.arrivals, called });
        call
    }

    fn line() -> Line {
        Line {
            at_once: 100,
            free: 100,
            arrivals: 0,
            waiting: Vec::new(),
            of_client: Counts::new(),
            of_account: Counts::new(),
        }
    }

    #[test]
    fn the_quietest_address_and_account_go_first() {
        for (guesses, honest, before_it) in [
            // Guesses at one account from one address: another account, another address, both, the owner elsewhere.
            (&[("alice", 1); 20][..], ("bob", 2), 1),
            (&[("alice", 1); 20], ("bob", 1), 1),
            (&[("alice", 1); 20], ("alice", 2), 1),
            // From many addresses.
            (&[("alice", 1), ("alice", 2), ("alice", 3), ("alice", 4), ("alice", 1), ("alice", 2)], ("bob", 9), 1),
            (&[("alice", 1), ("alice", 2), ("alice", 3), ("alice", 4), ("alice", 1), ("alice", 2)], ("bob", 1), 3),
            // Made-up names.
            (&[("", 1), ("", 2), ("", 3), ("", 4), ("", 5), ("", 6)], ("bob", 9), 1),
        ] {
            let mut line = line();
            let now = Instant::now();
            let mut calls: Vec<_> = guesses.iter().map(|(account, last)| login(&mut line, account, *last)).collect();
            line.next(now);
            calls.push(login(&mut line, honest.0, honest.1));
            let mine = line.arrivals;
            let turns = std::iter::from_fn(|| line.next(now)).take_while(|next| next.arrival != mine).count();
            assert!(turns < before_it, "{honest:?} after {turns} of {guesses:?}");
        }
    }

    #[test]
    fn too_many_that_wait_cost_those_who_ask_most() {
        let mut line = line();
        let mut calls = Vec::new();
        for number in 0..200_u8 {
            calls.push(login(&mut line, "alice", number % 3));
            if number == 100 {
                calls.push(login(&mut line, "bob", 9));
            }
            while line.send_one_away().is_some() {}
        }
        assert_eq!(line.waiting.len(), WAITING_MAX);
        assert!(line.waiting.iter().any(|waiting| waiting.account.as_deref() == Some("bob")), "bob waits on");
        drop(calls);
        assert!(line.next(Instant::now()).is_none(), "those who left have no turn");
    }

    #[test]
    fn turns_of_long_ago_do_not_count() {
        let mut counts = Counts::new();
        let begun = counts.since;
        counts.count("a");
        counts.age(begun + RECENT);
        assert_eq!(counts.of(&"a"), 1);
        counts.age(begun + RECENT * 2);
        assert_eq!((counts.of(&"a"), counts.before.len() + counts.now.len()), (0, 0));
        counts.count("b");
        counts.age(begun + RECENT * 9);
        assert_eq!(counts.of(&"b"), 0);
    }

    #[tokio::test]
    async fn turns_are_bounded_and_go_on_when_a_login_leaves() {
        let comparers = Comparers::new(1);
        let client = |last: u8| ClientKey::of([192, 0, 2, last].into());
        let first = comparers.turn(client(1), None).await.expect("free");
        let leaving = comparers.turn(client(2), None);
        tokio::select! { biased; _ = leaving => panic!("nothing is free"), () = tokio::task::yield_now() => {} }
        let waiting = tokio::spawn({
            let comparers = comparers.clone();
            async move { comparers.turn(client(3), None).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.expect("no panic"));
        assert_eq!(comparers.line().free, 1);
        assert!(Comparers::new(0).turn(client(1), None).await.is_none());
    }
}
