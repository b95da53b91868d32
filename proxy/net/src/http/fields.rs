//! Reads the header fields of a request that a decision depends on. Pure.

use http::{HeaderMap, HeaderName};

/// The value of a field that occurs once and is text. None if it occurs twice: one program would decide by the first
/// value, and another by the last.
pub fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}
