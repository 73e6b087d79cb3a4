//! Examples with their placeholders filled in: `{k20}` by 20 characters of a key, `{h32}` by hexadecimal digits, `{u16}`
//! by capitals and digits, `{d6}` by digits, `{jwt}` by a JSON Web Token.

const KEY: &str = "x7Kq2pV9mZt4Rb8LwN3cYf6HsD1gJ5aQe0uTiXoBkPrM";
const HEX: &str = "9f3a7c1e5b8d2046af71c3e95d0b84267ea1";
const UPPER: &str = "K7Q2PV9MZT4RB8LWN3CYF6HSD1GJ5AQE0U";
const DIGITS: &str = "4839205716";
const JWT: &str =
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P";

pub(in crate::url) fn filled(text: &str) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        let (placeholder, behind) = behind.split_once('}').expect("a closing brace");
        filled.push_str(before);
        filled.push_str(&value(placeholder));
        rest = behind;
    }
    filled + rest
}

fn value(placeholder: &str) -> String {
    if placeholder == "jwt" {
        return JWT.to_owned();
    }
    let (kind, length) = placeholder.split_at(1);
    let characters = match kind {
        "k" => KEY,
        "h" => HEX,
        "u" => UPPER,
        "d" => DIGITS,
        _ => panic!("no placeholder {placeholder}"),
    };
    characters.chars().cycle().take(length.parse().expect("a length")).collect()
}

/// The lines of a list of examples, filled in.
pub(in crate::url) fn lines(list: &str) -> impl Iterator<Item = String> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(filled)
}
