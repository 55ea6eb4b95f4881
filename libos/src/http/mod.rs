//! An HTTP/1.1 server: a router over handlers, with limits on by default. Feature `http`; [`Json`] needs `json`.
//!
//! ```
//! # libos::block_on(async {
//! use libos::http::{Request, Response, Router, Server};
//! use libos::net::TcpListener;
//!
//! async fn greet(request: Request) -> String {
//!     format!("hello, {}", request.parameter("name").unwrap_or("you"))
//! }
//!
//! let router = Router::new()
//!     .get("/", |_: Request| Response::text("it works"))
//!     .get("/greet/{name}", greet);
//! let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
//! # let address = listener.local_addr().unwrap();
//! let server = libos::task::spawn(Server::new(router).serve(listener));
//! # let client = libos::net::TcpStream::connect(address).await.unwrap();
//! # client.write_all(b"GET /greet/snow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
//! # assert!(client.read_to_end(1000).await.unwrap().ends_with(b"hello, snow"));
//! # drop(server);
//! # });
//! ```
//!
//! Heads are read by `httparse`. Bodies of requests have a length; chunked ones are refused (501). Answers that are asked
//! for together go out together, and an answer that fits is one write, so one frame. A connection that waits for its
//! next request holds no buffer.
//!
//! [`Request`] and [`Response`] are plain values; [`serve_stream`] speaks over any stream; [`File`] is one that is part of
//! the program.

mod connection;
mod files;
mod limits;
mod request;
mod response;
mod router;
mod server;
mod status;

pub use connection::{ServeError, Transport, serve_stream};
pub use files::{File, Files};
pub use limits::Limits;
pub use request::{Method, Request};
#[cfg(feature = "json")]
pub use response::Json;
pub use response::{Body, IntoResponse, Maker, Response, write_number};
pub use router::{IntoReply, Reply, Router};
pub use server::Server;
pub use status::Status;

#[cfg(all(test, not(firn_guest)))]
mod tests;
