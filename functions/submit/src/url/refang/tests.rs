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
        ("hxxps://a[.]example/?u=hXXps%3A%2F%2Fb[.]example", "https://a.example/?u=https%3A%2F%2Fb.example"),
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
