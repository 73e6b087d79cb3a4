//! Which URLs open something that is not for everybody: links to reset a password or to sign in, shared documents,
//! signed URLs, web hooks, tokens. A public scanner would hand them on.
//!
//! A name alone accuses nobody: `?code=US` and `?token=` are ordinary, and URLs of phishing are full of e-mail
//! addresses and of parameters named like secrets. So every rule asks for a value that looks like one. Names and
//! values are decoded for this question only; what is sent is never decoded.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use url::{Url, form_urlencoded};

use super::host::{is_under, without_root};

/// The shortest value that is taken for a secret where the name says that it is one.
const NAMED_SECRET: usize = 8;

/// The shortest value that is taken for a secret because it looks drawn at random.
const RANDOM: usize = 16;

/// The shortest piece of a random value: shorter ones are words and numbers of a title in a path.
const RANDOM_PIECE: usize = 8;

/// The longest header of a JWT that is read; real ones are far below.
const JWT_HEADER: usize = 4_096;

/// Parameters that hold a secret by their name, without `-`, `_` and `.`.
const SECRET_NAMES: [&str; 42] = [
    "accesskey",
    "accesstoken",
    "apikey",
    "apitoken",
    "aspsessionid",
    "aspxauth",
    "authkey",
    "authorization",
    "authtoken",
    "bearertoken",
    "clientsecret",
    "confirmationtoken",
    "emailtoken",
    "idtoken",
    "invitationtoken",
    "invitetoken",
    "jsessionid",
    "jwt",
    "logintoken",
    "magictoken",
    "oauthtoken",
    "onetimetoken",
    "oobcode",
    "passwordtoken",
    "phpsessid",
    "privatetoken",
    "refreshtoken",
    "resetcode",
    "resetkey",
    "resetpasswordtoken",
    "resettoken",
    "secretkey",
    "securitytoken",
    "sessionid",
    "sessiontoken",
    "sharetoken",
    "signintoken",
    "ssotoken",
    "subscriptionkey",
    "unlocktoken",
    "verificationtoken",
    "xapikey",
];

/// Parameters that hold a password.
const PASSWORD_NAMES: [&str; 5] = ["passwd", "passphrase", "password", "pwd", "userpassword"];

/// Words in a path that say that what follows lets its bearer in.
const DOORS: [&str; 15] = [
    "acceptinvite",
    "changepassword",
    "confirmemail",
    "forgotpassword",
    "invitation",
    "invite",
    "magiclink",
    "passwordless",
    "passwordreset",
    "recoverpassword",
    "resetpassword",
    "setpassword",
    "signinlink",
    "verifyemail",
    "loginlink",
];

/// Parameters behind such a word that hold its key.
const DOOR_KEYS: [&str; 10] = ["code", "h", "hash", "id", "k", "key", "secret", "t", "ticket", "token"];

/// Whether a URL seems to hold something that gives access, itself or in a URL within it.
pub(super) fn is_sensitive(url: &Url) -> bool {
    is_sensitive_itself(url) || nested(url).iter().any(is_sensitive_itself)
}

fn is_sensitive_itself(url: &Url) -> bool {
    let link = Link::of(url);
    has_jwt(&link) || has_secret(&link) || is_signed(&link) || opens_a_door(&link) || is_of_a_service(&link)
}

/// The URLs within a URL: redirects, link checkers and archives carry them in a parameter or in the path.
fn nested(url: &Url) -> Vec<Url> {
    let link = Link::of(url);
    let values = link.pairs.iter().map(|(_, value)| value.as_str());
    values.chain([link.path.as_str(), link.fragment.as_str()]).filter_map(first_url).collect()
}

fn first_url(text: &str) -> Option<Url> {
    let start = text.match_indices("http").map(|(at, _)| at).find(|at| {
        let rest = text[*at + 4..].strip_prefix('s').unwrap_or(&text[*at + 4..]);
        rest.starts_with(":/")
    })?;
    Url::parse(&text[start..]).ok()
}

/// What the rules look at, decoded.
struct Link {
    host: String,
    /// As it is in the URL, but decoded.
    path: String,
    /// In lower case.
    lower_path: String,
    fragment: String,
    /// The parameters of the query, and of the fragment if it has some: names as [`plain_name`] writes them.
    pairs: Vec<(String, String)>,
}

impl Link {
    fn of(url: &Url) -> Self {
        let fragment = url.fragment().unwrap_or_default();
        // `#access_token=..` and `#/reset?token=..`.
        let in_fragment = fragment.split_once('?').map_or(fragment, |(_, query)| query);
        let path = decoded(url.path());
        Self {
            host: without_root(url.host_str().unwrap_or_default()).to_owned(),
            lower_path: path.to_ascii_lowercase(),
            path,
            fragment: decoded(fragment),
            pairs: pairs(url.query().unwrap_or_default()).chain(pairs(in_fragment)).collect(),
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(given, value)| given == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    fn any_pair(&self, mut is: impl FnMut(&str, &str) -> bool) -> bool {
        self.pairs.iter().any(|(name, value)| is(name, value))
    }

    fn is_on(&self, domain: &str) -> bool {
        is_under(&self.host, domain)
    }
}

fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    // A plus is kept: here it is a character of Base64 more often than a blank.
    let query = query.replace('+', "%2B");
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (plain_name(&name), value.into_owned()))
        .collect();
    pairs.into_iter()
}

/// A text with its percent-encoding undone. Bytes that are no UTF-8 become replacement characters.
fn decoded(text: &str) -> String {
    let escaped = text.replace('&', "%26").replace('=', "%3D").replace('+', "%2B");
    let mut pairs = form_urlencoded::parse(escaped.as_bytes()).map(|(name, _)| name);
    pairs.next().map(Cow::into_owned).unwrap_or_default()
}

/// A parameter's name without case and separators: `X-Amz-Signature`, `user[reset_token]` and, out of HTML, `amp;sig`.
fn plain_name(name: &str) -> String {
    let name = name.strip_prefix("amp;").unwrap_or(name);
    let name = name.strip_suffix(']').and_then(|name| name.rsplit_once('[')).map_or(name, |(_, inner)| inner);
    name.chars()
        .filter(|char| !matches!(char, '-' | '_' | '.'))
        .map(|char| char.to_ascii_lowercase())
        .collect()
}

/// A value of the characters that tokens have. An e-mail address, a sentence or a URL is none.
fn is_token(value: &str, least: usize) -> bool {
    value.len() >= least
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~+/=:|%".contains(&byte))
        && !value.contains("://")
}

/// A token that looks drawn at random: some piece of it mixes letters with digits, or capitals with small letters.
fn is_random(value: &str, least: usize) -> bool {
    let mixes = |piece: &str| {
        let has = |is: fn(&u8) -> bool| piece.bytes().any(|byte| is(&byte));
        let kinds = [u8::is_ascii_digit, u8::is_ascii_lowercase, u8::is_ascii_uppercase];
        piece.len() >= RANDOM_PIECE && kinds.into_iter().filter(|kind| has(*kind)).count() >= 2
    };
    is_token(value, least) && value.split(|char: char| !char.is_ascii_alphanumeric()).any(mixes)
}

/// A JSON Web Token anywhere: a header in Base64 with an algorithm or a type, and at least two parts behind it.
fn has_jwt(link: &Link) -> bool {
    let values = link.pairs.iter().map(|(_, value)| value.as_str());
    values.chain([link.path.as_str(), link.fragment.as_str()]).any(|text| {
        text.split(|char: char| !(char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.' | '=')))
            .any(holds_jwt)
    })
}

fn holds_jwt(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    parts.windows(3).any(|parts| {
        // `k=eyJ..`, where the text is no parameter.
        let header = parts[0].rsplit('=').next().unwrap_or_default();
        !parts[1].is_empty() && is_jwt_header(header)
    })
}

fn is_jwt_header(text: &str) -> bool {
    // The Base64 of `{`, with which a JSON object begins.
    if !text.starts_with('e') || text.len() > JWT_HEADER {
        return false;
    }
    let header = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    header.is_some_and(|header: serde_json::Value| header.get("alg").is_some() || header.get("typ").is_some())
}

/// A parameter whose name says that its value is a secret.
fn has_secret(link: &Link) -> bool {
    link.any_pair(|name, value| {
        (SECRET_NAMES.contains(&name) && is_token(value, NAMED_SECRET))
            || (PASSWORD_NAMES.contains(&name) && !value.is_empty())
    }) || has_oauth_code(link)
        || has_session_in_path(link)
}

/// The answer of a sign-in: whoever redeems the code first is the user.
fn has_oauth_code(link: &Link) -> bool {
    link.value("state").is_some() && link.value("code").is_some_and(|code| is_random(code, RANDOM))
}

/// `/page;jsessionid=..`
fn has_session_in_path(link: &Link) -> bool {
    link.lower_path.split(['/', ';']).any(|part| {
        part.split_once('=').is_some_and(|(name, value)| name == "jsessionid" && is_token(value, RANDOM))
    })
}

/// URLs that a cloud's customer signed for a while: S3, Google Cloud Storage, Azure, `CloudFront`, OSS, COS, Akamai.
fn is_signed(link: &Link) -> bool {
    let signature = link.any_pair(|name, value| {
        (name.ends_with("signature") && is_random(value, RANDOM)) || value.contains("~hmac=")
    });
    let short_signature = link.value("signature").is_some()
        && ["expires", "keypairid", "policy", "googleaccessid", "awsaccesskeyid"]
            .iter()
            .any(|name| link.value(name).is_some());
    let amazon = link
        .value("xamzsignature")
        .or(link.value("xgoogsignature"))
        .is_some_and(|value| is_token(value, RANDOM));
    let azure = link.value("sig").is_some_and(|sig| is_random(sig, RANDOM))
        && ["sv", "se", "sp", "sr"].iter().any(|name| link.value(name).is_some());
    signature || short_signature || amazon || azure
}

/// A path of a password reset, an invitation or a link to sign in, with the key to it behind.
fn opens_a_door(link: &Link) -> bool {
    let pages = [link.path.as_str(), link.fragment.split('?').next().unwrap_or_default()];
    let Some(behind) = pages.into_iter().find_map(behind_door) else { return false };
    behind.split('/').any(|segment| is_random(segment, RANDOM))
        || link.any_pair(|name, value| DOOR_KEYS.contains(&name) && is_random(value, RANDOM))
}

/// What stands in a path behind the first word that is a door.
fn behind_door(path: &str) -> Option<&str> {
    let mut rest = path;
    while !rest.is_empty() {
        let (segment, behind) = rest.split_once('/').unwrap_or((rest, ""));
        if is_door(segment) {
            return Some(behind);
        }
        rest = behind;
    }
    None
}

fn is_door(segment: &str) -> bool {
    let segment = segment.split('.').next().unwrap_or_default();
    let word = plain_name(segment);
    matches!(word.as_str(), "reset" | "invites" | "invitations")
        || DOORS.iter().any(|door| word.contains(door))
}

/// Links of known services that are keys in themselves.
fn is_of_a_service(link: &Link) -> bool {
    is_shared_file(link)
        || is_shared_by_google(link)
        || is_shared_by_microsoft(link)
        || is_meeting(link)
        || is_hook(link)
}

fn is_shared_file(link: &Link) -> bool {
    let path = link.lower_path.as_str();
    let begins =
        |heads: &[&str]| heads.iter().any(|head| path.strip_prefix(head).is_some_and(|rest| rest.len() >= 4));
    let dropbox = link.is_on("dropbox.com") || link.is_on("dropboxusercontent.com");
    let docusign = link.is_on("docusign.net") || link.is_on("docusign.com");
    (dropbox && (begins(&["/s/", "/scl/", "/sh/", "/t/"]) || link.value("rlkey").is_some()))
        || (link.is_on("box.com") && begins(&["/s/", "/shared/static/", "/v/"]))
        || (link.is_on("we.tl") && begins(&["/t-"]))
        || (link.is_on("wetransfer.com") && begins(&["/downloads/"]))
        || (docusign
            && path.contains("/signing/")
            && (link.value("a").is_some() || link.value("ti").is_some() || link.value("slt").is_some()))
        || (docusign && path.ends_with("/emailstart.aspx") && !link.pairs.is_empty())
        || (link.is_on("adobesign.com") && begins(&["/public/"]))
        || (link.is_on("firebasestorage.googleapis.com") && link.value("token").is_some())
        || ((link.is_on("githubusercontent.com") || link.is_on("github.com"))
            && link.value("token").is_some_and(|token| is_token(token, RANDOM)))
}

/// Documents and folders; forms and what was published to the web are for everybody.
fn is_shared_by_google(link: &Link) -> bool {
    let is_id = |text: &str| is_token(text, 20);
    if !(link.is_on("docs.google.com")
        || link.is_on("drive.google.com")
        || link.is_on("drive.usercontent.google.com"))
    {
        return false;
    }
    let segments: Vec<&str> = link.path.split('/').collect();
    let in_path = segments.windows(2).any(|pair| matches!(pair[0], "d" | "folders") && is_id(pair[1]));
    let public = segments.contains(&"forms");
    !public && (in_path || link.value("id").is_some_and(is_id))
}

fn is_shared_by_microsoft(link: &Link) -> bool {
    // `/:w:/s/..`: a kind of file, and how it is shared.
    let kind = |segment: &str| segment.len() == 3 && segment.starts_with(':') && segment.ends_with(':');
    let by_kind = link.path.split('/').any(kind);
    let onedrive =
        link.is_on("onedrive.live.com") && (link.value("authkey").is_some() || link.value("resid").is_some());
    let sharepoint = link.is_on("sharepoint.com") || link.is_on("onedrive.live.com");
    let guest = link.lower_path.ends_with("/guestaccess.aspx")
        && (link.value("share").is_some() || link.value("docid").is_some());
    (sharepoint && (by_kind || guest)) || onedrive || (link.is_on("1drv.ms") && link.path.len() >= 8)
}

fn is_meeting(link: &Link) -> bool {
    let path = link.lower_path.as_str();
    let follows = |head: &str| path.split_once(head).is_some_and(|(_, rest)| rest.len() >= RANDOM);
    (link.is_on("zoom.us") && (follows("/rec/share/") || follows("/rec/play/")))
        || (link.is_on("teams.microsoft.com") && follows("/l/meetup-join/"))
        || (link.is_on("teams.live.com") && path.starts_with("/meet/") && link.value("p").is_some())
        || (link.is_on("slack.com") && follows("/shared_invite/"))
        || (link.is_on("chat.whatsapp.com") && follows("/"))
        || (link.is_on("t.me") && (path.starts_with("/+") || follows("/joinchat/")))
}

/// Addresses that whoever knows them may write to.
fn is_hook(link: &Link) -> bool {
    let path = link.path.as_str();
    let follows = |head: &str| path.strip_prefix(head).is_some_and(|rest| rest.len() >= RANDOM);
    let discord = link.is_on("discord.com") || link.is_on("discordapp.com");
    (link.is_on("hooks.slack.com") && ["/services/", "/workflows/", "/triggers/"].into_iter().any(follows))
        || (discord && path.starts_with("/api/") && path.contains("/webhooks/"))
        || (link.is_on("webhook.office.com") && path.starts_with("/webhook"))
        || (link.is_on("api.telegram.org") && path.split('/').any(is_bot))
}

/// `bot123456:AAE..`
fn is_bot(segment: &str) -> bool {
    let parts = segment.strip_prefix("bot").and_then(|rest| rest.split_once(':'));
    parts.is_some_and(|(id, token)| id.bytes().all(|byte| byte.is_ascii_digit()) && is_token(token, RANDOM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sensitive(text: &str) -> bool {
        is_sensitive(&Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")))
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
            "https://a.example/?PWD=hunter2",
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
