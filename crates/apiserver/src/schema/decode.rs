//! Decoding, as Go's decoder does it: types are checked, unknown fields dropped and named,
//! quantities and times brought to their canonical form, nulls and empty optional values left out.
//!
//! Custom resources are decoded without a schema (only `metadata` has one); pruning names their
//! unknown fields.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::LazyLock;

use base64::Engine as _;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use thiserror::Error;

use super::quantity::Quantity;
use super::{Additional, Schema, Type};

/// A decoded body.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// What it says.
    pub value: Value,
    /// Duplicate and unknown fields, in the order of the document, as warnings word them.
    pub strict: Vec<String>,
}

/// Why a body cannot be decoded.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// It is not JSON.
    #[error("{0}")]
    Syntax(serde_json::Error),
    /// A value has the wrong type. The text is that of Go's decoder.
    #[error("{0}")]
    Type(String),
}

/// Decodes JSON text. Without a schema only duplicate fields are looked for.
pub fn json(bytes: &[u8], schema: Option<&Schema>) -> Result<Decoded, DecodeError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let decoded = run(&mut deserializer, schema)?;
    deserializer.end().map_err(DecodeError::Syntax)?;
    Ok(decoded)
}

/// Decodes a value that is already parsed (from YAML, or the outcome of a patch).
pub fn value(value: &Value, schema: Option<&Schema>) -> Result<Decoded, DecodeError> {
    run(value, schema)
}

fn run<'de, D: Deserializer<'de, Error = serde_json::Error>>(
    deserializer: D,
    schema: Option<&Schema>,
) -> Result<Decoded, DecodeError> {
    let state = RefCell::new(State::default());
    let value = Node { schema, owner: schema, state: &state }.deserialize(deserializer).map_err(DecodeError::Syntax)?;
    let state = state.into_inner();
    match state.error {
        Some(error) => Err(DecodeError::Type(error)),
        None => Ok(Decoded { value, strict: state.strict }),
    }
}

#[derive(Default)]
struct State {
    path: Vec<Step>,
    strict: Vec<String>,
    error: Option<String>,
}

enum Step {
    Field(String),
    /// A key of a map, which Go leaves out of type errors.
    Key(String),
    Index(usize),
}

impl State {
    /// `spec.containers[0].name`.
    fn path(&self) -> String {
        let mut out = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) | Step::Key(name) => {
                    if !out.is_empty() {
                        out.push('.');
                    }
                    out.push_str(name);
                }
                Step::Index(index) => {
                    out.push('[');
                    out.push_str(&index.to_string());
                    out.push(']');
                }
            }
        }
        out
    }

    /// `spec.containers.name`.
    fn go_path(&self) -> String {
        let names: Vec<&str> = self
            .path
            .iter()
            .filter_map(|s| if let Step::Field(name) = s { Some(name.as_str()) } else { None })
            .collect();
        names.join(".")
    }

    fn fail(&mut self, error: String) {
        self.error.get_or_insert(error);
    }
}

#[derive(Clone, Copy)]
struct Node<'a> {
    schema: Option<&'a Schema>,
    /// The struct this is a field of.
    owner: Option<&'a Schema>,
    state: &'a RefCell<State>,
}

impl Node<'_> {
    fn ty(&self) -> Type {
        self.schema.map_or(Type::Any, |s| s.resolve().ty)
    }

    fn mismatch(&self, found: &str) {
        let mut state = self.state.borrow_mut();
        let expected = self.schema.map_or_else(|| "interface {}".to_owned(), go_type);
        let owner =
            self.owner.map_or(String::new(), |o| o.resolve().name.rsplit('.').next().unwrap_or_default().to_owned());
        let text = if state.path.is_empty() {
            format!("json: cannot unmarshal {found} into Go value of type {expected}")
        } else {
            format!(
                "json: cannot unmarshal {found} into Go struct field {owner}.{} of type {expected}",
                state.go_path()
            )
        };
        state.fail(text);
    }

    fn text(&self, text: String) -> Value {
        match self.ty() {
            Type::Any | Type::String | Type::IntOrString => Value::String(text),
            Type::Quantity => {
                if let Some(quantity) = Quantity::parse(&text) {
                    Value::String(quantity.to_string())
                } else {
                    self.state.borrow_mut().fail(super::quantity::MISFIT.into());
                    Value::Null
                }
            }
            Type::Time => self.time(&text, false),
            Type::MicroTime => self.time(&text, true),
            Type::Bytes => {
                if let Err(position) = base64_fault(&text) {
                    self.state.borrow_mut().fail(format!("illegal base64 data at input byte {position}"));
                }
                Value::String(text)
            }
            _ => {
                self.mismatch("string");
                Value::Null
            }
        }
    }

    fn time(&self, text: &str, micro: bool) -> Value {
        match parse_time(text, micro) {
            Ok(value) => Value::String(value),
            Err(error) => {
                self.state.borrow_mut().fail(error);
                Value::Null
            }
        }
    }

    fn number(&self, number: Number) -> Value {
        match self.ty() {
            Type::Any | Type::Number => Value::Number(number),
            Type::Quantity => self.text(number.to_string()),
            Type::Integer | Type::IntOrString => {
                let narrow = self.ty() == Type::IntOrString
                    || self.schema.is_some_and(|s| s.resolve().format.as_deref() == Some("int32"));
                let fits = number.as_i64().is_some_and(|i| !narrow || i32::try_from(i).is_ok());
                if !fits {
                    self.mismatch(&format!("number {number}"));
                }
                Value::Number(number)
            }
            _ => {
                self.mismatch("number");
                Value::Null
            }
        }
    }
}

/// The Go type behind a schema, as type errors name it.
fn go_type(schema: &Schema) -> String {
    let target = schema.resolve();
    match target.ty {
        Type::Array => format!("[]{}", target.items.as_deref().map_or_else(|| "interface {}".into(), go_type)),
        Type::Integer => target.format.clone().unwrap_or_else(|| "int".into()),
        Type::Number => "float64".into(),
        Type::Boolean => "bool".into(),
        Type::Object if !target.name.is_empty() => {
            let mut parts = target.name.rsplit('.');
            let (kind, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{version}.{kind}")
        }
        Type::Object => match &target.additional {
            Additional::Schema(entry) => format!("map[string]{}", go_type(entry)),
            _ => "map[string]interface {}".into(),
        },
        Type::Bytes => "[]uint8".into(),
        _ => "string".into(),
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        if matches!(self.ty(), Type::Any | Type::Boolean) {
            return Ok(Value::Bool(value));
        }
        self.mismatch("bool");
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(self.number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(self.number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, |n| self.number(n)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(self.text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(self.text(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let untyped = self.schema.is_none() || self.ty() == Type::Any;
        if !untyped && self.ty() != Type::Array {
            self.mismatch("array");
            while entries.next_element::<serde::de::IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        }
        let item = self.schema.and_then(Schema::item);
        let mut list = Vec::new();
        loop {
            self.state.borrow_mut().path.push(Step::Index(list.len()));
            let entry = entries.next_element_seed(Node { schema: item, ..self });
            self.state.borrow_mut().path.pop();
            match entry? {
                Some(entry) => list.push(if untyped { entry } else { zero_entry(item, entry) }),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let target = self.schema.map(Schema::resolve);
        let untyped = target.is_none_or(|t| t.ty == Type::Any);
        if !untyped && self.ty() != Type::Object {
            self.mismatch("object");
            while fields.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        }
        let keeps = self.schema.is_none_or(Schema::keeps_unknown);
        let is_map = self.schema.is_some_and(Schema::is_map);
        let mut map = Map::new();
        let mut seen = BTreeSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            let schema = self.schema.and_then(|s| s.field(&name));
            if !seen.insert(name.clone()) {
                let mut state = self.state.borrow_mut();
                let path = join(&state.path(), &name);
                let text = format!("duplicate field {path:?}");
                if !state.strict.contains(&text) {
                    state.strict.push(text);
                }
            }
            if schema.is_none() && !keeps {
                let mut state = self.state.borrow_mut();
                let path = join(&state.path(), &name);
                state.strict.push(format!("unknown field {path:?}"));
                drop(state);
                let _: serde::de::IgnoredAny = fields.next_value()?;
                continue;
            }
            self.state.borrow_mut().path.push(if is_map { Step::Key(name.clone()) } else { Step::Field(name.clone()) });
            let owner = if is_map { self.owner } else { self.schema };
            let value = fields.next_value_seed(Node { schema, owner, state: self.state });
            self.state.borrow_mut().path.pop();
            let value = value?;
            if untyped || (keeps && schema.is_none()) {
                map.insert(name, value);
            } else if is_map {
                map.insert(name, zero_entry(schema, value));
            } else if !value.is_null() || !map.contains_key(&name) {
                map.insert(name, value);
            }
        }
        if let Some(target) = target.filter(|_| !untyped && !is_map) {
            drop_empty(target, &mut map);
        }
        Ok(Value::Object(map))
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// What `null` becomes in a list or a map: the zero value.
fn zero_entry(schema: Option<&Schema>, value: Value) -> Value {
    if !value.is_null() {
        return value;
    }
    match schema.map_or(Type::Any, |s| s.resolve().ty) {
        Type::String | Type::Bytes => Value::String(String::new()),
        Type::Object if !schema.is_some_and(Schema::is_map) => Value::Object(Map::new()),
        Type::Quantity => Value::String("0".into()),
        Type::Integer => 0.into(),
        Type::Boolean => false.into(),
        _ => Value::Null,
    }
}

#[derive(Deserialize)]
struct Zero {
    booleans: BTreeSet<String>,
    integers: BTreeSet<String>,
    kept_strings: BTreeSet<String>,
    dropped_strings: BTreeMap<String, BTreeSet<String>>,
}

static ZERO: LazyLock<Zero> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../data/zero.json")).expect("data/zero.json is checked by a test")
});

/// Leaves out what Go's `omitempty` leaves out: nulls, and empty values of optional fields that
/// are not pointers.
fn drop_empty(schema: &Schema, map: &mut Map<String, Value>) {
    let required = |name: &String| schema.required.contains(name);
    map.retain(|name, value| match value {
        Value::Null => false,
        _ if schema.field(name).is_some_and(|f| f.resolve().ty == Type::Any) => true,
        Value::String(text) if text.is_empty() && !required(name) => {
            ZERO.kept_strings.contains(name)
                && !ZERO.dropped_strings.get(&*schema.name).is_some_and(|d| d.contains(name))
        }
        Value::Array(list) if list.is_empty() => required(name),
        Value::Object(inner) if inner.is_empty() => required(name) || !schema.field(name).is_some_and(Schema::is_map),
        Value::Bool(false) => required(name) || !ZERO.booleans.contains(name),
        Value::Number(number) if number.as_i64() == Some(0) => required(name) || !ZERO.integers.contains(name),
        _ => true,
    });
}

/// Where Go's decoder stops in faulty base64.
fn base64_fault(text: &str) -> Result<(), usize> {
    let cleaned: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    if base64::engine::general_purpose::STANDARD.decode(&cleaned).is_ok() {
        return Ok(());
    }
    let body = cleaned.trim_end_matches('=');
    Err(body
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '+' || c == '/'))
        .unwrap_or_else(|| if cleaned.len() == body.len() { body.len() / 4 * 4 } else { cleaned.len() }))
}

/// Reads a time and writes it as Kubernetes stores it; the error is Go's.
pub fn parse_time(text: &str, micro: bool) -> Result<String, String> {
    let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let fault = |rest: &str, wanted: &str| {
        Err(format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {wanted:?}"))
    };
    let digits =
        |from: usize, count: usize| text.get(from..from + count).is_some_and(|s| s.bytes().all(|b| b.is_ascii_digit()));
    let byte = |at: usize, wanted: u8| text.as_bytes().get(at) == Some(&wanted);
    let steps = [(0, 4, "2006"), (5, 2, "01"), (8, 2, "02"), (11, 2, "15"), (14, 2, "04"), (17, 2, "05")];
    let marks = [(4, b'-', "-"), (7, b'-', "-"), (10, b'T', "T"), (13, b':', ":"), (16, b':', ":")];
    for (index, (from, count, name)) in steps.iter().enumerate() {
        if !digits(*from, *count) {
            return fault(text.get(*from..).unwrap_or_default(), name);
        }
        if let Some((at, mark, name)) = marks.get(index).filter(|(at, mark, _)| !byte(*at, *mark)) {
            let _ = mark;
            return fault(text.get(*at..).unwrap_or_default(), name);
        }
    }
    let mut rest = &text[19..];
    if micro {
        let fraction =
            rest.strip_prefix('.').map_or(0, |r| r.len() - r.trim_start_matches(|c: char| c.is_ascii_digit()).len());
        if fraction < 6 {
            return fault(rest, ".000000");
        }
        if fraction > 6 {
            return fault(&rest[7..], "Z07:00");
        }
    } else if let Some(fraction) = rest.strip_prefix('.') {
        rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    let zone = if micro { &rest[7..] } else { rest };
    if zone != "Z" && !(zone.len() == 6 && zone.starts_with(['+', '-'])) {
        return fault(zone, "Z07:00");
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| format!("parsing time {text:?}: day out of range"))?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(time.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::builtin::definition;

    fn pod(text: &str) -> Result<Decoded, DecodeError> {
        json(text.as_bytes(), definition("core.v1.Pod"))
    }

    #[test]
    fn unknown_and_duplicate_fields_are_named_in_document_order() {
        let decoded = pod(r#"{"spec":{"restartPolicie":"x","containers":[{"name":"c","name":"c","ports":[{"portName":1}]}]},"metadata":{"labelz":{}}}"#).unwrap();
        assert_eq!(
            decoded.strict,
            [
                r#"unknown field "spec.restartPolicie""#,
                r#"duplicate field "spec.containers[0].name""#,
                r#"unknown field "spec.containers[0].ports[0].portName""#,
                r#"unknown field "metadata.labelz""#,
            ]
        );
    }

    #[test]
    fn type_errors_are_go_s() {
        let cases = [
            (
                r#"{"spec":{"containers":"x"}}"#,
                "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                r#"{"spec":{"containers":[{"ports":[{"containerPort":"80"}]}]}}"#,
                "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (
                r#"{"metadata":{"labels":{"a":5}}}"#,
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
        ];
        for (text, wanted) in cases {
            assert_eq!(pod(text).unwrap_err().to_string(), wanted);
        }
    }

    #[test]
    fn empty_values_are_left_out() {
        let decoded = pod(r#"{"metadata":{"labels":{},"annotations":null},"spec":{"hostNetwork":false,"volumes":[{"name":"v","emptyDir":{}}],"containers":[{"name":"a","resources":{"limits":{"cpu":0.5}},"env":[{"name":"A","value":""}]}]}}"#).unwrap();
        assert_eq!(
            decoded.value,
            json!({"metadata": {}, "spec": {"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "a", "resources": {"limits": {"cpu": "500m"}}, "env": [{"name": "A"}]}]}})
        );
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("2024-03-01T14:00:05.5+02:00", false).unwrap(), "2024-03-01T12:00:05Z");
        assert_eq!(
            parse_time("2024-03-01T12:00:05Z", true).unwrap_err(),
            r#"parsing time "2024-03-01T12:00:05Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#
        );
        assert!(parse_time("yesterday", true).unwrap_err().ends_with(r#"cannot parse "yesterday" as "2006""#));
    }
}
