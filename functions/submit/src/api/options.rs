//! How VMRay shall analyse: the options of a call, each checked before anything is sent.
