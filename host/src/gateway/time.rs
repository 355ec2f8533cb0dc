//! Times as people write them: RFC 3339.

const DAY_US: u64 = 86_400_000_000;

/// Microseconds since the Unix epoch as a time of day in UTC.
pub fn format_time(us: u64) -> String {
    let (days, s, us) = (us / DAY_US, us / 1_000_000 % 86_400, us % 1_000_000);
    // From days to a date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`. Years
    // begin in March there, so that the day that comes and goes is a year's last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (h, min, s) = (s / 3600, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{min:02}:{s:02}.{us:06}Z")
}

/// A time such as `2026-11-20T10:00:00Z` or `2026-11-20T12:00:00.5+02:00` in microseconds since the Unix epoch; none if it is not one, or
/// lies before the epoch. What is finer than a microsecond is cut off.
pub fn parse_time(text: &str) -> Option<u64> {
    let (date, rest) = text.split_at_checked(10)?;
    let [year, month, day] = fields(date, [4, 2, 2], '-')?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let [h, min, s] = fields(clock, [2, 2, 2], ':')?;
    let (us, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let end = rest.find(|digit: char| !digit.is_ascii_digit())?;
            let micros = format!("{:0<6.6}", &rest[..end]);
            (if end == 0 { return None } else { micros.parse().ok()? }, &rest[end..])
        }
    };
    let east_min = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), offset) => {
            let [h, min] = fields(offset, [2, 2], ':')?;
            let min = i64::try_from(h * 60 + min).ok().filter(|_| h < 24 && min < 60)?;
            if sign == "+" { min } else { -min }
        }
        _ => return None,
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day == 0 || day > days_in_month || h > 23 || min > 59 || s > 60 {
        return None;
    }
    // The other way round: `days_from_civil`, see above.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let day_of_era = (year % 400) * 365 + (year % 400) / 4 - (year % 400) / 100 + (153 * month + 2) / 5 + day - 1;
    let days = (year / 400 * 146_097 + day_of_era).checked_sub(719_468)?;
    let us = days * DAY_US + (h * 3600 + min * 60 + s) * 1_000_000 + us;
    us.checked_add_signed(-east_min * 60_000_000)
}

/// Numbers of so many digits each.
fn fields<const N: usize>(text: &str, digits: [usize; N], separator: char) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut found = [0; N];
    for (found, digits) in found.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits && part.bytes().all(|it| it.is_ascii_digit()))?;
        *found = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (us, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_700_000_000_123_456, "2023-11-14T22:13:20.123456Z"),
            (4_107_542_399_000_000, "2100-02-28T23:59:59.000000Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(format_time(us), text);
            assert_eq!(parse_time(text), Some(us));
        }
        assert!((0..80_000).all(|day| parse_time(&format_time(day * DAY_US + 7)) == Some(day * DAY_US + 7)));
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(parse_time("2023-11-14T22:13:20Z"), Some(1_700_000_000_000_000));
        assert_eq!(parse_time("2023-11-15 00:13:20.1234567+02:00"), Some(1_700_000_000_123_456));
        assert_eq!(parse_time("2023-11-14T17:13:20.5-05:00"), Some(1_700_000_000_500_000));
        for wrong in [
            "12",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-11-14T22:13:20.Z",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-11-14T24:00:00Z",
            "1969-12-31T23:59:59Z",
            "2023-11-14T22:13:20ZZ",
            "+023-11-14T22:13:20Z",
            "é023-11-14T22:13:20Z",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }
}
