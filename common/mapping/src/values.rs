//! Which values the platform takes. What it would refuse never reaches it: one refused object there also costs every
//! relationship that names it.

use std::net::{Ipv4Addr, Ipv6Addr};

use stix::LeftOutReason;

/// A value that is kept exactly as it is, unless there is none.
pub(super) fn non_empty(value: Option<&str>) -> Result<&str, LeftOutReason> {
    let shows = |char: char| !char.is_whitespace() && !char.is_control() && char != '\u{feff}';
    value.filter(|value| value.contains(shows)).ok_or(LeftOutReason::EmptyValue)
}

/// A domain name in lower case, without trailing dot and port.
///
/// The platform asks for labels of 1 to 63 characters that are neither space nor dot, a last one of at least 2, and
/// 253 in all. Underscores and other scripts than Latin are fine.
pub(super) fn domain(value: Option<&str>) -> Result<String, LeftOutReason> {
    let value = non_empty(value)?.trim().to_lowercase();
    let value = value.strip_suffix('.').unwrap_or(&value);
    let host = without_port(value);
    let labels: Vec<&str> = host.split('.').collect();
    let label_fits = |label: &&str| (1..=63).contains(&label.encode_utf16().count());
    let is_word = |last: &&str| last.chars().count() >= 2 && !is_number(last);
    let last_fits = labels.last().is_some_and(is_word);
    // None of these can stand in a host; the platform would take most of them as they are.
    let foreign = |char: char| char.is_whitespace() || char.is_control() || "/:@?#[]<>\"'\\,*".contains(char);
    let well_formed = labels.len() > 1
        && labels.iter().all(label_fits)
        && last_fits
        && host.encode_utf16().count() <= 253
        && !host.starts_with('-')
        && !host.contains(foreign)
        && host.parse::<Ipv4Addr>().is_err();
    if well_formed { Ok(host.to_owned()) } else { Err(LeftOutReason::InvalidDomain) }
}

/// An IP address or network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ip {
    V4(String),
    V6(String),
}

/// An address or a network in CIDR notation, as written; a port is cut off.
pub(super) fn ip(value: Option<&str>) -> Result<Ip, LeftOutReason> {
    let value = non_empty(value)?.trim();
    let value = match value.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => host,
            Some((host, port)) if port.strip_prefix(':').is_some_and(is_number) => host,
            _ => return Err(LeftOutReason::InvalidIp),
        },
        None if value.matches(':').count() == 1 => without_port(value),
        None => value,
    };
    let (address, prefix) = match value.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (value, None),
    };
    let prefix_fits = |bits: u8| {
        prefix.is_none_or(|prefix| {
            let canonical = prefix == "0" || !prefix.starts_with('0');
            canonical && is_number(prefix) && prefix.parse::<u8>().is_ok_and(|length| length <= bits)
        })
    };
    if address.parse::<Ipv4Addr>().is_ok() && prefix_fits(32) {
        Ok(Ip::V4(value.to_owned()))
    } else if address.parse::<Ipv6Addr>().is_ok() && prefix_fits(128) && platform_takes_v6(address) {
        Ok(Ip::V6(value.to_owned()))
    } else {
        Err(LeftOutReason::InvalidIp)
    }
}

/// Of IPv6 addresses that end in an IPv4 address the platform takes few.
fn platform_takes_v6(address: &str) -> bool {
    if !address.contains('.') {
        return true;
    }
    let Some((before, _)) = address.rsplit_once(':') else { return false };
    let translated = |zeros: &str| (1..=4).contains(&zeros.len()) && zeros.bytes().all(|byte| byte == b'0');
    match before {
        ":" | "::ffff" => true,
        _ => {
            before.strip_prefix("::ffff:").is_some_and(translated)
                || before.strip_suffix(':').is_some_and(|groups| {
                    let groups: Vec<_> = groups.split(':').collect();
                    groups.len() <= 4 && groups.iter().all(|group| !group.is_empty())
                })
        }
    }
}

fn without_port(value: &str) -> &str {
    match value.rsplit_once(':') {
        Some((host, port)) if is_number(port) => host,
        _ => value,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// An e-mail address in lower case and the name that stood before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mailbox {
    pub(super) address: String,
    pub(super) display_name: Option<String>,
}

/// Reads `a@b`, `<a@b>`, `Name <a@b>`, `"Name, First" <a@b>`. A domain with other letters than ASCII is written as its
/// A-labels (`xn--`), for the platform refuses any other form in an address.
pub(super) fn mailbox(value: Option<&str>) -> Result<Mailbox, LeftOutReason> {
    let value = non_empty(value)?.trim();
    let (name, address) = match value.rsplit_once('<') {
        Some((name, rest)) => (name, rest.strip_suffix('>').ok_or(LeftOutReason::InvalidEmail)?),
        None => ("", value),
    };
    let address = in_ascii(address.trim().to_lowercase()).filter(|address| platform_takes_email(address));
    let address = address.ok_or(LeftOutReason::InvalidEmail)?;
    let name = super::text::one_line(name);
    let name = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(&name);
    let display_name = (!name.trim().is_empty()).then(|| name.trim().to_owned());
    Ok(Mailbox { address, display_name })
}

fn in_ascii(address: String) -> Option<String> {
    match address.split_once('@') {
        Some((local, host)) if !host.is_ascii() => {
            let host = idna::domain_to_ascii_cow(host.as_bytes(), idna::AsciiDenyList::STD3).ok()?;
            Some(format!("{local}@{host}"))
        }
        _ => Some(address),
    }
}

fn platform_takes_email(address: &str) -> bool {
    let Some((local, host)) = address.split_once('@') else { return false };
    let local_char = |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte);
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    !local.is_empty() && local.bytes().all(local_char) && host.split('.').all(label_fits)
}

/// A hash of so many hexadecimal digits, in lower case; nothing if none is given.
pub(super) fn hash(value: Option<&str>, digits: usize) -> Result<Option<String>, LeftOutReason> {
    let Some(value) = value.map(str::trim).filter(|value| !value.is_empty()) else { return Ok(None) };
    if value.len() == digits && value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(Some(value.to_ascii_lowercase()))
    } else {
        Err(LeftOutReason::InvalidHash)
    }
}

/// The last part of a Windows or Unix path.
pub(super) fn base_name(path: &str) -> Option<&str> {
    let name = path.trim().trim_end_matches(['/', '\\']);
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name).trim();
    (!name.is_empty()).then_some(name)
}

/// The number of a technique (`T1055`, `T1055.012`) in upper case.
pub(super) fn technique_id(value: Option<&str>) -> Result<String, LeftOutReason> {
    let value = value.unwrap_or_default().trim().to_ascii_uppercase();
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let (technique, sub) = value.split_once('.').unwrap_or((&value, "000"));
    let well_formed = technique.strip_prefix('T').is_some_and(|number| digits(number, 4)) && digits(sub, 3);
    if well_formed { Ok(value) } else { Err(LeftOutReason::InvalidTechnique) }
}

/// A link that people can follow.
pub(super) fn link(url: Option<&str>) -> Option<String> {
    let url = url?.trim();
    let web = url.starts_with("https://") || url.starts_with("http://");
    (web && !url.contains(char::is_whitespace)).then(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_the_platform_takes() {
        for (given, taken) in [
            ("Evil.Example.COM", "evil.example.com"),
            ("evil.example.com.", "evil.example.com"),
            (" evil.example.com ", "evil.example.com"),
            ("evil.example.com:8080", "evil.example.com"),
            ("under_score.example.org", "under_score.example.org"),
            ("münchen.example", "münchen.example"),
            ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ] {
            assert_eq!(domain(Some(given)).as_deref(), Ok(taken));
        }
    }

    #[test]
    fn domains_the_platform_refuses_or_that_are_none() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long = format!("{}example", "abcdefg.".repeat(32));
        for given in [
            "localhost",
            "a..b",
            ".",
            "a.b",
            "evil.c",
            "-evil.com",
            "evil com.test",
            "1.2.3.44",
            "a.com/x",
            "http://a.com",
            "u@a.com",
            "evil.com..",
            &long_label,
            &long,
        ] {
            assert_eq!(domain(Some(given)), Err(LeftOutReason::InvalidDomain), "{given}");
        }
        assert_eq!(domain(Some("  ")), Err(LeftOutReason::EmptyValue));
        assert_eq!(domain(None), Err(LeftOutReason::EmptyValue));
    }

    #[test]
    fn addresses_and_networks_with_their_ports_cut_off() {
        let v4 = |text: &str| Ok(Ip::V4(text.to_owned()));
        let v6 = |text: &str| Ok(Ip::V6(text.to_owned()));
        for (given, taken) in [
            ("198.51.100.7", v4("198.51.100.7")),
            (" 198.51.100.7:80 ", v4("198.51.100.7")),
            ("198.51.100.0/24", v4("198.51.100.0/24")),
            ("2001:db8::1", v6("2001:db8::1")),
            ("2001:DB8:0:0::1", v6("2001:DB8:0:0::1")),
            ("[2001:db8::1]:443", v6("2001:db8::1")),
            ("[2001:db8::1]", v6("2001:db8::1")),
            ("2001:db8::/32", v6("2001:db8::/32")),
            ("::ffff:1.2.3.4", v6("::ffff:1.2.3.4")),
            ("64:ff9b::1.2.3.4", v6("64:ff9b::1.2.3.4")),
        ] {
            assert_eq!(ip(Some(given)), taken, "{given}");
        }
    }

    #[test]
    fn no_addresses() {
        for given in [
            "evil.com",
            "1.2.3",
            "1.2.3.4.5",
            "999.1.1.1",
            "01.2.3.4",
            "1.2.3.4/33",
            "1.2.3.4/",
            "1.2.3.4/024",
            "::1/129",
            "[::1",
            "[::1]x",
            "1.2.3.4:x",
            "fe80::1%eth0",
            "1:2:3:4:5:6:1.2.3.4",
            "1.2.3.4:80:90",
            "/",
        ] {
            assert_eq!(ip(Some(given)), Err(LeftOutReason::InvalidIp), "{given}");
        }
    }

    #[test]
    fn mailboxes_in_all_forms() {
        let read = |given| mailbox(Some(given)).map(|mailbox| (mailbox.address, mailbox.display_name));
        let with = |address: &str, name: Option<&str>| Ok((address.to_owned(), name.map(str::to_owned)));
        assert_eq!(read("Bad.Guy@Example.com"), with("bad.guy@example.com", None));
        assert_eq!(read("Ó Néil <O'Neil@example.com>"), with("o'neil@example.com", Some("Ó Néil")));
        assert_eq!(read("Ó Néil <x> <o'neil@example.com>"), with("o'neil@example.com", Some("Ó Néil <x>")));
        assert_eq!(read("\"Doe, John\" <j@d.test>"), with("j@d.test", Some("Doe, John")));
        assert_eq!(read("<j@d.test>"), with("j@d.test", None));
        assert_eq!(read("j@localhost"), with("j@localhost", None));
        assert_eq!(read("J@Bücher.test"), with("j@xn--bcher-kva.test", None));
        assert_eq!(read("j@xn--bcher-kva.test"), with("j@xn--bcher-kva.test", None));
        for given in [
            "ü@example.com",
            "ü@bücher.test",
            "a@b_ü.test",
            "\"a b\"@x.test",
            "a@-x.test",
            "@x.test",
            "a",
            "a@x..test",
            "a@b@c",
            "N <a@b.c",
        ] {
            assert_eq!(read(given), Err(LeftOutReason::InvalidEmail), "{given}");
        }
        assert_eq!(read(" "), Err(LeftOutReason::EmptyValue));
    }

    #[test]
    fn hashes_have_a_length() {
        let md5 = "D41D8CD98F00B204E9800998ECF8427E";
        assert_eq!(hash(Some(md5), 32), Ok(Some(md5.to_lowercase())));
        assert_eq!(hash(None, 32), Ok(None));
        assert_eq!(hash(Some(" "), 32), Ok(None));
        assert_eq!(hash(Some(&md5[1..]), 32), Err(LeftOutReason::InvalidHash));
        assert_eq!(hash(Some("z41d8cd98f00b204e9800998ecf8427e"), 32), Err(LeftOutReason::InvalidHash));
    }

    #[test]
    fn base_names_of_paths() {
        assert_eq!(base_name(r"C:\Users\u\a b.exe"), Some("a b.exe"));
        assert_eq!(base_name("/tmp/x"), Some("x"));
        assert_eq!(base_name("x.txt"), Some("x.txt"));
        assert_eq!(base_name(r"C:\dir\"), Some("dir"));
        assert_eq!(base_name(r"\ "), None);
        assert_eq!(base_name(""), None);
    }

    #[test]
    fn technique_numbers() {
        assert_eq!(technique_id(Some("t1055.012")).as_deref(), Ok("T1055.012"));
        assert_eq!(technique_id(Some("T1055")).as_deref(), Ok("T1055"));
        for given in [None, Some(""), Some("T105"), Some("1055"), Some("T1055.12"), Some("T1055/../x")] {
            assert_eq!(technique_id(given), Err(LeftOutReason::InvalidTechnique));
        }
    }

    #[test]
    fn only_web_links_are_links() {
        assert_eq!(link(Some(" https://v.test/1 ")).as_deref(), Some("https://v.test/1"));
        assert_eq!(link(Some("javascript:alert(1)")), None);
        assert_eq!(link(None), None);
    }
}
