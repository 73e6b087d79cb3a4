//! Any bytes as a request: read or refused, never a panic, and never more inputs than allowed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use submit::{
    api::{
        body::{BodyLimits, parse},
        options,
    },
    options::Options,
};

const LIMITS: BodyLimits = BodyLimits { max_urls: 100, max_bytes: 64 * 1024, max_depth: 32 };

fuzz_target!(|bytes: &[u8]| {
    for content_type in
        [None, Some("application/json"), Some("text/csv"), Some("application/x-www-form-urlencoded")]
    {
        if let Ok(body) = parse(content_type, bytes, LIMITS) {
            assert!((1..=LIMITS.max_urls).contains(&body.inputs.len()));
            // Whether the options are right is another question.
            let _ = options::read(&body.options, &Options::default(), false);
        }
    }
});
