//! What a request body may look like, and what it asks for.
