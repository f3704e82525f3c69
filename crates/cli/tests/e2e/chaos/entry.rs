//! How clients get to a service: by its address, where this machine reaches it (the sandbox); else through `kubectl port-forward`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::super::cluster::{Cluster, Failure};

const PORT: u16 = 3306;
/// A port-forward that does not stand by then is tried anew.
const FORWARD_LIMIT: Duration = Duration::from_secs(5);

/// The way to a service.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Address(SocketAddr),
    Forward { kubectl: PathBuf, kubeconfig: PathBuf, namespace: String, service: String },
}

impl Entry {
    pub(crate) fn of(cluster: &Cluster, namespace: &str, service: &str) -> Result<Self, Failure> {
        if cluster.sandbox_dir().is_none() {
            let (kubectl, kubeconfig) = cluster.kubectl_and_config();
            let (namespace, service) = (namespace.to_owned(), service.to_owned());
            return Ok(Self::Forward { kubectl, kubeconfig, namespace, service });
        }
        let object = cluster.get(namespace, "service", service)?.ok_or_else(|| format!("no service {service}"))?;
        let address = object["spec"]["clusterIP"].as_str().unwrap_or_default();
        let address: IpAddr = address.parse().map_err(|e| format!("service {service}: address {address:?}: {e}"))?;
        Ok(Self::Address(SocketAddr::new(address, PORT)))
    }
}

/// One client's way, which it may have to build anew.
pub(crate) struct Path {
    entry: Entry,
    forward: Option<(Child, u16)>,
}

impl Path {
    pub(crate) fn new(entry: Entry) -> Self {
        Self { entry, forward: None }
    }

    /// Where to connect to now.
    pub(crate) async fn address(&mut self) -> Result<SocketAddr, Failure> {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let (kubectl, kubeconfig, namespace, service) = match &self.entry {
            Entry::Address(address) => return Ok(*address),
            Entry::Forward { kubectl, kubeconfig, namespace, service } => (kubectl, kubeconfig, namespace, service),
        };
        if let Some((_, port)) = &self.forward {
            return Ok(local(*port));
        }
        let mut child = Command::new(kubectl)
            .args(["port-forward", &format!("service/{service}"), "-n", namespace, &format!(":{PORT}")])
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("kubectl port-forward: {e}"))?;
        let output = child.stdout.take().ok_or("kubectl port-forward without output")?;
        // "Forwarding from 127.0.0.1:40123 -> 3306"
        let mut lines = BufReader::new(output).lines();
        let line = tokio::time::timeout(FORWARD_LIMIT, lines.next_line()).await;
        let line = line.map_err(|_| "kubectl port-forward says nothing")?.map_err(|e| e.to_string())?;
        let line = line.unwrap_or_default();
        // It says more, for each connection, and ends when nobody listens.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let port = line.split(':').nth(1).and_then(|rest| rest.split(' ').next()).and_then(|port| port.parse().ok());
        let port: u16 = port.ok_or_else(|| format!("kubectl port-forward: {line:?}"))?;
        self.forward = Some((child, port));
        Ok(local(port))
    }

    /// The connection broke: a port-forward leads to one pod for life, so a new one is made.
    pub(crate) fn broken(&mut self) {
        self.forward = None;
    }
}
