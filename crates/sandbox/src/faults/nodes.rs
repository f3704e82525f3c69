//! Nodes that lose their power or their network.

use std::time::Duration;

use super::{FaultError, Faults, NodeAct, Peer};

/// So long processes have to be gone after a SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);

impl Faults {
    pub(super) async fn node(&self, name: &str, act: NodeAct) -> Result<String, FaultError> {
        self.known_node(name)?;
        match act {
            NodeAct::Stop => self.stop(name).await,
            NodeAct::Start => self.start(name).await,
            NodeAct::Cut(peer) => self.cut(name, peer).await,
            NodeAct::Heal => self.heal(name).await,
        }
    }

    fn known_node(&self, name: &str) -> Result<(), FaultError> {
        self.context().links.read(|table| {
            if table.nodes.contains_key(name) {
                return Ok(());
            }
            let known = table.nodes.keys().cloned().collect::<Vec<_>>().join(", ");
            Err(FaultError::UnknownNode { name: name.to_owned(), known })
        })
    }

    /// The network goes first: a machine without power sends no farewell on its connections.
    async fn stop(&self, name: &str) -> Result<String, FaultError> {
        let links = &self.context().links;
        let was = links
            .change(|table| table.nodes.get_mut(name).is_some_and(|link| std::mem::replace(&mut link.stopped, true)))
            .await
            .map_err(FaultError::Network)?;
        if was {
            return Ok(format!("node {name} is stopped already"));
        }
        let stuck = self.pods.lose(name, PATIENCE).await;
        if stuck.is_empty() {
            return Ok(format!("node {name} is stopped"));
        }
        // They are killed, and do nothing any more: only the kernel cannot let go of them yet.
        let pods = stuck.join(", ");
        Ok(format!("node {name} is stopped; killed processes of {pods} wait for a disk that hangs"))
    }

    async fn start(&self, name: &str) -> Result<String, FaultError> {
        let links = &self.context().links;
        if !links.read(|table| table.nodes.get(name).is_some_and(|link| link.stopped)) {
            return Ok(format!("node {name} runs already"));
        }
        if !self.pods.until_lost(name, PATIENCE).await {
            return Err(FaultError::Stuck(name.to_owned()));
        }
        links.start_node(name).await.map_err(FaultError::Network)?;
        Ok(format!("node {name} is started"))
    }

    async fn cut(&self, name: &str, peer: Option<Peer>) -> Result<String, FaultError> {
        match &peer {
            Some(Peer::Node(other)) if other == name => return Err(FaultError::Itself(name.to_owned())),
            Some(Peer::Node(other)) => self.known_node(other)?,
            Some(Peer::Pod { namespace, name }) => drop(self.object(namespace, name).await?),
            Some(Peer::Api) | None => {}
        }
        let from = peer.as_ref().map_or_else(|| "everything".to_owned(), ToString::to_string);
        let edit = |table: &mut crate::network::links::LinkTable| {
            if let Some(link) = table.nodes.get_mut(name) {
                match peer {
                    Some(peer) => drop(link.from.insert(peer)),
                    None => link.cut = true,
                }
            }
        };
        self.context().links.change(edit).await.map_err(FaultError::Network)?;
        Ok(format!("node {name} is cut off from {from}"))
    }

    async fn heal(&self, name: &str) -> Result<String, FaultError> {
        let edit = |table: &mut crate::network::links::LinkTable| {
            if let Some(link) = table.nodes.get_mut(name) {
                link.cut = false;
                link.from.clear();
            }
        };
        self.context().links.change(edit).await.map_err(FaultError::Network)?;
        Ok(format!("node {name} has no cuts"))
    }
}
