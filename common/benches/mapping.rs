//! How fast samples are mapped.

fn main() {}
