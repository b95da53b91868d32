//! The store and the doors in process (level two of the tests): a real door, pipeline and store of the library against
//! a fake upstream registry on loopback that can be told to misbehave, and that remembers what it was asked.
//!
//! `harness` has the parts; each other module tests one promise of the product through its public face alone: requests
//! that go in, answers that come out, and what upstream saw of them.

mod harness;

mod artefacts;
mod blobs;
mod disk;
mod doors;
mod faults;
mod fills;
mod ladder;
mod manifests;
mod offline;
mod pushes;
mod ranges;
mod redirects;
mod registry;
mod reload;
mod rights;
mod shared;
mod tags;
mod trail;
