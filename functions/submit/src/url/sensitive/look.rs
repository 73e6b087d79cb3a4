//! What a value looks like: a key that was drawn at random, or something that a person wrote.
//!
//! A name alone accuses no URL: `?code=US` and `?token=` are ordinary, and phishing is full of e-mail addresses, plain or
//! in Base64, at the places where real links have their keys.

use base64::{Engine, alphabet, engine::GeneralPurpose, engine::general_purpose::GeneralPurposeConfig};

/// The shortest key of a link that names what it opens, such as `/invite/x7Kq2p`.
const SHORT_KEY: usize = 6;

/// The shortest value that is taken for a secret where only its look says so.
const LONG_KEY: usize = 16;

/// The shortest value of a parameter that is named like a secret.
const NAMED_SECRET: usize = 8;

/// The longest and shortest number that is sent as a code of one use.
const DIGITS: std::ops::RangeInclusive<usize> = 4..=10;

/// Base64 of either alphabet's rules, with or without its padding and with any bits at its end.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// What a rule asks of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Look {
    /// `$any`: there is one.
    Any,
    /// `$secret`: the value of a parameter that is named like a secret.
    Secret,
    /// `$code`: a key, or a number of a few digits.
    Code,
    /// `$key`: drawn at random, however short.
    Key,
    /// `$long`: drawn at random, and long.
    Long,
    /// `$time`: a point of time or a number of seconds.
    Time,
    /// `$unix`: seconds or milliseconds since 1970, in this century.
    Unix,
    /// `$version`: a date or a number with a dot.
    Version,
    /// `$share`: 15 letters and digits, as Nextcloud draws them.
    Share,
    /// `$hex`: 20 hexadecimal digits, as Seafile draws them.
    Hex,
    /// `$paste`: a key of 32 bytes in Base58, as `PrivateBin` writes it.
    Paste,
    /// `$ics`: a file of a calendar.
    Ics,
    /// `$keyics`: a file of a calendar whose name is a key.
    KeyIcs,
    /// `$kind`: what SharePoint writes for a kind of file, such as `:w:`.
    Kind,
}

impl Look {
    const ALL: [(&'static str, Self); 14] = [
        ("any", Self::Any),
        ("secret", Self::Secret),
        ("code", Self::Code),
        ("key", Self::Key),
        ("long", Self::Long),
        ("time", Self::Time),
        ("unix", Self::Unix),
        ("version", Self::Version),
        ("share", Self::Share),
        ("hex", Self::Hex),
        ("paste", Self::Paste),
        ("ics", Self::Ics),
        ("keyics", Self::KeyIcs),
        ("kind", Self::Kind),
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(given, _)| *given == name).map(|(_, look)| look)
    }

    pub(super) fn fits(self, value: &str) -> bool {
        Looks::of(value).has(self)
    }
}

/// All looks that a value has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Looks(u16);

impl Looks {
    pub(super) fn of(value: &str) -> Self {
        let is_alnum = || has_only(value, u8::is_ascii_alphanumeric);
        let has = |is: fn(&u8) -> bool| value.bytes().any(|byte| is(&byte));
        let is_token = is_token(value);
        let is_drawn = is_token && value.len() >= SHORT_KEY && is_drawn(value);
        let mut looks = Self::default();
        looks.set(Look::Any, !value.is_empty());
        looks.set(Look::Secret, is_token && value.len() >= NAMED_SECRET);
        looks.set(Look::Code, is_drawn || is_number(value));
        looks.set(Look::Key, is_drawn);
        looks.set(Look::Long, is_drawn && value.len() >= LONG_KEY);
        looks.set(Look::Time, value.len() >= 2 && is_time(value));
        looks.set(
            Look::Unix,
            matches!(value.len(), 10 | 13) && value.starts_with('1') && has_only(value, u8::is_ascii_digit),
        );
        looks.set(Look::Version, value.len() >= 3 && is_time(value));
        looks.set(
            Look::Share,
            value.len() == 15
                && is_alnum()
                && has(u8::is_ascii_digit)
                && has(u8::is_ascii_lowercase)
                && has(u8::is_ascii_uppercase),
        );
        looks.set(Look::Hex, value.len() == 20 && is_drawn && has_only(value, u8::is_ascii_hexdigit));
        looks.set(Look::Paste, matches!(value.len(), 43 | 44) && is_drawn && is_alnum());
        let calendar = value.strip_suffix(".ics");
        looks.set(Look::Ics, calendar.is_some());
        looks.set(Look::KeyIcs, is_drawn && calendar.is_some_and(|name| name.len() >= SHORT_KEY));
        looks.set(Look::Kind, value.len() == 3 && value.starts_with(':') && value.ends_with(':'));
        looks
    }

    fn set(&mut self, look: Look, has: bool) {
        self.0 |= u16::from(has) << look as u8;
    }

    pub(super) fn has(self, look: Look) -> bool {
        self.0 >> look as u8 & 1 == 1
    }
}

fn is_number(value: &str) -> bool {
    DIGITS.contains(&value.len()) && has_only(value, u8::is_ascii_digit)
}

/// Seconds, or a date in any of the usual notations.
fn is_time(value: &str) -> bool {
    value.starts_with(|char: char| char.is_ascii_digit())
        && value.bytes().all(|byte| byte.is_ascii_digit() || b"-:.+TZ ".contains(&byte))
}

/// Whether a value has the characters of a token. An e-mail address, a sentence or a URL has others.
fn is_token(value: &str) -> bool {
    !value.is_empty()
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~+/=:|%!*@".contains(&byte))
        && !value.contains("://")
        && !hides_mailbox(value)
}

/// Whether a value is an e-mail address in an encoding.
fn hides_mailbox(value: &str) -> bool {
    let hidden = |text: &str| is_mailbox(text) || from_base64(text).is_some_and(|text| is_mailbox(&text));
    is_mailbox(value)
        || from_base64(value).is_some_and(|text| hidden(&text))
        || from_hex(value).is_some_and(|text| hidden(&text))
}

/// Whether a text is an e-mail address, or a few fields of which one is.
fn is_mailbox(text: &str) -> bool {
    text.split(['|', ',', ';', '&', '=', '/']).any(|field| {
        let field = field.trim();
        field.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty()
                && host.contains('.')
                && field.chars().all(|char| char.is_alphanumeric() || "@.!#$%*+-_~'".contains(char))
        })
    })
}

/// The text in a value of Base64, if it is one.
pub(super) fn from_base64(value: &str) -> Option<String> {
    if value.len() < 8 {
        return None;
    }
    let bytes = if value.contains(['-', '_']) { BASE64_URL.decode(value) } else { BASE64.decode(value) };
    readable(bytes.ok()?)
}

fn from_hex(value: &str) -> Option<String> {
    if value.len() < 12 || !value.len().is_multiple_of(2) || !value.is_ascii() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&value[at..at + 2], 16).ok();
    readable((0..value.len()).step_by(2).map(byte).collect::<Option<_>>()?)
}

fn readable(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

/// Whether some part of a value was drawn at random: an odd piece of five characters, or a dozen in several.
pub(in crate::url) fn is_drawn(value: &str) -> bool {
    let odd = || {
        value.split(|char: char| !char.is_ascii_alphanumeric()).filter(|piece| is_odd(piece)).map(str::len)
    };
    odd().max().unwrap_or_default() >= 5 || odd().sum::<usize>() >= 12
}

/// Whether no person would write this in one piece: letters and digits in turn, or capitals and small letters. Words
/// with a number (`office365`, `invoice20240131`, `web3login`) are not odd.
fn is_odd(piece: &str) -> bool {
    let runs = |is: fn(&char) -> bool| piece.split(move |char| !is(&char)).filter(|run| !run.is_empty());
    let (letters, digits) = (|| runs(char::is_ascii_alphabetic), || runs(char::is_ascii_digit));
    if letters().next().is_none() {
        return false;
    }
    if digits().next().is_none() {
        return is_shuffled(piece);
    }
    let one_number = digits().count() == 1 && digits().all(|number| number.len() <= 4);
    !(letters().all(is_word) || (one_number && letters().any(is_word)))
}

/// Whether letters could be a word or several, written in one: `office`, `Office`, `OFFICE`, `OneDrive`.
fn is_word(letters: &str) -> bool {
    letters.len() >= 4
        && letters.bytes().any(|byte| b"aeiouyAEIOUY".contains(&byte))
        && !starts_as_the_alphabet(letters)
        && (has_only(letters, u8::is_ascii_uppercase) || !has_lone_capital(letters))
}

fn has_only(text: &str, is: fn(&u8) -> bool) -> bool {
    text.bytes().all(|byte| is(&byte))
}

/// Whether a capital behind the first letter has no small letter behind it.
fn has_lone_capital(letters: &str) -> bool {
    let bytes = letters.as_bytes();
    (1..bytes.len())
        .any(|at| bytes[at].is_ascii_uppercase() && !bytes.get(at + 1).is_some_and(u8::is_ascii_lowercase))
}

/// `abc` begins no word; examples of keys do.
fn starts_as_the_alphabet(letters: &str) -> bool {
    letters.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("abc"))
}

/// Whether letters change their case too often for words, or have no vowel, or are in the alphabet's order.
fn is_shuffled(letters: &str) -> bool {
    let bytes = letters.as_bytes();
    let changes =
        bytes.windows(2).filter(|pair| pair[0].is_ascii_uppercase() != pair[1].is_ascii_uppercase()).count();
    let often = changes >= 4
        && (changes * 2 >= bytes.len() || (bytes.len() >= LONG_KEY && changes * 3 >= bytes.len()));
    let mut kinds = bytes.to_ascii_lowercase();
    kinds.sort_unstable();
    kinds.dedup();
    let no_vowel = bytes.len() >= 8 && kinds.len() >= 5 && !kinds.iter().any(|byte| b"aeiouy".contains(byte));
    often || no_vowel || (bytes.len() >= SHORT_KEY && starts_as_the_alphabet(letters))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(look: Look, values: &[&str]) {
        for value in values {
            assert!(look.fits(value), "{value} as {look:?}");
        }
    }

    fn fit_not(look: Look, values: &[&str]) {
        for value in values {
            assert!(!look.fits(value), "{value} as {look:?}");
        }
    }

    #[test]
    fn keys_look_drawn_at_random() {
        fit(
            Look::Key,
            &[
                "x7Kq2p",
                "abc123",
                "abcdef123456",
                "AbCdEf",
                "5f3a9c1b",
                "c1a2b3-0123456789abcdef",
                "550e8400-e29b-41d4-a716-446655440000",
                "Zm9vYmFyMTIz",
                "a1b2c3d4",
                "QmFzZTY0LXRva2Vu",
                "vXpQzRtLwN",
                "bcdfghjkl",
                "dXNlcjpodW50ZXIyOjEyMw",
            ],
        );
        fit_not(
            Look::Key,
            &[
                "",
                "abc12",
                "office365",
                "Office365",
                "OneDrive",
                "PayPal",
                "invoice20240131",
                "covid19-webinar",
                "how-to-reset-your-password-in-2024",
                "How-To-Reset-Your-Password-2024",
                "resetPasswordForm",
                "index.html",
                "web3login",
                "123456",
                "en-us",
                "step2",
                "xxxxxxxxxx",
            ],
        );
    }

    #[test]
    fn an_email_address_is_no_key_in_any_encoding() {
        for look in [Look::Key, Look::Long, Look::Secret, Look::Code] {
            fit_not(
                look,
                &[
                    "john.doe@corp.example",
                    "am9obi5kb2VAY29ycC5leGFtcGxl",
                    "am9obi5kb2U3QGNvcnAuZXhhbXBsZQ==",
                    "YW05b2JpNWtiMlZBWTI5eWNDNWxlR0Z0Y0d4bA==",
                    "6a6f686e2e646f6540636f72702e6578616d706c65",
                    "am9obi5kb2VAY29ycC5leGFtcGxlfDEyMzQ",
                    "https://corp.example/x7Kq2p",
                    "two words 123",
                ],
            );
        }
    }

    #[test]
    fn numbers_are_codes_times_and_versions() {
        fit(Look::Code, &["1234", "483920", "x7Kq2p"]);
        fit_not(Look::Code, &["123", "12345678901", "US", "invalid"]);
        fit(Look::Time, &["1700000000", "3600", "2026-01-31T12:00:00Z", "20260131T120000Z"]);
        fit_not(Look::Time, &["", "1", "tomorrow", "x2026"]);
        fit(Look::Version, &["2022-11-02", "1.0"]);
        fit_not(Look::Version, &["1", "no"]);
    }
}
