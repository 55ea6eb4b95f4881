//! From paths to handlers.

use super::{IntoResponse, Method, Request, Response, Status};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::future::Future;
use core::pin::Pin;

/// Bytes that are kept for the next answer at most.
const MOST_SPARE: usize = 512;

/// What a handler has to say: at once, or later.
pub enum Reply {
    /// At once.
    Now(Response),
    /// When this is done.
    Later(Pin<Box<dyn Future<Output = Response>>>),
}

/// What a handler may return: a [`Response`], or a future of anything that is [`IntoResponse`].
pub trait IntoReply {
    /// What it has to say.
    fn into_reply(self) -> Reply;
}

impl IntoReply for Response {
    fn into_reply(self) -> Reply {
        Reply::Now(self)
    }
}

impl<F: Future<Output: IntoResponse> + 'static> IntoReply for F {
    fn into_reply(self) -> Reply {
        Reply::Later(Box::pin(async { self.await.into_response() }))
    }
}

type Handler = Box<dyn Fn(Request) -> Reply>;

/// A piece of a route's path.
enum Piece {
    /// This word.
    Word(&'static str),
    /// Any one word, by this name.
    Any(&'static str),
    /// All the rest, by this name.
    Rest(&'static str),
}

struct Route {
    method: Method,
    /// The whole path, if there is nothing variable in it.
    exact: Option<&'static str>,
    pieces: Vec<Piece>,
    handler: Handler,
}

/// Handlers by method and path.
///
/// A path is words with `/` between them. `{name}` stands for any one word, `{*name}` at the end for all the rest. The
/// first route that fits is taken. `HEAD` is answered by the handler of `GET`. A path that is there for other methods is
/// answered with 405, any other one with 404.
///
/// ```
/// use libos::http::{Request, Response, Router, Status};
/// use std::cell::Cell;
/// use std::rc::Rc;
///
/// let count = Rc::new(Cell::new(0));
/// let router = Router::new()
///     // At once: a `Response`.
///     .get("/count", {
///         let count = count.clone();
///         move |_: Request| Response::text(count.get().to_string())
///     })
///     // Later: a future of whatever can be a response.
///     .post("/count/{by}", move |request: Request| {
///         let count = count.clone();
///         async move {
///             let by: u32 = request.parameter("by").and_then(|by| by.parse().ok()).ok_or(Status::NOT_FOUND)?;
///             count.set(count.get() + by);
///             Ok::<_, Status>(Status::NO_CONTENT)
///         }
///     });
/// ```
///
/// One that is known at once and one that is not are different types; a handler that has both says which it is:
///
/// ```
/// use libos::http::{IntoReply, Method, Reply, Request, Response, Router};
///
/// fn look_up(request: Request) -> Reply {
///     match request.parameter("name") {
///         Some("snow") => Response::text("known").into_reply(),
///         _ => async { "looked up elsewhere" }.into_reply(),
///     }
/// }
/// struct Lookup(Reply);
/// impl IntoReply for Lookup {
///     fn into_reply(self) -> Reply {
///         self.0
///     }
/// }
/// let router = Router::new().route(Method::Options, "/{name}", |request: Request| Lookup(look_up(request)));
/// ```
#[derive(Default)]
pub struct Router {
    routes: Vec<Route>,
    /// Room for answers that some connection has used and none uses now.
    spare: Cell<Vec<u8>>,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} routes", self.routes.len())
    }
}

macro_rules! methods {
    ($($name:ident $method:ident)*) => {
        $(
            #[doc = concat!("Answers `", stringify!($method), "` on a path.")]
            ///
            /// # Panics
            /// As [`Router::route`].
            #[must_use]
            pub fn $name<R: IntoReply>(self, path: &'static str, handler: impl Fn(Request) -> R + 'static) -> Self {
                self.route(Method::$method, path, handler)
            }
        )*
    };
}

impl Router {
    /// No routes.
    #[must_use]
    pub const fn new() -> Self {
        Self { routes: Vec::new(), spare: Cell::new(Vec::new()) }
    }

    methods! { get Get post Post put Put patch Patch delete Delete }

    /// Answers a method on a path.
    ///
    /// # Panics
    /// If the path does not begin with `/`, or has something behind `{*name}`.
    #[must_use]
    pub fn route<R: IntoReply>(
        mut self,
        method: Method,
        path: &'static str,
        handler: impl Fn(Request) -> R + 'static,
    ) -> Self {
        let words = path.strip_prefix('/').expect("a route's path begins with /");
        let pieces: Vec<Piece> = words.split('/').map(piece_of).collect();
        let has_early_rest = pieces.iter().rev().skip(1).any(|piece| matches!(piece, Piece::Rest(_)));
        assert!(!has_early_rest, "{{*name}} is the end of a route's path");
        let exact = pieces.iter().all(|piece| matches!(piece, Piece::Word(_))).then_some(path);
        let handler: Handler = Box::new(move |request| handler(request).into_reply());
        self.routes.push(Route { method, exact, pieces, handler });
        self
    }

    /// Room for an answer.
    pub(super) fn take_spare(&self) -> Vec<u8> {
        self.spare.take()
    }

    /// Keeps it for the next one, unless it is much.
    pub(super) fn keep_spare(&self, mut spare: Vec<u8>) {
        if spare.capacity() <= MOST_SPARE {
            spare.clear();
            self.spare.set(spare);
        }
    }

    /// The route for a request, or what there is to say without one.
    pub(super) fn find(&self, request: &mut Request) -> Result<Found<'_>, Response> {
        let method = if request.method() == Method::Head { Method::Get } else { request.method() };
        let mut allowed = String::new();
        for route in &self.routes {
            let Some(parameters) = route.fits(request) else { continue };
            if route.method == method {
                request.parameters = parameters;
                return Ok(Found(&route.handler));
            }
            for word in [route.method.word(), if route.method == Method::Get { "HEAD" } else { "" }] {
                if !word.is_empty() && !allowed.split(", ").any(|known| known == word) {
                    if !allowed.is_empty() {
                        allowed.push_str(", ");
                    }
                    allowed.push_str(word);
                }
            }
        }
        Err(match allowed.is_empty() {
            true => Response::new(Status::NOT_FOUND),
            false => Response::new(Status::METHOD_NOT_ALLOWED).with_header("allow", &allowed),
        })
    }
}

/// A handler that was found.
pub(super) struct Found<'a>(&'a Handler);

impl Found<'_> {
    pub fn call(&self, request: Request) -> Reply {
        (self.0)(request)
    }
}

fn piece_of(word: &'static str) -> Piece {
    match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
        None => Piece::Word(word),
        Some(name) => name.strip_prefix('*').map_or(Piece::Any(name), Piece::Rest),
    }
}

type Parameters = Vec<(&'static str, core::ops::Range<u16>)>;

impl Route {
    /// What the path has for the route's names, if it fits.
    fn fits(&self, request: &Request) -> Option<Parameters> {
        if let Some(exact) = self.exact {
            return request.has_path(exact).then(Vec::new);
        }
        let mut rest = Some(request.path().strip_prefix('/')?);
        let mut parameters = Vec::new();
        for piece in &self.pieces {
            let words = rest?;
            let (word, after) = words.split_once('/').map_or((words, None), |(word, after)| (word, Some(after)));
            match piece {
                Piece::Word(expected) if word == *expected => {}
                Piece::Any(name) if !word.is_empty() => parameters.push((*name, request.part_of_path(word))),
                Piece::Rest(name) => {
                    parameters.push((*name, request.part_of_path(words)));
                    return Some(parameters);
                }
                Piece::Word(_) | Piece::Any(_) => return None,
            }
            rest = after;
        }
        rest.is_none().then_some(parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use std::string::ToString;

    fn router() -> Router {
        let say = |name: &'static str| {
            move |request: Request| {
                let parameter = |name| request.parameter(name).unwrap_or("-");
                Response::text(format!("{name} {} {}", parameter("a"), parameter("rest")))
            }
        };
        Router::new()
            .get("/", say("root"))
            .get("/things", say("all"))
            .post("/things", say("make"))
            .get("/things/{a}", say("one"))
            .get("/things/{a}/parts", say("parts"))
            .get("/files/{*rest}", say("files"))
    }

    fn ask(method: &str, path: &str) -> Result<String, Response> {
        let text = format!("{method} {path} HTTP/1.0\r\n\r\n");
        let mut request = Request::parse(text.as_bytes()).unwrap();
        let router = router();
        let found = router.find(&mut request)?;
        let Reply::Now(response) = found.call(request) else { panic!("later") };
        match response.into_body() {
            super::super::Body::Bytes(bytes) => Ok(core::str::from_utf8(&bytes).unwrap().to_string()),
            super::super::Body::Pieces { .. } => panic!("pieces"),
        }
    }

    #[test]
    fn paths_find_their_routes() {
        for (method, path, expected) in [
            ("GET", "/", "root - -"),
            ("HEAD", "/?x=/things", "root - -"),
            ("GET", "/things", "all - -"),
            ("POST", "/things", "make - -"),
            ("GET", "/things/7", "one 7 -"),
            ("GET", "/things/7/parts", "parts 7 -"),
            ("GET", "/files/a/b.txt", "files - a/b.txt"),
            ("GET", "/files/", "files - "),
        ] {
            assert_eq!(ask(method, path).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_not_there_is_told_apart_from_what_cannot_be_done() {
        for path in ["/nowhere", "/things/", "/things/7/", "/things/7/parts/8", "/files", "//things", "*"] {
            assert_eq!(ask("GET", path).unwrap_err().status(), Status::NOT_FOUND, "{path}");
        }
        let refused = ask("DELETE", "/things").unwrap_err();
        assert_eq!(refused.status(), Status::METHOD_NOT_ALLOWED);
        let mut head = Vec::new();
        refused.write_head(&mut head, super::super::response::Persistence::Open);
        assert!(String::from_utf8(head).unwrap().contains("\r\nallow: GET, HEAD, POST\r\n"));
        assert_eq!(ask("POST", "/things/7").unwrap_err().status(), Status::METHOD_NOT_ALLOWED);
    }

    #[test]
    #[should_panic(expected = "the end of a route's path")]
    fn nothing_comes_after_the_rest() {
        let _ = Router::new().get("/{*rest}/x", |_: Request| Response::text(""));
    }
}
