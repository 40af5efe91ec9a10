//! Parsing of arguments, and human-readable numbers.

use std::time::Duration;

/// Reads a length of time: `500ms`, `2s`, `5m`, `1h`; without a unit, seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let wrong = || format!("{text:?} is no length of time; write 500ms, 2s, 5m or 1h");
    let count: u64 = count.parse().map_err(|_| wrong())?;
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    match count.checked_mul(unit_ms) {
        None => Err(wrong()),
        Some(0) => Err("it must be longer than nothing, as in 2s".into()),
        Some(ms) => Ok(Duration::from_millis(ms)),
    }
}

/// Reads a moment, as RFC 3339 (`2027-01-31T12:00:00Z`, with an offset, or a date alone, which
/// stands for its first moment in UTC) or as ms since 1970. The result is ms since 1970, above 0.
pub fn unix_ms(text: &str) -> Result<u64, String> {
    let ms = match text.parse::<u64>() {
        Ok(ms) => return number_ms(ms),
        Err(_) => rfc3339_ms(text).and_then(|ms| u64::try_from(ms).ok()),
    };
    match ms {
        Some(ms) if ms > 0 => Ok(ms),
        _ => Err(format!(
            "{text:?} is no moment after 1970; write 2027-01-31T12:00:00Z, or ms since 1970"
        )),
    }
}

/// Numbers below this are seconds since 1970 more likely than ms: as ms they lie before March 1973,
/// as seconds up to the year 5138.
const UNIX_MS_MIN: u64 = 100_000_000_000;

/// Checks a moment that is given as a number of ms since 1970.
pub fn number_ms(ms: u64) -> Result<u64, String> {
    if ms >= UNIX_MS_MIN {
        return Ok(ms);
    }
    Err(format!(
        "{ms} ms since 1970 is {}; if these are seconds, write {}, or {}",
        moment(ms),
        ms.saturating_mul(1_000),
        moment(ms.saturating_mul(1_000)),
    ))
}

fn rfc3339_ms(text: &str) -> Option<i64> {
    if !text.is_ascii() {
        return None;
    }
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, time),
        None => (text, "00:00:00Z"),
    };
    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    let days_in_month = match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days_in_month).contains(&day) {
        return None;
    }
    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = fields(clock, ':', [2, 2, 2])?;
    // Second 60 is a leap second.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    let offset_min = match zone.split_at(1) {
        ("Z" | "z", "") => 0,
        (sign, rest) => {
            let [hours, minutes] = fields(rest, ':', [2, 2])?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if sign == "-" { -1 } else { 1 }
        }
    };
    let minutes = days_since_1970(year, month, day) * 1_440 + hour * 60 + minute - offset_min;
    Some((minutes * 60 + second) * 1_000 + ms)
}

/// Returns `N` numbers of the given widths, with `separator` between them.
fn fields<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, width) in numbers.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Days from 1970-01-01 in the Gregorian calendar. Years are counted from March, so that the day
/// that leap years add is the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let years = if month > 2 { year } else { year - 1 };
    let months_since_march = (month + 9) % 12;
    let day_of_year = (153 * months_since_march + 2) / 5 + day - 1;
    // 719468 days lie between 0000-03-01 and 1970-01-01.
    years * 365 + years / 4 - years / 100 + years / 400 + day_of_year - 719_468
}

/// Adds up counts of a server, which need not be true.
pub fn sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

/// A moment, given in ms since 1970, in UTC to the second: `2027-01-31T12:00:00Z`.
pub fn moment(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // The inverse of `days_since_1970`: 400 years from a first of March have 146097 days.
    let days = days + 719_468;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_since_march + 2) / 5 + 1;
    let month = (months_since_march + 2) % 12 + 1;
    let year = days / 146_097 * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Seconds for people: `42 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`.
pub fn seconds(total: u64) -> String {
    let pair = |big: u64, big_unit, small: u64, small_unit| match small {
        0 => format!("{big} {big_unit}"),
        _ => format!("{big} {big_unit} {small} {small_unit}"),
    };
    match total {
        0..60 => format!("{total} s"),
        60..3_600 => pair(total / 60, "min", total % 60, "s"),
        3_600..86_400 => pair(total / 3_600, "h", total % 3_600 / 60, "min"),
        _ => pair(total / 86_400, "d", total % 86_400 / 3_600, "h"),
    }
}

/// Milliseconds of a setting for people: like [`seconds`] where that is exact.
pub fn milliseconds(total: u64) -> String {
    match total % 1_000 {
        0 => seconds(total / 1_000),
        _ => format!("{total} ms"),
    }
}

/// Bytes for people, in powers of 1024.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `2 of 3 shares given; 1 more opens it`.
pub fn shares(given: u8, threshold: u8) -> String {
    let opens = match threshold.saturating_sub(given) {
        1 => "1 more opens it".into(),
        more => format!("{more} more open it"),
    };
    format!("{given} of {threshold} shares given; {opens}")
}

/// `1 key`, `2 keys`.
pub fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_need_a_number_and_know_four_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3_600)));
        for bad in [
            "",
            "s",
            "0s",
            "-1s",
            "1d",
            "1.5s",
            "99999999999999999999s",
            "2é",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn moments_are_read_as_rfc_3339_or_milliseconds() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.001Z", 1),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("2024-12-31T23:59:59.999z", 1_735_689_599_999),
            ("2027-01-31T12:00:00+02:00", 1_801_389_600_000),
            ("2027-01-31 10:00:00-00:00", 1_801_389_600_000),
            ("2027-01-31", 1_801_353_600_000),
            ("1801353600000", 1_801_353_600_000),
        ] {
            assert_eq!(unix_ms(text), Ok(ms), "{text}");
        }
        for bad in [
            "",
            "0",
            // Seconds.
            "1801353600",
            "tomorrow",
            "1969-12-31T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2100-02-29",
            "2027-13-01",
            "2027-01-31T12:00:00",
            "2027-01-31T24:00:00Z",
            "2027-01-31T12:00:00.Z",
            "2027-1-31",
            "2027-01-31T12:00:00+2",
        ] {
            assert!(unix_ms(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn moments_are_written_as_they_are_read() {
        for text in [
            "1970-01-01T00:00:01Z",
            "1999-12-31T23:59:59Z",
            "2000-02-29T12:30:00Z",
            "2000-03-01T00:00:00Z",
            "2026-11-26T14:05:00Z",
            "2100-02-28T23:00:00Z",
            "2100-03-01T00:00:00Z",
            "9999-12-31T00:00:00Z",
        ] {
            assert_eq!(moment(unix_ms(text).unwrap()), text);
        }
        // Every day of eleven hundred years.
        for day in 1..400_000 {
            let ms = day * 86_400_000;
            assert_eq!(unix_ms(&moment(ms + 999)), Ok(ms), "{day}");
        }
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(seconds(42), "42 s");
        assert_eq!(seconds(725), "12 min 5 s");
        assert_eq!(seconds(3_600), "1 h");
        assert_eq!(seconds(187_200), "2 d 4 h");
        assert_eq!(milliseconds(600_000), "10 min");
        assert_eq!(milliseconds(1_500), "1500 ms");
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(shares(2, 3), "2 of 3 shares given; 1 more opens it");
        assert_eq!(shares(1, 3), "1 of 3 shares given; 2 more open it");
        assert_eq!(count(1, "key"), "1 key");
        assert_eq!(count(0, "key"), "0 keys");
    }
}
