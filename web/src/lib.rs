//! The web application of Remote Network as files inside the binary.
//!
//! `build.rs` makes them with npm where it can; else there is one plain page that says so. Nothing built is in the
//! repository.

/// A file of the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asset {
    /// Its content.
    pub bytes: &'static [u8],
    /// Value for `Content-Type`.
    pub mime: &'static str,
    /// Value for `ETag`, quotes included: a digest of the content.
    pub etag: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The file of this name, such as `index.html` or `assets/index-1a2b3c.js`. Names are compared, never opened.
pub fn asset(path: &str) -> Option<Asset> {
    ASSETS.binary_search_by(|(name, _)| (*name).cmp(path)).ok().and_then(|i| ASSETS.get(i)).map(|(_, a)| *a)
}

/// All files, by name.
pub fn names() -> impl Iterator<Item = &'static str> {
    ASSETS.iter().map(|(name, _)| *name)
}

/// Whether this is the web application and not the plain page.
pub const fn is_full() -> bool {
    FULL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_page_and_every_file_is_found_by_its_name() {
        assert_eq!(asset("index.html").map(|a| a.mime), Some("text/html; charset=utf-8"));
        for name in names() {
            assert!(asset(name).is_some_and(|a| a.etag.len() == 34), "{name}");
        }
        assert_eq!(asset("../Cargo.toml"), None);
        assert_eq!(asset(""), None);
    }

    #[test]
    fn no_page_runs_inline_code_or_fetches_from_elsewhere() {
        for name in names().filter(|n| n.ends_with(".html")) {
            let bytes = asset(name).map(|a| a.bytes).unwrap_or_default();
            let text = String::from_utf8_lossy(bytes);
            for forbidden in
                ["<script>", "<style", " style=", " onclick=", "http://", "https://", "javascript:"]
            {
                assert!(!text.contains(forbidden), "{name} has {forbidden}");
            }
        }
    }
}
