//! The scheduled function.
