//! An in-process Kubernetes API server.
//!
//! One generic path serves every kind: what is particular to a kind is data (`data/`), or a hook.
//! [`Server::router`] is the whole API as a tower service; give it to `kube::Client::new`, or serve
//! it over TLS.

pub mod admission;
pub mod auth;
pub mod crd;
pub mod discovery;
mod gc;
mod http;
pub mod identity;
pub mod kind;
pub mod kinds;
mod patch;
pub mod schema;
mod seam;
mod selector;
mod server;
mod ssa;
pub mod status;
pub mod store;
mod subresource;
pub mod table;
pub mod validate;
mod watch;

pub use identity::Identity;
pub use server::{Options, PodStreams, Server};
