//! The page: files of the web application out of the binary. Public, since it does nothing without a secret.

use super::error::ApiError;
use super::guard::PAGE_CSP;
use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};

/// Whatever is no route: a file of the page, or nothing.
pub async fn page(method: Method, uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    let path = uri.path().trim_start_matches('/');
    let name = if path.is_empty() { "index.html" } else { path };
    let asset = match path.starts_with("api/") {
        true => None,
        false => remote_network_web::asset(name),
    };
    let Some(asset) = asset else {
        return Err(ApiError::not_found("there is nothing at this address", "the API is below /api/v1/"));
    };
    if method != Method::GET && method != Method::HEAD {
        return Err(ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("{method} is not possible here"),
            "files can only be read",
        ));
    }
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag == asset.etag);
    let mut response =
        if known { StatusCode::NOT_MODIFIED.into_response() } else { asset.bytes.into_response() };
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.mime));
    out.insert(header::ETAG, HeaderValue::from_static(asset.etag));
    out.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_CSP));
    // Names under assets/ carry a hash of their content; the rest is asked for again each time.
    let cache = if name.starts_with("assets/") { "private, max-age=31536000, immutable" } else { "no-cache" };
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    Ok(response)
}
