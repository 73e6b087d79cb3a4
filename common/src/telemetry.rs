//! Logs as JSON lines, metrics as CloudWatch Embedded Metric Format, and URLs fit for a log.
