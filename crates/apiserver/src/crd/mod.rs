//! Custom resource definitions: what they must look like, the kinds they make, and their
//! conditions.

pub mod cel;
