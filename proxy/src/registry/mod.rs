//! The registry that is ours: what is pushed to it, pulled from it and deleted, by OCI Distribution 1.1.
//!
//! `access/` says who may do what, `events/` tells others of it. What was pushed lies in `store/pushed/`; what only
//! passes through from upstream registries is `pull/`'s.

pub mod access;
pub mod events;
