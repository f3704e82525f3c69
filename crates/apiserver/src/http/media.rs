//! Media types: what a client accepts, and in which shape.

use crate::status::ApiError;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// What an object is shown as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As it is.
    Whole,
    /// `Table`, of this version of `meta.k8s.io`.
    Table(String),
    /// `PartialObjectMetadata`, of this version.
    Metadata(String),
    /// `PartialObjectMetadataList`, of this version.
    MetadataList(String),
}

/// What a client accepts best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) format: Format,
    pub(crate) shape: Shape,
    pub(crate) pretty: bool,
    /// `stream=watch` was asked for by name.
    pub(crate) stream: bool,
}

impl Default for Accept {
    fn default() -> Self {
        Self { format: Format::Json, shape: Shape::Whole, pretty: false, stream: false }
    }
}

const TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Quality, media type and parameters of a part of an `Accept` header.
type Clause<'h> = (f32, &'h str, Vec<(&'h str, &'h str)>);

/// Chooses from an `Accept` header. Protobuf is never written: JSON is.
pub(crate) fn accept(header: &str) -> Result<Accept, ApiError> {
    if header.trim().is_empty() {
        return Ok(Accept::default());
    }
    let mut clauses: Vec<Clause<'_>> = header
        .split(',')
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameters: Vec<(&str, &str)> =
                parts.filter_map(|p| p.split_once('=')).map(|(k, v)| (k.trim(), v.trim().trim_matches('"'))).collect();
            let quality = parameters.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
            (quality, media, parameters)
        })
        .collect();
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut known = false;
    for (_, media, parameters) in &clauses {
        let format = match *media {
            "application/json" | "application/*" | "*/*" | "application/vnd.kubernetes.protobuf" => Format::Json,
            "application/yaml" => Format::Yaml,
            _ => continue,
        };
        known = true;
        let get = |key: &str| parameters.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        let version = get("v").unwrap_or_default().to_owned();
        let shape = match get("as") {
            None => Shape::Whole,
            Some(_) if get("g") != Some("meta.k8s.io") || !matches!(version.as_str(), "v1" | "v1beta1") => continue,
            Some("Table") => Shape::Table(version),
            Some("PartialObjectMetadata") => Shape::Metadata(version),
            Some("PartialObjectMetadataList") => Shape::MetadataList(version),
            Some(_) => continue,
        };
        return Ok(Accept {
            format,
            shape,
            pretty: get("pretty").is_some_and(|v| v == "1" || v == "true"),
            stream: get("stream") == Some("watch"),
        });
    }
    if known {
        return Err(ApiError::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {TYPES}"),
        ));
    }
    let message = format!(
        "406: Not Acceptable\n\nAvailable representations: {TYPES}, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
    );
    Err(ApiError::new(406, "NotAcceptable", message).with(serde_json::json!({})))
}

/// The format of a request's body.
pub(crate) fn content(header: &str) -> Result<Format, ApiError> {
    match header.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" | "*/*" => Ok(Format::Json),
        "application/yaml" | "text/yaml" => Ok(Format::Yaml),
        _ => Err(ApiError::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format - accepted media types include: {TYPES}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_known_clause_wins() {
        let table = accept("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").unwrap();
        assert_eq!(table.shape, Shape::Table("v1".into()));
        assert_eq!(accept("text/html,*/*;q=0.1").unwrap(), Accept::default());
        assert_eq!(accept("text/html").unwrap_err().code, 406);
        assert_eq!(accept("application/json;as=Nope;v=v1;g=meta.k8s.io,application/json").unwrap().shape, Shape::Whole);
    }
}
