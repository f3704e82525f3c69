//! What the loops work with.

use std::sync::Arc;

use crate::events::Events;
use crate::leader::Candidate;
use crate::resources::{SharedClaims, SharedNumbers};
use crate::watches::Caches;
use crate::{Releases, RunError};

/// What the operator is told about itself.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The image that members' pods copy the agent from.
    pub operator_image: String,
    /// Name of the operator's pod.
    pub pod_name: String,
    /// Whom to stand for in leader election; `None`: there is nobody else (tests).
    pub election: Option<Candidate>,
}

impl Settings {
    /// From the environment that `deploy/install.yaml` sets.
    pub fn from_environment() -> Result<Self, RunError> {
        let variable = |name| std::env::var(name).map_err(|_| RunError::Environment(name));
        let pod_name = variable("POD_NAME")?;
        let election =
            Candidate { namespace: variable("POD_NAMESPACE")?, pod: pod_name.clone(), uid: variable("POD_UID")? };
        Ok(Self { operator_image: variable("OPERATOR_IMAGE")?, pod_name, election: Some(election) })
    }
}

/// What the *resources* loop works with.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: kube::Client,
    /// What the operator is told about itself.
    pub settings: Arc<Settings>,
    /// What the cluster holds, as far as it concerns us.
    pub caches: Caches,
    /// Publishes events.
    pub events: Events,
    /// Server ids that were given out.
    pub(crate) numbers: SharedNumbers,
    /// Names that are about to be taken.
    pub(crate) claims: SharedClaims,
    /// Which pods may be restarted or taken away.
    pub(crate) releases: Releases,
}

impl Context {
    pub(crate) fn new(client: kube::Client, settings: Settings, caches: Caches, events: Events) -> Self {
        Self {
            client,
            settings: Arc::new(settings),
            caches,
            events,
            numbers: SharedNumbers::default(),
            claims: SharedClaims::default(),
            releases: Releases::default(),
        }
    }
}
