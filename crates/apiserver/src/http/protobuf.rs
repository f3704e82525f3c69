//! Bodies in Kubernetes' protobuf form, which kubectl sends for some kinds (`create token`,
//! `auth can-i`, `create role`, ...). Field numbers are in `data/protobuf.json`: a name is
//! followed by `[]` for lists, `{}` for maps of text (`{}b` of bytes), `?` for truth values, `#`
//! for numbers, and `:Message` for messages.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use serde_json::{Map, Value};

static MESSAGES: LazyLock<BTreeMap<String, BTreeMap<String, String>>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../data/protobuf.json")).expect("data/protobuf.json is checked by a test")
});

/// The object in a body; `None` when it is none that is known.
pub(crate) fn decode(bytes: &[u8]) -> Option<Value> {
    let envelope = fields(bytes.strip_prefix(b"k8s\0")?)?;
    let find = |wanted: u64| envelope.iter().find(|(number, _)| *number == wanted).map(|(_, field)| field);
    let (Field::Bytes(types), Field::Bytes(raw)) = (find(1)?, find(2)?) else { return None };
    let (mut api_version, mut kind) = (String::new(), String::new());
    for (number, field) in fields(types)? {
        match (number, field) {
            (1, Field::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
            (2, Field::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
            _ => {}
        }
    }
    let mut object = message(&kind, raw)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Some(Value::Object(object))
}

enum Field<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

/// Takes a message apart.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = number(&mut bytes)?;
        let field = match tag & 7 {
            0 => Field::Number(number(&mut bytes)?),
            1 => skip(&mut bytes, 8)?,
            2 => {
                let length = usize::try_from(number(&mut bytes)?).ok()?;
                skip(&mut bytes, length)?
            }
            5 => skip(&mut bytes, 4)?,
            _ => return None,
        };
        found.push((tag >> 3, field));
    }
    Some(found)
}

fn skip<'b>(bytes: &mut &'b [u8], length: usize) -> Option<Field<'b>> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(Field::Bytes(head))
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn message(name: &str, bytes: &[u8]) -> Option<Map<String, Value>> {
    let known = MESSAGES.get(name)?;
    let mut object = Map::new();
    for (number, field) in fields(bytes)? {
        let Some(form) = known.get(&number.to_string()) else { continue };
        let end = form.find(['[', '{', '?', '#', ':']).unwrap_or(form.len());
        let (key, shape) = form.split_at(end);
        let inner = shape.split_once(':').map(|(_, message)| message);
        match field {
            Field::Number(value) if shape == "?" => {
                object.insert(key.to_owned(), (value != 0).into());
            }
            Field::Number(value) => {
                object.insert(key.to_owned(), value.cast_signed().into());
            }
            Field::Bytes(bytes) if shape.starts_with("{}") => {
                let (entry_key, entry) = entry(bytes, shape.ends_with('b'))?;
                if let Value::Object(map) = object.entry(key).or_insert_with(|| Value::Object(Map::new())) {
                    map.insert(entry_key, entry);
                }
            }
            Field::Bytes(bytes) => {
                let value = match inner {
                    Some(inner) => message(inner, bytes)?.into(),
                    None => Value::String(String::from_utf8(bytes.to_vec()).ok()?),
                };
                if shape.starts_with("[]") {
                    if let Value::Array(list) = object.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
                        list.push(value);
                    }
                } else if value != "" {
                    object.insert(key.to_owned(), value);
                }
            }
        }
    }
    Some(object)
}

/// An entry of a map.
fn entry(bytes: &[u8], binary: bool) -> Option<(String, Value)> {
    let (mut key, mut value) = (String::new(), String::new());
    for (number, field) in fields(bytes)? {
        match (number, field) {
            (1, Field::Bytes(text)) => key = String::from_utf8(text.to_vec()).ok()?,
            (2, Field::Bytes(bytes)) if binary => value = base64::engine::general_purpose::STANDARD.encode(bytes),
            (2, Field::Bytes(text)) => value = String::from_utf8(text.to_vec()).ok()?,
            _ => {}
        }
    }
    Some((key, value.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    #[test]
    fn a_config_map() {
        let metadata = field(1, &field(1, b"a"));
        let data = field(2, &[field(1, b"k"), field(2, b"v")].concat());
        let types = field(1, &[field(1, b"v1"), field(2, b"ConfigMap")].concat());
        let body = [b"k8s\0".to_vec(), types, field(2, &[metadata, data].concat())].concat();
        let wanted = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
        assert_eq!(decode(&body), Some(wanted));
        assert_eq!(decode(b"k8s\0\x0a"), None);
    }
}
