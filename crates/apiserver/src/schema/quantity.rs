//! Resource quantities: parsed, compared and written in their canonical form.

use std::cmp::Ordering;

/// What is wrong with a text that is no quantity.
pub const MISFIT: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// What suffixes a quantity was written with; it is written back the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    DecimalExponent,
    BinarySi,
    DecimalSi,
}

/// A quantity, exact to 10⁻⁹.
#[derive(Debug, Clone, Copy, Eq)]
pub struct Quantity {
    nano: i128,
    form: Form,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { nano: self.nano + other.nano, form: if self.nano == 0 { other.form } else { self.form } }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { nano: self.nano - other.nano, form: self.form }
    }
}

const NANO: i128 = 1_000_000_000;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, form: Form::DecimalSi };

    /// A count.
    pub fn whole(count: i64) -> Self {
        Self { nano: i128::from(count) * NANO, form: Form::DecimalSi }
    }

    /// Reads a quantity such as `500m`, `1.5Gi` or `1e3`.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let scale = i32::try_from(fraction.len()).ok()?;
        let (form, nano) = if let Some(power) = BINARY.iter().skip(1).position(|s| *s == suffix) {
            let factor = 1i128 << (10 * (u32::try_from(power).ok()? + 1));
            (Form::BinarySi, scaled(digits.checked_mul(factor)?, -scale)?)
        } else if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
            (Form::DecimalSi, scaled(digits, exponent - scale)?)
        } else if let Some(exponent) = suffix.strip_prefix(['e', 'E']) {
            (Form::DecimalExponent, scaled(digits, exponent.parse::<i32>().ok()? - scale)?)
        } else {
            return None;
        };
        Some(Self { nano: if negative { -nano } else { nano }, form })
    }

    /// The value as a whole number, rounded up.
    pub fn value(self) -> i64 {
        i64::try_from(self.nano.div_euclid(NANO) + i128::from(self.nano.rem_euclid(NANO) > 0)).unwrap_or(i64::MAX)
    }

    /// Whether it is less than zero.
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// Whether it is a whole number.
    pub fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }
}

/// `digits` × 10^`exponent`, in 10⁻⁹, rounded away from zero.
fn scaled(digits: i128, exponent: i32) -> Option<i128> {
    let power = exponent + 9;
    if power >= 0 {
        digits.checked_mul(10i128.checked_pow(u32::try_from(power).ok()?)?)
    } else {
        let divisor = 10i128.checked_pow(u32::try_from(-power).ok()?)?;
        Some(digits / divisor + i128::from(digits % divisor != 0))
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.form == Form::BinarySi && self.nano.abs() >= 1024 * NANO {
            let mut value = self.nano / NANO + i128::from(self.nano % NANO > 0);
            let mut power = 0;
            while power + 1 < BINARY.len() && value % 1024 == 0 {
                value /= 1024;
                power += 1;
            }
            return write!(f, "{value}{}", BINARY[power]);
        }
        let (mut value, mut exponent) = (self.nano, -9);
        while exponent < 18 && value % 1000 == 0 {
            value /= 1000;
            exponent += 3;
        }
        if self.form == Form::DecimalExponent {
            return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
        }
        let suffix = DECIMAL.iter().find(|(_, e)| *e == exponent).map_or("", |(s, _)| *s);
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0.1", "100m"),
            ("1e3", "1e3"),
            ("1024Mi", "1Gi"),
            ("1000m", "1"),
            ("1.5Gi", "1536Mi"),
            ("128Mi", "128Mi"),
            ("0", "0"),
            ("500m", "500m"),
            ("1000", "1k"),
            ("2", "2"),
            ("10Gi", "10Gi"),
            ("0.5Gi", "512Mi"),
            ("100Mi", "100Mi"),
            ("1G", "1G"),
            ("512Ki", "512Ki"),
        ];
        for (from, to) in cases {
            assert_eq!(Quantity::parse(from).unwrap().to_string(), to, "{from}");
        }
        assert!(Quantity::parse("ten").is_none());
        assert!(Quantity::parse("").is_none());
        assert!(Quantity::parse("1Gi").unwrap() > Quantity::parse("1G").unwrap());
    }
}
