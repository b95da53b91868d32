//! Sizes and durations in nginx's syntax (`32g`, `60d`, `1h30m`, `500ms`), which docker-registry-proxy's users already
//! have in their environment.

use std::fmt;
use std::time::Duration;

/// The reason why text is not a size or a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// [`parse_size`] cannot read it.
    #[error("not a size; write for example 512m, 32g or 1t")]
    Size,
    /// [`parse_duration`] cannot read it.
    #[error("not a duration; write for example 500ms, 60s, 10m, 1h30m or 60d")]
    Duration,
}

/// A number of bytes, shown in the syntax that [`parse_size`] reads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

/// Reads `1024`, `64k`, `512m`, `32g`, `1t`. Units are powers of 1024, in either case, with or without `b` or `ib`.
///
/// ```
/// use entrepot_core::quantity::parse_size;
///
/// assert_eq!(parse_size("32G")?.0, 32 << 30);
/// assert_eq!(parse_size("64KiB")?.to_string(), "64k");
/// # Ok::<(), entrepot_core::quantity::QuantityError>(())
/// ```
pub fn parse_size(text: &str) -> Result<Size, QuantityError> {
    let lower = text.trim().to_ascii_lowercase();
    let digits_end = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(digits_end);
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(QuantityError::Size),
    };
    let number: u64 = digits.parse().map_err(|_| QuantityError::Size)?;
    number.checked_mul(1 << shift).map(Size).ok_or(QuantityError::Size)
}

/// Reads nginx's durations: numbers with `ms`, `s`, `m`, `h`, `d`, `w`, `M` (30 days) or `y` (365 days). The largest unit
/// comes first, and each unit appears at most once. A number without a unit is in seconds.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    const UNITS: [(&str, u64); 8] = [
        ("y", 365 * 86_400_000),
        ("M", 30 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(QuantityError::Duration);
    }
    let (mut total_ms, mut next_unit) = (0u64, 0);
    while !rest.is_empty() {
        let digits_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits_end].parse().map_err(|_| QuantityError::Duration)?;
        rest = &rest[digits_end..];
        let unit_end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = if unit_end == 0 { "s" } else { &rest[..unit_end] };
        let index = UNITS.iter().position(|(name, _)| *name == unit).ok_or(QuantityError::Duration)?;
        if index < next_unit {
            return Err(QuantityError::Duration);
        }
        next_unit = index + 1;
        rest = rest[unit_end..].trim_start();
        let part = number.checked_mul(UNITS[index].1).ok_or(QuantityError::Duration)?;
        total_ms = total_ms.checked_add(part).ok_or(QuantityError::Duration)?;
    }
    Ok(Duration::from_millis(total_ms))
}

impl fmt::Display for Size {
    /// Uses the largest unit that needs no fraction.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "t"), (30, "g"), (20, "m"), (10, "k")];
        let exact = units.iter().find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((shift, unit)) => write!(formatter, "{}{unit}", self.0 >> shift),
            None => write!(formatter, "{}", self.0),
        }
    }
}

/// Writes a duration in the syntax that [`parse_duration`] reads, with the largest unit that needs no fraction.
pub fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    match units.iter().find(|(unit_ms, _)| ms != 0 && ms.is_multiple_of(*unit_ms)) {
        Some((unit_ms, unit)) => format!("{}{unit}", ms / unit_ms),
        None => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("1024", 1024), ("64k", 65_536), ("32g", 32 << 30), ("1T", 1 << 40), ("512MiB", 512 << 20)]
        {
            assert_eq!(parse_size(text), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "g", "-1", "1.5g", "1x", "99999999999999999999", "99999999999t"] {
            assert_eq!(parse_size(bad), Err(QuantityError::Size), "{bad}");
        }
        for text in ["32g", "64k", "1025", "0"] {
            assert_eq!(parse_size(text).map(|size| size.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("60", 60_000),
            ("60s", 60_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("60d", 5_184_000_000),
            ("1M", 2_592_000_000),
            ("1d 2h", 93_600_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "-1s", "1x", "1m1h", "1s1s", "99999999999999999y"] {
            assert_eq!(parse_duration(bad), Err(QuantityError::Duration), "{bad}");
        }
        for text in ["60d", "90m", "500ms", "1s"] {
            assert_eq!(parse_duration(text).map(show_duration), Ok(text.to_owned()));
        }
    }
}
