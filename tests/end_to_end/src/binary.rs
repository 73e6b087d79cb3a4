//! Where cargo has put the product's binaries. Whoever starts a test has built them: no test calls cargo, and none runs
//! on a binary that is older than its sources.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The binary of this name, beside the one that asks.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // A test is target/debug/deps/name-hash, a benchmark target/release/deps/name-hash.
    let binary = test.parent().and_then(Path::parent).unwrap().join(name);
    let advice = "build it first: `cargo build`, with --release for a benchmark (`cargo test` without -p builds it itself)";
    let Ok(built_at) = modified(&binary) else { panic!("there is no {}; {advice}", binary.display()) };
    if let Some(source) =
        sources(&binary).into_iter().find(|source| modified(source).is_ok_and(|at| at > built_at))
    {
        panic!("{} is older than {}; {advice}", binary.display(), source.display());
    }
    binary
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    path.metadata()?.modified()
}

/// The sources of a binary, which `cargo build` lists beside it: `BINARY: SOURCE SOURCE`, blanks in names escaped. There
/// is no list when only `cargo test` has built it.
fn sources(binary: &Path) -> Vec<PathBuf> {
    const BLANK: &str = "\u{0}";
    let list = std::fs::read_to_string(binary.with_extension("d")).unwrap_or_default().replace("\\ ", BLANK);
    let (_, sources) = list.split_once(": ").unwrap_or_default();
    sources.split_whitespace().map(|source| source.replace(BLANK, " ").into()).collect()
}
