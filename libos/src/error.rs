//! One error for a whole program: whatever a part of the libOS says, with what the program was at.

use crate::arguments::BadArgument;
use crate::{gate, net, time};
use alloc::borrow::Cow;
use alloc::boxed::Box;
use core::fmt;

/// Why something could not be done. Every error of this crate becomes one by `?`, and keeps being its source.
///
/// `{}` prints the outermost reason, `{:#}` all of them: `cannot listen: address in use`.
///
/// ```
/// use libos::{Context, Error, net::TcpListener};
///
/// fn listen(port: u16) -> Result<TcpListener, Error> {
///     TcpListener::bind(([127, 0, 0, 1], port)).context("cannot listen")
/// }
///
/// let first = listen(0).unwrap();
/// let error = listen(first.local_addr().unwrap().port()).unwrap_err();
/// assert_eq!(format!("{error:#}"), "cannot listen: address in use");
/// assert_eq!(error.network(), Some(libos::net::Error::AddressInUse));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A socket.
    Network(net::Error),
    /// A name could not be resolved.
    Resolve(net::ResolveError),
    /// An argument of the program.
    Argument(BadArgument),
    /// A time was over.
    Elapsed(time::Elapsed),
    /// The supervisor gate.
    Gate(gate::Error),
    /// Any other error.
    Other(Box<dyn core::error::Error>),
    /// What was being done when another error came up, or a reason of the program's own.
    Message {
        /// The reason.
        message: Cow<'static, str>,
        /// The error behind it.
        source: Option<Box<Error>>,
    },
}

impl Error {
    /// A reason of the program's own.
    ///
    /// ```
    /// let error = libos::Error::new("no such table");
    /// assert_eq!(error.to_string(), "no such table");
    /// ```
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Message { message: message.into(), source: None }
    }

    /// Any other crate's error.
    ///
    /// ```
    /// let error = libos::Error::other("x".parse::<u8>().unwrap_err());
    /// assert_eq!(error.to_string(), "invalid digit found in string");
    /// ```
    pub fn other(error: impl core::error::Error + 'static) -> Self {
        Self::Other(Box::new(error))
    }

    /// The socket's error that is behind all, if one is.
    #[must_use]
    pub fn network(&self) -> Option<net::Error> {
        match self {
            Self::Network(e) | Self::Resolve(net::ResolveError::Network(e)) => Some(*e),
            Self::Message { source: Some(source), .. } => source.network(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(e) => e.fmt(f),
            Self::Resolve(e) => e.fmt(f),
            Self::Argument(e) => e.fmt(f),
            Self::Elapsed(e) => e.fmt(f),
            Self::Gate(e) => e.fmt(f),
            Self::Other(e) => e.fmt(f),
            Self::Message { message, source } => {
                f.write_str(message)?;
                match source {
                    Some(source) if f.alternate() => write!(f, ": {source:#}"),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Network(e) => Some(e),
            Self::Resolve(e) => Some(e),
            Self::Argument(e) => Some(e),
            Self::Elapsed(e) => Some(e),
            Self::Gate(e) => Some(e),
            Self::Other(e) => Some(e.as_ref()),
            Self::Message { source, .. } => source.as_ref().map(|source| source.as_ref() as _),
        }
    }
}

macro_rules! implement_from {
    ($($variant:ident: $error:ty),*) => {
        $(impl From<$error> for Error {
            fn from(e: $error) -> Self {
                Self::$variant(e)
            }
        })*
    };
}

implement_from! {
    Network: net::Error,
    Resolve: net::ResolveError,
    Argument: BadArgument,
    Elapsed: time::Elapsed,
    Gate: gate::Error
}

/// Says what was being done when an error came up.
pub trait Context<T> {
    /// Puts a reason before the error.
    ///
    /// ```
    /// use libos::{Context, net};
    ///
    /// let refused: Result<(), _> = Err(net::Error::ConnectionRefused);
    /// let error = refused.context("the table server does not answer").unwrap_err();
    /// assert_eq!(format!("{error:#}"), "the table server does not answer: connection refused");
    /// ```
    ///
    /// # Errors
    /// The error that was there, if one was.
    fn context(self, message: impl Into<Cow<'static, str>>) -> Result<T, Error>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, message: impl Into<Cow<'static, str>>) -> Result<T, Error> {
        self.map_err(|e| Error::Message { message: message.into(), source: Some(Box::new(e.into())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::error::Error as _;
    use std::format;
    use std::string::ToString;

    #[test]
    fn sources_are_followed_to_the_end() {
        let inner: Result<(), _> = Err(net::Error::TimedOut);
        let error = inner.context("no answer").context("cannot start").unwrap_err();
        assert_eq!(error.to_string(), "cannot start");
        assert_eq!(format!("{error:#}"), "cannot start: no answer: timed out");
        let mut depth = 0;
        let mut at: &dyn core::error::Error = &error;
        while let Some(source) = at.source() {
            depth += 1;
            at = source;
        }
        assert_eq!((depth, at.to_string()), (3, "timed out".to_string()));
        assert_eq!(error.network(), Some(net::Error::TimedOut));
        assert_eq!(Error::new("x").network(), None);
        assert!(Error::new("x").source().is_none());
    }
}
