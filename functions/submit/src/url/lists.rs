//! Lists of hosts in the deployment's settings: its own domains, and what is never sent.

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;
use url::Host;

use super::host::{embedded_v4, is_plausible, without_root};

/// Hosts by name, by domain and by net.
#[derive(Debug, Clone, Default)]
pub(super) struct Hosts {
    /// Names that match alone.
    exact: HashSet<String>,
    /// Names that match with everything below them.
    domains: HashSet<String>,
    nets: Vec<IpNet>,
}

/// What a name without a dot before it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    Host,
    /// Itself and everything below it.
    Domain,
}

enum ListEntry {
    Exact(String),
    Domain(String),
    Net(IpNet),
}

impl Hosts {
    /// Reads a list; every entry that is wrong leaves a sentence. Entries are not quoted, since a URL with a password
    /// may have been pasted, but counted from 1.
    pub(super) fn read(name: &str, plain: Plain, entries: &[String], errors: &mut Vec<String>) -> Self {
        let mut hosts = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            match ListEntry::read(entry.trim(), plain) {
                Ok(entry) => hosts.push(entry),
                Err(error) => errors.push(format!("{name}, entry {}: {error}", index + 1)),
            }
        }
        hosts
    }

    fn push(&mut self, entry: ListEntry) {
        match entry {
            ListEntry::Exact(name) => drop(self.exact.insert(name)),
            ListEntry::Domain(name) => drop(self.domains.insert(name)),
            ListEntry::Net(net) => self.nets.push(net),
        }
    }

    pub(super) fn contains(&self, host: &Host<&str>) -> bool {
        match host {
            Host::Domain(name) => self.contains_name(without_root(name)),
            Host::Ipv4(address) => self.contains_address(IpAddr::V4(*address)),
            Host::Ipv6(address) => {
                self.contains_address(IpAddr::V6(*address))
                    || embedded_v4(*address).is_some_and(|inner| self.contains_address(IpAddr::V4(inner)))
            }
        }
    }

    fn contains_name(&self, name: &str) -> bool {
        let parents =
            std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, parent)| parent));
        self.exact.contains(name) || parents.into_iter().any(|name| self.domains.contains(name))
    }

    fn contains_address(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&address))
    }
}

impl ListEntry {
    fn read(text: &str, plain: Plain) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("is empty");
        }
        if let Some(net) = net(text) {
            return Ok(Self::Net(net));
        }
        if text.contains('/') {
            return Err(
                "is neither a host nor a net; expected one such as evil.example or 203.0.113.0/24, without a scheme and path",
            );
        }
        let domain = text.strip_prefix("*.").or_else(|| text.strip_prefix('.'));
        let name = name(domain.unwrap_or(text))?;
        match plain {
            Plain::Domain if !name.contains('.') => {
                Err("would cover a whole top-level domain; expected one such as corp.example")
            }
            Plain::Domain => Ok(Self::Domain(name)),
            Plain::Host if domain.is_some() => Ok(Self::Domain(name)),
            Plain::Host => Ok(Self::Exact(name)),
        }
    }
}

/// A net or a single address, which is a net of one.
fn net(text: &str) -> Option<IpNet> {
    let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = unbracketed.parse::<IpAddr>() {
        return Some(IpNet::from(address));
    }
    text.parse().ok()
}

/// A name as the parser writes it in a URL: lower case, Punycode, no dot at the end.
fn name(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "is no host; expected one such as evil.example, without a scheme, user and port";
    let host = Host::parse(text).map_err(|_| WRONG)?;
    match &host {
        Host::Domain(name) if is_plausible(&Host::Domain(name)) => Ok(without_root(name).to_owned()),
        _ => Err(WRONG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(plain: Plain, entries: &[&str]) -> Result<Hosts, Vec<String>> {
        let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
        let mut errors = Vec::new();
        let hosts = Hosts::read("a list", plain, &entries, &mut errors);
        if errors.is_empty() { Ok(hosts) } else { Err(errors) }
    }

    fn contains(hosts: &Hosts, text: &str) -> bool {
        match Host::parse(text).expect(text) {
            Host::Domain(name) => hosts.contains(&Host::Domain(&name)),
            Host::Ipv4(address) => hosts.contains(&Host::Ipv4(address)),
            Host::Ipv6(address) => hosts.contains(&Host::Ipv6(address)),
        }
    }

    #[test]
    fn a_plain_name_is_a_host_or_a_domain_as_the_list_says() {
        let hosts = read(Plain::Host, &["Evil.Example"]).expect("a list");
        assert!(contains(&hosts, "evil.example") && contains(&hosts, "EVIL.example."));
        assert!(!contains(&hosts, "www.evil.example"));
        let domains = read(Plain::Domain, &["corp.example"]).expect("a list");
        assert!(contains(&domains, "corp.example") && contains(&domains, "a.b.corp.example."));
        assert!(!contains(&domains, "xcorp.example") && !contains(&domains, "corp.example.evil.example"));
    }

    #[test]
    fn a_suffix_is_a_domain_in_both_spellings() {
        for entry in [".evil.example", "*.evil.example"] {
            let hosts = read(Plain::Host, &[entry]).expect("a list");
            assert!(contains(&hosts, "evil.example") && contains(&hosts, "a.b.evil.example"), "{entry}");
            assert!(!contains(&hosts, "devil.example"), "{entry}");
        }
        assert!(contains(&read(Plain::Host, &["*.zip"]).expect("a list"), "report.zip"));
    }

    #[test]
    fn nets_and_addresses_match_in_either_family() {
        let hosts =
            read(Plain::Host, &["203.0.113.0/24", "2001:db8::/32", "198.51.100.7", "[2001:4860::8888]"])
                .expect("a list");
        for text in
            ["203.0.113.200", "[2001:db8:1::1]", "198.51.100.7", "[2001:4860::8888]", "[::ffff:203.0.113.5]"]
        {
            assert!(contains(&hosts, text), "{text}");
        }
        for text in ["203.0.112.1", "[2001:db9::1]", "198.51.100.8", "203.0.113.example"] {
            assert!(!contains(&hosts, text), "{text}");
        }
    }

    #[test]
    fn international_names_match_in_both_forms() {
        let hosts = read(Plain::Host, &["bücher.example"]).expect("a list");
        assert!(contains(&hosts, "xn--bcher-kva.example") && contains(&hosts, "BÜCHER.example"));
    }

    #[test]
    fn every_wrong_entry_is_reported_and_none_is_quoted() {
        let wrong = [
            "https://user:secret@corp.example/x",
            "",
            "a b",
            "10.0.0.0/33",
            "evil.example:8080",
            "a..b",
            "256.1.1.1",
        ];
        let errors = read(Plain::Host, &wrong).expect_err("a wrong list");
        assert_eq!(errors.len(), wrong.len());
        assert!(errors[0].starts_with("a list, entry 1: "), "{errors:?}");
        assert!(!errors.concat().contains("secret"), "{errors:?}");
    }

    #[test]
    fn a_top_level_domain_is_never_an_own_domain() {
        assert!(read(Plain::Domain, &["com"]).is_err() && read(Plain::Domain, &["*.com"]).is_err());
    }
}
