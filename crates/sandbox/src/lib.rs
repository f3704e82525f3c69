//! The rest of a cluster in one process: nodes that run pods as isolated processes, network, DNS, volumes and images.

mod api;
pub mod cgroup;
pub mod command;
pub mod controllers;
pub mod dns;
pub mod events;
pub mod faults;
pub mod host;
pub mod images;
pub mod instance;
pub mod network;
pub mod node;
pub mod pace;
pub mod paths;
pub mod quantity;
mod sandbox;
pub mod settings;
pub mod streams;

pub use api::ApiError;
pub use sandbox::{Options, Sandbox, SandboxError};
