//! Any text through the URL gate: it never panics, and what it lets through is a public web address that passes again as
//! it is.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use submit::{
    settings::GateSettings,
    url::{Gate, GatedUrl},
};
use url::{Host, Url};

static GATE: LazyLock<Gate> = LazyLock::new(|| {
    let settings = GateSettings {
        own_domains: vec!["corp.example".to_owned()],
        deny: vec!["*.evil.example".to_owned(), "203.0.113.0/24".to_owned()],
        allow_sensitive: false,
        unwrap_links: true,
    };
    Gate::new(&settings).expect("right entries")
});

fuzz_target!(|text: &str| {
    let Ok(gated) = GATE.check(text) else { return };
    let again = GATE.check(gated.as_str());
    assert_eq!(again.as_ref().map(GatedUrl::as_str), Ok(gated.as_str()), "passes again as it is");
    let url = Url::parse(gated.as_str()).expect("a URL");
    assert!(matches!(url.scheme(), "http" | "https"));
    assert_eq!(url.as_str(), gated.as_str(), "is normalised");
    assert_eq!(url.host_str(), Some(gated.host()), "is the host that was judged");
    assert!(url.username().is_empty() && url.password().is_none());
    assert!(gated.as_str().len() <= 8_192);
    match url.host() {
        Some(Host::Ipv4(address)) => {
            assert!(
                !(address.is_private()
                    || address.is_loopback()
                    || address.is_link_local()
                    || address.is_unspecified())
            );
        }
        Some(Host::Ipv6(address)) => {
            assert!(!(address.is_loopback() || address.is_unspecified() || address.is_multicast()))
        }
        Some(Host::Domain(name)) => assert!(name.trim_end_matches('.').contains('.')),
        None => panic!("no host"),
    }
    if gated.unwrapped_from().is_none() {
        leads_where_a_browser_would_go(text, &url);
    }
});

/// A text that a browser takes as the address of a plausible host is not changed.
fn leads_where_a_browser_would_go(text: &str, sent: &Url) {
    let Ok(browsers) = Url::parse(text) else { return };
    let plausible = browsers.host_str().is_some_and(|host| {
        host.chars().all(|char| char.is_ascii_alphanumeric() || ".-_[]:".contains(char))
            && host.contains(['.', ':'])
            && !host.contains("..")
    });
    // `http://203\.0\.113\.7/` is a defanged address; a browser would look for a host in a net that has none.
    let nowhere = matches!(browsers.host(), Some(Host::Ipv4(address)) if address.octets()[0] == 0);
    let plain_end = text.ends_with(|char: char| char.is_ascii_graphic());
    if matches!(browsers.scheme(), "http" | "https")
        && plausible
        && !nowhere
        && plain_end
        && browsers.username().is_empty()
    {
        assert_eq!(browsers.as_str(), sent.as_str());
    }
}
