//! Hashes that tell whether something changed.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Sixteen hexadecimal digits that are the same as long as the value's JSON is.
pub fn hash(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).unwrap_or_default();
    Sha256::digest(json).iter().take(8).fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}
