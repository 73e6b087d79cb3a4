//! What both functions share.
