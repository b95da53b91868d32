//! The product from outside. Each module is a promise; each test has a world of its own, so one that fails leaves the
//! others alone.

mod direct;
