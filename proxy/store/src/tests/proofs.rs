//! Public proofs: each belongs to one link or one artefact, and a refusal of an anonymous client ends it.

use std::time::{Duration, SystemTime};

use redb::{ReadableTableMetadata, TableDefinition};

use super::*;
use crate::index::Job;
use crate::times::{ms_of, time_of};
use crate::{ArtefactEntry, Link, Names, Place};

fn place(repository: &str) -> Place {
    Place::new(origin("ghcr.io"), repository.parse().unwrap())
}

/// A time after the start of every store, in seconds.
fn at(s: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000 + s)
}

/// A store with a link that was made at the time 100.
fn linked(places: &[&Place], digest: &Digest) -> World {
    let world = World::new(PLENTY);
    for place in places {
        link_at(&world.store, place, digest, at(100));
    }
    world
}

fn link_at(store: &Store, place: &Place, digest: &Digest, time: SystemTime) {
    let (place, digest) = (place.clone(), *digest);
    assert!(store.index.change(Job::new(move |tables| tables.link(&place, &digest, ms_of(time), 0))));
}

fn public_at(names: &Names, place: &Place, digest: &Digest) -> Option<SystemTime> {
    let told = done(names.link_of(place, digest)).unwrap().public_at;
    assert_eq!(done(names.link_of(place, digest)).unwrap().public_at, told, "from memory as from the index");
    assert_eq!(done(names.public_places(digest, at(0))), told.is_some());
    told
}

/// How many repositories have a row of their proofs.
fn rows(store: &Store) -> u64 {
    let table: TableDefinition<'_, (&str, &str), (u64, u64)> = TableDefinition::new("proofs");
    store.index.read(|transaction| Ok(transaction.open_table(table)?.len()?)).unwrap()
}

#[test]
fn a_proof_belongs_to_one_link() {
    let (here, there, digest, later) = (place("a/b"), place("a/c"), content(1, 10).0, content(2, 10).0);
    let world = linked(&[&here, &there], &digest);
    let names = &world.store.names;
    assert_eq!(public_at(names, &here, &digest), None);
    done(names.prove_public(&here, &digest, at(99)));
    assert_eq!(public_at(names, &here, &digest), None, "an answer from before the link is none about it");
    done(names.prove_public(&here, &later, at(200)));
    assert!(done(names.link_of(&here, &later)).is_none(), "no link, no proof");
    done(names.prove_public(&here, &digest, at(200)));
    assert_eq!(public_at(names, &here, &digest), Some(at(200)));
    assert_eq!(done(names.link_of(&there, &digest)).unwrap().public_at, None, "another repository");
    done(names.prove_public(&here, &digest, at(150)));
    assert_eq!(public_at(names, &here, &digest), Some(at(200)), "the later proof stays");

    link_at(&world.store, &here, &later, at(300));
    assert_eq!(public_at(names, &here, &later), None, "content that was linked later is not covered");
    done(names.link(&here, &digest, None));
    let kept = Link { linked_at: at(100), public_at: Some(at(200)) };
    assert_eq!(done(names.link_of(&here, &digest)), Some(kept), "a link that is made again keeps its age and proof");
    done(names.link(&here, &digest, Some(at(250))));
    assert_eq!(public_at(names, &here, &digest), Some(at(250)));
    done(names.unlink(&here, &digest));
    done(names.link(&here, &digest, None));
    assert_eq!(public_at(names, &here, &digest), None, "a link that was taken away took its proof with it");
}

#[test]
fn a_refusal_ends_the_proofs_of_its_repository_for_good() {
    let (here, there, one, two) = (place("a/b"), place("a/c"), content(1, 10).0, content(2, 10).0);
    let world = linked(&[&here, &there], &one);
    link_at(&world.store, &here, &two, at(100));
    let names = &world.store.names;
    for (place, digest, time) in [(&here, &one, at(200)), (&here, &two, at(300)), (&there, &one, at(200))] {
        done(names.prove_public(place, digest, time));
        assert!(done(names.link_of(place, digest)).unwrap().public_at.is_some(), "in memory now");
    }
    done(names.refuse_public(&here, at(250)));
    let state = |world: &World| {
        let told = |place, digest| done(world.store.names.link_of(place, digest)).unwrap().public_at;
        (told(&here, &one), told(&here, &two), told(&there, &one))
    };
    assert_eq!(state(&world), (None, Some(at(300)), Some(at(200))), "what was proven before it");
    assert!(done(names.public_places(&one, at(200))) && !done(names.public_places(&one, at(201))), "at the other");
    done(names.prove_public(&here, &one, at(240)));
    done(names.link(&here, &one, Some(at(250))));
    assert_eq!(state(&world).0, None, "a proof that comes late is as old as its answer");
    done(names.refuse_public(&here, at(300)));
    assert_eq!(state(&world), (None, None, Some(at(200))));
    let world = world.restarted();
    assert_eq!(state(&world), (None, None, Some(at(200))), "also after a restart");
    done(world.store.names.prove_public(&here, &one, at(400)));
    assert_eq!(state(&world), (Some(at(400)), None, Some(at(200))), "public again, and only what was asked for");
}

#[test]
fn a_refusal_holds_before_the_index_hears_of_it() {
    let (here, digest) = (place("a/b"), content(1, 10).0);
    let world = linked(&[&here], &digest);
    let names = &world.store.names;
    done(names.prove_public(&here, &digest, at(200)));
    assert_eq!(public_at(names, &here, &digest), Some(at(200)));
    // The index's writer is held up, so the refusal is only on its way.
    let (release, held) = std::sync::mpsc::channel::<()>();
    world.store.index.change_later(Job::new(move |_| {
        held.recv().unwrap();
        Ok(())
    }));
    std::thread::scope(|scope| {
        let refusing = scope.spawn(|| done(names.refuse_public(&here, at(200))));
        soon("the refusal holds", || done(names.link_of(&here, &digest)).unwrap().public_at.is_none());
        assert!(!done(names.public_places(&digest, at(0))));
        assert!(!refusing.is_finished(), "the index has not heard of it");
        release.send(()).unwrap();
    });
    assert_eq!(public_at(names, &here, &digest), None);
}

#[test]
fn a_stranger_that_is_refused_again_and_again_writes_nothing() {
    let (here, digest) = (place("a/b"), content(1, 10).0);
    let world = linked(&[&here], &digest);
    let names = &world.store.names;
    done(names.prove_public(&here, &digest, at(200)));
    done(names.refuse_public(&here, at(300)));
    assert_eq!(rows(&world.store), 1);
    // Nothing could be written now: the index's writer is held up until the end.
    let (release, held) = std::sync::mpsc::channel::<()>();
    world.store.index.change_later(Job::new(move |_| {
        held.recv().unwrap();
        Ok(())
    }));
    for number in 0..1000 {
        done(names.refuse_public(&here, at(400 + number)));
        done(names.refuse_public(&place(&format!("a/never-seen-{number}")), at(400)));
    }
    release.send(()).unwrap();
    assert_eq!(rows(&world.store), 1, "a repository that nobody proved public has no row");
    done(names.prove_public(&here, &digest, at(1300)));
    assert_eq!(public_at(names, &here, &digest), None, "as old as a refusal that was not written");
    done(names.prove_public(&here, &digest, at(2000)));
    assert_eq!(public_at(names, &here, &digest), Some(at(2000)));
    done(names.refuse_public(&here, at(2001)));
    let world = world.restarted();
    assert_eq!(
        public_at(&world.store.names, &here, &digest),
        None,
        "there was something to end again, and it was written"
    );
}

#[test]
fn a_lost_change_of_the_index_is_not_taken_for_a_refusal_that_was_written() {
    for error in [redb::Error::PreviousIo, redb::Error::ValueTooLarge(1)] {
        let failure = error.to_string();
        let (here, digest) = (place("a/b"), content(1, 10).0);
        let world = linked(&[&here], &digest);
        let names = &world.store.names;
        done(names.prove_public(&here, &digest, at(200)));
        assert!(done(world.store.flush()));
        // The refusal is written in the same transaction as a change that fails, so it is lost with that.
        let (release, held) = std::sync::mpsc::channel::<()>();
        world.store.index.change_later(Job::new(move |_| {
            held.recv().unwrap();
            Ok(())
        }));
        std::thread::scope(|scope| {
            let refusing = scope.spawn(|| done(names.refuse_public(&here, at(300))));
            soon("the refusal holds", || done(names.link_of(&here, &digest)).unwrap().public_at.is_none());
            world.store.index.change_later(Job::new(move |_| Err(error)));
            release.send(()).unwrap();
            refusing.join().unwrap();
        });
        soon("the index is open again", || done(names.link_of(&here, &digest)).is_some());
        assert_eq!(done(names.link_of(&here, &digest)).unwrap().public_at, None, "this process knows: {failure}");
        done(names.refuse_public(&here, at(300)));
        let world = world.restarted();
        assert_eq!(public_at(&world.store.names, &here, &digest), None, "the next one was written: {failure}");
    }
}

#[test]
fn old_proofs_expire_and_refused_ones_do_not_come_back() {
    let (here, one, two) = (place("a/b"), content(1, 10).0, content(2, 10).0);
    let world = World::new(PLENTY);
    let (digests, now) = ([put(&world.store, 1, 10), put(&world.store, 2, 10)], SystemTime::now());
    assert_eq!(digests, [one, two]);
    let seen = |hours: u64| now - Duration::from_secs(hours * 3600);
    world.store.names.memory().set_floor(0);
    for digest in &digests {
        link_at(&world.store, &here, digest, seen(100));
    }
    let names = &world.store.names;
    done(names.prove_public(&here, &one, seen(90)));
    done(names.refuse_public(&here, seen(80)));
    assert_eq!(done(world.store.expire_unused(seen(78))), 0);
    assert_eq!(rows(&world.store), 1, "its refusal is needed");
    assert_eq!(done(world.store.expire_unused(now)), 0);
    assert_eq!(rows(&world.store), 0, "not used for an hour and another");
    let world = world.restarted();
    let names = &world.store.names;
    names.memory().set_floor(0);
    done(names.prove_public(&here, &two, now));
    let told = digests.map(|digest| done(names.link_of(&here, &digest)).unwrap().public_at);
    assert_eq!(told, [None, Some(time_of(ms_of(now)))], "the refused proof stays refused");
    let used: Vec<_> = digests.iter().map(|digest| done(world.store.blobs.get(digest)).unwrap().unwrap()).collect();
    let later = now + Duration::from_secs(3 * 3600);
    assert_eq!(done(world.store.expire_unused(later)), 0);
    let told = digests.map(|digest| done(names.link_of(&here, &digest)).unwrap().public_at);
    assert_eq!(told, [None, None], "proofs that nobody renewed are forgotten, their links are not");
    drop(used);
}

#[test]
fn public_proofs_are_kept_as_long_as_they_count() {
    for (inactive_h, offline_h, kept_h, gone_h) in [(1, 100, 99, 102), (100, 1, 99, 102), (1, 0, 1, 3)] {
        let (here, world) = (place("a/b"), World::new(PLENTY));
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        world.store.set_limits(Limits { inactive: hours(inactive_h), proofs: hours(offline_h), ..limits(PLENTY) });
        let (digest, now) = (content(1, 10).0, SystemTime::now() + hours(1));
        link_at(&world.store, &here, &digest, now);
        done(world.store.names.prove_public(&here, &digest, now));
        for (after_h, expected) in [(kept_h, 1), (gone_h, 0)] {
            done(world.store.expire_unused(now + hours(after_h)));
            assert_eq!(rows(&world.store), expected, "{inactive_h} {offline_h}: after {after_h} h");
        }
    }
}

#[test]
fn an_older_proof_does_not_outlive_a_refusal_that_memory_lost() {
    type Loss = fn(World) -> World;
    let losses: [(&str, Loss); 3] = [
        ("nothing is lost", |world| world),
        ("a flood of refusals", |world| {
            for number in 0..20_000_u64 {
                // Twice, so that it counts as used, as the one that is to be lost does.
                for _ in 0..2 {
                    world
                        .store
                        .names
                        .memory()
                        .refuse(&(&place(&format!("flood/{number}"))).into(), ms_of(at(301)) + number);
                }
            }
            world
        }),
        ("a flood of proofs", |world| {
            for number in 0..20_000_u64 {
                for _ in 0..2 {
                    world
                        .store
                        .names
                        .memory()
                        .admits_proof(&(&place(&format!("flood/{number}"))).into(), ms_of(at(301)) + number);
                }
            }
            world
        }),
    ];
    for (loss, lose) in losses {
        let (here, digest) = (place("a/b"), content(1, 10).0);
        let world = linked(&[&here], &digest);
        done(world.store.names.refuse_public(&here, at(300)));
        let world = lose(world);
        let names = &world.store.names;
        // A long fetch began before the refusal, and ends now.
        done(names.link(&here, &digest, Some(at(200))));
        assert_eq!(public_at(names, &here, &digest), None, "{loss}");
        done(names.prove_public(&here, &digest, at(5000)));
        done(names.prove_public(&here, &digest, at(250)));
        assert_eq!(public_at(names, &here, &digest), Some(at(5000)), "{loss}: public again");
        let other = content(2, 10).0;
        done(names.link(&here, &other, Some(at(200))));
        assert_eq!(done(names.link_of(&here, &other)).unwrap().public_at, None, "{loss}: what is as old stays refused");
    }
}

#[test]
fn a_proof_from_before_the_start_is_none_after_it() {
    let (here, digest) = (place("a/b"), content(1, 10).0);
    let world = linked(&[&here], &digest);
    let before = SystemTime::now();
    let known = world.store.names.memory().admits_proof(&(&here).into(), ms_of(at(1)));
    assert!(known, "later than the start");
    let world = world.restarted();
    done(world.store.names.link(&here, &content(2, 10).0, Some(before)));
    assert_eq!(done(world.store.names.link_of(&here, &content(2, 10).0)).unwrap().public_at, None);
    done(world.store.names.link(&here, &content(3, 10).0, Some(at(2))));
    assert_eq!(done(world.store.names.link_of(&here, &content(3, 10).0)).unwrap().public_at, Some(at(2)));
}

#[test]
fn an_artefact_is_no_repository() {
    let world = World::new(PLENTY);
    let digest = put(&world.store, 1, 10);
    let names = &world.store.names;
    let (sealed, plain, path) = (origin("npm.example"), origin("http://npm.example:443"), "/a.tgz?x");
    let entry = |linked_at, public_at| ArtefactEntry {
        digest,
        size_bytes: 10,
        content_type: "application/gzip".to_owned(),
        headers: Vec::new(),
        link: Link { linked_at, public_at },
    };
    let told = |origin: &Origin| done(names.artefact(origin, path)).map(|entry| entry.link.public_at);
    done(names.prove_artefact_public(&sealed, path, at(200)));
    assert_eq!(told(&sealed), None, "nothing to prove");
    done(names.set_artefact(&sealed, path, entry(at(100), None)));
    assert_eq!((told(&sealed), told(&plain)), (Some(None), None), "another origin");
    for (time, proven) in [(99, None), (200, Some(at(200))), (150, Some(at(200))), (300, Some(at(300)))] {
        done(names.prove_artefact_public(&sealed, path, at(time)));
        assert_eq!(told(&sealed), Some(proven), "{time}");
    }
    let namesake = Place::new(sealed.clone(), "a.tgz".parse().unwrap());
    done(names.link(&namesake, &digest, Some(at(300))));
    done(names.refuse_public(&namesake, at(400)));
    assert_eq!(told(&sealed), Some(Some(at(300))), "a repository's refusal is not the artefact's");
    assert!(!done(names.public_places(&digest, at(0))), "and an artefact makes no repository public");
    done(names.refuse_artefact(&sealed, path, at(300)));
    assert_eq!(told(&sealed), Some(None));
    done(names.refuse_artefact(&sealed, "/unknown", at(300)));
    assert_eq!(done(names.artefact(&sealed, path)), Some(entry(at(100), None)), "the rest of it stays");
}

#[test]
fn a_late_proof_does_not_revive_what_a_refusal_of_an_artefact_ended() {
    let world = World::new(PLENTY);
    let digest = put(&world.store, 1, 10);
    let names = &world.store.names;
    let npm = origin("npm.example");
    let entry = |public_at| ArtefactEntry {
        digest,
        size_bytes: 10,
        content_type: "application/gzip".to_owned(),
        headers: Vec::new(),
        link: Link { linked_at: at(50), public_at },
    };
    let told = |path: &str| done(names.artefact(&npm, path)).expect("an entry").link.public_at;
    // Refused while it was on its way, and noted afterwards with the time of its answer.
    for path in ["/a.tgz", "/b.tgz"] {
        done(names.refuse_artefact(&npm, path, at(150)));
        done(names.set_artefact(&npm, path, entry(Some(at(100)))));
        assert_eq!(told(path), None, "{path}");
    }
    done(names.prove_artefact_public(&npm, "/a.tgz", at(120)));
    assert_eq!(told("/a.tgz"), None, "a proof from before the refusal");
    done(names.prove_artefact_public(&npm, "/a.tgz", at(151)));
    assert_eq!(told("/a.tgz"), Some(at(151)));
    assert_eq!(told("/b.tgz"), None, "another artefact");
    // A refusal that is older than the proof ends nothing, and one that is younger does, whatever its order.
    done(names.refuse_artefact(&npm, "/a.tgz", at(140)));
    assert_eq!(told("/a.tgz"), Some(at(151)));
    done(names.refuse_artefact(&npm, "/a.tgz", at(200)));
    done(names.set_artefact(&npm, "/a.tgz", entry(Some(at(199)))));
    assert_eq!(told("/a.tgz"), None);
    done(names.set_artefact(&npm, "/a.tgz", entry(Some(at(201)))));
    assert_eq!(told("/a.tgz"), Some(at(201)));
    let world = world.restarted();
    let told = |path: &str| done(world.store.names.artefact(&npm, path)).expect("an entry").link.public_at;
    assert_eq!((told("/a.tgz"), told("/b.tgz")), (Some(at(201)), None), "after a restart as well");
}
