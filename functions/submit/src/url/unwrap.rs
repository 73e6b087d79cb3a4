//! Links that mail gateways and search engines have wrapped: the target stands in the link, and beside it the address of
//! the mail's recipient. What is analysed is the target; the recipient stays here.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::{
    host::{is_plausible, is_under, registered_domain, without_root},
    refang::characters::breaks_a_line,
};

/// Wrappers within each other that are taken off. A mail that several gateways have passed has three or four.
const LAYERS: usize = 16;

/// Who has wrapped a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrapper {
    /// Microsoft Defender for Office 365.
    SafeLinks,
    /// Proofpoint URL Defense, all three versions.
    Proofpoint,
    /// Barracuda Link Protection.
    Barracuda,
    /// Google's redirect of search results and mails.
    Google,
}

impl Wrapper {
    pub const ALL: [Self; 4] = [Self::SafeLinks, Self::Proofpoint, Self::Barracuda, Self::Google];
}

/// The target of a wrapped link, and who has wrapped it: the outermost, of several. What cannot be unwrapped is left as
/// it is.
pub(super) fn unwrap(mut url: Url) -> (Url, Option<Wrapper>) {
    let mut outermost = None;
    for _ in 0..LAYERS {
        let Some((wrapper, target)) =
            Wrapper::of(&url).and_then(|wrapper| Some((wrapper, wrapper.target(&url)?)))
        else {
            break;
        };
        outermost = outermost.or(Some(wrapper));
        url = target;
    }
    (url, outermost)
}

impl Wrapper {
    fn of(url: &Url) -> Option<Self> {
        let Host::Domain(host) = url.host()? else { return None };
        let is_on = |domain| is_under(without_root(host), domain);
        let path = url.path();
        if is_on("safelinks.protection.outlook.com")
            || is_on("safelinks.protection.office365.us")
            || is_on("safelinks.protection.outlook.cn")
            || (is_on("teams.cdn.office.net") && path.contains("/safelinks/"))
        {
            Some(Self::SafeLinks)
        } else if is_on("urldefense.proofpoint.com") || is_on("urldefense.com") || is_on("urldefense.us") {
            Some(Self::Proofpoint)
        } else if is_on("linkprotect.cudasvc.com") {
            Some(Self::Barracuda)
        } else if path == "/url"
            && registered_domain(host).is_some_and(|domain| domain.starts_with("google."))
        {
            Some(Self::Google)
        } else {
            None
        }
    }

    fn target(self, url: &Url) -> Option<Url> {
        match self {
            Self::SafeLinks => web_url(&parameter(url, "url")?),
            Self::Barracuda => web_url(&parameter(url, "a")?),
            Self::Google => ["q", "url"].into_iter().find_map(|name| web_url(&parameter(url, name)?)),
            Self::Proofpoint => match url.path() {
                path if path.starts_with("/v1/") => web_url(&parameter(url, "u")?),
                path if path.starts_with("/v2/") => web_url(&proofpoint_v2(&parameter(url, "u")?)),
                path if path.starts_with("/v3/") => web_url(&proofpoint_v3(url.as_str())?),
                _ => None,
            },
        }
    }
}

fn parameter<'a>(url: &'a Url, name: &str) -> Option<Cow<'a, str>> {
    url.query_pairs().find(|(given, _)| given == name).map(|(_, value)| value)
}

/// The target, if it is a URL that the gate can judge.
fn web_url(text: &str) -> Option<Url> {
    let text = text.trim();
    let url = Url::parse(text).ok()?;
    let sound = matches!(url.scheme(), "http" | "https")
        && url.host().as_ref().is_some_and(is_plausible)
        && !text.chars().any(breaks_a_line);
    sound.then_some(url)
}

/// `https-3A__a.example_x`: percent signs are hyphens, slashes underscores.
fn proofpoint_v2(text: &str) -> String {
    percent_decoded(&text.replace('-', "%").replace('_', "/"))
}

/// `/v3/__https://a.example/x*y__;Kg!!..`: each star stands for the next of the characters that follow in Base64, `**X`
/// for a run of them.
fn proofpoint_v3(url: &str) -> Option<String> {
    let (_, wrapped) = url.split_once("/v3/__")?;
    let (target, behind) = wrapped.split_once("__;")?;
    let (replaced, _) = behind.split_once('!')?;
    let replaced = URL_SAFE_NO_PAD.decode(replaced.trim_end_matches('=')).ok()?;
    let mut replaced = std::str::from_utf8(&replaced).ok()?.chars();
    let target = percent_decoded(target);
    let mut decoded = String::with_capacity(target.len());
    let mut rest = target.chars();
    while let Some(char) = rest.next() {
        if char != '*' {
            decoded.push(char);
            continue;
        }
        let count = match rest.as_str().strip_prefix('*').and_then(|behind| behind.chars().next()) {
            Some(length) => {
                rest.nth(1);
                run_length(length)?
            }
            None => 1,
        };
        for _ in 0..count {
            decoded.push(replaced.next()?);
        }
    }
    Some(with_both_slashes(decoded))
}

/// A run's length as one character: `A` is two, the shortest run.
fn run_length(char: char) -> Option<usize> {
    const LENGTHS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    LENGTHS.find(char).map(|at| at + 2)
}

/// Some mail programs make one of two slashes.
fn with_both_slashes(url: String) -> String {
    match url.split_once(":/") {
        Some((scheme, rest)) if !rest.starts_with('/') => format!("{scheme}://{rest}"),
        _ => url,
    }
}

/// A text with its percent-encoding undone. Bytes that are no UTF-8 become replacement characters.
pub(super) fn percent_decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use url::form_urlencoded;

    use super::*;

    fn unwrapped(text: &str) -> (String, Option<Wrapper>) {
        let (url, wrapper) = unwrap(Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")));
        (url.into(), wrapper)
    }

    #[test]
    fn the_target_of_a_wrapped_link_is_found() {
        for (wrapped, wrapper, target) in [
            (
                "https://eur01.safelinks.protection.outlook.com/?url=https%3A%2F%2Fevil.example%2Fa%3Fb%3Dc%2526d&data=05%7C02%7Cvictim%40corp.example%7C0&sdata=x%3D&reserved=0",
                Wrapper::SafeLinks,
                "https://evil.example/a?b=c%26d",
            ),
            (
                "https://gcc02.safelinks.protection.office365.us/?url=http%3A%2F%2Fevil.example%2F&amp;data=x",
                Wrapper::SafeLinks,
                "http://evil.example/",
            ),
            (
                "https://statics.teams.cdn.office.net/evergreen-assets/safelinks/1/atp-safelinks.html?url=https%3A%2F%2Fevil.example%2F&locale=en-us",
                Wrapper::SafeLinks,
                "https://evil.example/",
            ),
            (
                "https://urldefense.proofpoint.com/v1/url?u=http://evil.example/a%3Fb%3Dc&k=oIvRg1%3D&r=victim&m=x&s=y",
                Wrapper::Proofpoint,
                "http://evil.example/a?b=c",
            ),
            (
                "https://urldefense.proofpoint.com/v2/url?u=https-3A__evil.example_a-2Db-5Fc-3Fd-3De-26f-3Dg&d=DwMFaQ&c=x&r=y&m=z&s=w&e=",
                Wrapper::Proofpoint,
                "https://evil.example/a-b_c?d=e&f=g",
            ),
            (
                "https://urldefense.com/v3/__https://evil.example/a?b=c__;!!Abc123!x$",
                Wrapper::Proofpoint,
                "https://evil.example/a?b=c",
            ),
            (
                "https://urldefense.com/v3/__https:/evil.example/a*b?c=d*2Fe**Bf__;IyUhISE!!Abc123!x$",
                Wrapper::Proofpoint,
                "https://evil.example/a#b?c=d%2Fe!!!f",
            ),
            (
                "https://urldefense.us/v3/__https://evil.example/*__;w7w!!Abc!x$",
                Wrapper::Proofpoint,
                "https://evil.example/%C3%BC",
            ),
            (
                "https://linkprotect.cudasvc.com/url?a=https%3a%2f%2fevil.example%2fx&c=E,1,abc&typo=1",
                Wrapper::Barracuda,
                "https://evil.example/x",
            ),
            (
                "https://www.google.com/url?q=https://evil.example/x%3Fy&sa=D&source=gmail&usg=AOvVaw",
                Wrapper::Google,
                "https://evil.example/x?y",
            ),
            (
                "https://www.google.co.uk/url?sa=t&url=https%3A%2F%2Fevil.example%2F",
                Wrapper::Google,
                "https://evil.example/",
            ),
        ] {
            assert_eq!(unwrapped(wrapped), (target.to_owned(), Some(wrapper)), "{wrapped}");
        }
    }

    #[test]
    fn wrappers_within_wrappers_are_taken_off_and_the_outermost_is_told() {
        let mut url = "https://evil.example/?a=b&c=%20".to_owned();
        for layer in 0..6 {
            let target: String = form_urlencoded::byte_serialize(url.as_bytes()).collect();
            url = match layer % 2 {
                0 => format!("https://www.google.com/url?q={target}"),
                _ => format!("https://nam02.safelinks.protection.outlook.com/?url={target}&data=x"),
            };
        }
        let target = "https://evil.example/?a=b&c=%20".to_owned();
        assert_eq!(unwrapped(&url), (target, Some(Wrapper::SafeLinks)));
    }

    #[test]
    fn what_is_no_wrapper_or_holds_no_web_address_stays() {
        for text in [
            "https://safelinks.protection.outlook.com.evil.example/?url=https%3A%2F%2Fa.example",
            "https://eur01.safelinks.protection.outlook.com/?data=x",
            "https://eur01.safelinks.protection.outlook.com/?url=mailto%3Aa%40b.example",
            "https://eur01.safelinks.protection.outlook.com/?url=evil.example",
            "https://eur01.safelinks.protection.outlook.com/?url=https%3A%2F%2Fevil.example%2F%0Ax",
            "https://urldefense.com/v3/__https://evil.example/*__;!!Abc!x$",
            "https://urldefense.com/v3/__https://evil.example/**",
            "https://urldefense.com/v4/x",
            "https://www.google.com/url?q=/search",
            "https://www.google.com/search?q=https://evil.example/",
            "https://google.evil.example/url?q=https://a.example/",
            "https://evil.example/url?q=https://a.example/",
            "https://127.0.0.1/url?q=https://a.example/",
        ] {
            assert_eq!(unwrapped(text), (Url::parse(text).expect("a URL").into(), None), "{text}");
        }
    }
}
