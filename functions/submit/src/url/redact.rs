//! What may be shown and kept of a text that was refused: enough to know it again, and nothing that looks like a secret.
//!
//! A text is refused for one reason and may hold a secret all the same: a password before the host of a URL that is too
//! long, an `Authorization` header in a command, a token that was taken for a URL. So more is left out here than the
//! gate refuses: what looks drawn at random goes, and all that follows a word such as `password`.

use url::Url;

use super::{
    gate::MAX_TEXT,
    refang::refang,
    sensitive::{holds_token, is_drawn, opens, plain_name},
};

/// What stands for what was left out.
const LEFT_OUT: char = '…';

/// The shortest piece that is taken for a secret by its look.
const SECRET: usize = 10;

/// Words after which a secret follows, as [`plain_name`] writes them.
const ANNOUNCING: [&str; 24] = [
    "authorization",
    "basic",
    "bearer",
    "code",
    "contrasena",
    "cookie",
    "credential",
    "credentials",
    "jwt",
    "kennwort",
    "key",
    "pass",
    "passcode",
    "passphrase",
    "passwd",
    "passwort",
    "password",
    "pin",
    "pw",
    "pwd",
    "secret",
    "setcookie",
    "sid",
    "token",
];

/// Options of commands that say the same: `curl -u`.
const FLAGS: [&str; 3] = ["login", "u", "user"];

/// Parts of a parameter's or header's name that say the same.
const IN_NAMES: [&str; 14] = [
    "apikey", "auth", "code", "cookie", "cred", "hash", "key", "pass", "pwd", "secret", "session", "sig",
    "ticket", "token",
];

/// The beginning of a refused text, up to `chars` characters, without anything that looks like a secret.
#[must_use]
pub fn redacted(text: &str, chars: usize) -> String {
    let text = &text[..text.floor_char_boundary(MAX_TEXT)];
    let shown = without_secrets(text);
    shown.char_indices().nth(chars).map_or(shown.as_str(), |(end, _)| &shown[..end]).to_owned()
}

fn without_secrets(text: &str) -> String {
    if let Some(host) = host_of_secret_url(text) {
        return host;
    }
    let mut shown = String::with_capacity(text.len());
    let is_end = |char: char| char.is_whitespace() || matches!(char, '"' | '`' | '|' | ',' | '<' | '>');
    let mut words = text.split_inclusive(is_end).peekable();
    while let Some(word) = words.next() {
        shown.push_str(&word_without_secrets(word));
        if announces(word) && words.peek().is_some() {
            shown.push(LEFT_OUT);
            break;
        }
    }
    shown
}

/// Of a URL that opens something, or has credentials, only where it leads.
fn host_of_secret_url(text: &str) -> Option<String> {
    let of = |text: &str| {
        let url = Url::parse(text).ok()?;
        let secret = !url.username().is_empty() || url.password().is_some() || opens(&url).is_some();
        let host = url.host_str().filter(|_| secret)?;
        Some(format!("{}://{host}/{LEFT_OUT}", url.scheme()))
    };
    of(text.trim()).or_else(|| of(&refang(text).text))
}

/// Whether the rest of the text is a secret, by the word before it: `password`, `X-Api-Key:`, `-u`.
fn announces(word: &str) -> bool {
    let name = plain_name(word.trim_matches(|char: char| !char.is_alphanumeric()));
    let is_flag = word.starts_with('-') && FLAGS.contains(&name.as_str());
    let is_header = word.trim_end().ends_with(':') && IN_NAMES.iter().any(|part| name.contains(part));
    is_flag || is_header || ANNOUNCING.contains(&name.as_str())
}

fn word_without_secrets(word: &str) -> String {
    if holds_token(word).is_some() {
        let end = if word.ends_with(char::is_whitespace) { " " } else { "" };
        return host_of_secret_url(word).unwrap_or_else(|| LEFT_OUT.to_string()) + end;
    }
    if word.contains("://")
        && let Some(host) = host_of_secret_url(word)
    {
        return host;
    }
    pieces_without_secrets(without_credentials(word))
}

/// `http://user:password@host/`, however broken it is otherwise, and `user:password@host`.
fn without_credentials(word: &str) -> String {
    let start = word.find("//").map_or(0, |at| at + 2);
    match word[start..].rfind('@') {
        Some(end) if word[start..start + end].trim_start_matches("mailto:").contains(':') => {
            format!("{}{LEFT_OUT}{}", &word[..start], &word[start + end..])
        }
        _ => word.to_owned(),
    }
}

/// The word without values whose names announce a secret and without pieces that look drawn at random.
fn pieces_without_secrets(word: String) -> String {
    let mut shown = String::with_capacity(word.len());
    let mut rest = word.as_str();
    let mut named = false;
    while !rest.is_empty() {
        let end = rest.find(|char: char| {
            matches!(char, '/' | '?' | '&' | '=' | ';' | '#' | ':' | '@' | '\'' | '(' | ')')
        });
        let (piece, behind) = rest.split_at(end.unwrap_or(rest.len()));
        let is_secret = !piece.trim().is_empty()
            && (named
                || (piece.len() >= SECRET && is_drawn(piece) && !looks_like_host(piece))
                || is_drawn_in_all(piece));
        if is_secret {
            shown.push(LEFT_OUT);
        } else {
            shown.push_str(piece);
        }
        let mut chars = behind.chars();
        let separator = chars.next();
        shown.extend(separator);
        rest = chars.as_str();
        // `https:` announces nothing.
        named = match separator {
            Some('=') => names_a_secret(piece) || (named && piece.is_empty()),
            Some(':') => !rest.starts_with('/') && names_a_secret(piece),
            _ => false,
        };
    }
    shown
}

fn names_a_secret(name: &str) -> bool {
    let name = plain_name(name);
    IN_NAMES.iter().any(|part| name.contains(part)) || ANNOUNCING.contains(&name.as_str())
}

/// Names of hosts hold digits and hyphens; they are no secrets.
fn looks_like_host(piece: &str) -> bool {
    piece.contains('.') && super::begins::begins_host(piece)
}

fn is_drawn_in_all(piece: &str) -> bool {
    piece.len() >= 32 && piece.bytes().all(|byte| byte.is_ascii_alphanumeric()) && is_drawn(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_secret_is_shown_as_it_came() {
        for text in [
            "",
            "hello world",
            "http://10.0.0.5/admin",
            "http://127.0.0.1:8080/a/b.php?x=1&y=2#z",
            "ftp://evil.example/invoice.pdf",
            "mailto:someone@evil.example",
            "an object of type `ipv4-addr`",
            "an object of type `user`",
            "password",
            "an indicator with a pattern in `sigma`",
            "http://ev il.example/",
            "not-a-url, really",
            "invoice20240131.pdf",
            "http://x-2024-ab12.cdn-77.internal/",
        ] {
            assert_eq!(redacted(text, 256), text);
        }
        assert_eq!(redacted(&format!("http://a.example/{}", "x".repeat(1000)), 256).len(), 256);
    }

    #[test]
    fn secrets_are_left_out_whatever_the_text_is() {
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
        for (text, shown) in [
            ("http://user:hunter2@10.0.0.1/x".to_owned(), "http://10.0.0.1/…"),
            ("http://user:hun/ter2@evil.example:99999/x".to_owned(), "http://…@evil.example:99999/x"),
            ("user:hunter2@evil.example".to_owned(), "…@evil.example"),
            ("hxxps://own[.]example/reset-password?token=abc123x".to_owned(), "https://own.example/…"),
            (format!("http://10.0.0.1/?x={jwt}"), "http://10.0.0.1/…"),
            (jwt.to_owned(), "…"),
            (format!("123456789:{}", "AAEx".repeat(9)), "…"),
            (
                "curl -H \"Authorization: Bearer hunter2\" https://evil.example/".to_owned(),
                "curl -H \"Authorization: …",
            ),
            ("curl -u admin:hunter2 https://evil.example/".to_owned(), "curl -u …"),
            ("curl -H 'X-Api-Key: hunter2' x".to_owned(), "curl -H 'X-Api-Key: …"),
            ("the password is hunter2".to_owned(), "the password …"),
            ("Password: hunter2".to_owned(), "Password: …"),
            ("password=hunter2&x=1".to_owned(), "password=…&x=1"),
            ("http://10.0.0.1/login?pwd=hunter2&x=1".to_owned(), "http://10.0.0.1/login?pwd=…&x=1"),
            ("http://10.0.0.1/files/8f3a9c1b5d7e/x".to_owned(), "http://10.0.0.1/files/…/x"),
            (
                "see https://evil.example/?api_key=0123456789abcdef now".to_owned(),
                "see https://evil.example/…",
            ),
            ("see http://joe:hunter2@evil.example/ now".to_owned(), "see http://evil.example/…"),
            ("dXNlcjpodW50ZXIyOjEyMw== is it".to_owned(), "…"),
            ("ftp://joe:hunter2@evil.example/".to_owned(), "ftp://evil.example/…"),
        ] {
            let told = redacted(&text, 256);
            assert!(told.starts_with(shown), "{text}: {told}");
            assert!(!told.contains("hunter2") && !told.contains("AAEx") && !told.contains("eyJ"), "{told}");
        }
    }
}
