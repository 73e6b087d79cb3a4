//! What is built in, and how: facts that a dependency's update could change without anybody noticing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]

use std::{collections::BTreeMap, fs, path::PathBuf};

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The versions of every package in Cargo.lock.
fn packages() -> BTreeMap<String, Vec<String>> {
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
    let packages = packages();
    let versions = |name: &str| packages.get(name).cloned().unwrap_or_default();
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
