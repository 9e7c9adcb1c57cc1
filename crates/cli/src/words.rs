//! Numbers as people read them.

use std::time::Duration;

/// Bytes with a binary unit.
pub(crate) fn bytes(bytes: u64) -> String {
    let unit = bytes.checked_ilog2().unwrap_or(0) / 10;
    let name = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit as usize];
    let whole = 1u64 << (10 * unit);
    if bytes.is_multiple_of(whole) {
        format!("{} {name}", bytes / whole)
    } else {
        format!("{:.1} {name}", bytes as f64 / whole as f64)
    }
}

/// A time with the unit that fits it.
pub(crate) fn seconds(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        // A Duration counts nanoseconds; a guard takes few of them.
        Ok(_) if seconds < 1e-6 => format!("{:.1}ns", seconds * 1e9),
        Ok(time) => format!("{time:.1?}"),
        Err(_) => format!("{seconds} s"),
    }
}

/// A number that may be very small.
pub(crate) fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-3 {
        format!("{value:.1e}")
    } else if value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_unit_that_fits() {
        let words: Vec<_> =
            [0, 1023, 1024, 1536, 3 << 20, u64::MAX].into_iter().map(bytes).collect();
        assert_eq!(words, ["0 B", "1023 B", "1 KiB", "1.5 KiB", "3 MiB", "16.0 EiB"]);
    }

    #[test]
    fn times_and_numbers_keep_their_digits() {
        assert_eq!(seconds(36.44e-9), "36.4ns");
        assert_eq!(seconds(61.25e-6), "61.2µs");
        assert_eq!(seconds(0.12), "120.0ms");
        assert_eq!(seconds(-1.0), "-1 s");
        assert_eq!(
            (number(0.00004), number(1.0), number(70_000.2)),
            ("4.0e-5".into(), "1.000".into(), "70000".into())
        );
    }
}
