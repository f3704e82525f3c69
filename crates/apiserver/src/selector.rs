//! Label and field selectors.

use serde_json::Value;

use crate::kind::{Hooks, Kind};
use crate::status::ApiError;

/// One requirement on labels.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
    Greater(String, i64),
    Less(String, i64),
}

/// A selector over labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels(Vec<Requirement>);

impl Labels {
    /// Whether these labels match.
    pub(crate) fn matches(&self, labels: &Value) -> bool {
        let get = |key: &str| labels.get(key).and_then(Value::as_str);
        let number = |key: &str| get(key).and_then(|v| v.parse::<i64>().ok());
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => get(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Requirement::NotIn(key, values) => get(key).is_none_or(|v| values.iter().all(|w| w != v)),
            Requirement::Exists(key) => get(key).is_some(),
            Requirement::Missing(key) => get(key).is_none(),
            Requirement::Greater(key, bound) => number(key).is_some_and(|n| n > *bound),
            Requirement::Less(key, bound) => number(key).is_some_and(|n| n < *bound),
        })
    }

    /// A `LabelSelector` object; `None` selects nothing.
    pub(crate) fn from_object(selector: &Value) -> Option<Self> {
        if selector.is_null() {
            return None;
        }
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let mut all = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            all.push(Requirement::In(key.clone(), vec![text(value)]));
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = text(&expression["key"]);
            let values = expression["values"].as_array().into_iter().flatten().map(text).collect();
            all.push(match expression["operator"].as_str()? {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::Missing(key),
                _ => return None,
            });
        }
        Some(Self(all))
    }

    /// Parses `a=b,c in (d,e),!f`.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        parser::parse(text).map(Self).map_err(ApiError::bad_request)
    }
}

mod parser {
    use super::Requirement;
    use crate::validate::names;

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Token {
        Word(String),
        Symbol(&'static str),
        End,
    }

    impl Token {
        fn text(&self) -> &str {
            match self {
                Self::Word(w) => w,
                Self::Symbol(s) => s,
                Self::End => "",
            }
        }
    }

    fn tokens(text: &str) -> Vec<Token> {
        let mut out = Vec::new();
        let mut rest = text;
        loop {
            rest = rest.trim_start();
            if rest.is_empty() {
                out.push(Token::End);
                return out;
            }
            if let Some(symbol) = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"].iter().find(|s| rest.starts_with(**s))
            {
                out.push(Token::Symbol(symbol));
                rest = &rest[symbol.len()..];
                continue;
            }
            let end = rest.find(|c: char| c.is_whitespace() || "=!(),<>".contains(c)).unwrap_or(rest.len());
            out.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }

    pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, String> {
        let tokens = tokens(text);
        let mut at = 0;
        let mut all = Vec::new();
        match &tokens[0] {
            Token::End => return Ok(all),
            Token::Word(_) | Token::Symbol("!") => {}
            other @ Token::Symbol(_) => {
                return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.text()));
            }
        }
        loop {
            all.push(requirement(&tokens, &mut at).map_err(|e| format!("unable to parse requirement: {e}"))?);
            match &tokens[at] {
                Token::End => break,
                Token::Symbol(",") => {
                    at += 1;
                    match &tokens[at] {
                        Token::Word(_) | Token::Symbol("!") => {}
                        other => return Err(format!("found '{}', expected: identifier after ','", other.text())),
                    }
                }
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
        Ok(all)
    }

    fn requirement(tokens: &[Token], at: &mut usize) -> Result<Requirement, String> {
        let negated = tokens[*at] == Token::Symbol("!");
        if negated {
            *at += 1;
        }
        let Token::Word(key) = &tokens[*at] else {
            return Err(format!("found '{}', expected: identifier", tokens[*at].text()));
        };
        *at += 1;
        check_key(key)?;
        if negated {
            return Ok(Requirement::Missing(key.clone()));
        }
        let key = key.clone();
        match tokens[*at].clone() {
            Token::End | Token::Symbol(",") => Ok(Requirement::Exists(key)),
            Token::Symbol(operator @ ("=" | "==" | "!=" | ">" | "<")) => {
                *at += 1;
                let value = match &tokens[*at] {
                    Token::Word(value) => {
                        *at += 1;
                        value.clone()
                    }
                    Token::End | Token::Symbol(",") => String::new(),
                    other @ Token::Symbol(_) => {
                        return Err(format!("found '{}', expected: identifier", other.text()));
                    }
                };
                match operator {
                    ">" | "<" => {
                        let number = value
                            .parse()
                            .map_err(|_| format!("values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"))?;
                        Ok(if operator == ">" {
                            Requirement::Greater(key, number)
                        } else {
                            Requirement::Less(key, number)
                        })
                    }
                    _ => {
                        check_value(&key, &value)?;
                        Ok(if operator == "!=" {
                            Requirement::NotIn(key, vec![value])
                        } else {
                            Requirement::In(key, vec![value])
                        })
                    }
                }
            }
            Token::Word(operator) if operator == "in" || operator == "notin" => {
                *at += 1;
                let mut values = set(tokens, at)?;
                values.sort();
                values.dedup();
                for value in &values {
                    check_value(&key, value)?;
                }
                Ok(if operator == "in" { Requirement::In(key, values) } else { Requirement::NotIn(key, values) })
            }
            other => Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text())),
        }
    }

    fn set(tokens: &[Token], at: &mut usize) -> Result<Vec<String>, String> {
        if tokens[*at] != Token::Symbol("(") {
            return Err(format!("found '{}' expected: '('", tokens[*at].text()));
        }
        *at += 1;
        let mut values = Vec::new();
        let mut wanted = true;
        loop {
            match &tokens[*at] {
                Token::Word(word) => {
                    values.push(word.clone());
                    wanted = false;
                    *at += 1;
                    match &tokens[*at] {
                        Token::Symbol("," | ")") => {}
                        other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
                    }
                }
                Token::Symbol(",") => {
                    if wanted {
                        values.push(String::new());
                    }
                    wanted = true;
                    *at += 1;
                }
                Token::Symbol(")") => {
                    if wanted {
                        values.push(String::new());
                    }
                    *at += 1;
                    return Ok(values);
                }
                other => return Err(format!("found '{}', expected: ',', ')' or identifier", other.text())),
            }
        }
    }

    fn check_key(key: &str) -> Result<(), String> {
        match names::qualified(key).as_slice() {
            [] => Ok(()),
            faults => Err(format!("<nil>: Invalid value: {key:?}: {}", faults.join("; "))),
        }
    }

    fn check_value(key: &str, value: &str) -> Result<(), String> {
        match names::label_value(value) {
            None => Ok(()),
            Some(fault) => Err(format!("values[0][{key}]: Invalid value: {value:?}: {fault}")),
        }
    }
}

/// A selector over fields: path, whether equal, value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields(Vec<(String, bool, String)>);

impl Fields {
    /// Parses `a=b,c!=d`; only fields that the kind knows may stand there.
    pub(crate) fn parse(text: &str, kind: &Kind, hooks: &Hooks) -> Result<Self, ApiError> {
        let mut all = Vec::new();
        for term in terms(text) {
            let term = term.as_str();
            let (key, equal, value) = if let Some((key, value)) = term.split_once("!=") {
                (key, false, value)
            } else if let Some((key, value)) = term.split_once("==") {
                (key, true, value)
            } else if let Some((key, value)) = term.split_once('=') {
                (key, true, value)
            } else {
                return Err(ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{term}'")));
            };
            let selectable = |f: &str| {
                kind.custom.as_ref().is_some_and(|c| c.selectable.iter().any(|s| s.trim_start_matches('.') == f))
            };
            let known =
                key == "metadata.name" || key == "metadata.namespace" || hooks.fields.contains(&key) || selectable(key);
            if !known {
                let message = if kind.custom.is_some() || kind.group == "apiextensions.k8s.io" {
                    format!("field label not supported: {key}")
                } else {
                    unsupported(kind, key)
                };
                return Err(ApiError::bad_request(message));
            }
            all.push((key.to_owned(), equal, unescape(value)));
        }
        Ok(Self(all))
    }

    /// The selector of one name.
    pub(crate) fn named(name: &str) -> Self {
        Self(vec![("metadata.name".to_owned(), true, name.to_owned())])
    }

    /// Whether there is nothing to match.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name that `metadata.name=` asks for.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0.iter().find(|(key, equal, _)| key == "metadata.name" && *equal).map(|(_, _, v)| v.as_str())
    }

    /// Whether an object matches.
    pub(crate) fn matches(&self, object: &Value, hooks: &Hooks) -> bool {
        self.0.iter().all(|(key, equal, wanted)| {
            let at = |path: &str| {
                path.trim_start_matches('.').split('.').try_fold(object, |v, part| v.get(part)).map(|v| match v {
                    Value::String(s) => s.clone(),
                    Value::Null => String::new(),
                    other => other.to_string(),
                })
            };
            let value =
                if key.starts_with("metadata.") { at(key) } else { (hooks.field)(object, key).or_else(|| at(key)) };
            (value.unwrap_or_default() == *wanted) == *equal
        })
    }
}

/// Splits at commas that no backslash stands before.
fn terms(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            out.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = out.last_mut() {
            last.push(c);
        }
    }
    out.retain(|t| !t.is_empty());
    out
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

fn unsupported(kind: &Kind, key: &str) -> String {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod" | "Event" | "Secret" | "Node" | "Namespace" | "ReplicationController" | "Service")
        | ("batch", "Job")
        | ("events.k8s.io", "Event")
        | ("apps", "ReplicaSet" | "Deployment" | "DaemonSet") => {
            format!("field label not supported: {key}")
        }
        _ => format!("{key:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_match() {
        let labels = json!({"app": "a", "tier": "db", "n": "5"});
        let matches = |text: &str| Labels::parse(text).unwrap().matches(&labels);
        assert!(matches("app=a,tier in (db, web),!gone,n>4"));
        assert!(matches("app!=b,other notin (x)"));
        assert!(matches("app"));
        assert!(!matches("tier notin (db)"));
        assert_eq!(
            Labels::parse("a in b").unwrap_err().message,
            "unable to parse requirement: found 'b' expected: '('"
        );
    }
}
