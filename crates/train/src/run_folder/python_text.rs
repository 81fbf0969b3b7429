//! Log lines as the Hugging Face Trainer prints them: a Python dictionary, for people and scripts that search for it.

/// `{'loss': 2.8227, 'learning_rate': 0.0002958620689655172, 'epoch': 0.01}`: the epoch with two decimals, the learning
/// rate in full, everything else with four.
pub(super) fn log_line(values: &[(&str, f64)]) -> String {
    let values: Vec<String> = values
        .iter()
        .map(|&(name, value)| {
            let value = match name {
                "epoch" => rounded(value, 2),
                "learning_rate" => value,
                _ => rounded(value, 4),
            };
            format!("'{name}': {}", python_float(value))
        })
        .collect();
    format!("{{{}}}", values.join(", "))
}

pub(super) fn is_log_line(line: &str) -> bool {
    line.starts_with("{'") && line.trim_end().ends_with('}')
}

fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    (value * scale).round() / scale
}

/// The shortest text that reads back as `value`, in the form of Python's `repr`.
fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    let magnitude = value.abs();
    if value.is_finite() && magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{value:e}");
        if let Some((digits, exponent)) = text.split_once('e') {
            let (sign, exponent) =
                exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
            return format!("{digits}e{sign}{exponent:0>2}");
        }
    }
    if value.is_finite() && value.fract() == 0.0 { format!("{value:.1}") } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_in_python() {
        let cases = [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (2.8227, "2.8227"),
            (0.000_295_862_068_965_517_2, "0.0002958620689655172"),
            (1e-5, "1e-05"),
            (2.5e-7, "2.5e-07"),
            (1e16, "1e+16"),
            (-123_456.0, "-123456.0"),
            (f64::INFINITY, "inf"),
        ];
        for (value, text) in cases {
            assert_eq!(python_float(value), text);
        }
    }

    #[test]
    fn seed_004_log_line() {
        let line =
            log_line(&[("loss", 2.822_74), ("learning_rate", 3e-4 * 715.0 / 725.0), ("epoch", 0.013_79)]);
        assert_eq!(line, "{'loss': 2.8227, 'learning_rate': 0.0002958620689655172, 'epoch': 0.01}");
        assert!(is_log_line(&line) && !is_log_line("{'loss': 2.8"));
    }
}
