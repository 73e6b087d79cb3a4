//! What is built in may be built in: licences, origins, packages that are there twice, one TLS and one HTTP stack.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use repository::read;

/// Licences that ask for no more than their text to be kept. A new one is a decision, not an accident.
const ALLOWED: [&str; 7] = ["Apache-2.0", "MIT", "MIT-0", "BSD-3-Clause", "ISC", "Unicode-3.0", "Zlib"];

/// Packages that the function holds in two versions, because two of its dependencies do not agree.
const TWICE: [&str; 2] = ["base64", "syn"];

struct Package {
    name: String,
    version: String,
    /// A folder or a git address; nothing for the registry.
    origin: Option<String>,
    licence: String,
}

/// What `cargo tree` lists for Linux, each package once.
fn packages(selection: &[&str]) -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--target", "x86_64-unknown-linux-gnu", "--prefix", "none"])
        .args(["--format", "{p}|{l}"])
        .args(selection)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: BTreeSet<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.trim_end_matches(" (*)").to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    lines.iter().map(|line| package(line)).collect()
}

/// `name v1.2.3 (proc-macro) (origin)|licence`.
fn package(line: &str) -> Package {
    let (package, licence) = line.split_once('|').unwrap();
    let mut words = package.split(' ').filter(|word| *word != "(proc-macro)");
    Package {
        name: words.next().unwrap().to_owned(),
        version: words.next().unwrap().to_owned(),
        origin: words.next().map(str::to_owned),
        licence: licence.to_owned(),
    }
}

/// Whether an SPDX expression can be satisfied. An exception (`WITH`) only adds rights.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>) -> bool {
    let mut allowed = all_of(words);
    while words.next_if_eq(&"OR").is_some() {
        allowed |= all_of(words);
    }
    allowed
}

fn all_of(words: &mut Words<'_>) -> bool {
    let mut allowed = one(words);
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one(words);
    }
    allowed
}

fn one(words: &mut Words<'_>) -> bool {
    match words.next() {
        Some("(") => {
            let allowed = any_of(words);
            words.next() == Some(")") && allowed
        }
        Some(name) => {
            if words.next_if_eq(&"WITH").is_some() {
                words.next();
            }
            ALLOWED.contains(&name)
        }
        None => false,
    }
}

#[test]
fn expressions_are_read() {
    for allowed in ["MIT", "MIT/GPL-3.0", "(GPL-2.0 OR MIT) AND ISC", "Apache-2.0 WITH LLVM-exception"] {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT)", "(GPL-2.0 OR GPL-3.0) AND MIT"] {
        assert!(!is_allowed(refused), "{refused}");
    }
}

#[test]
fn every_licence_is_an_allowed_one_and_every_package_comes_from_the_registry_or_from_here() {
    let packages = packages(&["--workspace", "--all-features", "--edges", "normal,build,dev"]);
    assert!(packages.len() > 100, "only {} packages", packages.len());
    for Package { name, version, origin, licence } in packages {
        assert!(is_allowed(&licence), "{name} {version}: {licence:?}");
        let from = origin.unwrap_or_default();
        let is_ours = from
            .trim_start_matches('(')
            .starts_with(env!("CARGO_MANIFEST_DIR").trim_end_matches("/tests/repository"));
        assert!(from.is_empty() || is_ours, "{name} {version}: from {from}");
    }
}

#[test]
fn no_further_package_is_in_the_function_twice() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages(&["--package", "ingest", "--edges", "normal"]) {
        versions.entry(package.name).or_default().insert(package.version);
    }
    let twice: Vec<_> =
        versions.iter().filter(|(_, all)| all.len() > 1).map(|(name, _)| name.as_str()).collect();
    assert_eq!(twice, TWICE);
}

/// The versions of every package in Cargo.lock.
fn locked() -> BTreeMap<String, Vec<String>> {
    let lock = read("Cargo.lock");
    let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(&format!("{name} = \"")));
            line.and_then(|line| line.strip_suffix('"')).expect(name).to_owned()
        };
        packages.entry(field("name")).or_default().push(field("version"));
    }
    packages
}

#[test]
fn there_is_one_tls_stack_and_one_http_stack() {
    let locked = locked();
    let versions = |name: &str| locked.get(name).cloned().unwrap_or_default();
    assert_eq!(versions("rustls").len(), 1, "rustls: {:?}", versions("rustls"));
    let hyper = versions("hyper");
    assert!(hyper.len() == 1 && hyper[0].starts_with("1."), "hyper: {hyper:?}");
    assert!(versions("reqwest").len() <= 1, "reqwest: {:?}", versions("reqwest"));
    for name in ["native-tls", "openssl", "openssl-sys", "hyper-tls"] {
        assert_eq!(versions(name), [""; 0], "{name} must not be built in");
    }
}

#[test]
fn the_first_random_number_does_not_wait_for_jitter() {
    let config = read(".cargo/config.toml");
    let env = config.split("[env]").nth(1).expect("the section [env]");
    let set = env.lines().any(|line| line.replace(' ', "") == r#"AWS_LC_SYS_NO_JITTER_ENTROPY="1""#);
    assert!(set, "AWS_LC_SYS_NO_JITTER_ENTROPY must be \"1\" in .cargo/config.toml");
}
