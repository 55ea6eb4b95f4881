//! Statuses of answers.

use super::response::write_number;
use alloc::vec::Vec;

/// Bytes behind a name in the start of an answer.
const TYPE_BYTES: usize = "\r\ncontent-type: ".len();

/// The status of an answer.
///
/// ```
/// use libos::http::Status;
///
/// assert_eq!((Status::NOT_FOUND.code(), Status::NOT_FOUND.reason()), (404, "Not Found"));
/// assert_eq!(Status::new(299).reason(), "");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(u16);

macro_rules! statuses {
    ($($code:literal $name:ident $reason:literal,)*) => {
        impl Status {
            $(
                #[doc = concat!($code, " ", $reason, ".")]
                pub const $name: Self = Self($code);
            )*

            /// The first line of an answer of a status that has a name, and the beginning of the second.
            const fn known_start(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(concat!("HTTP/1.1 ", $code, " ", $reason, "\r\ncontent-type: ")),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    200 OK "OK",
    201 CREATED "Created",
    202 ACCEPTED "Accepted",
    204 NO_CONTENT "No Content",
    206 PARTIAL_CONTENT "Partial Content",
    301 MOVED_PERMANENTLY "Moved Permanently",
    302 FOUND "Found",
    303 SEE_OTHER "See Other",
    304 NOT_MODIFIED "Not Modified",
    307 TEMPORARY_REDIRECT "Temporary Redirect",
    400 BAD_REQUEST "Bad Request",
    401 UNAUTHORIZED "Unauthorized",
    403 FORBIDDEN "Forbidden",
    404 NOT_FOUND "Not Found",
    405 METHOD_NOT_ALLOWED "Method Not Allowed",
    408 REQUEST_TIMEOUT "Request Timeout",
    409 CONFLICT "Conflict",
    413 CONTENT_TOO_LARGE "Content Too Large",
    415 UNSUPPORTED_MEDIA_TYPE "Unsupported Media Type",
    416 RANGE_NOT_SATISFIABLE "Range Not Satisfiable",
    422 UNPROCESSABLE_CONTENT "Unprocessable Content",
    429 TOO_MANY_REQUESTS "Too Many Requests",
    431 HEAD_TOO_LARGE "Request Header Fields Too Large",
    500 INTERNAL_SERVER_ERROR "Internal Server Error",
    501 NOT_IMPLEMENTED "Not Implemented",
    502 BAD_GATEWAY "Bad Gateway",
    503 SERVICE_UNAVAILABLE "Service Unavailable",
    504 GATEWAY_TIMEOUT "Gateway Timeout",
    508 LOOP_DETECTED "Loop Detected",
}

impl Status {
    /// Any status of three digits; 500 if it has not.
    #[must_use]
    pub const fn new(code: u16) -> Self {
        if matches!(code, 200..=999) { Self(code) } else { Self::INTERNAL_SERVER_ERROR }
    }

    /// Its number.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0
    }

    /// Its name; empty if it has none here.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        let Some(start) = self.known_start() else { return "" };
        // Nothing here can panic: what says where a text was cut would be three kilobytes of every image.
        match start.split_at_checked(start.len() - TYPE_BYTES) {
            Some((line, _)) => match line.split_at_checked("HTTP/1.1 200 ".len()) {
                Some((_, reason)) => reason,
                None => "",
            },
            None => "",
        }
    }

    /// Writes the first line of an answer, and the beginning of the next if there is to be a media type.
    pub(super) fn write_start(self, out: &mut Vec<u8>, has_type: bool) {
        match self.known_start() {
            Some(start) => out.extend_from_slice(start.as_bytes()),
            None => {
                out.extend_from_slice(b"HTTP/1.1 ");
                write_number(out, self.0.into());
                out.extend_from_slice(b" \r\ncontent-type: ");
            }
        }
        if !has_type {
            out.truncate(out.len() - TYPE_BYTES);
        }
    }

    /// Whether an answer of this status has no body, whatever it is made of.
    pub(super) const fn is_bodiless(self) -> bool {
        matches!(self, Self::NO_CONTENT | Self::NOT_MODIFIED)
    }
}
