//! Sizes and ages as people read them, for the text log and the command line. Machines get plain numbers.

use std::time::Duration;

/// `512 B`, `1.2 KiB`, `34.0 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // One step further wherever rounding would print 1024.0 of a unit.
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `45s`, `12m`, `3h`, `9d`: the largest unit that is at least one.
pub fn age(elapsed: Duration) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "d"), (3600, "h"), (60, "m")];
    let seconds = elapsed.as_secs();
    match UNITS.iter().find(|(unit_seconds, _)| seconds >= *unit_seconds) {
        Some((unit_seconds, name)) => format!("{}{name}", seconds / unit_seconds),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_288_490_189, "1.2 GiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn ages() {
        for (seconds, shown) in [(0, "0s"), (59, "59s"), (60, "1m"), (7199, "1h"), (86_400 * 9 + 5, "9d")] {
            assert_eq!(age(Duration::from_secs(seconds)), shown);
        }
    }
}
