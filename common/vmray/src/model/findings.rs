//! What analyses saw a sample do.

use serde::Deserialize;

use super::lenient;

/// A VMRay threat indicator (VTI): something an analysis saw the sample do.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ThreatIndicator {
    /// The analyses that saw it.
    #[serde(default, deserialize_with = "lenient::numbers")]
    pub analysis_ids: Vec<u64>,
    /// Such as `Defense Evasion`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub category: Option<String>,
    /// Such as `Tries to detect debugger`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub operation: Option<String>,
    /// 1 (harmless) to 5.
    #[serde(default, deserialize_with = "lenient::number")]
    pub score: Option<u8>,
    /// Such as `Spyware`.
    #[serde(default, deserialize_with = "lenient::texts")]
    pub classifications: Vec<String>,
}

/// A MITRE ATT&CK technique that an analysis saw.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct MitreTechnique {
    /// The analyses that saw it.
    #[serde(default, deserialize_with = "lenient::numbers")]
    pub analysis_ids: Vec<u64>,
    /// Such as `T1055.012`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub technique_id: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub technique: Option<String>,
    /// Its tactics, such as `Defense Evasion`.
    #[serde(default, deserialize_with = "lenient::texts")]
    pub tactics: Vec<String>,
}
