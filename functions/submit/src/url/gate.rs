//! The gate that every URL passes before it is sent to a third party's cloud, and the reasons why one does not.

use std::{borrow::Cow, fmt};

use url::{Host, Url};

use super::{
    host::{is_plausible, is_private},
    lists::{Hosts, Plain},
    refang::refang,
    sensitive::is_sensitive,
};

/// The longest URL that is sent, in bytes. Browsers and proxies stop at about this length.
const MAX_URL: usize = 8_192;

/// The longest text that is looked at, in bytes: a URL of the full length, as long as defanging could make it. Longer
/// ones are refused before any work is done on them.
const MAX_TEXT: usize = 4 * MAX_URL;

/// Whether a text that was refused, for whatever reason, must not be kept: it holds a token or a password.
#[must_use]
pub fn holds_secret(text: &str) -> bool {
    let read = |text: &str| Url::parse(text).is_ok_and(|url| is_sensitive(&url) || url.password().is_some());
    text.len() <= MAX_TEXT && (read(text.trim()) || read(&refang(text)))
}

/// The deployment's rules for URLs.
#[derive(Debug, Clone)]
pub struct Gate {
    own_domains: Hosts,
    deny: Hosts,
    allow_sensitive: bool,
}

impl Gate {
    /// A gate from the settings. An own domain covers everything below it; of what is denied, `evil.example` is this
    /// host, `.evil.example` and `*.evil.example` the domain with everything below it. Both lists take addresses and
    /// nets as well. The errors name every wrong entry of both lists.
    pub fn new(own_domains: &[String], deny: &[String], allow_sensitive: bool) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let own_domains = Hosts::read("own domains", Plain::Domain, own_domains, &mut errors);
        let deny = Hosts::read("denied hosts", Plain::Host, deny, &mut errors);
        if errors.is_empty() { Ok(Self { own_domains, deny, allow_sensitive }) } else { Err(errors) }
    }

    /// The URL in a text, if it may be sent. The first reason against it is the one that is told.
    pub fn check(&self, input: &str) -> Result<GatedUrl, Refusal> {
        let url = parse(input)?;
        let host = url.host().ok_or(Refusal::NotAUrl)?;
        if is_private(&host) {
            Err(Refusal::PrivateHost)
        } else if self.own_domains.contains(&host) {
            Err(Refusal::OwnDomain)
        } else if self.deny.contains(&host) {
            Err(Refusal::Denylisted)
        } else if !self.allow_sensitive && is_sensitive(&url) {
            Err(Refusal::SensitiveToken)
        } else {
            Ok(GatedUrl { url })
        }
    }
}

/// A web address by the WHATWG rules, which could be one of a host and could be sent.
fn parse(input: &str) -> Result<Url, Refusal> {
    if input.len() > MAX_TEXT {
        return Err(Refusal::TooLong);
    }
    let text: Cow<'_, str> = refang(input);
    // The parser drops tabs and line breaks, and two lines would silently become one URL.
    if text.chars().any(breaks_a_line) {
        return Err(Refusal::NotAUrl);
    }
    let url = Url::parse(&text).map_err(|_| Refusal::NotAUrl)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refusal::UnsupportedScheme);
    }
    if !url.host().as_ref().is_some_and(is_plausible) {
        return Err(Refusal::NotAUrl);
    }
    if url.as_str().len() > MAX_URL {
        return Err(Refusal::TooLong);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refusal::CredentialsInUrl);
    }
    Ok(url)
}

fn breaks_a_line(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')
}

/// A URL that passed the gate. There is no other way to make one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct GatedUrl {
    url: Url,
}

impl GatedUrl {
    /// The normalised URL, with its fragment: exactly what is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.url.as_str()
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
    /// Something in the URL opens what is not for everybody.
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
