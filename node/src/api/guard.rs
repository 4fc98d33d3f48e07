//! What every request must get past, before and besides its secret.
//!
//! A web page anywhere can make its visitor's browser talk to `localhost`. Four rules make that useless:
//! - **`Host`** must be one of the names this server was bound under, with its port. A rebound name (`evil.example` that
//!   now resolves to 127.0.0.1) arrives with its own `Host` and gets 421.
//! - **`Origin`**, which browsers add to anything that is not a plain read, must be this very server or absent, and
//!   **`Sec-Fetch-Site`** must say `same-origin` or `none` (the user typed it). Only opening the page itself by a link
//!   from elsewhere is allowed: the page is public and does nothing without a secret.
//! - Bodies must be **JSON or octets by content type**, which forms cannot send.
//! - **No CORS headers, ever**, and headers on *every* answer that keep a browser from sniffing, framing, caching or
//!   running anything that is not ours.

use super::error::ApiError;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// Policy of the page. Vue's runtime makes one Trusted Types policy, named `vue`; nothing else may make any.
pub const PAGE_CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types vue";
/// Policy of everything that is no page.
pub const API_CSP: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Policy of objects: bytes of strangers, which must not even become a document of this origin.
pub const OBJECT_CSP: &str = "default-src 'none'; frame-ancestors 'none'; sandbox";

const ALWAYS: [(HeaderName, &str); 6] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()"),
];

/// The names under which this server may be spoken to.
#[derive(Clone, Debug)]
pub struct Hosts {
    allowed: Vec<String>,
}

impl Hosts {
    /// The loopback names with `port`.
    pub fn loopback(port: u16) -> Self {
        let names = ["localhost", "127.0.0.1", "[::1]"];
        let mut allowed: Vec<String> = names.iter().map(|name| format!("{name}:{port}")).collect();
        if port == 80 {
            allowed.extend(names.map(str::to_owned));
        }
        Self { allowed }
    }

    fn allows(&self, host: &str) -> bool {
        self.allowed.iter().any(|a| a.eq_ignore_ascii_case(host))
    }
}

/// Refuses what comes from elsewhere, and puts the headers on every answer, refusals included.
pub async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut response = match admit(&hosts, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    harden(response.headers_mut());
    response
}

fn admit(hosts: &Hosts, request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    let wrong_host = || {
        ApiError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "wrong_host",
            "this server does not answer to that name",
            "open it as http://localhost with its port",
        )
        .at("Host")
    };
    let host = only(headers, &header::HOST).map_err(|()| wrong_host())?.ok_or_else(wrong_host)?;
    if !hosts.allows(host) || request.uri().authority().is_some_and(|a| !hosts.allows(a.as_str())) {
        return Err(wrong_host());
    }
    let foreign = |place: &str| {
        ApiError::new(
            StatusCode::FORBIDDEN,
            "foreign_origin",
            "requests of other sites are refused",
            "use this node's own page, or a program that sends no Origin",
        )
        .at(place)
    };
    match only(headers, &header::ORIGIN) {
        Ok(None) => {}
        Ok(Some(origin)) if is_same_origin(origin, host) => {}
        Ok(Some(_)) | Err(()) => return Err(foreign("Origin")),
    }
    match only(headers, &HeaderName::from_static("sec-fetch-site")) {
        Ok(None | Some("same-origin" | "none")) => Ok(()),
        Ok(Some(_)) if opens_the_page(request) => Ok(()),
        Ok(Some(_)) | Err(()) => Err(foreign("Sec-Fetch-Site")),
    }
}

fn is_same_origin(origin: &str, host: &str) -> bool {
    origin.strip_prefix("http://").is_some_and(|o| o.eq_ignore_ascii_case(host))
}

/// Somebody followed a link to the page, in a tab of its own.
fn opens_the_page(request: &Request) -> bool {
    let is = |name: &'static str, value: &str| {
        only(request.headers(), &HeaderName::from_static(name)) == Ok(Some(value))
    };
    request.method() == Method::GET
        && request.uri().path() == "/"
        && is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document")
}

/// The value of a header that may be there once: two of them are an attempt to have two readers see two things.
pub fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

fn harden(headers: &mut HeaderMap) {
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(API_CSP));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
