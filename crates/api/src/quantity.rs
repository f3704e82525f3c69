//! Quantities of bytes as Kubernetes writes them: `100Gi`, `1.5G`, `2Ti`, a bare number.

use std::cmp::Ordering;
use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Deserializer, Serialize};

/// A size in bytes, kept as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Size(String);

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a quantity (such as 10Gi, 500M), or not more than nothing: {0:?}")]
pub struct ParseQuantityError(pub String);

const SUFFIXES: [(&str, f64); 16] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("K", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];

/// The number that a quantity stands for.
pub fn parse(text: &str) -> Result<f64, ParseQuantityError> {
    let fail = || ParseQuantityError(text.to_owned());
    let trimmed = text.trim();
    let (number, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| trimmed.strip_suffix(suffix).map(|number| (number, *factor)))
        .unwrap_or((trimmed, 1.0));
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | 'e' | 'E');
    if number.is_empty() || !number.chars().all(plain) {
        return Err(fail());
    }
    let value = number.parse::<f64>().map_err(|_| fail())? * factor;
    if value.is_finite() { Ok(value) } else { Err(fail()) }
}

impl Size {
    /// From a text, checked.
    pub fn new(text: impl Into<String>) -> Result<Self, ParseQuantityError> {
        let text = text.into();
        match parse(&text)? {
            bytes if bytes > 0.0 => Ok(Self(text)),
            _ => Err(ParseQuantityError(text)),
        }
    }

    /// Bytes, rounded up as Kubernetes does.
    pub fn bytes(&self) -> u64 {
        parse(&self.0).map_or(0, |bytes| bytes.ceil() as u64)
    }

    /// As Kubernetes' own type.
    pub fn quantity(&self) -> Quantity {
        Quantity(self.0.clone())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialOrd for Size {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.bytes().cmp(&other.bytes()))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(string_or_number(deserializer)?).map_err(serde::de::Error::custom)
    }
}

// More than nothing: one of its digits is none of the zeros.
crate::schema::text_or_number!(
    Size,
    r"^\+?([0-9]*[1-9][0-9]*(\.[0-9]*)?|[0-9]*\.[0-9]*[1-9][0-9]*)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$",
    1_u64..=1_152_921_504_606_846_976_u64
);

/// A string, or a number as if it had been quoted.
pub(crate) fn string_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        other => Err(serde::de::Error::custom(format!("expected a string or a number, got {other}"))),
    }
}

/// Kubernetes' own types, with quantities that may be numbers (`cpu: 4`), as its API server takes them.
pub(crate) fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let mut value = serde_json::Value::deserialize(deserializer)?;
    quote_quantities(&mut value, false);
    serde_json::from_value(value).map_err(serde::de::Error::custom)
}

fn quote_quantities(value: &mut serde_json::Value, inside: bool) {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                let quantity = inside || key == "sizeLimit" || key == "divisor";
                match field {
                    Value::Number(number) if quantity => *field = Value::String(number.to_string()),
                    other => quote_quantities(other, key == "limits" || key == "requests"),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| quote_quantities(item, inside)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, bytes) in
            [("100Gi", 107_374_182_400), ("1.5G", 1_500_000_000), ("1024", 1024), ("1e3", 1000), ("500m", 1)]
        {
            assert_eq!(Size::new(text).unwrap().bytes(), bytes, "{text}");
        }
        for text in ["", "Gi", "ten", "-5Gi", "0", "5 Gi", "5GiB", "inf", "nan"] {
            assert!(Size::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_taken_as_quantities() {
        let size: Size = serde_json::from_str("1073741824").unwrap();
        assert_eq!(size.bytes(), 1 << 30);
    }

    proptest::proptest! {
        #[test]
        fn binary_units_grow_by_1024(n in 1u64..1000) {
            let bytes = |unit: &str| Size::new(format!("{n}{unit}")).unwrap().bytes();
            proptest::prop_assert_eq!(bytes("Mi"), bytes("Ki") * 1024);
            proptest::prop_assert_eq!(bytes("Gi"), bytes("Mi") * 1024);
        }
    }
}
