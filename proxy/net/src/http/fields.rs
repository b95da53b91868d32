//! Reading a request's header fields where a decision hangs on them. Pure.

use http::{HeaderMap, HeaderName};

/// The value of a field that is there once and is text. One that is there twice says nothing: who reads the first would
/// decide otherwise than who reads the last.
pub fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}
