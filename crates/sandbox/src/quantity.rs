//! Kubernetes quantities (`500m`, `10Gi`), as thousandths.

/// A quantity in thousandths of its unit, rounded up; `None` for text that is no quantity.
pub fn millis(text: &str) -> Option<i128> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (number, exponent) = match suffix.strip_prefix(['e', 'E']).and_then(|e| e.parse::<i32>().ok()) {
        Some(exponent) => (number, Some(exponent)),
        None => (number, None),
    };
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    // The value is digits * numerator / denominator.
    let mut denominator = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let numerator = match (exponent, suffix) {
        (Some(exponent), _) if exponent >= 0 => 1000i128.checked_mul(10i128.checked_pow(exponent as u32)?)?,
        (Some(exponent), _) => {
            denominator = denominator.checked_mul(10i128.checked_pow(exponent.unsigned_abs())?)?;
            1000
        }
        (None, "n") => {
            denominator = denominator.checked_mul(1_000_000)?;
            1
        }
        (None, "u") => {
            denominator = denominator.checked_mul(1000)?;
            1
        }
        (None, "m") => 1,
        (None, "") => 1000,
        (None, "k") => 1000 * 1000,
        (None, "M") => 1000 * 1_000_000,
        (None, "G") => 1000 * 1_000_000_000,
        (None, "T") => 1000 * 1_000_000_000_000,
        (None, "P") => 1000 * 1_000_000_000_000_000,
        (None, "Ki") => 1000 << 10,
        (None, "Mi") => 1000 << 20,
        (None, "Gi") => 1000 << 30,
        (None, "Ti") => 1000 << 40,
        (None, "Pi") => 1000 << 50,
        _ => return None,
    };
    let product = digits.checked_mul(numerator)?;
    let value = product / denominator + i128::from(product % denominator != 0);
    Some(if negative { -value } else { value })
}

/// A quantity in whole units, rounded up.
pub fn units(text: &str) -> Option<i128> {
    millis(text).map(|m| m.div_euclid(1000) + i128::from(m.rem_euclid(1000) != 0))
}

/// This machine's memory in bytes.
pub fn machine_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kibibytes: Option<u64> = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
    kibibytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        for (text, expected) in [
            ("500m", Some(500)),
            ("2", Some(2000)),
            ("0.5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("12Gi", Some(12_884_901_888_000)),
            ("1e3", Some(1_000_000)),
            ("1E-1", Some(100)),
            ("100u", Some(1)),
            ("x", None),
            ("", None),
            ("1Zi", None),
        ] {
            assert_eq!(millis(text), expected, "{text}");
        }
        assert_eq!(units("1500m"), Some(2));
    }
}
