//! The API server inside of the sandbox.

use std::path::Path;

use kube::Client;
use tokio::task::JoinSet;

use crate::network::Network;
use crate::pace::Pace;
use crate::paths::Paths;
use crate::settings::Settings;
use crate::streams::Streams;

/// The API server cannot do its work.
#[derive(Debug, thiserror::Error)]
#[error("API server: {0}")]
pub struct ApiError(pub(crate) String);

pub(crate) struct ApiServer {}

pub(crate) async fn open(_paths: &Paths, _settings: &Settings) -> Result<ApiServer, ApiError> {
    Err(ApiError("not built yet".to_owned()))
}

impl ApiServer {
    pub(crate) fn client(&self) -> Client {
        unreachable!("not built yet")
    }

    pub(crate) async fn serve(
        &self,
        _network: &Network,
        _streams: Streams,
        _tasks: &mut JoinSet<()>,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    pub(crate) fn write_kubeconfig(&self, _path: &Path) -> Result<(), ApiError> {
        Ok(())
    }
}

pub(crate) fn start_controllers(_client: &Client, _paths: &Paths, _pace: Pace, _tasks: &mut JoinSet<()>) {}
