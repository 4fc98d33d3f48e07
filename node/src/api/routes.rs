//! The router as a table: every route with who may call it and what body it takes. Nothing is reachable that is not a
//! line here, so the abuse tests, which walk the table, cannot miss a route.

use super::auth::Refusal;
use super::error::ApiError;
use super::guard::{guard, only};
use super::state::ApiState;
use super::{
    dht, docker, events, node, objects, page, policy, relay, runs, search, services, sessions, trees,
    workflows,
};
use axum::Router;
use axum::body::{Body as HttpBody, HttpBody as _, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::header::{self, HeaderMap};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// A JSON body of ordinary size.
const SMALL: usize = 64 << 10;
/// A workflow with inline texts.
const WORKFLOW: usize = crate::workflow_text::TEXT_BYTES_MAX;
/// One uploaded object: below the core's largest, bounded by patience more than by reason.
const OBJECT: u64 = 16 << 30;
/// A manifest.
const MANIFEST: u64 = remote_network_core::manifest::MANIFEST_BYTES_MAX as u64;
/// How long a JSON body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Who may call a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Auth {
    /// Holder of the node token or of a session.
    Token,
    /// Anyone on this machine; the handler asks for a one-time secret itself.
    OneTime,
}

/// What body a route takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// None.
    None,
    /// JSON up to so many bytes.
    Json(usize),
    /// Octets up to so many, streamed.
    Octets(u64),
}

/// One route.
pub struct Route {
    /// Method.
    pub method: Method,
    /// Path in axum's notation.
    pub path: &'static str,
    /// Who.
    pub auth: Auth,
    /// What body.
    pub body: Body,
    handler: fn(MethodFilter) -> MethodRouter<ApiState>,
}

macro_rules! routes {
    ($($method:ident $path:literal $auth:ident $body:expr => $handler:expr;)*) => {
        /// Every route of the API.
        pub static ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            path: concat!("/api/v1", $path),
            auth: Auth::$auth,
            body: $body,
            handler: |filter| on(filter, $handler),
        }),*];
    };
}

routes! {
    POST   "/session"                            OneTime Body::Json(SMALL)     => sessions::sign_in;
    DELETE "/session"                            Token   Body::None            => sessions::sign_out;
    POST   "/sign-in-links"                      Token   Body::Json(SMALL)     => sessions::link;
    GET    "/status"                             Token   Body::None            => node::status;
    POST   "/shutdown"                           Token   Body::Json(SMALL)     => node::shutdown;
    GET    "/peers"                              Token   Body::None            => node::peers;
    POST   "/peers/connect"                      Token   Body::Json(SMALL)     => node::connect;
    POST   "/peers/block"                        Token   Body::Json(SMALL)     => node::block;
    GET    "/peers/{peer}"                       Token   Body::None            => node::peer;
    GET    "/relay"                              Token   Body::None            => relay::show;
    GET    "/relay/accounts"                     Token   Body::None            => relay::accounts;
    POST   "/relay/disconnect"                   Token   Body::Json(SMALL)     => relay::disconnect;
    GET    "/dht/status"                         Token   Body::None            => dht::status;
    POST   "/dht/get"                            Token   Body::Json(SMALL)     => dht::get;
    POST   "/dht/put"                            Token   Body::Json(SMALL)     => dht::put;
    POST   "/dht/announce"                       Token   Body::Json(SMALL)     => dht::announce;
    POST   "/dht/peers"                          Token   Body::Json(SMALL)     => dht::peers;
    GET    "/services"                           Token   Body::None            => services::list;
    POST   "/services"                           Token   Body::Json(SMALL)     => services::add;
    GET    "/services/{id}"                      Token   Body::None            => services::show;
    PATCH  "/services/{id}"                      Token   Body::Json(SMALL)     => services::edit;
    DELETE "/services/{id}"                      Token   Body::None            => services::remove;
    POST   "/docker/inspect"                     Token   Body::Json(SMALL)     => docker::inspect;
    POST   "/docker/pull"                        Token   Body::Json(SMALL)     => docker::pull;
    GET    "/docker/pulls"                       Token   Body::None            => docker::pulls;
    POST   "/services/{id}/activate"             Token   Body::Json(SMALL)     => services::activate;
    GET    "/services/{id}/export"               Token   Body::None            => services::export;
    GET    "/services/{id}/module"               Token   Body::None            => services::module;
    POST   "/search"                             Token   Body::Json(SMALL)     => search::search;
    GET    "/policy"                             Token   Body::None            => policy::show;
    PUT    "/policy"                             Token   Body::Json(SMALL)     => policy::set;
    POST   "/objects"                            Token   Body::Octets(OBJECT)  => objects::upload;
    DELETE "/objects/{digest}"                   Token   Body::None            => objects::let_go;
    POST   "/trees"                              Token   Body::Octets(MANIFEST) => trees::make;
    GET    "/trees/{digest}"                     Token   Body::None            => trees::show;
    GET    "/trees/{digest}/files/{*path}"       Token   Body::None            => trees::file;
    POST   "/workflows/validate"                 Token   Body::Json(WORKFLOW)  => workflows::validate;
    POST   "/workflows/plan"                     Token   Body::Json(WORKFLOW)  => workflows::plan;
    GET    "/workflows/schema"                   Token   Body::None            => workflows::text_schema;
    GET    "/runs"                               Token   Body::None            => runs::list;
    POST   "/runs"                               Token   Body::Json(WORKFLOW)  => runs::submit;
    GET    "/runs/{run}"                         Token   Body::None            => runs::show;
    POST   "/runs/{run}/cancel"                  Token   Body::Json(SMALL)     => runs::cancel;
    POST   "/runs/{run}/pause"                   Token   Body::Json(SMALL)     => runs::pause;
    POST   "/runs/{run}/resume"                  Token   Body::Json(SMALL)     => runs::resume;
    GET    "/runs/{run}/results/{sink}/{n}"      Token   Body::None            => runs::result;
    GET    "/runs/{run}/tasks/{task}/logs"       Token   Body::None            => runs::logs;
    GET    "/runs/{run}/tasks/{task}/receipt"    Token   Body::None            => runs::receipt;
    GET    "/runs/{run}/tasks/{task}/evidence"   Token   Body::None            => runs::evidence;
    POST   "/events/ticket"                      Token   Body::Json(SMALL)     => events::ticket;
    GET    "/events"                             OneTime Body::None            => events::socket;
}

/// The whole service: guard, table, page.
pub fn router(state: ApiState) -> Router {
    let mut paths: BTreeMap<&'static str, MethodRouter<ApiState>> = BTreeMap::new();
    for route in ROUTES {
        let Ok(filter) = MethodFilter::try_from(route.method.clone()) else { continue };
        let admission =
            from_fn_with_state(state.clone(), move |state: State<ApiState>, request: Request, next: Next| {
                admit(route, state, request, next)
            });
        let one = (route.handler)(filter).layer(admission);
        let merged = match paths.remove(route.path) {
            Some(others) => others.merge(one),
            None => one,
        };
        paths.insert(route.path, merged);
    }
    let mut router = Router::new();
    for (path, methods) in paths {
        router = router.route(path, methods.fallback(wrong_method));
    }
    let hosts = state.hosts.clone();
    router
        .fallback(page::page)
        .layer(from_fn(within_bounds))
        .layer(from_fn_with_state(hosts, guard))
        .with_state(state)
}

async fn wrong_method(method: Method) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{method} is not possible here"),
        "see the `Allow` header for what is",
    )
}

/// A path longer than this names nothing of ours.
async fn within_bounds(request: Request, next: Next) -> Response {
    if request.uri().path().len() > 1_024 {
        return ApiError::new(StatusCode::URI_TOO_LONG, "uri_too_long", "the path is too long", "shorten it")
            .into_response();
    }
    next.run(request).await
}

/// Checks secret and body by the route's line of the table.
async fn admit(
    route: &'static Route,
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    let admitted = async {
        if route.auth == Auth::Token {
            let bearer = bearer(request.headers());
            state.gatekeeper.check(bearer, Instant::now()).map_err(refused)?;
        }
        admit_body(route.body, request).await
    };
    match admitted.await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// What a wrong secret gets.
pub fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Wrong => ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "a valid token is needed",
            "sign in with the link that `remote-network start` prints, or send `Authorization: Bearer` with the \
             content of the file `api-token` in the data directory",
        )
        .at("Authorization"),
        Refusal::TooMany => ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_failures",
            "too many wrong tokens",
            "wait a minute, then use a valid token",
        )
        .at("Authorization"),
    }
}

/// The token of `Authorization: Bearer`.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    only(headers, &header::AUTHORIZATION).ok()??.strip_prefix("Bearer ")
}

async fn admit_body(body: Body, request: Request) -> Result<Request, ApiError> {
    match body {
        Body::None => {
            if request.body().is_end_stream() {
                Ok(request)
            } else {
                Err(ApiError::bad_request("body", "this request takes no body", "send it without one"))
            }
        }
        Body::Json(max) => {
            need_type(request.headers(), "application/json")?;
            need_below(&request, max as u64)?;
            let (parts, body) = request.into_parts();
            let read = tokio::time::timeout(BODY_WITHIN, to_bytes(body, max)).await;
            let bytes = match read {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(e)) if is_too_long(&e) => return Err(too_large(max as u64)),
                Ok(Err(_)) => {
                    return Err(ApiError::bad_request("body", "the body ended early", "send it again"));
                }
                Err(_) => {
                    return Err(ApiError::new(
                        StatusCode::REQUEST_TIMEOUT,
                        "too_slow",
                        "the body took too long",
                        "send it again",
                    ));
                }
            };
            Ok(Request::from_parts(parts, HttpBody::from(bytes)))
        }
        Body::Octets(max) => {
            need_type(request.headers(), "application/octet-stream")?;
            need_below(&request, max)?;
            let (parts, body) = request.into_parts();
            let limit = usize::try_from(max).unwrap_or(usize::MAX);
            let body = HttpBody::new(http_body_util::Limited::new(body, limit));
            Ok(Request::from_parts(parts, body))
        }
    }
}

fn need_type(headers: &HeaderMap, wanted: &'static str) -> Result<(), ApiError> {
    let found = only(headers, &header::CONTENT_TYPE).ok().flatten().unwrap_or_default();
    let essence = found.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(wanted) {
        Ok(())
    } else {
        Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "wrong_content_type",
            format!("the body must be {wanted}"),
            format!("send `Content-Type: {wanted}`"),
        )
        .at("Content-Type"))
    }
}

fn need_below(request: &Request, max: u64) -> Result<(), ApiError> {
    if request.body().size_hint().lower() > max { Err(too_large(max)) } else { Ok(()) }
}

/// The body is longer than the route takes.
pub fn too_large(max: u64) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        format!("the body is longer than {max} bytes"),
        "send less; big inputs go through POST /api/v1/objects",
    )
    .at("body")
}

/// Whether a body failed at its limit.
pub fn is_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(e) = cause {
        if e.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = e.source();
    }
    false
}

/// A JSON body, read strictly. Type, size and time are checked by the table.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<ApiState> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &ApiState) -> Result<Self, ApiError> {
        let bytes = to_bytes(request.into_body(), WORKFLOW)
            .await
            .map_err(|_| ApiError::bad_request("body", "the body ended early", "send it again"))?;
        serde_json::from_slice(&bytes).map(Json).map_err(|e| {
            let hint = match e.classify() {
                serde_json::error::Category::Eof => "the text ends before its end",
                serde_json::error::Category::Syntax => "write JSON, nested less than 128 levels deep",
                serde_json::error::Category::Data | serde_json::error::Category::Io => {
                    "compare the body with the description of this route"
                }
            };
            ApiError::bad_request("body", e.to_string(), hint)
        })
    }
}

/// Segments of the path.
pub struct Segments<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<ApiState> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(e) => Err(ApiError::bad_request("path", e.body_text(), "percent-encode UTF-8 in the path")),
        }
    }
}

/// What follows the `?`, read strictly.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, ApiError> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(e) => Err(ApiError::bad_request("query", e.body_text(), "write `?name=value&name=value`")),
        }
    }
}

/// An id out of the path or the body.
pub fn parse_id<T: FromStr>(place: &str, text: &str, hint: &'static str) -> Result<T, ApiError>
where
    T::Err: Display,
{
    text.parse().map_err(|e: T::Err| ApiError::bad_request(place, e.to_string(), hint))
}
