//! Requests to answers: one path for every kind.

pub(crate) mod body;
mod delete;
mod media;
mod protobuf;
mod read;
mod respond;
mod target;
mod write;

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::identity::Identity;
use crate::kind::{Hooks, Kind};
use crate::server::Server;
use crate::status::ApiError;
use crate::store::Object;

pub(crate) use body::{FieldValidation, object as decode_object, parse_json};
pub(crate) use media::{Accept, Format, Shape};
pub(crate) use respond::{error_response, json_response, object as object_response, shape, table, with_warnings};
pub(crate) use target::{Query, Target, parse as parse_target};

/// The largest body that is read.
const BODY_LIMIT: usize = 3 << 20;

/// A request for a resource, taken apart.
pub(crate) struct Context {
    pub(crate) server: Server,
    pub(crate) kind: Arc<Kind>,
    pub(crate) hooks: Hooks,
    pub(crate) target: Target,
    pub(crate) query: Query,
    pub(crate) accept: Accept,
    pub(crate) content_type: String,
    pub(crate) user_agent: String,
    pub(crate) identity: Identity,
    warnings: Mutex<Vec<String>>,
}

impl Context {
    /// Adds a warning to the answer.
    pub(crate) fn warn(&self, text: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The namespace asked for; empty for cluster-scoped kinds.
    pub(crate) fn namespace(&self) -> &str {
        self.target.namespace.as_deref().unwrap_or_default()
    }

    /// The name asked for.
    pub(crate) fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or_default()
    }

    /// The subresource, or an empty text.
    pub(crate) fn subresource(&self) -> &str {
        self.target.subresource.as_deref().unwrap_or_default()
    }

    /// The stored object that the path names.
    pub(crate) fn stored(&self) -> Result<Arc<Object>, ApiError> {
        let found = self.server.store().get(&self.kind.storage(), self.namespace(), self.name());
        found.ok_or_else(|| ApiError::not_found(&self.kind, self.name()))
    }

    /// A stored object as this kind and version show it.
    pub(crate) fn present(&self, object: &Object) -> Value {
        let mut value = object.value();
        if let Some(custom) = &self.kind.custom {
            // The schema of the version that it was stored in prunes and defaults.
            let version = value["apiVersion"].as_str().and_then(|v| v.rsplit('/').next());
            let version = version.unwrap_or(&custom.storage_version);
            let stored = self.server.kinds().find(&self.kind.group, version, &self.kind.plural);
            dress(&self.kind, &mut value);
            crate::crd::shape(stored.as_ref().unwrap_or(&self.kind), &mut value);
        }
        dress(&self.kind, &mut value);
        if let Some(convert) = self.hooks.from_storage {
            convert(&mut value);
        }
        value
    }

    /// Whether `dryRun=All` was asked for.
    pub(crate) fn dry_run(&self, options: &str) -> Result<bool, ApiError> {
        let values: Vec<&str> = self.query.all("dryRun").collect();
        dry_run(&values, options)
    }
}

/// Reads the values of `dryRun`.
pub(crate) fn dry_run(values: &[&str], options: &str) -> Result<bool, ApiError> {
    if values.iter().find(|v| **v != "All").is_none() {
        Ok(!values.is_empty())
    } else {
        let shown: Vec<Value> = values.iter().map(|v| Value::from(*v)).collect();
        let error = crate::validate::FieldError::not_supported("dryRun", &Value::Array(shown), &["All"]);
        Err(ApiError::invalid_named("meta.k8s.io", options, "", &[error]))
    }
}

/// Writes kind and version into an object.
pub(crate) fn dress(kind: &Kind, value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), kind.api_version().into());
        map.insert("kind".to_owned(), kind.kind.clone().into());
    }
}

/// Answers any request.
pub(crate) async fn answer(server: Server, identity: Identity, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let accept = media::accept(&text(request.headers(), "accept"));
    let Some(target) = target::parse(&path) else {
        return crate::seam::root(&server, &identity, &request);
    };
    let query = Query::parse(request.uri().query());
    let outcome = route(server, identity, target, query, accept, request).await;
    outcome.unwrap_or_else(|error| error_response(&error))
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

async fn route(
    server: Server,
    identity: Identity,
    target: Target,
    query: Query,
    accept: Result<Accept, ApiError>,
    request: Request,
) -> Result<Response, ApiError> {
    let Some(kind) = server.kinds().find(&target.group, &target.version, &target.plural) else {
        let built_in = server.kinds().all().iter().any(|k| k.group == target.group && k.custom.is_none());
        return if built_in { Err(ApiError::no_resource()) } else { Ok(respond::page_not_found()) };
    };
    if target.namespace.is_some() != kind.namespaced && (target.namespace.is_some() || target.name.is_some()) {
        return if kind.custom.is_some() { Ok(respond::page_not_found()) } else { Err(ApiError::no_resource()) };
    }
    let hooks = crate::seam::hooks(&kind);
    let user_agent = text(request.headers(), "user-agent");
    let mut context = Context {
        content_type: text(request.headers(), "content-type"),
        accept: accept.unwrap_or_default(),
        server,
        hooks,
        kind,
        target,
        query,
        user_agent,
        identity,
        warnings: Mutex::default(),
    };
    let method = request.method().clone();
    if let Some(name) = context.target.subresource.clone() {
        if !context.kind.has(&name) {
            let custom = context.kind.custom.is_some() && matches!(name.as_str(), "status" | "scale");
            return Err(if custom {
                ApiError::not_found(&context.kind, context.name())
            } else {
                ApiError::no_resource()
            });
        }
        if matches!(name.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy") {
            return crate::subresource::stream(context, request).await;
        }
        if !context.target.rest.is_empty() {
            return Err(ApiError::no_resource());
        }
    }
    if let Some(deprecation) = context.kind.deprecation.clone() {
        context.warn(deprecation);
    }
    let accept = media::accept(&text(request.headers(), "accept"));
    let watching = context.target.watch || context.query.flag("watch") == Some(true);
    let named = context.target.name.is_some();
    if method == Method::GET && watching && context.target.subresource.is_none() && (context.target.watch || !named) {
        if accept?.format == Format::Yaml {
            let error = ApiError::new(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
            );
            return Ok(respond::formatted(&context.accept, 406, &error.body()));
        }
        return crate::watch::start(context);
    }
    let mut bytes = read_body(request.into_body()).await?;
    if context.content_type.starts_with("application/vnd.kubernetes.protobuf")
        && let Some(object) = protobuf::decode(&bytes)
    {
        "application/json".clone_into(&mut context.content_type);
        bytes = object.to_string().into();
    }
    let answer = dispatch(&context, &method, named, accept, &bytes);
    Ok(answer.unwrap_or_else(|error| with_warnings(&context, error_response(&error))))
}

fn dispatch(
    context: &Context,
    method: &Method,
    named: bool,
    accept: Result<Accept, ApiError>,
    bytes: &Bytes,
) -> Result<Response, ApiError> {
    let refuse = || Err(ApiError::method_not_allowed());
    let anywhere = context.kind.namespaced && context.target.namespace.is_none();
    if let Some(subresource) = context.target.subresource.as_deref() {
        accept?;
        return crate::subresource::answer(context, subresource, method, bytes);
    }
    match (method.as_str(), named) {
        ("GET", _) => {
            let verb = if named { "get" } else { "list" };
            if !context.kind.allows(verb) {
                return refuse();
            }
            accept?;
            if named { read::get(context) } else { read::list(context) }
        }
        ("POST", false) if !anywhere && context.kind.allows("create") => {
            accept?;
            write::create(context, bytes)
        }
        ("PUT", true) if context.kind.allows("update") => {
            accept?;
            write::update(context, bytes)
        }
        ("PATCH", true) if context.kind.allows("patch") => {
            accept?;
            write::patch(context, bytes)
        }
        ("DELETE", true) if context.kind.allows("delete") => delete::one(context, bytes),
        ("DELETE", false) if !anywhere && context.kind.allows("deletecollection") => delete::collection(context, bytes),
        _ => refuse(),
    }
}

async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    let limited = http_body_util::Limited::new(body, BODY_LIMIT);
    match limited.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {BODY_LIMIT}")))
        }
        Err(error) => Err(ApiError::bad_request(error.to_string())),
    }
}

pub(crate) use delete::{DeleteOptions, delete_object};
pub(crate) use read::{check_options, get as read_object, number, selectors, version_number};
pub(crate) use write::{
    Update, create_object, nameless, patch as patch_object, update as put_object, update_object, write_outcome,
};

/// A context for what the server does by itself.
pub(crate) fn internal_context(
    server: &Server,
    kind: Arc<Kind>,
    namespace: Option<String>,
    name: Option<String>,
) -> Context {
    let target = Target {
        group: kind.group.clone(),
        version: kind.version.clone(),
        plural: kind.plural.clone(),
        namespace: namespace.filter(|_| kind.namespaced),
        name,
        ..Target::default()
    };
    Context {
        hooks: crate::seam::hooks(&kind),
        server: server.clone(),
        kind,
        target,
        query: Query::default(),
        accept: Accept::default(),
        content_type: String::new(),
        user_agent: "kube-controller-manager".to_owned(),
        identity: Identity::administrator(),
        warnings: Mutex::default(),
    }
}
