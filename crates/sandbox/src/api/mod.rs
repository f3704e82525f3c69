//! The API server inside of the sandbox: its state, its sockets and who may use them.

pub(crate) mod gate;
mod pki;
mod serve;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use apiserver::Server;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kube::Client;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::network::Network;
use crate::paths::Paths;
use crate::settings::Settings;
use crate::streams::Streams;
use gate::Gate;
use pki::Pki;

/// The API server cannot do its work.
#[derive(Debug, thiserror::Error)]
#[error("API server: {0}")]
pub struct ApiError(String);

/// The API server of this sandbox.
pub(crate) struct ApiServer {
    server: Server,
    pki: Pki,
    port: u16,
    api: Ipv4Addr,
}

/// Opens the state.
pub(crate) fn open(paths: &Paths, settings: &Settings) -> Result<ApiServer, ApiError> {
    let api = settings.addresses().api();
    let pki = Pki::open(&paths.state().join("pki"), api)?;
    let options = apiserver::Options {
        dir: Some(paths.state().join("objects")),
        ca: Some(pki.authority.certificate.clone()),
        service_network: Some(settings.addresses().service_network()),
    };
    let server = Server::open(options).map_err(|e| ApiError(e.to_string()))?;
    Ok(ApiServer { server, pki, port: settings.api_port, api })
}

impl ApiServer {
    /// The API as an administrator, without a socket.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.server.router(), "default")
    }

    /// Serves HTTPS on the host's loopback and inside of the cluster.
    pub(crate) async fn serve(
        &self,
        network: &Arc<Network>,
        streams: Streams,
        gate: Gate,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), ApiError> {
        let failed = |what: &str, e: &dyn std::fmt::Display| ApiError(format!("{what}: {e}"));
        self.server.set_streams(Arc::new(streams));
        let acceptor = serve::acceptor(&self.pki)?;
        let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await.map_err(|e| {
            failed(&format!("port {} on 127.0.0.1 (kept in sandbox.json) cannot be used", self.port), &e)
        })?;
        let inside = network.listen(self.api, 443).await.map_err(|e| failed("listening in the cluster", &e))?;
        let inside = TcpListener::from_std(inside).map_err(|e| failed("listening in the cluster", &e))?;
        tasks.spawn(serve::serve(outside, acceptor.clone(), self.server.clone()));
        tasks.spawn(serve::serve_pods(inside, Arc::clone(network), acceptor, self.server.clone(), gate));
        Ok(())
    }

    /// Writes the administrator's kubeconfig.
    pub(crate) fn write_kubeconfig(&self, path: &Path) -> Result<(), ApiError> {
        let encode = |text: &str| BASE64_STANDARD.encode(text);
        // JSON is YAML, and needs no further library.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "sandbox",
            "clusters": [{ "name": "sandbox", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority-data": encode(&self.pki.authority.certificate),
            } }],
            "users": [{ "name": "sandbox-admin", "user": {
                "client-certificate-data": encode(&self.pki.administrator.certificate),
                "client-key-data": encode(&self.pki.administrator.key),
            } }],
            "contexts": [{ "name": "sandbox", "context": { "cluster": "sandbox", "user": "sandbox-admin" } }],
        });
        let text = serde_json::to_string_pretty(&config).map_err(|e| ApiError(e.to_string()))?;
        pki::write_private(path, &text).map_err(|e| ApiError(format!("{}: {e}", path.display())))
    }
}
