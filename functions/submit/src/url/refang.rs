//! Undoes defanging: the spellings that keep a dangerous URL from being clicked in a report or a mail.
//!
//! One rule is above all others: undoing never changes where a URL leads. What a browser already takes as a web
//! address keeps its path, query and fragment byte for byte; only what no browser could follow is rewritten. The head
//! (scheme and authority) is read with care for every spelling in use, what stands behind it only after the head
//! proved to be defanged, and then only in the same brackets.

use std::borrow::Cow;

use url::{Host, Url};

use super::{begins::Markup, host::is_plausible};

/// How many characters a spelled-out scheme may take: `[ h t t p s ]` and some more.
const SCHEME_CHARS: usize = 24;

/// How many blanks may stand beside or inside a pair of brackets: `evil [ . ] example`.
const BLANKS: usize = 3;

/// How many layers of quotes and brackets are taken off. More is no text that a person wrote.
const WRAPPINGS: usize = 8;

/// What ends a sentence or an item of a list, and is no part of the URL before it.
const SENTENCE: [char; 7] = ['.', ',', ';', ':', '!', '?', '…'];

/// Straight, typographic and code quotes. No URL begins with one.
const QUOTES: [char; 11] = ['"', '\'', '`', '“', '”', '„', '‘', '’', '‚', '«', '»'];

/// What stands in brackets in place of a character, in the order in which it is tried.
const MARKS: [(&str, &str); 14] = [
    (".", "."),
    ("。", "."),
    ("．", "."),
    ("｡", "."),
    ("dot", "."),
    ("punkt", "."),
    ("punto", "."),
    ("://", "://"),
    (":", ":"),
    ("//", "//"),
    ("/", "/"),
    ("@", "@"),
    ("at", "@"),
    ("-", "-"),
];

/// A text as a URL parser takes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refanged<'a> {
    pub(super) text: Cow<'a, str>,
    /// The text names its protocol. Where it does not, `http` was written before it.
    pub(super) has_scheme: bool,
}

/// Undoes defanging, takes off what surrounds a URL in prose, and writes a missing scheme as `http`.
///
/// The result need not be a URL: that is for the parser to say. A text that already is one comes back as it is, but for
/// blanks and invisible characters around it.
pub(super) fn refang(text: &str) -> Refanged<'_> {
    let text = unwrapped(text);
    let as_it_is = |has_scheme| Refanged { text: Cow::Borrowed(text), has_scheme };
    // `\\server\share` is a folder of a network.
    if text.starts_with("\\\\") {
        return as_it_is(false);
    }
    let (scheme, after) = Scheme::read(text);
    let (word, live) = match scheme {
        Scheme::Web { https: true, live } => ("https", live),
        Scheme::Web { https: false, live } => ("http", live),
        Scheme::Missing => ("http", false),
        Scheme::Other { word, live } => (word, live),
        Scheme::Opaque => return as_it_is(true),
    };
    let has_scheme = scheme != Scheme::Missing;
    let authority = Authority::read(after, live);
    if !has_scheme && authority.is_mailbox() {
        return as_it_is(false);
    }
    if live && authority.is_as_written(after) {
        return as_it_is(true);
    }
    let mut url = String::with_capacity(text.len() + 8);
    url.push_str(word);
    url.push_str("://");
    url.push_str(&authority.text);
    authority.push_rest(&mut url, !live);
    Refanged { text: Cow::Owned(url), has_scheme }
}

/// The text without blanks, invisible characters, quotes and brackets around it. Of a link with a text, the link.
pub(super) fn unwrapped(text: &str) -> &str {
    let mut text = trimmed(text);
    for _ in 0..WRAPPINGS {
        match unwrapped_once(text) {
            Some(inner) => text = inner,
            None => break,
        }
    }
    text
}

fn unwrapped_once(text: &str) -> Option<&str> {
    let first = text.chars().next()?;
    if let Some(markup) =
        Markup::read(text).filter(|markup| text[markup.len..].trim_end_matches(SENTENCE).is_empty())
    {
        return Some(trimmed(markup.link));
    }
    let inner = &text[first.len_utf8()..];
    let sentence = inner.trim_end_matches(SENTENCE);
    if QUOTES.contains(&first) {
        return Some(trimmed(sentence.strip_suffix(QUOTES).unwrap_or(inner)));
    }
    if first == '<' {
        return Some(trimmed(sentence.strip_suffix('>').unwrap_or(inner)));
    }
    let inner = sentence.strip_suffix(closer_of(first)?)?;
    encloses(inner, first).then(|| trimmed(inner))
}

/// Whether brackets around this text belong together: `(a)(b)` is not one pair around all.
fn encloses(inner: &str, opener: char) -> bool {
    let closer = closer_of(opener);
    let mut depth = 0_usize;
    for char in inner.chars() {
        if char == opener {
            depth += 1;
        } else if Some(char) == closer {
            let Some(outer) = depth.checked_sub(1) else { return false };
            depth = outer;
        }
    }
    depth == 0
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(|char: char| char.is_whitespace() || is_invisible(char) || is_direction_mark(char))
}

/// How a text begins, in place of a scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme<'a> {
    /// http or https in any spelling; `live`: as a browser takes it.
    Web { https: bool, live: bool },
    /// Another protocol with a host: `ftp://`.
    Other { word: &'a str, live: bool },
    /// Another protocol without one: `mailto:`.
    Opaque,
    /// None.
    Missing,
}

impl<'a> Scheme<'a> {
    /// The scheme and the text behind it and its slashes.
    fn read(text: &'a str) -> (Self, &'a str) {
        for (at, _) in text.char_indices().take(SCHEME_CHARS) {
            if let Some(separator) = Separator::read(&text[at..]) {
                return Self::of(text, at, separator);
            }
        }
        (Self::Missing, text)
    }

    fn of(text: &'a str, at: usize, separator: Separator) -> (Self, &'a str) {
        let (word, after) = (&text[..at], &text[at + separator.len..]);
        if let Some(https) = web_scheme(word) {
            let live = separator.plain && separator.colon && is_literal(word);
            return (Self::Web { https, live }, close_of_scheme(word, after));
        }
        if word.is_empty() && separator.slashes {
            return (Self::Missing, after);
        }
        // `evil.example:8080` and `localhost:80` are a host and a port, `mailto:someone` is not.
        if separator.colon && is_scheme(word) {
            if separator.slashes {
                return (Self::Other { word, live: separator.plain }, after);
            }
            if !(word.contains('.') || begins_with_port(after)) {
                return (Self::Opaque, after);
            }
        }
        (Self::Missing, text)
    }
}

fn is_literal(word: &str) -> bool {
    word.eq_ignore_ascii_case("http") || word.eq_ignore_ascii_case("https")
}

fn is_scheme(word: &str) -> bool {
    word.starts_with(|char: char| char.is_ascii_alphabetic())
        && word.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '+' | '-' | '.'))
}

fn begins_with_port(text: &str) -> bool {
    let after = text.trim_start_matches(|char: char| char.is_ascii_digit());
    after.len() < text.len() && (after.is_empty() || after.starts_with(['/', '?', '#']))
}

/// `[http://]evil.example`: the bracket that was opened before the scheme is closed behind its slashes.
fn close_of_scheme<'a>(word: &str, after: &'a str) -> &'a str {
    let open = word.chars().filter(|char| is_opener(*char)).count();
    let closed = word.chars().filter(|char| is_closer(*char)).count();
    if open > closed { after.strip_prefix(is_closer).unwrap_or(after) } else { after }
}

/// Whether a word stands for https (true) or http (false): `hxxp`, `h**ps`, `htt p`, `http[s]`, `meow`, `xxxx`.
pub(super) fn web_scheme(word: &str) -> Option<bool> {
    let word: String = word
        .chars()
        .filter(|char| !(is_opener(*char) || is_closer(*char) || is_blank(*char) || is_invisible(*char)))
        .map(|char| char.to_ascii_lowercase())
        .collect();
    match word.as_str() {
        "meow" | "xxxx" => return Some(false),
        "meows" | "xxxxs" | "xxxxx" => return Some(true),
        _ => {}
    }
    let (word, https) = word.strip_suffix('s').map_or((word.as_str(), false), |word| (word, true));
    let middle = word.strip_prefix('h')?.strip_suffix('p')?;
    let masked = middle.chars().all(|char| "tx×*_#$+?.-".contains(char));
    (masked && (2..=3).contains(&middle.chars().count())).then_some(https)
}

/// What stands between scheme and host: `://` in any spelling, a colon alone, or slashes alone.
#[derive(Debug, Clone, Copy)]
struct Separator {
    len: usize,
    colon: bool,
    slashes: bool,
    /// Nothing but the colon and slashes themselves.
    plain: bool,
}

impl Separator {
    fn read(text: &str) -> Option<Self> {
        let (mut read, mut plain, mut len) = (String::new(), true, 0);
        while read != "://" && read != "//" {
            let blanks = blanks(&text[len..]);
            let rest = &text[len + blanks..];
            let Some((part, part_len)) = separator_part(rest, &read) else { break };
            plain &= blanks == 0 && !rest.starts_with(is_opener);
            read.push_str(part);
            len += blanks + part_len;
        }
        if !(read.starts_with(':') || read == "//") {
            return None;
        }
        let colon = read.starts_with(':');
        let slashes = read.ends_with("//");
        if slashes {
            // A browser takes any number of slashes, and both kinds.
            let rest = &text[len..];
            len += rest.len() - rest.trim_start_matches(['/', '\\']).len();
            let blanks = blanks(&text[len..]);
            plain &= blanks == 0;
            len += blanks;
        }
        Some(Self { len, colon, slashes, plain })
    }
}

/// The next piece of a separator of which some was read, with its length in the text.
fn separator_part(text: &str, read: &str) -> Option<(&'static str, usize)> {
    let fits = |part: &str| {
        ["://", "//"].iter().any(|whole| whole.strip_prefix(read).is_some_and(|rest| rest.starts_with(part)))
    };
    match text.chars().next()? {
        ':' => Some((":", 1)),
        '/' | '\\' => Some(("/", 1)),
        opener => {
            closer_of(opener)?;
            let inner = text[1..].trim_start_matches(is_blank);
            let end = inner.find(|char| !matches!(char, ':' | '/'))?;
            let part = [":", "/", "//", ":/", "://"].into_iter().find(|part| **part == inner[..end])?;
            let behind = inner[end..].trim_start_matches(is_blank).strip_prefix(is_closer)?;
            Some((part, text.len() - behind.len()))
        }
    }
    .filter(|(part, _)| fits(part))
}

/// Host, port and what else stands before the path.
struct Authority<'a> {
    text: String,
    rest: &'a str,
    /// The path's first slash was in brackets.
    slash: bool,
    /// The brackets and the backslash that defanged something, each by its opening character.
    used: String,
}

impl<'a> Authority<'a> {
    fn read(text: &'a str, live: bool) -> Self {
        let mut this =
            Self { text: String::with_capacity(text.len()), rest: text, slash: false, used: String::new() };
        while !this.slash && this.step(live) {}
        this.trim_end(live);
        this
    }

    /// Takes one character or mark; false at the end.
    fn step(&mut self, live: bool) -> bool {
        let Some(char) = self.rest.chars().next() else { return false };
        if matches!(char, '/' | '?' | '#') {
            return false;
        }
        if char == '\\' {
            return self.step_backslash(live);
        }
        if self.step_mark() {
            return true;
        }
        self.rest = &self.rest[char.len_utf8()..];
        if !(is_invisible(char) && self.may_drop(char)) {
            self.text.push(char);
        }
        true
    }

    /// `\.` is a defanged dot, unless a browser would see a host before it and a path behind: then it is that.
    fn step_backslash(&mut self, live: bool) -> bool {
        match self.rest.strip_prefix("\\.") {
            Some(rest) if !(live && self.used.is_empty() && self.is_public()) => {
                self.rest = rest;
                self.text.push('.');
                self.note('\\');
                true
            }
            _ => false,
        }
    }

    /// Whether what was read is a host of the internet: a name with a dot, or an address, in whatever notation. The
    /// first number of a defanged address is none: alone, it is an address of no network.
    fn is_public(&self) -> bool {
        match Host::parse(&self.text) {
            Ok(Host::Domain(name)) => name.contains('.'),
            Ok(Host::Ipv4(address)) => address.octets()[0] > 0,
            Ok(Host::Ipv6(_)) => true,
            Err(_) => self.text.contains('.'),
        }
    }

    fn is_plausible(&self) -> bool {
        let url = Url::parse(&format!("http://{}", self.text));
        url.is_ok_and(|url| url.host().as_ref().is_some_and(is_plausible))
    }

    fn step_mark(&mut self) -> bool {
        let before = blanks(self.rest);
        let rest = &self.rest[before..];
        let mark = bracketed(rest).filter(|(mark, _)| *mark != "://").or_else(|| half_bracketed(rest));
        let (mark, len) = match mark {
            Some(found) => found,
            None if before > 0 && starts_with_word(rest, "dot") && blanks(&rest[3..]) > 0 => (".", 3),
            None => return false,
        };
        self.note(rest[..len].chars().find(|char| is_opener(*char)).unwrap_or('['));
        self.rest = &rest[len..];
        if mark.starts_with('/') {
            self.slash = true;
        } else {
            self.rest = &self.rest[blanks(self.rest)..];
            self.text.push_str(mark);
        }
        true
    }

    fn note(&mut self, opener: char) {
        if !self.used.contains(opener) {
            self.used.push(opener);
        }
    }

    /// Joiners have a meaning between letters of some scripts, but none beside an ASCII character.
    fn may_drop(&self, char: char) -> bool {
        let ascii = |beside: Option<char>| beside.is_none_or(|char| char.is_ascii());
        !is_joiner(char) || ascii(self.text.chars().next_back()) || ascii(self.rest.chars().next())
    }

    /// Without a path, the punctuation of the prose behind the URL stands at the authority's end.
    fn trim_end(&mut self, live: bool) {
        if !self.rest.is_empty() || self.slash {
            return;
        }
        // A host with a last dot, an empty port and a quote within an international name are live.
        if !(live && self.is_plausible()) {
            self.text.truncate(prose_end(&self.text));
        }
    }

    /// `someone@evil.example` without a scheme is a mailbox and no URL.
    fn is_mailbox(&self) -> bool {
        self.text.split_once('@').is_some_and(|(user, _)| !user.is_empty() && !user.contains(':'))
    }

    fn is_as_written(&self, text: &str) -> bool {
        self.used.is_empty() && self.text.len() + self.rest.len() == text.len()
    }

    fn push_rest(&self, url: &mut String, defanged: bool) {
        if self.slash {
            url.push('/');
        }
        if !defanged && self.used.is_empty() {
            url.push_str(self.rest);
            return;
        }
        let start = url.len();
        push_refanged(url, self.rest, &self.used);
        let end = start + prose_end(&url[start..]);
        url.truncate(end);
    }
}

/// A path, query and fragment behind a head that was defanged, or had no scheme.
fn push_refanged(url: &mut String, text: &str, used: &str) {
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let found = match char {
            'h' | 'H' => nested_scheme(rest),
            '\\' if rest.starts_with("\\/") => Some(("/", 2)),
            '\\' if rest.starts_with("\\.") && used.contains('\\') => Some((".", 2)),
            // A scheme that was defanged says nothing of brackets; square ones are the common kind.
            '[' => bracketed(rest),
            opener if used.contains(opener) => bracketed(rest),
            _ => None,
        };
        if let Some((mark, len)) = found {
            url.push_str(mark);
            rest = &rest[len..];
        } else {
            rest = &rest[char.len_utf8()..];
            if !is_invisible(char) {
                url.push(char);
            }
        }
    }
}

/// `hxxp` inside a URL, where an address follows it.
fn nested_scheme(text: &str) -> Option<(&'static str, usize)> {
    let (scheme, len) = if starts_with_word(text, "hxxps") {
        ("https", 5)
    } else if starts_with_word(text, "hxxp") {
        ("http", 4)
    } else {
        return None;
    };
    let rest = &text[len..];
    let address = starts_with_word(rest, "%3a")
        || Separator::read(rest).is_some_and(|separator| separator.colon && separator.slashes);
    address.then_some((scheme, len))
}

/// The character that stands in brackets here, and the length of it all: `[.]`, `( dot )`, `{:}`, `[://]`.
fn bracketed(text: &str) -> Option<(&'static str, usize)> {
    let inner = text.strip_prefix(is_opener)?;
    let inner = &inner[blanks(inner)..];
    MARKS.into_iter().find_map(|(written, mark)| {
        if !starts_with_word(inner, written) {
            return None;
        }
        let behind = &inner[written.len()..];
        let behind = behind[blanks(behind)..].strip_prefix(is_closer)?;
        Some((mark, text.len() - behind.len()))
    })
}

/// Half a pair of brackets at a dot: `evil[.example`, `evil.]example`.
fn half_bracketed(text: &str) -> Option<(&'static str, usize)> {
    let mut chars = text.chars();
    let pair = (chars.next()?, chars.next()?);
    let half = matches!(pair, ('[' | '(' | '{', '.') | ('.', ']' | ')' | '}'));
    half.then_some((".", 2))
}

/// Where the URL ends and the punctuation of the prose around it begins. A closing bracket belongs to the URL if it
/// was opened there.
fn prose_end(text: &str) -> usize {
    let mut open = [0_isize; BRACKETS.len()];
    for char in text.chars() {
        for (depth, (opener, closer)) in open.iter_mut().zip(BRACKETS) {
            *depth += isize::from(char == opener) - isize::from(char == closer);
        }
    }
    let mut end = text.len();
    for char in text.chars().rev() {
        let unopened = BRACKETS.iter().position(|(_, closer)| *closer == char).filter(|kind| open[*kind] < 0);
        if let Some(kind) = unopened {
            open[kind] += 1;
        } else if !(SENTENCE.contains(&char) || QUOTES.contains(&char)) {
            break;
        }
        end -= char.len_utf8();
    }
    end
}

const BRACKETS: [(char, char); 4] = [('[', ']'), ('(', ')'), ('{', '}'), ('<', '>')];

fn closer_of(opener: char) -> Option<char> {
    BRACKETS.into_iter().find_map(|(open, close)| (open == opener).then_some(close))
}

fn is_opener(char: char) -> bool {
    matches!(char, '[' | '(' | '{' | '<')
}

fn is_closer(char: char) -> bool {
    matches!(char, ']' | ')' | '}' | '>')
}

fn is_blank(char: char) -> bool {
    matches!(char, ' ' | '\u{a0}')
}

/// The length of the blanks at the start, if they are few enough to belong to a mark.
fn blanks(text: &str) -> usize {
    text.chars().take_while(|char| is_blank(*char)).take(BLANKS).map(char::len_utf8).sum()
}

fn starts_with_word(text: &str, word: &str) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// Characters without width: no reader sees them, so no reader meant them. Host names ignore or refuse all of them.
fn is_invisible(char: char) -> bool {
    is_joiner(char)
        || matches!(
            char,
            '\u{ad}' | '\u{34f}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}'
        )
}

/// Characters that end a line, or that no line of text has.
pub(super) fn breaks_a_line(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')
}

fn is_joiner(char: char) -> bool {
    matches!(char, '\u{200c}' | '\u{200d}')
}

/// Characters that turn the direction of text. Around a URL they come with copying from such text; inside a host they
/// make it look like another, so there they stay, and the parser refuses them.
fn is_direction_mark(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refang(text: &str) -> Cow<'_, str> {
        super::refang(text).text
    }

    fn refangs(cases: &[(&str, &str)]) {
        for (written, meant) in cases {
            assert_eq!(refang(written), *meant, "{written}");
        }
    }

    #[test]
    fn schemes_are_read_in_every_spelling() {
        for word in [
            "hxxp",
            "hXXp",
            "HXXP",
            "h**p",
            "hxtp",
            "h__p",
            "h--p",
            "h##p",
            "hxxxp",
            "meow",
            "xxxx",
            "htt p",
            "h t t p",
            "h[tt]p",
            "[http]",
            "[hxxp]",
            "{http}",
            "ht\u{200b}tp",
        ] {
            assert_eq!(refang(&format!("{word}://evil.example/x")), "http://evil.example/x", "{word}");
        }
        for word in
            ["hxxps", "hXXps", "HXXPS", "h**ps", "meows", "xxxxs", "xxxxx", "http[s]", "[https]", "hxxp[s]"]
        {
            assert_eq!(refang(&format!("{word}://evil.example/x")), "https://evil.example/x", "{word}");
        }
    }

    #[test]
    fn the_colon_and_slashes_are_read_in_every_spelling() {
        for separator in [
            "://",
            "[://]",
            "(://)",
            "{://}",
            "[:]//",
            "(:)//",
            "[:/]/",
            "[:][/][/]",
            ":[//]",
            "[:][//]",
            ":/[/]",
            " :// ",
            ": //",
            ":// ",
            "[ : ]//",
            ":\\\\",
            ":///",
            "//",
            "[://] ",
            "<://>",
        ] {
            assert_eq!(
                refang(&format!("hxxps{separator}evil.example/x")),
                "https://evil.example/x",
                "{separator}"
            );
        }
        refangs(&[
            ("[http://]evil.example/x", "http://evil.example/x"),
            ("http[:]//evil.example/x", "http://evil.example/x"),
            ("http//evil.example/x", "http://evil.example/x"),
            ("hxxp:evil.example/x", "http://evil.example/x"),
        ]);
    }

    #[test]
    fn dots_are_read_in_every_spelling() {
        for dot in [
            "[.]",
            "(.)",
            "{.}",
            "<.>",
            "[.)",
            "[dot]",
            "(dot)",
            "{dot}",
            "<dot>",
            "[DOT]",
            "[ . ]",
            "( dot )",
            " [.] ",
            " dot ",
            " DOT ",
            "[.",
            ".]",
            "(.",
            ".)",
            "\\.",
            "[punkt]",
            "(punto)",
            "[。]",
            "[\u{a0}.]",
        ] {
            for scheme in ["", "http://", "hxxp://"] {
                let written = format!("{scheme}www{dot}evil{dot}example/x");
                assert_eq!(refang(&written), "http://www.evil.example/x", "{written}");
            }
        }
    }

    #[test]
    fn other_marks_of_the_head_are_undone() {
        refangs(&[
            ("evil[.]example[:]8080/x", "http://evil.example:8080/x"),
            ("evil[.]example[/]x[/]y", "http://evil.example/x/y"),
            ("http://user[at]evil.example/", "http://user@evil.example/"),
            ("http://user[@]evil.example/", "http://user@evil.example/"),
            ("evil[-]bank.example", "http://evil-bank.example"),
            ("http://[2001[:]db8[:][:]1]/", "http://[2001:db8::1]/"),
            ("hxxp://[2001:db8::1]:80/[.]x", "http://[2001:db8::1]:80/.x"),
            ("198[.]51[.]100[.]7/x", "http://198.51.100.7/x"),
            ("http://198\\.51\\.100\\.7/x", "http://198.51.100.7/x"),
        ]);
    }

    #[test]
    fn a_missing_scheme_is_http() {
        refangs(&[
            ("evil.example/x", "http://evil.example/x"),
            ("evil.example:8080/x", "http://evil.example:8080/x"),
            ("localhost:80", "http://localhost:80"),
            ("//evil.example/x", "http://evil.example/x"),
            ("evil.example/?u=http://a.example/", "http://evil.example/?u=http://a.example/"),
            ("user:secret@evil.example", "user:secret@evil.example"),
            ("user.name:secret@evil.example/", "http://user.name:secret@evil.example/"),
        ]);
    }

    #[test]
    fn other_schemes_mailboxes_and_folders_of_a_network_stay() {
        for text in [
            "\\\\server\\share",
            "\\\\server.evil.example\\share",
            "ftp://evil.example/x",
            "mailto:a@b.example",
            "javascript:alert(1)",
            "someone@evil.example",
            "fe80::1",
        ] {
            assert_eq!(refang(text), text);
        }
        assert_eq!(refang("ftp[:]//evil.example/x"), "ftp://evil.example/x");
    }

    #[test]
    fn what_surrounds_a_url_in_prose_is_taken_off() {
        for (before, after) in [
            (" ", "\r\n"),
            ("\"", "\""),
            ("'", "'"),
            ("`", "`"),
            ("“", "”"),
            ("„", "“"),
            ("‘", "’"),
            ("«", "»"),
            ("<", ">"),
            ("(", ")"),
            ("[", "]"),
            ("{", "}"),
            ("\"", "\","),
            ("<", ">."),
            ("(", ")."),
            ("[\"", "\"]"),
            ("\u{feff}", "\u{200b}"),
            ("\u{2066}", "\u{2069}"),
            ("\"", ""),
            ("<", ""),
            ("", "\u{200e}"),
        ] {
            for url in ["http://evil.example/x", "https://evil.example/a(b)?c=[d]#e"] {
                let written = format!("{before}{url}{after}");
                assert_eq!(refang(&written), url, "{written}");
            }
        }
    }

    #[test]
    fn of_a_link_with_a_text_the_link_is_meant() {
        refangs(&[
            ("[text](http://evil.example/x)", "http://evil.example/x"),
            ("[http://good.example](hxxp://evil[.]example/x_(1)).", "http://evil.example/x_(1)"),
            ("<http://evil.example/x|http://good.example>", "http://evil.example/x"),
            ("<https://evil.example|evil>,", "https://evil.example"),
            ("([text](<http://evil.example/x>))", "http://evil.example/x"),
            ("[http://]evil.example/(x)", "http://evil.example/(x)"),
        ]);
    }

    #[test]
    fn punctuation_of_prose_ends_what_no_browser_could_follow() {
        refangs(&[
            ("hxxp://evil.example/x.", "http://evil.example/x"),
            ("evil[.]example/x),", "http://evil.example/x"),
            ("evil[.]example/x\"...", "http://evil.example/x"),
            ("evil[.]example/a_(b)", "http://evil.example/a_(b)"),
            ("evil[.]example/a_(b)).", "http://evil.example/a_(b)"),
            ("evil.example.", "http://evil.example"),
            ("http://evil.example,", "http://evil.example"),
            ("http://evil.example).", "http://evil.example"),
            ("http://evil.example\"", "http://evil.example"),
            ("http://evil.example”", "http://evil.example”"),
            ("http://evil.example»", "http://evil.example»"),
            ("«http://evil.example»", "http://evil.example"),
            ("hxxp://evil.example»", "http://evil.example"),
            ("http://evil.example.", "http://evil.example."),
            ("http://evil.example/x.", "http://evil.example/x."),
            ("http://[2001:db8::1]", "http://[2001:db8::1]"),
        ]);
    }

    #[test]
    fn a_live_url_stays_as_it_is() {
        for url in [
            "http://evil.example/a[.]b?c=(dot)&d=hxxp://x[.]example#[:]",
            "HTTP://EVIL.example/x",
            "http:evil.example/x",
            "https:\\\\evil.example\\x",
            "http:\\/\\/evil.example\\/x",
            "http://www.evil.example\\.good.example/",
            "http://134744072\\.good.example/",
            "http://evil%2eexample\\.good.example/",
            "http://[2001:db8::1]/",
            "http://[::]/",
            "http://[::ffff:1.2.3.4]:8080/x",
            "http://evil.example/?q=\"a\"",
            "http://evil.example/x\u{202e}fdp.exe",
            "http://evil.example/a\u{200b}b",
            "http://evil.example?x=1.",
            "http://evil.example#.",
            "http://a-dot-b.example/",
            "https://\u{646}\u{627}\u{645}\u{647}\u{200c}\u{627}\u{6cc}.example/",
            "http://evil.example/x (and y)",
        ] {
            assert!(matches!(refang(url), Cow::Borrowed(text) if text == url), "{url}: {}", refang(url));
        }
    }

    #[test]
    fn a_path_is_refanged_behind_a_defanged_head_in_the_same_brackets() {
        refangs(&[
            ("hxxp://evil.example/a[.]php", "http://evil.example/a.php"),
            ("evil(.)example/a(.)php[.]x", "http://evil.example/a.php.x"),
            ("evil[.]example/a(.)php", "http://evil.example/a(.)php"),
            ("hxxps://evil[.]example/?u=hxxps://x[.]example", "https://evil.example/?u=https://x.example"),
            ("hxxps[://]a[.]example/?u=hxxp[://]b[.]example", "https://a.example/?u=http://b.example"),
            (
                "hxxps://a[.]example/?u=hXXps%3A%2F%2Fb[.]example",
                "https://a.example/?u=https%3A%2F%2Fb.example",
            ),
            ("hxxp://evil[.]example/hxxp.js", "http://evil.example/hxxp.js"),
            ("hxxp:\\/\\/evil.example\\/a", "http://evil.example/a"),
            ("http://evil\\.example/a\\.php", "http://evil.example/a.php"),
            ("http://www[.]evil\\.example/a", "http://www.evil.example/a"),
        ]);
    }

    #[test]
    fn characters_that_nobody_sees_are_dropped_from_the_head() {
        refangs(&[
            ("http://ev\u{200b}il.exam\u{ad}ple/x", "http://evil.example/x"),
            ("http://ev\u{200d}il.exam\u{2060}ple/x", "http://evil.example/x"),
            ("http://ev\u{feff}il.example/a[.]b", "http://evil.example/a[.]b"),
            ("hxxp://evil.example/a\u{200b}b", "http://evil.example/ab"),
        ]);
        assert!(refang("http://evil\u{202e}.example/").contains('\u{202e}'));
    }
}
