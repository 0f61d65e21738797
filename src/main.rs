//! Chooses the role that this process plays.

fn main() {}
