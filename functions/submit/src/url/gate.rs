//! The gate that every URL passes before it is sent to a third party's cloud, and the reasons why one does not.

use std::fmt;

use url::{Host, Url};

use super::{
    begins::blank_between_urls,
    host::{is_known_name, is_plausible, is_private},
    lists::{Hosts, Plain},
    refang::{Refanged, characters::breaks_a_line, prose::unwrapped, refang},
    sensitive::opens,
    unwrap::{Wrapper, unwrap},
};
use crate::settings::GateSettings;

/// The longest URL that is sent, in bytes. Browsers and proxies stop at about this length.
const MAX_URL: usize = 8_192;

/// The longest text that is looked at, in bytes: a URL of the full length, as long as defanging could make it. Longer
/// ones are refused before any work is done on them.
pub(super) const MAX_TEXT: usize = 4 * MAX_URL;

/// The deployment's rules for URLs.
#[derive(Debug, Clone)]
pub struct Gate {
    own_domains: Hosts,
    deny: Hosts,
    allow_sensitive: bool,
    unwrap_links: bool,
}

impl Gate {
    /// A gate from the settings. An own domain covers everything below it; of what is denied, `evil.example` is this
    /// host, `.evil.example` and `*.evil.example` the domain with everything below it. Both lists take addresses and
    /// nets as well. The errors name every wrong entry of both lists.
    pub fn new(settings: &GateSettings) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let own_domains = Hosts::read("own domains", Plain::Domain, &settings.own_domains, &mut errors);
        let deny = Hosts::read("denied hosts", Plain::Host, &settings.deny, &mut errors);
        if errors.is_empty() {
            let GateSettings { allow_sensitive, unwrap_links, .. } = *settings;
            Ok(Self { own_domains, deny, allow_sensitive, unwrap_links })
        } else {
            Err(errors)
        }
    }

    /// The URL in a text, if it may be sent. The first reason against it is the one that is told.
    pub fn check(&self, input: &str) -> Result<GatedUrl, Refusal> {
        let url = parse(input)?;
        let (url, unwrapped_from) = if self.unwrap_links { unwrap(url) } else { (url, None) };
        refuse_credentials(&url)?;
        let host = url.host().ok_or(Refusal::NotAUrl)?;
        if is_private(&host) {
            Err(Refusal::PrivateHost)
        } else if self.own_domains.contains(&host) {
            Err(Refusal::OwnDomain)
        } else if self.deny.contains(&host) {
            Err(Refusal::Denylisted)
        } else if !self.allow_sensitive && opens(&url).is_some() {
            Err(Refusal::SensitiveToken)
        } else {
            Ok(GatedUrl { url, unwrapped_from })
        }
    }
}

/// A web address by the WHATWG rules, which could be one of a host and could be sent.
fn parse(input: &str) -> Result<Url, Refusal> {
    if input.len() > MAX_TEXT {
        return Err(Refusal::TooLong);
    }
    let refanged = refang(input);
    // The parser drops tabs and line breaks and takes blanks, and two URLs would silently become one.
    if refanged.text.chars().any(breaks_a_line) || blank_between_urls(unwrapped(input)).is_some() {
        return Err(Refusal::NotAUrl);
    }
    let url = Url::parse(&refanged.text).map_err(|_| Refusal::NotAUrl)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refusal::UnsupportedScheme);
    }
    if !url.host().as_ref().is_some_and(is_plausible)
        || !(refanged.has_scheme || begins_with_host(&url, &refanged))
    {
        return Err(Refusal::NotAUrl);
    }
    if url.as_str().len() > MAX_URL {
        return Err(Refusal::TooLong);
    }
    Ok(url)
}

fn refuse_credentials(url: &Url) -> Result<(), Refusal> {
    if url.username().is_empty() && url.password().is_none() {
        Ok(())
    } else {
        Err(Refusal::CredentialsInUrl)
    }
}

/// Whether a text without a scheme begins with something that can only be a host: a name of the DNS, or an address in
/// its usual notation. `first.last` and `8.8` are words and numbers.
fn begins_with_host(url: &Url, refanged: &Refanged<'_>) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => is_known_name(name),
        Some(Host::Ipv4(address)) => {
            let authority = refanged.text.split(['/', '?', '#']).nth(2).unwrap_or_default();
            let host = authority.rsplit('@').next().unwrap_or_default();
            host.split(':').next() == Some(&address.to_string())
        }
        Some(Host::Ipv6(_)) => true,
        None => false,
    }
}

/// A URL that passed the gate. There is no other way to make one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct GatedUrl {
    url: Url,
    unwrapped_from: Option<Wrapper>,
}

impl GatedUrl {
    /// The normalised URL, with its fragment: exactly what is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// Who had wrapped the URL.
    #[must_use]
    pub fn unwrapped_from(&self) -> Option<Wrapper> {
        self.unwrapped_from
    }

    /// The host as it stands in the URL: lower case, Punycode, an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

impl fmt::Display for GatedUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// The host alone: what is printed for debugging ends up in logs.
impl fmt::Debug for GatedUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("GatedUrl").field(&self.url.host().map(|host: Host<&str>| host.to_string())).finish()
    }
}

/// Why a text is not sent. In the order in which the reasons are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No URL could be read.
    NotAUrl,
    /// A URL of another protocol than the web's.
    UnsupportedScheme,
    /// Longer than what is sent.
    TooLong,
    /// A user name or password before the host.
    CredentialsInUrl,
    /// A host that only a private network could reach.
    PrivateHost,
    /// One of the deployment's own domains.
    OwnDomain,
    /// A host that the deployment never sends.
    Denylisted,
    /// The URL opens something that is not public.
    SensitiveToken,
}

impl Refusal {
    /// Every reason, in the order in which they are looked for.
    pub const ALL: [Self; 8] = [
        Self::NotAUrl,
        Self::UnsupportedScheme,
        Self::TooLong,
        Self::CredentialsInUrl,
        Self::PrivateHost,
        Self::OwnDomain,
        Self::Denylisted,
        Self::SensitiveToken,
    ];

    /// The reason for machines. Never changes.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotAUrl => "not_a_url",
            Self::UnsupportedScheme => "unsupported_scheme",
            Self::TooLong => "too_long",
            Self::CredentialsInUrl => "credentials_in_url",
            Self::PrivateHost => "private_host",
            Self::OwnDomain => "own_domain",
            Self::Denylisted => "denylisted",
            Self::SensitiveToken => "sensitive_token",
        }
    }

    /// The reason for people, with what to do. Never holds anything of the input.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::NotAUrl => {
                "This is not a URL; send one URL such as https://host.example/path, without line breaks."
            }
            Self::UnsupportedScheme => "Only http and https URLs are analysed; submit a file by another way.",
            Self::TooLong => {
                "The URL is longer than 8192 bytes; shorten it to the part that leads to the page."
            }
            Self::CredentialsInUrl => "The URL holds a user name or password before its host; remove them.",
            Self::PrivateHost => "The host is not on the public internet; analyse it inside its own network.",
            Self::OwnDomain => {
                "The host is one of this deployment's own domains; analyse it without a third party."
            }
            Self::Denylisted => "The deployment's settings forbid this host; ask its operator.",
            Self::SensitiveToken => {
                "The URL seems to hold a token that gives access to something; remove the token, or ask the operator to \
                 allow such URLs."
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.code())
    }
}
