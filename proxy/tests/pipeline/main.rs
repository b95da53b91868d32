//! In-process tests of the store and the doors: a real door, pipeline and store of the library, against a fake upstream
//! registry on loopback. The fake can misbehave as a test says, and it records its requests.
//!
//! `harness` has the parts. Each other module tests one promise of the product through its public interface: the
//! requests of clients, their answers, and the requests that upstream got.

mod harness;

mod artefact_fetches;
mod artefacts;
mod blobs;
mod dead_upstream;
mod disk;
mod doors;
mod faults;
mod fills;
mod ladder;
mod limits;
mod lists;
mod manifests;
mod matrix;
mod oddities;
mod offline;
mod origins;
mod places;
mod proofs;
mod pushes;
mod ranges;
mod redirects;
mod refused_ranges;
mod registry;
mod reload;
mod rights;
mod sequences;
mod shared;
mod sizes;
mod stalls;
mod tags;
mod trail;
mod windows;
