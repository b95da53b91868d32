//! The grammar and the pure decisions of entrepot, without input or output.
//!
//! Functions here take bytes or values and return values. None of them opens a socket or a file, reads a clock or starts
//! a thread, so each rule is tested by a table. A type exists only in its valid form: a `Digest`, a `RepositoryName` or a
//! `RegistryHost` needs no further check. This crate depends on no other crate of the workspace.
//!
//! | module | content | specification |
//! |---|---|---|
//! | [`framing`] | where requests begin and end on a client's connection | RFC 9112 |
//! | [`sniff`] | the protocol of a redirected connection, from its first bytes | RFC 8446, RFC 6066 |
//! | [`unplaced`], [`door_rights`] | what a door tells the redirect agent | |
//! | [`proxy_header`] | the addresses of a relayed connection | PROXY protocol 2 |
//! | [`route`] | what a request's path names | OCI Distribution 1.1 |
//! | [`name`], [`digest`] | repository names, tags, digests, references | OCI Distribution and Image |
//! | [`host`], [`mdns_name`] | registries with their ports, patterns of registries, `.local` names | RFC 9110, RFC 6762 |
//! | [`client`] | clients as bounds count them | RFC 7217, RFC 8981 |
//! | [`recent`] | bounded tables whose keys strangers choose | |
//! | [`origin`] | a registry's scheme, name and port | RFC 6454 section 4 |
//! | [`docker_hub`] | the names of Docker Hub: what people write, and the hosts that answer | |
//! | [`range`] | which bytes a client gets | RFC 9110 section 14 |
//! | [`validator`] | which parts of content belong together | RFC 9110 sections 8.8 and 13.1.5 |
//! | [`media`] | what a client accepts, what a manifest is and refers to | OCI Image, Docker schema 1 and 2 |
//! | [`pushed_manifest`] | the faults of manifests that are pushed here | OCI Image, Docker schema 2 |
//! | [`conditional`] | requests on conditions | RFC 9110 section 13 |
//! | [`schema1`] | the digest of a signed manifest | Docker schema 1 |
//! | [`link`] | the next page of a list | RFC 8288 |
//! | [`referrer`], [`platform`] | entries of lists that are made from manifests | OCI Distribution and Image |
//! | [`challenge`] | what a registry asks for, which token server may get credentials | RFC 9110 section 11.6 |
//! | [`scope`] | the rights in our own registry's tokens | distribution's token specification |
//! | [`freshness`] | how long tags, tokens and verdicts are valid | |
//! | [`outcome`] | the words of the access log for requests and answers | docker-registry-proxy |
//! | [`error`] | all errors that clients see | OCI Distribution 1.1 |
//! | [`quantity`], [`htpasswd`] | sizes, durations and accounts as administrators write them | nginx, Apache |
//! | [`secret`] | text that is never printed and is wiped after use | |
//! | [`exit`] | exit codes of the command line | sysexits.h |
//!
//! A request for a blob passes the grammar and the range decision like this:
//!
//! ```
//! use entrepot_core::range::{RangeAnswer, decide};
//! use entrepot_core::route::Route;
//! use http::Method;
//!
//! let path = format!("/v2/library/busybox/blobs/sha256:{}", "0a".repeat(32));
//! let Route::Blob { repository, digest } = Route::parse(&Method::GET, &path, None)? else {
//!     panic!("a blob");
//! };
//! assert_eq!(repository.as_str(), "library/busybox");
//! assert_eq!(digest.bytes(), [10; 32]);
//! assert_eq!(decide(Some("bytes=5-"), 10), RangeAnswer::Part { start: 5, end: 10 });
//! # Ok::<(), entrepot_core::route::RouteError>(())
//! ```

#![warn(missing_docs)]

pub mod challenge;
pub mod client;
pub mod coding;
pub mod conditional;
pub mod digest;
pub mod docker_hub;
pub mod door_rights;
pub mod error;
pub mod exit;
pub mod framing;
pub mod freshness;
pub mod host;
pub mod htpasswd;
pub mod link;
pub mod mdns_name;
pub mod media;
pub mod name;
pub mod origin;
pub mod outcome;
pub mod platform;
pub mod proxy_header;
pub mod pushed_manifest;
pub mod quantity;
pub mod range;
pub mod ranged;
pub mod recent;
pub mod referrer;
pub mod route;
pub mod schema1;
pub mod scope;
pub mod secret;
pub mod sniff;
pub mod unplaced;
pub mod validator;
