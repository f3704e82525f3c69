//! What users write: the CRD types, and [`resolve`](crate::resolve::resolve), which turns them into one typed intent.
//!
//! `resolve` is the only place that knows defaults, aliases and unit strings. Everything behind it works with
//! [`resolved::Resolved`]: no `Option` where a default exists, no string where a type exists.

pub mod duration;
pub mod mycnf;
pub mod names;
pub mod primary_change;
pub mod quantity;
pub mod resolve;
pub mod resolved;
mod schema;
#[allow(
    unreachable_pub,
    dead_code,
    reason = "the derived schema code refers to the types through private modules, and has a copy of each that nobody reads"
)]
pub mod spec;
#[allow(unreachable_pub, reason = "see `spec`")]
pub mod status;
pub mod unsupported;

pub use duration::GoDuration;
pub use primary_change::PrimaryChange;
pub use quantity::Size;
pub use resolve::{Mistake, resolve};
pub use resolved::Resolved;
pub use schema::BORROWED;
pub use spec::{MariaDB, MariaDBSpec};
pub use status::MariaDBStatus;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// API group of all kinds.
pub const GROUP: &str = "k8s.mariadb.com";
/// API version.
pub const VERSION: &str = "v1alpha1";

/// The CRDs to install.
pub fn crds() -> Vec<CustomResourceDefinition> {
    use kube::CustomResourceExt as _;
    vec![schema::tidy(MariaDB::crd()), schema::tidy(PrimaryChange::crd())]
}
