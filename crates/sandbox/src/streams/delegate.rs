//! How the API server hands requests over.

use apiserver::PodStreams;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use http::{Request, StatusCode};
use serde_json::Value;

use super::{StreamError, Streams};

impl PodStreams for Streams {
    fn pod(&self, pod: Value, subresource: &str, request: Request<Body>) -> BoxFuture<'static, Response> {
        let (streams, subresource) = (self.clone(), subresource.to_owned());
        Box::pin(async move { streams.handle(&pod, &subresource, request).await })
    }

    fn node(&self, name: &str, path: &str, _request: Request<Body>) -> BoxFuture<'static, Response> {
        let error = StreamError {
            status: StatusCode::NOT_IMPLEMENTED,
            reason: "NotImplemented",
            message: format!("the sandbox's nodes answer nothing: {name}/proxy/{path}"),
        };
        Box::pin(async move { error.into_response() })
    }
}
