//! x
use url::Url;
pub(super) fn is_sensitive(_url: &Url) -> bool {
    false
}
