//! Configuration: what was typed (file, environment, flags) and what is ready.

pub mod ready;
