//! One sample with everything that is awkward in a real one.

use serde_json::json;

use super::{Estate, Ioc, SampleSpec, Subject, SubmissionSpec, Technique, Verdict, Vti, time};

pub(super) fn estate() -> Estate {
    let mut estate = Estate::new();
    estate.add_sample(parent());
    estate.add_sample(child());
    estate.add_submission(SubmissionSpec {
        created: time("2026-11-20T03:04:05"),
        ..SubmissionSpec::finished(990, 99, time("2026-11-20T03:14:05"))
    });
    estate
}

fn parent() -> SampleSpec {
    let file = Subject::File {
        name: "Rechnung \"März\"\\2026.exe".to_owned(),
        sample_type: "Windows Exe (x86-64)".to_owned(),
        content: "a".to_owned(),
    };
    SampleSpec {
        subject: file,
        created: time("2026-11-20T03:04:05"),
        iocs: [files(), processes(), network(), host(), emails()].concat(),
        vtis: vec![Vti::new("Defense Evasion", "Try to detect forensic tool \"x\"", 5)],
        techniques: vec![Technique::new(
            "T1055.012",
            "Process Hollowing",
            &["Defense Evasion", "Privilege Escalation"],
        )],
        threat_names: vec!["QakBot".to_owned()],
        classifications: vec!["Spyware".to_owned()],
        children: vec![100],
        ..SampleSpec::file(99, "")
    }
}

fn child() -> SampleSpec {
    SampleSpec {
        subject: Subject::File {
            name: "child.bin".to_owned(),
            sample_type: "Unknown".to_owned(),
            content: "b".to_owned(),
        },
        verdict: Some(Verdict::Suspicious),
        parents: vec![99],
        ..SampleSpec::file(100, "")
    }
}

fn files() -> Vec<Ioc> {
    let b = super::Hashes::of("b");
    vec![
        Ioc::file("Rechnung \"März\"\\2026.exe", "a")
            .with("filenames", json!(["Rechnung \"März\"\\2026.exe", "b.exe"]))
            .with("file_size", json!(2_147_483_647_u64))
            .with("mime_type", json!("application/x-dosexec"))
            .with("categories", json!(["Sample File"]))
            .with("classifications", json!(["Spyware"]))
            .threat_names(&["QakBot"]),
        Ioc::file_without_hashes("")
            .with("filename", json!(null))
            .with("norm_filename", json!(null))
            .with("filenames", json!([]))
            .with("file_size", json!(null))
            .with("mime_type", json!(null))
            .with(
                "hashes",
                json!([{"imp_hash": null, "md5_hash": null, "sha1_hash": null,
                "sha256_hash": b.sha256, "ssdeep_hash": null}]),
            )
            .threat_names(&["QakBot"]),
        Ioc::file_without_hashes("no hash ünï.dll").with("file_size", json!(null)).threat_names(&["QakBot"]),
        Ioc::memory_dump("dump"),
        Ioc::filename("c:\\Temp\\x.bat"),
    ]
}

fn processes() -> Vec<Ioc> {
    let encoded =
        format!("cmd.exe /c \"echo 'hi' > C:\\Temp\\ü.txt\" && powershell -enc {}", "QQBB".repeat(32));
    vec![
        Ioc::process(&encoded).threat_names(&["QakBot"]),
        Ioc::process("line1\nline2\ttab \"q\"").threat_names(&["QakBot"]),
        Ioc::process("\"C:\\Windows\\x.exe\" ").verdict(Verdict::Suspicious),
        Ioc::process("explorer.exe").verdict(Verdict::Clean),
    ]
}

fn network() -> Vec<Ioc> {
    let addresses = ["198.51.100.7", "2001:db8::1"];
    let long = format!("https://long.example.com/{}", "a".repeat(400));
    vec![
        Ioc::domain("xn--mnchen-3ya.example", &addresses)
            .with("original_domains", json!(["xn--mnchen-3ya.example", "orig_under.example.org"]))
            .country("United States", "US"),
        Ioc::domain("münchen.example", &[]).with("countries", json!([])).with("country_codes", json!([])),
        Ioc::domain("localhost", &[]).with("verdict", json!(null)),
        Ioc::url("http://EVIL.example.com:8080/a'b\\c?q=ü&x=%22#frag", &["198.51.100.7"])
            .with("original_urls", json!(["http://evil.example.com/orig"]))
            .country("United States", "US"),
        Ioc::url(&long, &[]).with("countries", json!([])).with("country_codes", json!([])),
        Ioc::ip("198.51.100.7", &["xn--mnchen-3ya.example"]).country("United States", "US"),
        Ioc::ip("198.51.100.0/24", &[]).with("country", json!(null)).with("country_code", json!(null)),
        Ioc::ip("203.0.113.9:8443", &[]).with("country", json!("")).with("country_code", json!("")),
        Ioc::ip("2001:db8::1", &[]).country("United States", "US"),
    ]
}

fn host() -> Vec<Ioc> {
    vec![
        Ioc::mutex("Global\\{A1B2-'C'}").threat_names(&["QakBot"]),
        Ioc::mutex("Mutex_Nö_0 (<b>Test</b>)").verdict(Verdict::Suspicious),
        Ioc::registry("HKEY_LOCAL_MACHINE\\Software\\Microsoft\\Run\\\"ü\"").threat_names(&["QakBot"]),
    ]
}

fn emails() -> Vec<Ioc> {
    vec![
        Ioc::email("Ó Néil <x> <o'neil@example.com>", "Your *invoice* <b>now</b>", &["bob@example.test"])
            .threat_names(&["QakBot"]),
        Ioc::email_address("o'neil@example.com"),
    ]
}
