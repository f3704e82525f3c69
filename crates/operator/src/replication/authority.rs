//! The topology's CA, and the operator's own certificate for its agents: read and issued aside, never on the way to a
//! decision.

use std::sync::Arc;
use std::time::Duration;

use api::names;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt as _};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::tls;

/// It is looked for again so soon while there is none.
pub(super) const MISSING: Duration = Duration::from_millis(300);
/// It is read again so often while an agent does not answer (it may have been replaced).
const DOUBT: Duration = Duration::from_secs(30);
/// Client certificates are made anew so often; they live for a week.
const AGE: Duration = Duration::from_secs(24 * 3600);
/// An API server that does not answer in this time is asked again.
const LIMIT: Duration = Duration::from_secs(5);

/// What was read.
pub(super) struct Issued {
    version: Option<String>,
    config: Arc<ClientConfig>,
}

/// A certificate, or why there is none.
type News = Result<Issued, String>;

/// It.
pub(super) struct Authority {
    client: kube::Client,
    namespace: String,
    secret: String,
    current: Option<(Issued, Instant)>,
    read: Option<Instant>,
    reading: bool,
    news: (mpsc::UnboundedSender<News>, mpsc::UnboundedReceiver<News>),
}

impl Authority {
    pub(super) fn new(client: kube::Client, namespace: String, root: &str) -> Self {
        Self {
            client,
            namespace,
            secret: names::ca(root),
            current: None,
            read: None,
            reading: false,
            news: mpsc::unbounded_channel(),
        }
    }

    /// The set-up for connections to agents.
    pub(super) fn config(&self) -> Option<&Arc<ClientConfig>> {
        self.current.as_ref().map(|(issued, _)| &issued.config)
    }

    /// Has it read again where that is due. `doubt`: an agent does not answer.
    pub(super) fn refresh(&mut self, doubt: bool) {
        let since = self.read.map(|read| read.elapsed());
        let old = self.current.as_ref().is_some_and(|(_, issued)| issued.elapsed() > AGE);
        let due = match since {
            None => true,
            Some(since) if self.current.is_none() => since >= MISSING,
            Some(since) => old || doubt && since > DOUBT,
        };
        if !due || self.reading {
            return;
        }
        self.reading = true;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let (name, news) = (self.secret.clone(), self.news.0.clone());
        let known = if old { None } else { self.current.as_ref().and_then(|(issued, _)| issued.version.clone()) };
        tokio::spawn(async move {
            let result = read(&api, &name, known.as_deref()).await;
            // Nobody listens any more: the topology is gone.
            let _ = match result {
                Ok(Some(issued)) => news.send(Ok(issued)),
                Ok(None) => news.send(Err(String::new())),
                Err(error) => news.send(Err(error)),
            };
        });
    }

    /// Ends when something was read.
    pub(super) async fn news(&mut self) -> Result<Issued, String> {
        // The sender is ours: it never closes.
        self.news.1.recv().await.unwrap_or_else(|| Err("the channel is closed".to_owned()))
    }

    /// Takes it in; says whether connections must be made anew.
    pub(super) fn take(&mut self, read: Result<Issued, String>) -> bool {
        self.reading = false;
        self.read = Some(Instant::now());
        match read {
            Ok(issued) => {
                self.current = Some((issued, Instant::now()));
                true
            }
            Err(error) => {
                if !error.is_empty() {
                    tracing::debug!(
                        namespace = self.namespace,
                        secret = self.secret,
                        error,
                        "no certificate for agents"
                    );
                }
                false
            }
        }
    }
}

/// Reads and issues; `None`: it is the one that is known.
async fn read(api: &Api<Secret>, name: &str, known: Option<&str>) -> Result<Option<Issued>, String> {
    let secret = tokio::time::timeout(LIMIT, api.get_opt(name))
        .await
        .map_err(|_| format!("read the secret {name}: no answer"))?
        .map_err(|error| format!("read the secret {name}: {error}"))?
        .ok_or_else(|| format!("the secret {name} does not exist yet"))?;
    let version = secret.resource_version();
    if version.is_some() && version.as_deref() == known {
        return Ok(None);
    }
    let config = tls::client_config(&secret, Timestamp::now()).map_err(|error| error.to_string())?;
    Ok(Some(Issued { version, config }))
}
