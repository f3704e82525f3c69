//! Names and labels: what they may look like, and Kubernetes' words for what is wrong.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::FieldError;

macro_rules! pattern {
    ($name:ident, $text:literal) => {
        static $name: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(concat!("^(?:", $text, ")$")).expect("the pattern is a constant"));
    };
}

pattern!(LABEL, "[a-z0-9]([-a-z0-9]*[a-z0-9])?");
pattern!(LABEL_1035, "[a-z]([-a-z0-9]*[a-z0-9])?");
pattern!(SUBDOMAIN, r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*");
pattern!(QUALIFIED, "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]");
pattern!(VALUE, "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?");
pattern!(CONFIG_KEY, "[-._a-zA-Z0-9]+");
pattern!(ENV, r"[-._a-zA-Z][-._a-zA-Z0-9]*");

/// What is wrong with an RFC 1035 label.
pub fn dns_label(name: &str) -> Option<String> {
    if name.len() > 63 {
        return Some("must be no more than 63 bytes".into());
    }
    (!LABEL_1035.is_match(name)).then(|| "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')".into())
}

/// What is wrong with an RFC 1123 label.
pub fn label(name: &str) -> Option<String> {
    if name.contains('.') && LABEL.is_match(&name.replace('.', "-")) {
        return Some("must not contain dots".into());
    }
    if name.len() > 63 {
        return Some("must be no more than 63 characters".into());
    }
    (!LABEL.is_match(name)).then(|| "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')".into())
}

/// What is wrong with an RFC 1123 subdomain.
pub fn subdomain(name: &str) -> Option<String> {
    if name.len() > 253 {
        return Some("must be no more than 253 characters".into());
    }
    (!SUBDOMAIN.is_match(name)).then(|| r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".into())
}

/// What is wrong with a name that is a path segment.
pub fn path_segment(name: &str) -> Option<String> {
    if name == "." || name == ".." {
        return Some(format!("may not be '{name}'"));
    }
    name.chars().find(|c| *c == '/' || *c == '%').map(|c| format!("may not contain '{c}'"))
}

/// What is wrong with a qualified name, such as a label's key.
pub fn qualified(name: &str) -> Vec<String> {
    let text = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let (prefix, local) = match name.split_once('/') {
        None => (None, name),
        Some((_, rest)) if rest.contains('/') => {
            return vec!["a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')".into()];
        }
        Some((prefix, local)) => (Some(prefix), local),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return vec!["prefix part must be non-empty".into()];
        }
        if let Some(detail) = subdomain(prefix) {
            return vec![format!("prefix part {detail}")];
        }
    }
    let mut faults = Vec::new();
    if local.is_empty() {
        faults.push("name part must be non-empty".into());
    } else if local.len() > 63 {
        faults.push("name part must be no more than 63 bytes".into());
    }
    if !QUALIFIED.is_match(local) {
        faults.push(text.into());
    }
    faults
}

/// What is wrong with a label's value.
pub fn label_value(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some("must be no more than 63 bytes".into());
    }
    (!VALUE.is_match(value)).then(|| "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')".into())
}

/// What is wrong with a key of a ConfigMap or Secret.
pub fn config_key(key: &str) -> Option<String> {
    if key.len() > 253 {
        return Some("must be no more than 253 bytes".into());
    }
    if !CONFIG_KEY.is_match(key) {
        return Some("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')".into());
    }
    match key {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        _ => key.starts_with("..").then(|| "must not start with '..'".into()),
    }
}

/// What is wrong with the name of an environment variable.
pub fn env_name(name: &str) -> Option<String> {
    (!ENV.is_match(name)).then(|| "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is '[-._a-zA-Z][-._a-zA-Z0-9]*')".into())
}

/// Checks a map of labels.
pub fn labels(value: Option<&Value>, at: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in value.and_then(Value::as_object).into_iter().flatten() {
        for detail in qualified(key) {
            errors.push(FieldError::invalid(at, &key.as_str().into(), &detail));
        }
        if let Some(detail) = label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(at, value, &detail));
        }
    }
}
