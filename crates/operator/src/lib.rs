//! The controllers.

pub mod replication;
