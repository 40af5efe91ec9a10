//! A certificate's dates, which webpki parses and does not expose: the few bytes of DER that lead to them (RFC 5280,
//! 4.1).

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

const DAY_S: u64 = 86_400;

/// The validity period of a certificate, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before_unix_s: u64,
    pub(super) not_after_unix_s: u64,
}

impl Validity {
    /// Returns `None` if it is not a certificate. Times before 1970 count as 0.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate, _) = element(certificate).filter(|it| it.0 == SEQUENCE)?;
        let (_, mut fields, _) = element(certificate).filter(|it| it.0 == SEQUENCE)?;
        // The version is optional; serial number, signature algorithm and issuer are not.
        if let (VERSION, _, rest) = element(fields)? {
            fields = rest;
        }
        for _ in 0..3 {
            fields = element(fields)?.2;
        }
        let (_, validity, _) = element(fields).filter(|it| it.0 == SEQUENCE)?;
        let (not_before_unix_s, rest) = time(validity)?;
        let (not_after_unix_s, _) = time(rest)?;
        Some(Self {
            not_before_unix_s,
            not_after_unix_s,
        })
    }
}

/// Parses a tag and its content. Returns the rest as well.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, bytes) = bytes.split_first()?;
    let (&first, bytes) = bytes.split_first()?;
    let (len, bytes) = match first {
        0..=0x7f => (usize::from(first), bytes),
        0x81..=0x84 => {
            let (len, rest) = bytes.split_at_checked(usize::from(first & 0x7f))?;
            let len = len
                .iter()
                .fold(0, |len, byte| len << 8 | usize::from(*byte));
            (len, rest)
        }
        _ => return None,
    };
    let (content, rest) = bytes.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// Parses `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`. Returns the rest as well.
fn time(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (tag, text, rest) = element(bytes)?;
    let digits = text.strip_suffix(b"Z")?;
    let number = |from: usize, len: usize| {
        let digits = digits.get(from..from + len)?;
        let is_number = digits.iter().all(u8::is_ascii_digit);
        is_number.then(|| {
            digits
                .iter()
                .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
        })
    };
    let (year, rest_at) = match (tag, digits.len()) {
        // RFC 5280: below 50 it is this century.
        (UTC_TIME, 12) => {
            let year = number(0, 2)?;
            (year + if year < 50 { 2000 } else { 1900 }, 2)
        }
        (GENERALIZED_TIME, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let field = |place: usize| number(rest_at + 2 * place, 2);
    let (month, day) = (field(0)?, field(1)?);
    let (hour, minute, second) = (field(2)?, field(3)?, field(4)?);
    let fits = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    let unix_s = days_since_1970(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second;
    fits.then_some((unix_s, rest))
}

/// Returns the days since 1970 in the Gregorian calendar; 0 before. After Howard Hinnant's `days_from_civil`.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    // The year begins in March, so that a leap day is its last.
    let year = if month <= 2 {
        year.wrapping_sub(1)
    } else {
        year
    };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (date, days) in [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 29), 20_786),
            ((2100, 3, 1), 47_541),
            ((1950, 1, 1), 0),
        ] {
            assert_eq!(days_since_1970(date.0, date.1, date.2), days, "{date:?}");
        }
    }

    #[test]
    fn both_forms_of_a_time_are_read_and_nothing_else() {
        let utc = [&[UTC_TIME, 13], &b"261129181500Z"[..], &[1]].concat();
        assert_eq!(time(&utc), Some((20_786 * DAY_S + 65_700, &[1][..])));
        let general = [&[GENERALIZED_TIME, 15], &b"20261129181500Z"[..]].concat();
        assert_eq!(time(&general), Some((20_786 * DAY_S + 65_700, &[][..])));
        let last_century = [&[UTC_TIME, 13], &b"991231235959Z"[..]].concat();
        assert_eq!(time(&last_century), Some((10_957 * DAY_S - 1, &[][..])));
        for bad in [
            &b"2611291815Z"[..],
            b"261329181500Z",
            b"26112918150xZ",
            b"261129181500+",
            b"",
        ] {
            let bytes = [&[UTC_TIME, bad.len() as u8], bad].concat();
            assert_eq!(time(&bytes), None);
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_dates() {
        for len in 0..40 {
            for byte in [0x00, 0x30, 0x82, 0xff] {
                assert_eq!(Validity::of(&vec![byte; len]), None);
            }
        }
    }
}
