//! Faults of the API, as pods see it. The administrator's way in has no gate.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How the API answers pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct GateState {
    /// Nobody listens, and connections that exist are gone.
    pub(crate) away: bool,
    /// Every request is answered so much later.
    pub(crate) delay: Duration,
}

/// The gate between pods and the API.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate {
    state: Arc<watch::Sender<GateState>>,
    /// Whether somebody listens for pods.
    listening: Arc<watch::Sender<bool>>,
}

impl Gate {
    /// Changes how requests are answered; when this returns, it is so.
    pub(crate) async fn set(&self, state: GateState) {
        self.state.send_replace(state);
        let _ = self.listening.subscribe().wait_for(|listening| *listening != state.away).await;
    }

    /// The listener for pods is there, or is not.
    pub(super) fn set_listening(&self, listening: bool) {
        self.listening.send_replace(listening);
    }

    /// How requests are answered now.
    pub(crate) fn state(&self) -> GateState {
        *self.state.borrow()
    }

    /// Resolves when the API is (or is not) away.
    pub(super) async fn until_away(&self, away: bool) {
        // The sender lives as long as this gate.
        let _ = self.state.subscribe().wait_for(|state| state.away == away).await;
    }
}
