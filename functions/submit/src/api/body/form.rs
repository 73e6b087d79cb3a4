//! Form fields: what `curl -d` sends when no content type is given.

use url::form_urlencoded;

use super::{
    BodyError, BodyLimits, RequestBody,
    intake::{Full, Intake},
    text,
};
use crate::api::fault::{below, shown};

/// Reads `url=..` and `urls=..`, each as often as they come.
pub(super) fn read(body: &str, limits: BodyLimits) -> Result<RequestBody, BodyError> {
    // A URL that curl was given without a name has fields too: those of its query.
    if !form_urlencoded::parse(body.as_bytes()).any(|(name, _)| matches!(&*name, "url" | "urls")) {
        return Err(BodyError::UnsupportedMediaType("application/x-www-form-urlencoded".to_owned()));
    }
    let mut intake = Intake::new(limits.max_urls);
    for (name, value) in form_urlencoded::parse(body.as_bytes()) {
        field(&name, &value, &mut intake)
            .map_err(|Full| BodyError::TooManyUrls { limit: limits.max_urls })?;
    }
    intake.finish("/urls", serde_json::Map::new())
}

fn field(name: &str, value: &str, intake: &mut Intake) -> Result<(), Full> {
    match name {
        "url" => intake.url(None, value.to_owned()),
        "urls" => text::items(value).try_for_each(|url| intake.url(None, url.into_owned())),
        _ => {
            let detail = format!(
                "unknown field `{}`; expected only url and urls (an & inside a URL is %26 in a form); options need JSON",
                shown(name)
            );
            intake.faults.push(below("", name), detail);
            Ok(())
        }
    }
}
