//! Which URLs open something that is not public: links to reset a password or to sign in, shared documents,
//! signed URLs, web hooks, tokens. A public scanner would hand them on.
//!
//! What is refused stands in two tables, [`rules`]: shapes of links, and tokens that are known by their form. A URL is
//! held against both, and so is every URL within it, as it is and in each of its encodings. Names and values are decoded
//! for this question only; what is sent is never decoded.

use std::collections::HashSet;

use url::{Url, form_urlencoded};

use super::{
    begins::{begins_host, opened},
    host::{is_known_name, without_root},
    unwrap::percent_decoded,
};

#[cfg(test)]
pub(super) mod examples;
mod look;
mod pattern;
mod rules;
mod words;

use pattern::{Link, Text};

pub(super) use look::is_drawn;
pub(super) use pattern::plain_name;
pub(super) use rules::holds_token;

/// Readings of one URL, and URLs within it, that are looked at. No link that a person follows has as many.
const READINGS: usize = 32;
const NESTED: usize = 32;

/// Segments of a path and parameters that are looked at.
const SEGMENTS: usize = 64;
const PAIRS: usize = 128;

/// The shortest text in Base64 that could hold a URL or a token.
const BASE64_TEXT: usize = 12;

/// What a URL opens, if it seems to open something.
pub(super) fn opens(url: &Url) -> Option<&'static str> {
    let readings = readings(url);
    let token = readings.iter().find_map(|text| rules::holds_token(text));
    token.or_else(|| rules::matching(&Link::of(url))).or_else(|| {
        let mut nested = readings.iter().enumerate().flat_map(|(number, text)| urls_in(text, number > 0));
        nested.by_ref().take(NESTED).find_map(|url| rules::matching(&Link::of(&url)))
    })
}

/// A URL as it is, with its percent-encoding undone as often as there is some, and the texts that stand in Base64 within
/// any of these.
fn readings(url: &Url) -> Vec<String> {
    let mut readings = vec![url.as_str().to_owned()];
    let mut seen: HashSet<String> = readings.iter().cloned().collect();
    let mut next = 0;
    while next < readings.len() {
        let text = readings[next].clone();
        let decoded = std::iter::once(percent_decoded(&text)).chain(texts_in_base64(&text));
        for text in decoded {
            if readings.len() < READINGS && seen.insert(text.clone()) {
                readings.push(text);
            }
        }
        next += 1;
    }
    readings
}

fn texts_in_base64(text: &str) -> impl Iterator<Item = String> {
    // A slash is a character of Base64, and one of paths.
    let in_path = text.split(|char: char| !(char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '+')));
    let in_query = text.split(['?', '&', '#', '=']);
    in_path.chain(in_query).filter(|piece| piece.len() >= BASE64_TEXT).filter_map(look::from_base64)
}

/// The URLs within a text, and those without a scheme too. `whole`: the text itself may be one.
fn urls_in(text: &str, whole: bool) -> impl Iterator<Item = Url> {
    let lower = text.to_ascii_lowercase();
    let schemes: Vec<usize> = lower
        .match_indices("http")
        .map(|(at, _)| at)
        .filter(|at| {
            let rest = &lower[at + 4..];
            (whole || *at > 0) && rest.strip_prefix('s').unwrap_or(rest).starts_with(":/")
        })
        .collect();
    let hosts: Vec<usize> = text
        .match_indices(['/', '=', '#'])
        .map(|(at, _)| at + 1)
        .filter(|at| {
            let host = opened(&text[*at..]).split(['/', '?', '#']).next().unwrap_or_default();
            begins_host(host) && is_known_name(&host.to_ascii_lowercase())
        })
        // The first is the URL's own.
        .skip(usize::from(!whole))
        .collect();
    let with_scheme = schemes.into_iter().filter_map(|at| Url::parse(&text[at..]).ok());
    let without = hosts.into_iter().filter_map(|at| Url::parse(&format!("https://{}", &text[at..])).ok());
    with_scheme.chain(without).collect::<Vec<_>>().into_iter()
}

impl Link {
    fn of(url: &Url) -> Self {
        let fragment = url.fragment().unwrap_or_default();
        // `#access_token=..` and `#/reset?token=..`.
        let (fragment_path, in_fragment) = fragment.split_once('?').unwrap_or((fragment, fragment));
        // `/page;jsessionid=..`
        let in_path = url.path().split(['/', ';']).filter(|part| part.contains('='));
        let whole = (!fragment.is_empty()).then(|| ("#".to_owned(), percent_decoded(fragment)));
        let pairs =
            pairs(url.query().unwrap_or_default()).chain(pairs(in_fragment)).chain(in_path.flat_map(pairs));
        Self {
            host: without_root(url.host_str().unwrap_or_default()).to_owned(),
            path: segments(url.path()),
            fragment_path: segments(fragment_path),
            pairs: pairs.chain(whole).map(|(name, value)| (Text::new(name), Text::new(value))).collect(),
        }
    }
}

fn segments(path: &str) -> Vec<Text> {
    let path = path.trim_start_matches(['!', '/']);
    path.split('/').take(SEGMENTS).map(|segment| Text::new(percent_decoded(segment))).collect()
}

fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    // A plus is kept: here it is a character of Base64 more often than a blank.
    let query = query.replace('+', "%2B");
    let pairs = form_urlencoded::parse(query.as_bytes());
    let pairs: Vec<_> =
        pairs.take(PAIRS).map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    pairs.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sensitive(text: &str) -> bool {
        opens(&Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))).is_some()
    }

    /// The lines of a list that are judged otherwise than all of it should be.
    fn misjudged(list: &str, expected: bool) -> Vec<String> {
        examples::lines(list).filter(|line| sensitive(line) != expected).collect()
    }

    #[test]
    fn links_that_open_something_are_found() {
        let list = include_str!("../../../tests/data/links-that-open.txt");
        assert!(examples::lines(list).count() >= 200);
        assert_eq!(misjudged(list, true), Vec::<String>::new());
    }

    #[test]
    fn phishing_and_ordinary_links_pass() {
        let list = include_str!("../../../tests/data/links-that-pass.txt");
        assert!(examples::lines(list).count() >= 200);
        assert_eq!(misjudged(list, false), Vec::<String>::new());
    }

    fn all(texts: &[&str]) {
        for text in texts {
            assert!(sensitive(text), "{text}");
        }
    }

    fn none(texts: &[&str]) {
        for text in texts {
            assert!(!sensitive(text), "{text}");
        }
    }

    const JWT: &str =
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P";

    #[test]
    fn jwts_are_found_wherever_they_stand() {
        for text in [
            format!("https://a.example/{JWT}"),
            format!("https://a.example/x/{JWT}/y"),
            format!("https://a.example/?x={JWT}"),
            format!("https://a.example/?x=1&y=Bearer%20{JWT}"),
            format!("https://a.example/#{JWT}"),
            format!("https://a.example/#x={JWT}&y=1"),
            format!("https://a.example/?x={}", JWT.replace('.', "%2E")),
            "https://a.example/?x=eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.".to_owned(),
        ] {
            assert!(sensitive(&text), "{text}");
        }
        none(&[
            "https://a.example/eyJhbGciOiJIUzI1NiJ9",
            "https://a.example/eyJhIjoxfQ.eyJhIjoxfQ.abc",
            "https://a.example/every.body.knows",
            "https://a.example/jquery.min.js?v=3.7.1",
        ]);
    }

    #[test]
    fn signed_urls_are_found() {
        all(&[
            "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=60&X-Amz-Signature=0123456789abcdef0123456789abcdef",
            "https://b.s3.amazonaws.com/k?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Expires=1141889120&Signature=vjbyPxybdZaNmGa%2ByT272YEAiv4%3D",
            "https://storage.googleapis.com/b/o?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Signature=0123456789abcdef0123456789abcdef",
            "https://a.blob.core.windows.net/c/b?sv=2022-11-02&se=2024-01-01T00%3A00%3A00Z&sr=b&sp=r&sig=Z%2FRHIX5Xcg0Mq2rqI3OlWTjEg2tYkboXr1P9ZUXDtkk%3D",
            "https://d111.cloudfront.net/i.jpg?Expires=1357034400&Signature=nitfHRCrtziwO2HwPfWw~yYDhUF5&Key-Pair-Id=K2JCJMDEHXQW5F",
            "https://d111.cloudfront.net/i.jpg?Policy=eyANCiAg&Signature=nitfHRCrtziwO2HwPfWw&Key-Pair-Id=K2JCJMDEHXQW5F",
            "https://b.oss.aliyuncs.com/o?x-oss-signature=77Dvh5wQgIjWjwO/KyRt8dOPfo8=",
            "https://cdn.example/v?hdnts=exp=1700000000~acl=/*~hmac=0123456789abcdef",
        ]);
        none(&[
            "https://a.example/?sig=no&sv=1",
            "https://a.example/?signature=yes",
            "https://a.example/?expires=tomorrow",
            "https://a.example/?X-Amz-Signature=",
        ]);
    }

    #[test]
    fn parameters_with_a_secret_are_found_by_name_and_value() {
        all(&[
            "https://a.example/?access_token=ya29abcdefg",
            "https://a.example/?ACCESS-TOKEN=ya29abcdefg",
            "https://a.example/#id_token=abcdefgh12&x=1",
            "https://a.example/?a=1&amp;refresh_token=abcdefgh12",
            "https://a.example/?%61ccess_token=ya29abcdefg",
            "https://a.example/?api_key=0123456789abcdef",
            "https://a.example/?apikey=0123456789abcdef",
            "https://a.example/?user%5Breset_password_token%5D=abcDEF123456",
            "https://a.example/__/auth/action?mode=resetPassword&oobCode=ABCDEFG1234567",
            "https://a.example/?password=x",
            "https://a.example/page;jsessionid=0123456789ABCDEF0123",
            "https://a.example/cb?code=4/0AX4XfWh1abcdefghijk&state=xyz",
        ]);
        none(&[
            "https://a.example/?access_token=",
            "https://a.example/?token",
            "https://a.example/?token=abc",
            "https://a.example/?token=someone@victim.example",
            "https://a.example/?token=0123456789abcdef0123456789abcdef",
            "https://a.example/?auth_token=someone@victim.example",
            "https://a.example/?password=",
            "https://a.example/?code=US&state=CA",
            "https://a.example/?code=spring-sale-2024-now&state=CA",
            "https://a.example/?email=someone@victim.example&id=0123456789abcdef",
            "https://a.example/login.php?sid=0123456789abcdef0123456789abcdef",
            "https://a.example/password/index.html",
            "https://a.example/#someone@victim.example",
        ]);
    }

    #[test]
    fn links_that_let_their_bearer_in_are_found() {
        all(&[
            "https://a.example/reset-password?token=abcDEF1234567890",
            "https://a.example/users/password_reset/abcDEF1234567890abcd",
            "https://a.example/accounts/reset/MQ/5xy-0123456789abcdef0123456789abcdef/",
            "https://a.example/ResetPassword.aspx?code=abcDEF1234567890",
            "https://a.example/#/reset-password?token=abcDEF1234567890",
            "https://a.example/#/reset-password/abcDEF1234567890",
            "https://a.example/auth/magic-link/abcDEF1234567890",
            "https://a.example/invite/550e8400-e29b-41d4-a716-446655440000",
            "https://a.example/accept-invite?key=abcDEF1234567890",
        ]);
        none(&[
            "https://a.example/reset-password",
            "https://a.example/reset-password?lang=en",
            "https://a.example/reset/how-to-reset-your-password-in-2024",
            "https://a.example/invite/our-friends-to-the-party",
            "https://a.example/presets/abcDEF1234567890abcd",
            "https://a.example/verify/?id=abcDEF1234567890abcd",
        ]);
    }

    #[test]
    fn shared_documents_are_found() {
        all(&[
            "https://docs.google.com/document/d/1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs74OgvE2upms/edit?usp=sharing",
            "https://drive.google.com/file/d/1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs/view",
            "https://drive.google.com/open?id=1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs",
            "https://drive.google.com/drive/folders/1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs",
            "https://corp.sharepoint.com/:w:/s/team/EabcDEF123?e=4%3aabc",
            "https://corp-my.sharepoint.com/:f:/g/personal/a_corp/EabcDEF",
            "https://corp.sharepoint.com/s/_layouts/15/guestaccess.aspx?share=EabcDEF",
            "https://1drv.ms/w/s!AabcDEF123",
            "https://onedrive.live.com/?authkey=%21AabcDEF&id=1",
            "https://www.dropbox.com/s/abc123def456/file.pdf?dl=0",
            "https://www.dropbox.com/scl/fi/abc123def456/file.pdf?rlkey=abc123",
            "https://app.box.com/s/abcdefghijklmnop1234",
            "https://we.tl/t-AbCdEf1234",
            "https://wetransfer.com/downloads/0123456789abcdef/012345",
            "https://na3.docusign.net/Signing/EmailStart.aspx?a=0b1c2d3e&acct=1",
            "https://na3.docusign.net/Signing/?ti=0123456789abcdef",
            "https://firebasestorage.googleapis.com/v0/b/x/o/y?alt=media&token=550e8400-e29b",
            "https://raw.githubusercontent.com/a/b/main/c?token=GHSAT0AAAAAACABCDEFG",
        ]);
        none(&[
            "https://docs.google.com/forms/d/e/1FAIpQLSabcdefghijklmnopqrstuvwxyz/viewform",
            "https://www.google.com/search?q=abc",
            "https://evil.example/s/abc123def456",
            "https://evil.example/:w:/s/team",
            "https://sharepoint.com.evil.example/:w:/s/team/EabcDEF123",
            "https://notdropbox.com/s/abc123def456/file.pdf",
            "https://www.dropbox.com/login",
            "https://raw.githubusercontent.com/a/b/main/c",
            "https://www.docusign.com/products",
        ]);
    }

    #[test]
    fn meetings_and_hooks_are_found() {
        all(&[
            "https://us02web.zoom.us/j/123456789?pwd=abcDEF",
            "https://us02web.zoom.us/rec/share/abcDEF1234567890abcd",
            "https://teams.microsoft.com/l/meetup-join/19%3ameeting_abcDEF1234%40thread.v2/0",
            "https://join.slack.com/t/corp/shared_invite/zt-abc123-abcDEF123",
            "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXX",
            "https://discord.com/api/webhooks/123456789/abcDEF",
            "https://discord.com/api/v10/webhooks/123456789/abcDEF",
            "https://api.telegram.org/bot123456:AAEabcdefghijklmnopqrstu/sendMessage",
            "https://api.telegram.org/file/bot123456:AAEabcdefghijklmnopqrstu/x",
        ]);
        none(&[
            "https://zoom.us/j/123456789",
            "https://discord.com/api/users",
            "https://t.me/channel",
            "https://slack.com/",
        ]);
    }

    #[test]
    fn a_url_within_a_url_is_looked_at_once() {
        all(&[
            "https://eur01.safelinks.protection.outlook.com/?url=https%3A%2F%2Fa.example%2F%3Fapi_key%3D0123456789abcdef&data=x",
            "https://web.archive.org/web/2024/https://www.dropbox.com/s/abc123def456/file.pdf",
            "https://a.example/#https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXX",
        ]);
        none(&[
            "https://a.example/?url=https%3A%2F%2Fb.example%2Flogin",
            "https://a.example/?url=http",
            "https://a.example/https://",
        ]);
    }
}
