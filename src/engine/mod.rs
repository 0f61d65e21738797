//! The engine: one function for each thing a user can ask for.

pub mod leaks;
