//! Where the VMRay server is.

use std::time::Duration;

use runtime::settings::{
    BOOLEAN, MILLISECONDS, Reader, Setting, Unset, parse, read_verify_tls, setting, warn_of_plain_http,
};
use url::Url;

/// The settings of the server, in the order in which people meet them.
#[rustfmt::skip] // one setting a line, however long
pub const SETTINGS: &[Setting] = &[
    setting("VMRAY_SERVER", "URL", Unset::Means("https://cloud.vmray.com"), "address of the VMRay server, with or without `/rest`"),
    setting("VMRAY_VERIFY_TLS", BOOLEAN, Unset::Means("true"), "whether the VMRay server's certificate is checked"),
    setting("VMRAY_TIMEOUT_MS", MILLISECONDS, Unset::Means("30000"), "longest time for a request to VMRay"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmraySettings {
    /// The server's address without `rest`; its path ends with `/`, so that `join("rest/…")` works.
    pub server: Url,
    /// Whether its certificate is checked.
    pub verify_tls: bool,
    /// The longest a request may take.
    pub timeout: Duration,
}

impl VmraySettings {
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let server = reader.value("VMRAY_SERVER", |text| parse::server(text, "rest"));
        warn_of_plain_http(reader, "VMRAY_SERVER", server.as_ref());
        let verify_tls = read_verify_tls(reader, "VMRAY_VERIFY_TLS");
        let timeout = reader.value("VMRAY_TIMEOUT_MS", parse::milliseconds);
        Some(Self { server: server?, verify_tls: verify_tls?, timeout: timeout? })
    }
}
