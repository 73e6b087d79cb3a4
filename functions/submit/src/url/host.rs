//! Which hosts belong to a private network, or to no network at all. By their spelling alone: the parser has already
//! brought every notation of an address into one.
//!
//! Public names that resolve to private addresses (`127.0.0.1.nip.io`) pass: only a question to the DNS could tell, and
//! they lead into VMRay's own network, not into the deployment's.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use psl::Psl;
use url::Host;

/// Where no host of the internet is. The nets for documentation are not here: they are stand-ins for public hosts.
const PRIVATE_V4: [Ipv4Net; 11] = [
    v4([0, 0, 0, 0], 8),      // this network; the unspecified address
    v4([10, 0, 0, 0], 8),     // private
    v4([100, 64, 0, 0], 10),  // behind a provider's NAT; a cloud's metadata
    v4([127, 0, 0, 0], 8),    // loopback
    v4([169, 254, 0, 0], 16), // link-local; most clouds' metadata
    v4([172, 16, 0, 0], 12),  // private
    v4([192, 0, 0, 0], 24),   // protocol assignments
    v4([192, 168, 0, 0], 16), // private
    v4([198, 18, 0, 0], 15),  // benchmarks of devices
    v4([224, 0, 0, 0], 4),    // multicast
    v4([240, 0, 0, 0], 4),    // reserved; broadcast
];

/// The same for IPv6. The addresses that hold an IPv4 address are in [`embedded_v4`].
const PRIVATE_V6: [Ipv6Net; 8] = [
    v6([0x64, 0xff9b, 1, 0], 48), // NAT64 of a local network
    v6([0x100, 0, 0, 0], 64),     // discarded
    v6([0x2001, 0, 0, 0], 32),    // Teredo: a host behind a NAT
    v6([0x2001, 2, 0, 0], 48),    // benchmarks of devices
    v6([0xfc00, 0, 0, 0], 7),     // unique local; a cloud's metadata
    v6([0xfe80, 0, 0, 0], 10),    // link-local
    v6([0xfec0, 0, 0, 0], 10),    // site-local, as it was once
    v6([0xff00, 0, 0, 0], 8),     // multicast
];

/// Names that the public DNS does not hold, by standard or by what networks use them for.
const PRIVATE_SUFFIXES: [&str; 15] = [
    "alt",
    "corp",
    "home",
    "home.arpa",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "private",
    "test",
    "workgroup",
];

/// The top of names in documents. They stand for public hosts.
const DOCUMENTATION: &str = "example";

/// The longest name and label that the DNS can hold.
const NAME_BYTES: usize = 253;
const LABEL_BYTES: usize = 63;

const fn v4(address: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = address;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(head: [u16; 4], prefix: u8) -> Ipv6Net {
    let [a, b, c, d] = head;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix)
}

/// Whether a host could exist. The parser takes any character that does not end a host; the DNS does not, and what is
/// left of a defanged spelling shows here.
pub(super) fn is_plausible(host: &Host<&str>) -> bool {
    let Host::Domain(name) = host else { return true };
    let name = without_root(name);
    let label = |label: &str| {
        (1..=LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= NAME_BYTES && name.split('.').all(label)
}

/// Whether a word that could be a host is one: its last labels are in the Public Suffix List, or are of those that only
/// private networks and documents use. `invoice.pdf` and `first.last` are not.
pub(super) fn is_known_name(name: &str) -> bool {
    let name = without_root(name);
    if !name.contains('.') {
        return name == "localhost";
    }
    let listed = psl::List.suffix(name.as_bytes()).is_some_and(|suffix| suffix.is_known());
    listed || is_private_name(name) || is_under(name, DOCUMENTATION)
}

/// The domain that its owner has registered: `google.co.uk` of `www.google.co.uk`.
pub(super) fn registered_domain(name: &str) -> Option<&str> {
    let domain = psl::List.domain(without_root(name).as_bytes())?;
    std::str::from_utf8(domain.as_bytes()).ok()
}

/// Whether a host is of a private network, or of none.
pub(super) fn is_private(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => is_private_name(without_root(name)),
        Host::Ipv4(address) => is_private_v4(*address),
        Host::Ipv6(address) => is_private_v6(*address),
    }
}

fn is_private_name(name: &str) -> bool {
    !name.contains('.') || PRIVATE_SUFFIXES.iter().any(|suffix| is_under(name, suffix))
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    PRIVATE_V4.iter().any(|net| net.contains(&address))
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    PRIVATE_V6.iter().any(|net| net.contains(&address)) || embedded_v4(address).is_some_and(is_private_v4)
}

/// The IPv4 address that an IPv6 address leads to, in every scheme that has one at a known place.
pub(super) fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let last = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // Compatible (with it the unspecified and the loopback address), mapped, translated, and NAT64.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // ISATAP, within any prefix.
        | [_, _, _, _, 0 | 0x200, 0x5efe, high, low]
        // 6to4.
        | [0x2002, high, low, ..] => last(high, low),
        _ => None,
    }
}

/// Whether a name is a domain or below it.
pub(super) fn is_under(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// A name without the dot of the root: `evil.example.` is `evil.example`.
pub(super) fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn private(text: &str) -> bool {
        match host(text) {
            Host::Domain(name) => is_private(&Host::Domain(&name)),
            Host::Ipv4(address) => is_private(&Host::Ipv4(address)),
            Host::Ipv6(address) => is_private(&Host::Ipv6(address)),
        }
    }

    #[test]
    fn private_addresses_are_found_at_both_ends_of_each_net() {
        for text in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.255",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
        ] {
            assert!(private(text), "{text}");
        }
    }

    #[test]
    fn addresses_beside_the_private_nets_are_public() {
        for text in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
        ] {
            assert!(!private(text), "{text}");
        }
    }

    #[test]
    fn the_nets_of_documentation_stand_for_public_hosts() {
        for text in ["192.0.2.1", "198.51.100.7", "203.0.113.9", "[2001:db8::1]", "www.evil.example"] {
            assert!(!private(text), "{text}");
        }
    }

    #[test]
    fn every_notation_of_an_address_is_the_address() {
        for text in [
            "0x7f.1",
            "0x7f000001",
            "017700000001",
            "2130706433",
            "127.1",
            "0177.0.0.1",
            "0x7f.0.1",
            "127.0.0.1.",
            "１２７.０.０.１",
            "127。0。0。1",
            "%31%32%37.0.0.1",
            "0",
        ] {
            assert!(private(text), "{text}");
        }
    }

    #[test]
    fn private_ipv6_addresses_are_found() {
        for text in [
            "[::]",
            "[::1]",
            "[fc00::1]",
            "[fdff::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[febf::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[2001::1]",
            "[2001:0:ffff::1]",
            "[100::1]",
            "[64:ff9b:1::808:808]",
            "[2001:2::1]",
        ] {
            assert!(private(text), "{text}");
        }
        for text in ["[2606:4700::1111]", "[2001:4860:4860::8888]", "[2001:1::1]", "[2a00:1450::1]"] {
            assert!(!private(text), "{text}");
        }
    }

    #[test]
    fn an_ipv6_address_is_as_private_as_the_ipv4_address_in_it() {
        for text in [
            "[::ffff:10.0.0.1]",
            "[::10.0.0.1]",
            "[::ffff:0:10.0.0.1]",
            "[64:ff9b::10.0.0.1]",
            "[2002:a00:1::]",
            "[2002:a00:1:1::1]",
            "[2606:4700::5efe:a00:1]",
            "[2606:4700::200:5efe:a00:1]",
            "[::ffff:a9fe:a9fe]",
        ] {
            assert!(private(text), "{text}");
        }
        for text in
            ["[::ffff:8.8.8.8]", "[64:ff9b::8.8.8.8]", "[2002:808:808::1]", "[2606:4700::5efe:808:808]"]
        {
            assert!(!private(text), "{text}");
        }
    }

    #[test]
    fn a_name_is_known_by_its_last_labels() {
        for text in [
            "evil.com",
            "EVIL.com.",
            "a.b.co.uk",
            "x.github.io",
            "xn--e1afmkfd.xn--p1ai",
            "evil.zip",
            "localhost",
            "printer.local",
            "abc.onion",
            "evil.example",
        ] {
            assert!(is_known_name(&text.to_ascii_lowercase()), "{text}");
        }
        for text in ["invoice.pdf", "first.last", "8.8", "setup.exe", "report.docx", "hello", "com", "a.b.c"]
        {
            assert!(!is_known_name(text), "{text}");
        }
        assert_eq!(registered_domain("www.google.co.uk."), Some("google.co.uk"));
    }

    #[test]
    fn names_that_the_public_dns_does_not_hold_are_private() {
        for text in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "intranet",
            "a.local",
            "a.b.LOCAL.",
            "metadata.google.internal",
            "x.localhost",
            "x.intranet",
            "x.corp",
            "x.lan",
            "x.home.arpa",
            "home.arpa",
            "x.test",
            "x.invalid",
            "abc.onion",
            "ｌｏｃａｌｈｏｓｔ",
            "x。ｌａｎ",
            "host.localdomain",
            "x.home",
            "x.private",
        ] {
            assert!(private(text), "{text}");
        }
        for text in [
            "evil.example",
            "local.evil.example",
            "corp.com",
            "mylocal.example",
            "xlan.example",
            "arpa.example",
        ] {
            assert!(!private(text), "{text}");
        }
    }

    #[test]
    fn a_name_that_no_dns_holds_is_no_host() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = format!("{}example", "a.".repeat(124));
        for text in
            ["evil..example", ".evil.example", "evil(.)example", "a,b.example", &long_label, &long_name]
        {
            let Host::Domain(name) = host(text) else { panic!("{text} is no name") };
            assert!(!is_plausible(&Host::Domain(&name)), "{text}");
        }
        for text in
            ["evil.example", "evil.example.", "a_b.evil.example", "xn--bcher-kva.example", "-a.example"]
        {
            assert!(is_plausible(&Host::Domain(text)), "{text}");
        }
    }
}
