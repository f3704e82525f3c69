//! What a path names.

/// A request's path, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    /// What comes after the subresource, without the first slash.
    pub(crate) rest: String,
    /// The old form `/api/v1/watch/...`.
    pub(crate) watch: bool,
}

/// Takes a path apart; `None` when it names no resource (discovery, health, ...).
pub(crate) fn parse(path: &str) -> Option<Target> {
    let path = path.trim_start_matches('/').trim_end_matches('/');
    let mut parts: Vec<String> = path.split('/').map(decode).collect();
    let (group, version, used) = match parts.first().map(String::as_str)? {
        "api" => (String::new(), parts.get(1)?.clone(), 2),
        "apis" => (parts.get(1)?.clone(), parts.get(2)?.clone(), 3),
        _ => return None,
    };
    let mut parts = parts.split_off(used);
    let mut target = Target { group, version, ..Target::default() };
    if parts.len() > 1 && parts[0] == "watch" {
        target.watch = true;
        parts.remove(0);
    }
    if parts.is_empty() {
        return None;
    }
    let namespace_itself = parts.len() < 3 || (parts.len() == 3 && matches!(parts[2].as_str(), "status" | "finalize"));
    let mut parts = if parts[0] == "namespaces" && !namespace_itself {
        target.namespace = Some(parts[1].clone());
        parts.split_off(2).into_iter()
    } else {
        parts.into_iter()
    };
    target.plural = parts.next()?;
    target.name = parts.next();
    target.subresource = parts.next();
    target.rest = parts.collect::<Vec<_>>().join("/");
    Some(target)
}

/// Decodes `%xx`.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex =
            (bytes[i] == b'%').then(|| text.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok())).flatten();
        if let Some(byte) = hex {
            out.push(byte);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The parameters of a query string.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
                })
                .collect(),
        )
    }

    /// The first value of a parameter, unless it is empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// Whether the parameter is there, even empty.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A truth value as Go reads it from queries: there, and neither `false` nor `0`.
    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| !matches!(v.to_lowercase().as_str(), "false" | "0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let t = parse("/api/v1/namespaces/a/pods/b/log").unwrap();
        assert_eq!(
            (t.namespace.as_deref(), t.plural.as_str(), t.name.as_deref(), t.subresource.as_deref()),
            (Some("a"), "pods", Some("b"), Some("log"))
        );
        let t = parse("/api/v1/namespaces/a").unwrap();
        assert_eq!((t.namespace.as_deref(), t.plural.as_str(), t.name.as_deref()), (None, "namespaces", Some("a")));
        let t = parse("/apis/apps/v1/watch/statefulsets").unwrap();
        assert!(t.watch && t.name.is_none());
        assert_eq!(parse("/apis/apps/v1"), None);
    }
}
