//! Tests of the sandbox's parts against this machine's kernel. They need root and the sandbox's tools.

mod controllers;
mod faults;
mod features;
mod node;
mod pods;
mod policies;
mod volumes;
mod whole;
mod world;
