//! HTTP towards clients: what lies between an accepted connection and a typed request.

pub mod guard;
