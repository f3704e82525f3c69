//! An in-process Kubernetes API server.

pub mod crd;
pub mod schema;
pub mod validate;
