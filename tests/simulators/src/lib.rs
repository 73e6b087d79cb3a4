//! VMRay and OpenCTI, simulated over HTTP on the loopback interface.
//!
//! For the demo, the end-to-end tests and the benchmarks. Both behave as their real counterparts do where a client can
//! notice: paging, truncation, aggregation that is not finished, resets, refused objects. [`faults`] adds what goes wrong
//! between the two sides. An [`estate::Estate`] is the data behind VMRay, to which [`vmray::submit`] adds.
//! [`age`] makes stored documents older.
//!
//! ```
//! use simulators::estate::{Estate, Ioc, Part, SampleSpec, SubmissionSpec, Vti, time};
//! use simulators::faults::Fault;
//! use simulators::opencti::{OpenctiOptions, OpenctiSimulator};
//! use simulators::vmray::{VmrayOptions, VmraySimulator};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let mut estate = Estate::new();
//! estate.add_sample(SampleSpec {
//!     iocs: vec![Ioc::domain("evil.test", &["198.51.100.7"]), Ioc::mutex("m").threat_names(&["QakBot"])],
//!     vtis: vec![Vti::new("Persistence", "Installs system startup script or application", 4)],
//!     threat_names: vec!["QakBot".to_owned()],
//!     ..SampleSpec::file(7, "invoice.exe")
//! });
//! estate.add_submission(SubmissionSpec::finished(70, 7, time("2026-11-20T10:00:00")));
//! estate.submission_mut(70)["submission_verdict"] = serde_json::Value::Null;
//! estate.wait(7, Part::Iocs, 2);
//!
//! let vmray = VmraySimulator::start(VmrayOptions { estate, ..VmrayOptions::default() }).await?;
//! let opencti = OpenctiSimulator::start(OpenctiOptions::default()).await?;
//! vmray.faults().add(Fault::on("GET /rest/sample/7/vtis").times(2).throttle(1));
//! let (fault, pause) = Fault::on("stixBundlePush").from(3).once().pause();
//! opencti.faults().add(fault);
//! // The client under test runs against vmray.url() ("vmray-key") and opencti.url() ("opencti-token") here;
//! // `pause.reached().await` comes back at the third push, `pause.release()` lets it go on.
//! # let _ = pause;
//! assert_eq!(opencti.platform().knowledge().mismatched_ids(), []);
//! # Ok(())
//! # }
//! ```

pub mod age;
pub mod estate;
pub mod faults;
pub mod opencti;
mod server;
pub mod vmray;

pub use server::{Authorization, RequestRecord};
