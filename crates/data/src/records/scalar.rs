//! Numbers, times and decimals of tables → JSON: what JSON's numbers cannot hold becomes text.

use serde_json::{Number, Value};

/// A number; JSON has none that is not finite.
pub(super) fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// Nanoseconds since 1970, as in ISO 8601.
pub(super) fn date_time(nanoseconds: i128) -> Value {
    let (seconds, rest) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let mut text = format!("{} {:02}:{:02}:{:02}", date(day), second / 3600, second / 60 % 60, second % 60);
    if rest > 0 {
        text += format!(".{rest:09}").trim_end_matches('0');
    }
    Value::String(text)
}

/// Days since 1970, as in ISO 8601: Howard Hinnant, "chrono-compatible low-level date algorithms", where years begin in
/// March.
pub(super) fn date(days: i128) -> String {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// A number with `scale` digits behind the point, as text: JSON's numbers would lose digits.
pub(super) fn decimal(unscaled: i128, scale: i32) -> Value {
    let Ok(scale @ 1..) = usize::try_from(scale) else { return Value::String(unscaled.to_string()) };
    let scale = scale.min(64);
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    Value::String(format!("{}{whole}.{fraction}", if unscaled < 0 { "-" } else { "" }))
}

/// An IEEE half-precision number.
pub(super) fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023) / 1024.0);
    sign * match exponent {
        0 => fraction * 2f64.powi(-14),
        31 => f64::NAN,
        _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
    }
}
