//! The gate as a whole: by example, and by properties that hold for every text.

use std::{borrow::Cow, fmt::Write, net::Ipv4Addr, time::Duration};

use nix::time::{ClockId, clock_gettime};

use proptest::prelude::*;
use url::{Host, Url};

use super::{Gate, GatedUrl, Refusal, Wrapper, host::is_plausible, refang};
use crate::settings::GateSettings;

fn open() -> Gate {
    gate(&[], &[])
}

fn settings(own_domains: &[&str], deny: &[&str]) -> GateSettings {
    let owned = |entries: &[&str]| -> Vec<String> { entries.iter().map(|&entry| entry.to_owned()).collect() };
    GateSettings {
        own_domains: owned(own_domains),
        deny: owned(deny),
        allow_sensitive: false,
        unwrap_links: true,
    }
}

fn gate(own_domains: &[&str], deny: &[&str]) -> Gate {
    Gate::new(&settings(own_domains, deny)).expect("right entries")
}

fn check(input: &str) -> Result<GatedUrl, Refusal> {
    open().check(input)
}

fn refang(text: &str) -> Cow<'_, str> {
    refang::refang(text).text
}

fn sent(input: &str) -> String {
    check(input).unwrap_or_else(|refusal| panic!("{input}: {refusal}")).as_str().to_owned()
}

fn refuses(refusal: Refusal, inputs: &[&str]) {
    for input in inputs {
        assert_eq!(check(input).err(), Some(refusal), "{input:?}");
    }
}

#[test]
fn what_is_sent_is_the_normalised_url_with_its_fragment() {
    for (input, url) in [
        ("hXXps://EVIL[.]example/a/../b?x=%41#y", "https://evil.example/b?x=%41#y"),
        ("evil.example", "http://evil.example/"),
        ("http://evil.example:80/", "http://evil.example/"),
        ("https://bücher.example/ü?ü#ü", "https://xn--bcher-kva.example/%C3%BC?%C3%BC#%C3%BC"),
        ("http://evil。example/", "http://evil.example/"),
        ("http://evil.example/?q=a[.]b&c=%2e+d", "http://evil.example/?q=a[.]b&c=%2e+d"),
        ("http://0x08080808/", "http://8.8.8.8/"),
        (
            "http://evil.example/?mail=someone@victim.example",
            "http://evil.example/?mail=someone@victim.example",
        ),
        ("http://evil.example/x\u{202e}fdp.exe", "http://evil.example/x%E2%80%AEfdp.exe"),
        ("http://@evil.example/", "http://evil.example/"),
        ("http://[2001:DB8:0::1]/", "http://[2001:db8::1]/"),
    ] {
        assert_eq!(sent(input), url, "{input}");
    }
}

#[test]
fn a_gated_url_tells_its_host_and_hides_the_rest_from_debugging() {
    let url = check("https://EVIL.example:8443/secret").expect("a URL");
    assert_eq!((url.host(), url.to_string().as_str()), ("evil.example", "https://evil.example:8443/secret"));
    assert!(!format!("{url:?}").contains("secret"), "{url:?}");
    assert_eq!(check("http://[2001:db8::1]/").expect("a URL").host(), "[2001:db8::1]");
}

#[test]
fn what_is_no_url_is_refused() {
    refuses(
        Refusal::NotAUrl,
        &[
            "",
            " ",
            "http://",
            "http:///",
            "two words",
            "someone@evil.example",
            "http://evil.example:99999/",
            "http://evil..example/",
            "http://ev il.example/",
            "http://evil.example/a\nb",
            "http://evil.example/a\tb",
            "http://evil.exa\nmple/",
            "http://evil.example/a\0",
            "\0http://evil.example/",
            "http://evil.example/\u{7f}",
            "http://evil.example/\u{85}x",
            "http://evil.example/\u{2028}x",
            "http://evil\u{202e}.example/",
            "http://\u{200f}evil.example/",
            "http://evil(x).example/",
            "http://evil.example,good.example/",
            "http://[2001:db8::1/",
            "http://256.256.256.256/",
            "http://xn--a.example/",
            "http://a@b@[evil]/",
        ],
    );
}

#[test]
fn without_a_scheme_a_text_is_a_url_only_by_its_host() {
    for (input, url) in [
        ("evil.com", "http://evil.com/"),
        ("evil[.]co[.]uk/x", "http://evil.co.uk/x"),
        ("evil.example:8080/x", "http://evil.example:8080/x"),
        ("8.8.8.8", "http://8.8.8.8/"),
        ("8.8.8.8:80/x", "http://8.8.8.8/x"),
        ("//evil.com/x", "http://evil.com/x"),
        ("http://first.last/", "http://first.last/"),
        ("http://8.8/", "http://8.0.0.8/"),
    ] {
        assert_eq!(sent(input), url, "{input}");
    }
    refuses(
        Refusal::NotAUrl,
        &[
            "invoice.pdf",
            "Setup.exe",
            "first.last",
            "8.8",
            "1.2.3",
            "134744072",
            "v1.2.3",
            "hello",
            "intranet",
            "//server/share",
            "\\\\server\\share",
            "\\\\files.corp.com\\share\\x.docx",
            "\"\\\\files.corp.com\\share\"",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
            "123456789:AAE-x_0123456789abcdefghijklmnopq",
        ],
    );
}

#[test]
fn two_urls_in_one_text_are_no_url() {
    refuses(
        Refusal::NotAUrl,
        &[
            "http://evil.com http://other.com",
            "http://evil.com/x  https://other.com/y",
            "hxxp://evil[.]com/x hxxps[:]//other[.]com",
            "evil.com other.com",
            "http://evil.com/ other.com",
        ],
    );
    assert_eq!(sent("http://evil.com/a b.html"), "http://evil.com/a%20b.html");
}

#[test]
fn other_protocols_are_refused() {
    refuses(
        Refusal::UnsupportedScheme,
        &[
            "ftp://evil.example/",
            "fxp://evil.example/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "data:text/html,x",
            "mailto:someone@evil.example",
            "ws://evil.example/",
            "view-source:http://evil.example/",
            "ftp[:]//evil[.]example/",
        ],
    );
}

#[test]
fn a_url_is_refused_from_its_8193rd_byte_on() {
    let head = "http://evil.example/";
    let longest = format!("{head}{}", "a".repeat(8_192 - head.len()));
    assert_eq!(sent(&longest).len(), 8_192);
    refuses(
        Refusal::TooLong,
        &[&format!("{longest}a"), &format!("{longest}\u{fc}"), &"a".repeat(1024 * 1024)],
    );
    // What counts is what is sent.
    assert_eq!(sent(&format!("{longest}/../x")), format!("{head}x"));
    refuses(Refusal::TooLong, &[&format!("{head}{}", "\u{fc}".repeat(2_000))]);
}

#[test]
fn credentials_are_refused() {
    refuses(
        Refusal::CredentialsInUrl,
        &[
            "http://user:secret@evil.example/",
            "http://user@evil.example/",
            "http://:secret@evil.example/",
            "https://good.example@evil.example/",
            "http://user[at]evil[.]example/",
            "http://us\u{200b}er@evil.example/",
            "user.name:secret@evil.example/",
            "http://user:secret@localhost/",
        ],
    );
}

#[test]
fn private_hosts_are_refused() {
    refuses(
        Refusal::PrivateHost,
        &[
            "http://localhost/",
            "localhost:8080",
            "http://intranet",
            "http://10.0.0.1/",
            "10[.]0[.]0[.]1",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://①②⑦.0.0.1/",
            "http://169.254.169.254/latest/meta-data/",
            "http://metadata.google.internal/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://printer.local./",
            "http://x.test/",
            "http://abc.onion/",
            "hxxp://192.168.0[.]1/",
            "http://evil\u{200b}/",
        ],
    );
}

#[test]
fn own_and_denied_hosts_are_refused() {
    let gate =
        gate(&["corp.example"], &["evil.example", "*.bad.example", "203.0.113.0/24", "www.corp.example"]);
    for (input, refusal) in [
        ("https://CORP.example./", Some(Refusal::OwnDomain)),
        ("https://vpn.corp.example/", Some(Refusal::OwnDomain)),
        ("https://www.corp.example/", Some(Refusal::OwnDomain)),
        ("http://evil[.]example/", Some(Refusal::Denylisted)),
        ("http://www.evil.example/", None),
        ("http://a.bad.example/", Some(Refusal::Denylisted)),
        ("http://0xcb.0.0x71.7/", Some(Refusal::Denylisted)),
        ("http://[64:ff9b::203.0.113.7]/", Some(Refusal::Denylisted)),
        ("http://evil.example/?api_key=0123456789abcdef", Some(Refusal::Denylisted)),
        ("http://corp.example.evil2.example/", None),
    ] {
        assert_eq!(gate.check(input).err(), refusal, "{input}");
    }
}

#[test]
fn every_wrong_entry_of_both_lists_is_reported_at_once() {
    let entries = ["https://x.example/", "corp.example"];
    let errors = Gate::new(&settings(&entries, &entries)).expect_err("wrong entries");
    assert_eq!(errors.len(), 2);
    assert!(errors[0].starts_with("own domains, entry 1") && errors[1].starts_with("denied hosts, entry 1"));
}

#[test]
fn tokens_are_refused_unless_they_are_allowed() {
    let input = "https://a.example/?access_token=0123456789abcdef";
    refuses(Refusal::SensitiveToken, &[input]);
    let allowing =
        Gate::new(&GateSettings { allow_sensitive: true, ..settings(&[], &[]) }).expect("no entries");
    assert_eq!(allowing.check(input).expect("allowed").as_str(), input);
}

#[test]
fn a_wrapped_link_is_judged_and_sent_as_its_target() {
    let wrapped = |target: &str| {
        let target: String = url::form_urlencoded::byte_serialize(target.as_bytes()).collect();
        format!(
            "hxxps://eur01[.]safelinks[.]protection[.]outlook[.]com/?url={target}&data=05|02|victim@corp.example|x"
        )
    };
    let url = check(&wrapped("https://evil.example/a?b=c")).expect("a URL");
    assert_eq!(
        (url.as_str(), url.unwrapped_from()),
        ("https://evil.example/a?b=c", Some(Wrapper::SafeLinks))
    );
    assert_eq!(check("https://evil.example/").expect("a URL").unwrapped_from(), None);
    for (target, refusal) in [
        ("http://10.0.0.1/", Refusal::PrivateHost),
        ("http://user:secret@evil.example/", Refusal::CredentialsInUrl),
        ("https://evil.example/?access_token=0123456789abcdef", Refusal::SensitiveToken),
    ] {
        refuses(refusal, &[&wrapped(target)]);
    }
    let leaving = Gate::new(&GateSettings { unwrap_links: false, ..settings(&[], &[]) }).expect("no entries");
    let left = leaving.check(&wrapped("https://evil.example/")).expect("a URL");
    assert_eq!((left.host(), left.unwrapped_from()), ("eur01.safelinks.protection.outlook.com", None));
}

#[test]
fn the_codes_are_those_of_the_api() {
    let codes = Refusal::ALL.map(Refusal::code);
    assert_eq!(
        codes,
        [
            "not_a_url",
            "unsupported_scheme",
            "too_long",
            "credentials_in_url",
            "private_host",
            "own_domain",
            "denylisted",
            "sensitive_token",
        ]
    );
    for refusal in Refusal::ALL {
        assert!(refusal.detail().ends_with('.') && refusal.to_string() == refusal.code());
    }
}

/// What a check of a text takes of the processor, whatever else the machine does; the least of three tries.
fn cost(text: &str) -> Duration {
    let used = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let once = || {
        let start = used();
        let _ = check(text);
        used().saturating_sub(start)
    };
    [once(), once(), once()].into_iter().min().unwrap()
}

#[test]
fn the_worst_text_does_not_take_the_square_of_its_length() {
    /// How much longer the second text is; the square of it is 64.
    const TIMES: usize = 8;
    let fill = |part: &str, bytes: usize| part.repeat(bytes / part.len());
    for part in [
        "(", "[.", "[ . ]", "\\.", "h", "hxxp", " ", "[[:]", "ü", "\u{200d}", "e.", "eyJ.", "http://", "&a=",
        "%25", ")", ".", "\"", "a-", "xn--", "🕴", "/..", "@",
    ] {
        for head in [
            "",
            "http://",
            "hxxp://",
            "http://evil.example/",
            "hxxp://evil[.]example/",
            "http://e.example/?u=",
        ] {
            let (short, long) =
                (format!("{head}{}", fill(part, 4000)), format!("{head}{}", fill(part, 4000 * TIMES)));
            let (few, many) = (cost(&short), cost(&long));
            assert!(many < few * 24, "{head}{part}: {few:?}, then {many:?}");
        }
    }
}

/// Letters and digits in labels, with two to four labels; never a private name.
fn name() -> impl Strategy<Value = String> {
    ("[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,5})?(\\.[a-z][a-z0-9]{0,8}){0,2}", "(com|example|io|co\\.uk|xn--p1ai)")
        .prop_map(|(head, top)| format!("{head}.{top}"))
}

/// A URL as a browser writes it, whose end is no punctuation of prose.
fn plain_url() -> impl Strategy<Value = String> {
    (
        "https?",
        name(),
        "(:[1-9][0-9]{2,3})?",
        "(/[a-zA-Z0-9_~-]{1,8}(\\.[a-z]{2,4})?){1,3}",
        "(\\?[a-z]{1,4}=[a-zA-Z0-9%._-]{0,8}(&u=https?://[a-z]{1,6}\\.com)?[a-z])?",
        "(#[a-z0-9]{1,6})?",
    )
        .prop_map(|(scheme, host, port, path, query, fragment)| {
            format!("{scheme}://{host}{port}{path}{query}{fragment}")
        })
}

/// Defangs as tools do, each in its style: all of a URL, or its head alone.
const STYLES: [(&str, &str, &str); 14] = [
    ("hxxp", "://", "[.]"),
    ("hXXp", "[://]", "[.]"),
    ("hxxp", "[:]//", "(.)"),
    ("h**p", "://", "{.}"),
    ("hxxp", "://", "[dot]"),
    ("http", "://", "(dot)"),
    ("http", "://", "{dot}"),
    ("http", "[:]//", "."),
    ("hxxp", "://", "."),
    ("http", "[:/]/", "[.]"),
    ("hxxp", "://", "\\."),
    ("http", "://", " [.] "),
    ("h\u{200b}ttp", "://", "\u{200b}[.]"),
    ("hxxp", " :// ", "[ . ]"),
];

fn defanged(url: &str, (scheme, separator, dot): (&str, &str, &str), whole: bool) -> String {
    let (word, rest) = url.split_once("://").expect("a URL");
    let end = rest.find('/').expect("a path");
    let (authority, path) = rest.split_at(end);
    let head = format!("{}{separator}{}", word.replace("http", scheme), authority.replace('.', dot));
    let brackets = !dot.contains(' ') && !dot.contains('\u{200b}');
    if whole && brackets {
        format!("{head}{}", path.replace('.', dot).replace("http://", "hxxp://"))
    } else {
        head + path
    }
}

fn joined(parts: &[String]) -> String {
    parts.concat()
}

/// Texts made of what the gate looks for: more likely to confuse it than characters drawn at random.
fn hostile() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("http".to_owned()),
        prop::sample::select(vec![
            "hxxp", "https", "://", "//", "/", "\\", ":", "[", "]", "(", ")", "{", "}", "<", ">", ".", "[.]",
            "(dot)", "\\.", "[:]", "[://]", "@", "[at]", " ", "dot", "\u{200b}", "\u{200d}", "\u{202e}",
            "\u{feff}", "\"", "”", "?", "#", "%", "%2e", "%00", "evil", "example", "127", "0x7f", "1", "::",
            "ffff", "ü", "。", "１", "xn--", "eyJ", "=", "&", "\n", "-", "token", "url=",
        ])
        .prop_map(str::to_owned),
        "\\PC",
    ];
    prop::collection::vec(part, 0..14).prop_map(|parts| joined(&parts))
}

/// Nets that are private, by their first address and the number of their addresses.
fn private_v4() -> impl Strategy<Value = Ipv4Addr> {
    let nets: [([u8; 4], u32); 11] = [
        ([0, 0, 0, 0], 8),
        ([10, 0, 0, 0], 8),
        ([100, 64, 0, 0], 10),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([172, 16, 0, 0], 12),
        ([192, 0, 0, 0], 24),
        ([192, 168, 0, 0], 16),
        ([198, 18, 0, 0], 15),
        ([224, 0, 0, 0], 4),
        ([240, 0, 0, 0], 4),
    ];
    (prop::sample::select(nets.to_vec()), any::<u32>()).prop_map(|((base, prefix), any)| {
        Ipv4Addr::from(u32::from_be_bytes(base) | (any & (u32::MAX >> prefix)))
    })
}

fn number(value: u32, radix: u8) -> String {
    match radix % 4 {
        0 => format!("0x{value:x}"),
        1 => format!("0{value:o}"),
        2 => format!("0X{value:08X}"),
        _ => value.to_string(),
    }
}

/// An address in one to four parts, each in its own radix.
fn notation(address: Ipv4Addr, parts: usize, radixes: [u8; 4]) -> String {
    let octets = address.octets();
    let mut text = String::new();
    for (octet, radix) in octets[..parts - 1].iter().zip(radixes) {
        let _ = write!(text, "{}.", number(u32::from(*octet), radix));
    }
    let last = octets[parts - 1..].iter().fold(0_u32, |value, octet| (value << 8) | u32::from(*octet));
    text + &number(last, radixes[3])
}

fn disguised(text: &str, disguise: u8) -> String {
    let each = |to: fn(char) -> String| text.chars().map(to).collect();
    let wide = |char: char| char::from_u32(u32::from(char) + 0xfee0).unwrap_or(char).to_string();
    match disguise % 5 {
        0 => each(wide),
        1 => each(|char| format!("%{:02x}", u32::from(char))),
        2 => text.replace('.', "。"),
        3 => format!("{text}."),
        _ => text.to_owned(),
    }
}

proptest! {
    #[test]
    fn every_style_of_defanging_is_undone(url in plain_url(), style in prop::sample::select(STYLES.to_vec()), whole: bool) {
        let written = defanged(&url, style, whole);
        prop_assert_eq!(refang(&written), url.as_str(), "{}", written);
    }

    #[test]
    fn a_url_without_defanging_is_left_alone(url in plain_url()) {
        prop_assert_eq!(refang(&url), url.as_str());
        let wrapped = format!(" <{url}>. ");
        prop_assert_eq!(refang(&wrapped), url.as_str());
    }

    #[test]
    fn nothing_makes_the_gate_panic(text in ".*", hostile in hostile()) {
        let _ = check(&text);
        let _ = check(&hostile);
        let _ = check(&format!("http://evil.example/{hostile}"));
        let _ = Gate::new(&settings(&[&text, &hostile], &[&text, &hostile]));
    }

    #[test]
    fn what_passed_once_passes_again_as_it_is(text in hostile(), head in "(http://evil\\.example|hxxp://evil\\[\\.\\]example|evil\\.example/|)") {
        if let Ok(url) = check(&format!("{head}{text}")) {
            let again = check(url.as_str());
            prop_assert_eq!(again.as_ref().map(GatedUrl::as_str), Ok(url.as_str()));
        }
    }

    #[test]
    fn what_leads_somewhere_leads_to_the_same_place(tail in hostile(), host in name(), scheme in "(https?://|http:|HTTP:/|https:\\\\\\\\)") {
        let input = format!("{scheme}{host}{tail}");
        let trimmed = input.trim_end_matches(|char: char| char.is_whitespace() || "\u{200b}\u{200d}\u{202e}\u{feff}".contains(char));
        if let (Ok(browsers), Ok(url)) = (Url::parse(trimmed), check(&input)) {
            // Parentheses and quotes are in no host; the parser takes them.
            let plausible = browsers.host().as_ref().is_some_and(is_plausible);
            if plausible && browsers.username().is_empty() {
                prop_assert_eq!(url.as_str(), browsers.as_str(), "{}", input);
            }
        }
    }

    #[test]
    fn the_host_that_was_judged_is_the_host_that_is_sent(url in plain_url()) {
        if let Ok(gated) = check(&url) {
            let parsed = Url::parse(gated.as_str()).expect("a URL");
            let original = Url::parse(&url).expect("a URL");
            prop_assert_eq!(parsed.host_str(), Some(gated.host()));
            prop_assert_eq!(parsed.host(), original.host());
            prop_assert_eq!((parsed.path(), parsed.query(), parsed.fragment()), (original.path(), original.query(), original.fragment()));
        }
    }

    #[test]
    fn a_private_ipv4_address_is_refused_in_every_notation(
        address in private_v4(), parts in 1..=4_usize, radixes: [u8; 4], disguise: u8, scheme in "(|http://|hxxps://)",
    ) {
        let host = disguised(&notation(address, parts, radixes), disguise);
        let url = Url::parse(&format!("http://{host}/")).expect("an address");
        prop_assert_eq!(url.host(), Some(Host::Ipv4(address)), "{}", host);
        let checked = check(&format!("{scheme}{host}/x"));
        // Without a scheme, a number is a number.
        let expected = if scheme.is_empty() && host != address.to_string() { Refusal::NotAUrl } else { Refusal::PrivateHost };
        prop_assert_eq!(checked, Err(expected), "{}", host);
    }

    #[test]
    fn a_private_ipv4_address_within_ipv6_is_refused(address in private_v4(), tail: u16) {
        let octets = address.octets();
        let (high, low) = (u16::from_be_bytes([octets[0], octets[1]]), u16::from_be_bytes([octets[2], octets[3]]));
        for host in [
            format!("::ffff:{address}"), format!("::FFFF:{high:x}:{low:x}"), format!("0:0:0:0:0:ffff:{high:04X}:{low:04X}"),
            format!("::{address}"), format!("::ffff:0:{address}"), format!("64:ff9b::{address}"),
            format!("64:ff9b:1::{address}"), format!("2002:{high:x}:{low:x}::{tail:x}"), format!("2001:0:{tail:x}::{address}"),
            format!("2606:4700::5efe:{address}"),
        ] {
            prop_assert_eq!(check(&format!("http://[{host}]/")), Err(Refusal::PrivateHost), "{}", host);
        }
    }
}
