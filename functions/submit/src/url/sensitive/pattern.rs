//! The shape of a link, as the rules write it: like a URL, with words in place of what varies.
//!
//! - **Host**: domains with everything below them, `a.com|b.com`; `hooks.*` is a host whose name begins so; `*` is any.
//! - **Path**: the beginning of the path, segment by segment. `reset|recover` is one of these words, whatever their case
//!   and separators, with or without an ending such as `.php`; `=reset` is without one; `*reset*` has the word inside;
//!   `@reset` is one of a list of words; `*` is any segment and `**` any number of them; `$key` is a value of that [`Look`], `bot$any` one behind a
//!   prefix; `!` is the end.
//! - **Query**: `sig|signature=$any&se=$time` are parameters that must all be there, each by one of its names and with
//!   one of its values. Parameters of the fragment count too, and the fragment itself is named `#`.
//!
//! The path may also stand in the fragment, where applications that run in the browser have theirs.

use super::{
    look::{Look, Looks},
    words::LISTS,
};
use crate::url::host::is_under;

/// The longest text that could be a word of a list, with others around it.
const WORD: usize = 48;

/// What a pattern is held against: a URL in its parts, decoded.
pub(super) struct Link {
    pub(super) host: String,
    pub(super) path: Vec<Text>,
    pub(super) fragment_path: Vec<Text>,
    /// Names and values.
    pub(super) pairs: Vec<(Text, Text)>,
}

/// A segment, a name or a value, with all that is asked of it often.
pub(super) struct Text {
    raw: String,
    /// As [`plain_name`] writes it.
    plain: String,
    /// Where the ending of a file begins in `plain`.
    stem: usize,
    looks: Looks,
    /// The [`LISTS`] of which it is, one bit each.
    lists: u32,
}

impl Text {
    pub(super) fn new(raw: String) -> Self {
        let plain = plain_name(&raw);
        let stem =
            raw.split_once('.').map_or(plain.len(), |(stem, _)| plain_name(stem).len().min(plain.len()));
        let mut this = Self { looks: Looks::of(&raw), raw, plain, stem, lists: 0 };
        if this.plain.len() <= WORD {
            for (bit, list) in WORD_LISTS.iter().enumerate() {
                this.lists |= u32::from(list.iter().any(|word| word.fits(&this))) << bit;
            }
        }
        this
    }
}

/// A name without case and separators: `X-Amz-Signature`, `user[reset_token]` and, out of HTML, `amp;sig`.
pub(in crate::url) fn plain_name(name: &str) -> String {
    let name = name.strip_prefix("amp;").unwrap_or(name);
    let name = name.strip_suffix(']').and_then(|name| name.rsplit_once('[')).map_or(name, |(_, inner)| inner);
    name.chars()
        .filter(|char| !matches!(char, '-' | '_' | '.' | ' '))
        .map(|char| char.to_ascii_lowercase())
        .collect()
}

#[derive(Debug)]
pub(super) struct Pattern {
    /// Empty: any host.
    hosts: Vec<&'static str>,
    path: Vec<Segment>,
    query: Vec<Parameter>,
}

#[derive(Debug)]
enum Segment {
    Many,
    End,
    /// One of these.
    One(Vec<Word>),
}

#[derive(Debug)]
enum Word {
    Any,
    Is(String),
    IsWhole(String),
    Begins(String),
    Ends(String),
    Holds(String),
    Looks(Look),
    BeginsAndLooks(&'static str, Look),
    InList(usize),
}

#[derive(Debug)]
struct Parameter {
    names: Vec<Word>,
    values: Vec<Word>,
}

/// The lists of words, read once.
static WORD_LISTS: std::sync::LazyLock<Vec<Vec<Word>>> =
    std::sync::LazyLock::new(|| LISTS.iter().map(|(_, words)| Word::read_all(words)).collect());

impl Pattern {
    pub(super) fn read(text: &'static str) -> Self {
        let (front, query) = text.split_once('?').unwrap_or((text, ""));
        let (hosts, path) = front.split_once('/').unwrap_or((front, ""));
        Self {
            hosts: hosts.split('|').filter(|host| *host != "*").collect(),
            path: path.split('/').filter(|segment| !segment.is_empty()).map(Segment::read).collect(),
            query: query.split('&').filter(|parameter| !parameter.is_empty()).map(Parameter::read).collect(),
        }
    }

    pub(super) fn matches(&self, link: &Link) -> bool {
        let is_on = |host: &str| match host.strip_suffix('*') {
            Some(start) => link.host.starts_with(start),
            None => is_under(&link.host, host),
        };
        let on_host = || self.hosts.is_empty() || self.hosts.iter().any(|host| is_on(host));
        let has = |parameter: &Parameter| link.pairs.iter().any(|(name, value)| parameter.fits(name, value));
        on_host()
            && self.query.iter().all(has)
            && (follows(&self.path, &link.path)
                || (!self.path.is_empty() && follows(&self.path, &link.fragment_path)))
    }
}

/// Whether a path begins as the pattern says.
fn follows(pattern: &[Segment], path: &[Text]) -> bool {
    match (pattern, path) {
        ([], _) => true,
        ([Segment::End, ..], path) => path.iter().all(|segment| segment.raw.is_empty()),
        ([Segment::Many, rest @ ..], path) => (0..=path.len()).any(|skipped| follows(rest, &path[skipped..])),
        ([Segment::One(words), rest @ ..], [segment, behind @ ..]) => {
            words.iter().any(|word| word.fits(segment)) && follows(rest, behind)
        }
        ([Segment::One(_), ..], []) => false,
    }
}

impl Segment {
    fn read(text: &'static str) -> Self {
        match text {
            "**" => Self::Many,
            "!" => Self::End,
            words => Self::One(Word::read_all(words)),
        }
    }
}

impl Word {
    fn read_all(text: &'static str) -> Vec<Self> {
        text.split('|').map(Self::read).collect()
    }

    #[expect(clippy::panic, reason = "the tables are constant, and a test reads them all")]
    fn read(text: &'static str) -> Self {
        if let Some(name) = text.strip_prefix('@') {
            let list = LISTS.iter().position(|(list, _)| *list == name);
            return Self::InList(list.unwrap_or_else(|| panic!("no list {name}")));
        }
        if let Some((prefix, name)) = text.split_once('$') {
            let look = Look::named(name).unwrap_or_else(|| panic!("no look {name}"));
            return if prefix.is_empty() { Self::Looks(look) } else { Self::BeginsAndLooks(prefix, look) };
        }
        if let Some(word) = text.strip_prefix('=') {
            return Self::IsWhole(plain_name(word));
        }
        let word = plain_name(text.trim_matches('*'));
        match (text.starts_with('*'), text.ends_with('*')) {
            (true, true) if word.is_empty() => Self::Any,
            (true, true) => Self::Holds(word),
            (true, false) => Self::Ends(word),
            (false, true) => Self::Begins(word),
            (false, false) => Self::Is(word),
        }
    }

    fn fits(&self, text: &Text) -> bool {
        match self {
            Self::Any => !text.raw.is_empty(),
            Self::Is(word) => text.plain == *word || text.plain[..text.stem] == *word,
            Self::IsWhole(word) => text.plain == *word,
            Self::Begins(word) => text.plain.starts_with(word.as_str()),
            Self::Ends(word) => text.plain.ends_with(word.as_str()),
            Self::Holds(word) => text.plain.contains(word.as_str()),
            Self::Looks(look) => text.looks.has(*look),
            Self::BeginsAndLooks(prefix, look) => {
                let start = text.raw.get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(prefix));
                start.is_some_and(|start| look.fits(&text.raw[start.len()..]))
            }
            Self::InList(list) => text.lists >> list & 1 == 1,
        }
    }
}

impl Parameter {
    fn read(text: &'static str) -> Self {
        let (names, values) = text.split_once('=').unwrap_or((text, "$any"));
        Self { names: Word::read_all(names), values: Word::read_all(values) }
    }

    fn fits(&self, name: &Text, value: &Text) -> bool {
        self.names.iter().any(|word| word.fits(name)) && self.values.iter().any(|word| word.fits(value))
    }
}
