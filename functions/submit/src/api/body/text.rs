//! URLs as plain text: one a line, joined with commas, or a column of a CSV file.
//!
//! A comma may also stand in a URL. It ends one only where a URL cannot go on, or where another clearly begins: see
//! [`items`].

use std::borrow::Cow;

use serde_json::Map;

use super::{
    BodyError, BodyLimits, RequestBody,
    intake::{Full, Intake, text_id},
};
use crate::url::{BEGINNING, Markup, begins_host, begins_scheme, begins_url, is_between_urls, opened};

/// What people write over a column of URLs.
const URL_COLUMNS: [&str; 8] = ["url", "urls", "uri", "link", "value", "indicator", "observable", "ioc"];

/// Whether a body that says nothing of itself is a list of URLs: it begins with one.
pub(super) fn looks_like_urls(body: &str) -> bool {
    let Some(line) = lines(body).map(|(_, line)| line).next() else {
        return false;
    };
    let begins = |item: &str| begins_url(item) || Markup::read(item).is_some();
    CsvHeader::read(line).is_some() || items(line).next().is_some_and(|item| begins(&item))
}

/// Reads lines. Blank ones, comments (`#`) and a header are passed over.
pub(super) fn read(body: &str, limits: BodyLimits) -> Result<RequestBody, BodyError> {
    let mut intake = Intake::new(limits.max_urls);
    let mut lines = lines(body).peekable();
    let header = lines.peek().and_then(|(_, line)| CsvHeader::read(line));
    if header.is_some() {
        lines.next();
    }
    let table = header.filter(|header| header.columns > 1);
    for (number, line) in lines {
        let read = match &table {
            Some(table) => table.row(number, line, &mut intake),
            None => items(line).try_for_each(|url| intake.url(None, url.into_owned())),
        };
        read.map_err(|Full| BodyError::TooManyUrls { limit: limits.max_urls })?;
    }
    intake.finish("", Map::new())
}

/// Lines with something on them, and their numbers from 1.
fn lines(body: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = body.split('\n').enumerate().flat_map(|(index, line)| {
        // A lone carriage return ended lines once, and some exports still do so.
        line.split('\r').map(move |line| (index + 1, line.trim()))
    });
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// The first line of a CSV file that names its columns.
struct CsvHeader {
    columns: usize,
    url: usize,
    id: Option<usize>,
}

impl CsvHeader {
    fn read(line: &str) -> Option<Self> {
        // No URL is as short as these words and without any of its signs.
        if line.len() > BEGINNING || line.contains(['/', ':', '.']) {
            return None;
        }
        let names: Vec<String> =
            fields(line).map(|name| name.trim().to_ascii_lowercase().replace(' ', "_")).collect();
        let url = URL_COLUMNS.iter().find_map(|column| names.iter().position(|name| name == column))?;
        let id = names.iter().position(|name| name == "id").filter(|id| *id != url);
        Some(Self { columns: names.len(), url, id })
    }

    fn row(&self, number: usize, line: &str, intake: &mut Intake) -> Result<(), Full> {
        let fields: Vec<Cow<'_, str>> = fields(line).take(self.columns + 1).collect();
        if fields.len() > self.columns {
            let detail = format!(
                "line {number} has more fields than the header's {}; a URL with a comma needs quotes",
                self.columns
            );
            intake.faults.push("", detail);
            return Ok(());
        }
        let field =
            |column: usize| fields.get(column).map(|field| field.trim()).filter(|field| !field.is_empty());
        let id = self.id.and_then(field).map(|id| text_id(id.to_owned())).transpose();
        match (field(self.url), id) {
            (Some(url), Ok(id)) => intake.url(id, url.to_owned()),
            (Some(_), Err(detail)) => {
                intake.faults.push("", format!("line {number} has an id that is {detail}"));
                Ok(())
            }
            // A row without a URL, such as the totals at a file's end.
            (None, _) => Ok(()),
        }
    }
}

/// The fields of a line by the rules of CSV: every comma outside quotes ends one.
fn fields(line: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest?;
        if let Some((field, after)) = quoted(text.trim_start()) {
            rest = after;
            return Some(field);
        }
        let (field, after) = text.split_once(',').map_or((text, None), |(field, after)| (field, Some(after)));
        rest = after;
        Some(Cow::Borrowed(field))
    })
}

/// A field in quotes at the beginning of `text`, and what follows its comma.
fn quoted(text: &str) -> Option<(Cow<'_, str>, Option<&str>)> {
    let inner = text.strip_prefix('"')?;
    let mut from = 0;
    let end = loop {
        let quote = from + inner[from..].find('"')?;
        // Two quotes stand for one.
        if !inner[quote + 1..].starts_with('"') {
            break quote;
        }
        from = quote + 2;
    };
    let after = inner[end + 1..].trim_start();
    let after = match after.strip_prefix(',') {
        Some(after) => Some(after),
        None if after.is_empty() => None,
        // A quote in the middle: these are no quotes of CSV.
        None => return None,
    };
    let field = &inner[..end];
    let field =
        if field.contains('"') { Cow::Owned(field.replace("\"\"", "\"")) } else { Cow::Borrowed(field) };
    Some((field, after))
}

/// The URLs of a text that joins them with commas or blanks, blank ones left out.
///
/// A comma ends a URL when whitespace follows it, when a scheme follows it, or when a host follows it and the URL has
/// nothing but a host so far. So `http://a.test/1,2` is one URL, and so is `http://a.test/x,style.css`, but
/// `a.test,b.test` are two. A blank ends a URL where another begins. A URL in quotes and a link with a
/// text are taken as they are.
pub(super) fn items(line: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut rest = line;
    let items = std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|char: char| char == ',' || char.is_whitespace());
        if rest.is_empty() {
            return None;
        }
        if let Some((item, after)) = quoted(rest) {
            rest = after.unwrap_or_default();
            return Some(item);
        }
        let end = Markup::read(rest).map_or_else(|| end_of_item(rest), |markup| markup.len);
        let item = rest[..end].trim_end_matches(|char: char| char == ',' || char.is_whitespace());
        rest = &rest[end..];
        Some(Cow::Borrowed(item))
    });
    items.filter(|item| !item.trim().is_empty())
}

/// Where the first item of `text` ends: at one of its commas or blanks, or at its end.
fn end_of_item(text: &str) -> usize {
    let host_end = host_end(text);
    let is_end = |at: usize, char: char| {
        if char != ',' {
            return is_between_urls(text, at);
        }
        let next = &text[at + 1..];
        next.starts_with(char::is_whitespace)
            || begins_scheme(opened(next))
            || (at < host_end && begins_host(opened(next)))
    };
    let mut places = text.char_indices().filter(|(_, char)| *char == ',' || char.is_whitespace());
    places.find(|(at, char)| is_end(*at, *char)).map_or(text.len(), |(at, _)| at)
}

/// Where the host of the first URL ends at the latest, however it is defanged: at the first `/`, `?` or `#` behind its
/// scheme.
fn host_end(text: &str) -> usize {
    // Looking further for every host of a long list would take the square of its time.
    let text = &text[..text.floor_char_boundary(BEGINNING)];
    let host = if begins_scheme(opened(text)) {
        let slash = text.find(['/', '\\']).unwrap_or(text.len());
        let slashes = text[slash..].find(|char| !matches!(char, '/' | '\\' | ']' | ')' | '}'));
        slashes.map_or(text.len(), |slashes| slash + slashes)
    } else {
        0
    };
    text[host..].find(['/', '?', '#']).map_or(text.len(), |end| host + end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::body::{Id, Input, Value};

    const LIMITS: BodyLimits = BodyLimits { max_urls: 1000, max_bytes: 4 << 20, max_depth: 32 };

    fn split(line: &str) -> Vec<String> {
        items(line).map(Cow::into_owned).collect()
    }

    fn urls(body: &str) -> Vec<String> {
        let inputs = read(body, LIMITS).expect("a list").inputs;
        let url = |input: Input| match input.value {
            Value::Url(url) => url,
            Value::NotAUrl(what) => what,
        };
        inputs.into_iter().map(url).collect()
    }

    #[test]
    fn a_comma_ends_a_url_only_where_another_begins() {
        for (line, expected) in [
            ("http://a.test/,http://b.test/", vec!["http://a.test/", "http://b.test/"]),
            ("http://a.test/1,2,3", vec!["http://a.test/1,2,3"]),
            ("http://a.test/x,style.css", vec!["http://a.test/x,style.css"]),
            ("http://a.test/x, b.test", vec!["http://a.test/x", "b.test"]),
            ("a.test,b.test", vec!["a.test", "b.test"]),
            ("a.test:8080,192.0.2.1,größe.test", vec!["a.test:8080", "192.0.2.1", "größe.test"]),
            ("http://a.test,b.test/1", vec!["http://a.test", "b.test/1"]),
            ("http://a.test?q=1,b.test", vec!["http://a.test?q=1,b.test"]),
            ("hxxp[://]a[.]test,hxxps[:]//b(dot)test", vec!["hxxp[://]a[.]test", "hxxps[:]//b(dot)test"]),
            ("h**p://a.test/1,meow://b.test", vec!["h**p://a.test/1", "meow://b.test"]),
            ("a[.]test,b[dot]test", vec!["a[.]test", "b[dot]test"]),
            ("<http://a.test>,[http://b.test]", vec!["<http://a.test>", "[http://b.test]"]),
            (",, a.test ,, b.test,,", vec!["a.test", "b.test"]),
            ("\"http://a.test/1,b.test\",c.test", vec!["http://a.test/1,b.test", "c.test"]),
            ("\"http://a.test/?q=\"\"x\"\"\"", vec!["http://a.test/?q=\"x\""]),
            ("\"http://a.test/ , b.test", vec!["\"http://a.test/", "b.test"]),
            ("\"\",a.test, \" \"", vec!["a.test"]),
            ("http://a.com http://b.com/x  b.com", vec!["http://a.com", "http://b.com/x  b.com"]),
            (
                "http://a.com\thxxp://b[.]com, c.com d.com",
                vec!["http://a.com", "hxxp://b[.]com", "c.com", "d.com"],
            ),
            ("http://a.com/my file.zip", vec!["http://a.com/my file.zip"]),
            (
                "[see http://a.com](http://b.com) <http://c.com|c, d>",
                vec!["[see http://a.com](http://b.com)", "<http://c.com|c, d>"],
            ),
            ("not a url", vec!["not a url"]),
            ("", vec![]),
        ] {
            assert_eq!(split(line), expected, "{line}");
        }
    }

    #[test]
    fn blank_lines_comments_and_a_header_are_passed_over() {
        let body = "# from the mail gateway\r\n\r\nurl\r\nhttp://a.test/\r\n  \r\n#http://no.test/\nb.test\rc.test\n";
        assert_eq!(urls(body), ["http://a.test/", "b.test", "c.test"]);
    }

    #[test]
    fn a_table_gives_its_url_column_and_its_ids() {
        let body = "ID,First Seen,\"URL\"\n7,2026-11-20,\"http://a.test/1,2\"\n,,b.test\nTotal,2\n";
        let read = read(body, LIMITS).expect("a table").inputs;
        let input = |id: Option<&str>, url: &str| Input {
            id: id.map(|id| Id::Text(id.to_owned())),
            value: Value::Url(url.to_owned()),
        };
        assert_eq!(read, [input(Some("7"), "http://a.test/1,2"), input(None, "b.test")]);
    }

    #[test]
    fn a_row_with_more_fields_than_columns_is_told_by_its_line() {
        let wrong = read("id,url\n1,http://a.test/1,2\n", LIMITS);
        let Err(BodyError::Wrong(faults)) = wrong else { panic!("{wrong:?}") };
        assert!(faults[0].detail.starts_with("line 2 has more fields"), "{faults:?}");
    }

    #[test]
    fn what_begins_with_no_url_is_no_list_of_urls() {
        for list in [
            "http://a.test",
            "a.test\nb",
            "hxxp://a[.]test",
            "url\nx",
            "\"http://a.test\"",
            "# x\n1.2.3.4",
            "[a b](http://a.test)",
            "<http://a.test|a b>",
        ] {
            assert!(looks_like_urls(list), "{list}");
        }
        for other in ["hello world", "True", "'urls': []", "5", "<html><body>", "", "#"] {
            assert!(!looks_like_urls(other), "{other}");
        }
    }

    #[test]
    fn a_body_of_commas_is_read_in_a_moment() {
        for piece in [
            ",",
            ",a",
            "http://a.test/,",
            "\",",
            "a,\"\"\"",
            "a ",
            "a.com ",
            "http://a.com ",
            "[a](",
            "<a|",
            "a.test,",
            "a.test;",
            "[[[",
            "\"\",",
        ] {
            let body = piece.repeat((1 << 19) / piece.len());
            let _ = read(&body, BodyLimits { max_urls: usize::MAX, ..LIMITS });
            let _ = read(&format!("id,url\n{body}"), LIMITS);
        }
    }

    proptest! {
        #[test]
        fn urls_without_commas_are_read_back_from_lines_and_from_commas(
            urls_in in prop::collection::vec(r"(https?|hxxp)://[a-z]{1,9}(\[\.\]|\.)test/[!-+\--~]{0,20}", 1..20),
        ) {
            prop_assert_eq!(&urls(&urls_in.join("\r\n")), &urls_in);
            prop_assert_eq!(&split(&urls_in.join(",")), &urls_in);
        }

        #[test]
        fn quoted_urls_are_read_back_whatever_is_in_them(
            urls_in in prop::collection::vec(r"http://[ -~ü]{1,30}", 1..20),
        ) {
            let quoted: Vec<String> = urls_in.iter().map(|url| format!("\"{}\"", url.replace('"', "\"\""))).collect();
            prop_assert_eq!(&urls(&quoted.join("\n")), &urls_in);
            prop_assert_eq!(&split(&quoted.join(" , ")), &urls_in);
        }

        #[test]
        fn no_text_panics(body in r#"([,"'\\\r\n#\[\](){}.:/]|http|url|id|é|a|1| ){0,60}"#) {
            let _ = read(&body, LIMITS);
            looks_like_urls(&body);
        }
    }
}
