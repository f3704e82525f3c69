//! Tests of the sandbox's parts against this machine's kernel. They need root and the sandbox's tools.

mod controllers;
mod faults;
mod node;
mod pods;
mod whole;
