//! TCP: listeners, and streams that can be split.

use super::{ConnectOptions, Error, ListenOptions, SocketAddr, backend};
use crate::time::sleep;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

/// A TCP socket that waits for connections.
///
/// ```
/// # libos::block_on(async {
/// use libos::net::{TcpListener, TcpStream};
///
/// let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
/// let address = listener.local_addr().unwrap();
/// libos::task::spawn(async move {
///     let (stream, _peer) = listener.accept().await.unwrap();
///     stream.write_all(b"hello").await.unwrap();
/// })
/// .detach();
/// let stream = TcpStream::connect(address).await.unwrap();
/// assert_eq!(stream.read_to_end(1024).await.unwrap(), b"hello");
/// # });
/// ```
#[derive(Debug)]
pub struct TcpListener(backend::Listener);

impl TcpListener {
    /// Listens on an address; port 0 chooses a free one. `[::]` takes connections of both kinds, `0.0.0.0` those of
    /// IPv4.
    ///
    /// # Errors
    /// If the port is taken, or the address is not ours.
    pub fn bind(address: impl Into<SocketAddr>) -> Result<Self, Error> {
        Self::bind_with(address, ListenOptions::default())
    }

    /// Listens, with other sizes and limits than the usual ones.
    ///
    /// # Errors
    /// As [`TcpListener::bind`].
    pub fn bind_with(address: impl Into<SocketAddr>, options: ListenOptions) -> Result<Self, Error> {
        backend::Listener::bind(address.into(), options).map(Self)
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// What the host says; none in a VM.
    pub async fn accept(&self) -> Result<(TcpStream, SocketAddr), Error> {
        let (stream, peer) = self.0.accept().await?;
        Ok((TcpStream::new(stream), peer))
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// What the host says; none in a VM.
    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.0.local_addr()
    }
}

/// A TCP connection. It is closed when it is dropped; what was written still goes out.
///
/// All methods take `&self`, so that one task can read while another writes: [`TcpStream::split`] and
/// [`TcpStream::into_split`] give each its half. `TcpStream`, `&TcpStream` and the halves implement
/// [`embedded_io_async::Read`] and [`embedded_io_async::Write`].
///
/// ```
/// # libos::block_on(async {
/// use libos::net::{Error, TcpListener, TcpStream};
/// use libos::time::Duration;
///
/// let listener = TcpListener::bind(([127, 0, 0, 1], 0))?;
/// let client = TcpStream::connect(listener.local_addr()?).await?;
/// let (server, peer) = listener.accept().await?;
/// assert_eq!((peer, server.peer_addr()?), (client.local_addr()?, client.local_addr()?));
/// // Small answers go out at once; a client that is gone is noticed within minutes, one that is slow within seconds.
/// server.set_nodelay(true)?;
/// server.set_keepalive(Some(Duration::from_secs(60)))?;
/// server.set_read_timeout(Some(Duration::from_millis(20)));
/// server.set_write_timeout(Some(Duration::from_secs(30)));
///
/// assert_eq!(client.write(b"four").await?, 4);
/// server.readable().await?;
/// let mut word = [0; 4];
/// server.read_exact(&mut word).await?;
/// assert_eq!(&word, b"four");
/// assert_eq!(server.read(&mut word).await, Err(Error::TimedOut));
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct TcpStream {
    stream: backend::Stream,
    read_timeout: Cell<Option<Duration>>,
    write_timeout: Cell<Option<Duration>>,
}

/// Polls what a stream does, for at most that long. What is done at once needs no timer.
fn within<T>(
    limit: Option<Duration>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<Result<T, Error>>,
) -> impl Future<Output = Result<T, Error>> {
    let mut end = None;
    poll_fn(move |context| match (poll(context), limit) {
        (Poll::Pending, Some(limit)) => {
            let end = end.get_or_insert_with(|| sleep(limit));
            Pin::new(end).poll(context).map(|()| Err(Error::TimedOut))
        }
        (result, _) => result,
    })
}

impl TcpStream {
    const fn new(stream: backend::Stream) -> Self {
        Self { stream, read_timeout: Cell::new(None), write_timeout: Cell::new(None) }
    }

    /// Connects to an address. For names, see [`Resolver::connect`](super::Resolver::connect).
    ///
    /// # Errors
    /// If nobody listens or answers there, or there is no memory for it.
    pub async fn connect(address: impl Into<SocketAddr>) -> Result<Self, Error> {
        Self::connect_with(address, ConnectOptions::default()).await
    }

    /// Connects, with other sizes and another timeout than the usual ones.
    ///
    /// ```
    /// # libos::block_on(async {
    /// use libos::net::{ConnectOptions, Error, TcpStream};
    ///
    /// let nobody = TcpStream::connect_with(([127, 0, 0, 1], 1), ConnectOptions::default()).await;
    /// assert_eq!(nobody.err(), Some(Error::ConnectionRefused));
    /// # });
    /// ```
    ///
    /// # Errors
    /// As [`TcpStream::connect`].
    pub async fn connect_with(address: impl Into<SocketAddr>, options: ConnectOptions) -> Result<Self, Error> {
        Ok(Self::new(backend::Stream::connect(address.into(), options).await?))
    }

    /// Reads what has come, at most as much as fits. 0 at the end of the stream.
    ///
    /// # Errors
    /// If the connection is no more, or nothing came in the time set by [`TcpStream::set_read_timeout`].
    pub fn read(&self, bytes: &mut [u8]) -> impl Future<Output = Result<usize, Error>> {
        within(self.read_timeout.get(), |context| self.stream.poll_read(context, bytes))
    }

    /// Appends what has come, at most `limit` bytes. Returns how many; 0 at the end of the stream. Takes memory only when
    /// there is something to put there, and for no more than that: for peers that may be silent for long.
    ///
    /// ```
    /// # libos::block_on(async {
    /// use libos::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
    /// let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    /// let (server, _) = listener.accept().await.unwrap();
    /// client.write_all(b"some words").await.unwrap();
    /// let mut bytes = Vec::new();
    /// while bytes.len() < 10 {
    ///     assert!(server.append_to(&mut bytes, 4).await.unwrap() <= 4);
    /// }
    /// assert_eq!(bytes, b"some words");
    /// # });
    /// ```
    ///
    /// # Errors
    /// As [`TcpStream::read`].
    pub fn append_to(&self, bytes: &mut Vec<u8>, limit: usize) -> impl Future<Output = Result<usize, Error>> {
        within(self.read_timeout.get(), move |context| self.stream.poll_append(context, bytes, limit.max(1)))
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// As [`TcpStream::read`], and [`Error::UnexpectedEnd`] if the stream ends before.
    pub async fn read_exact(&self, bytes: &mut [u8]) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.read(rest).await? {
                0 => return Err(Error::UnexpectedEnd),
                n => rest = &mut rest[n..],
            }
        }
        Ok(())
    }

    /// Reads to the end of the stream, but at most `limit` bytes.
    ///
    /// # Errors
    /// As [`TcpStream::read`], and [`Error::TooLarge`] if there is more.
    pub async fn read_to_end(&self, limit: usize) -> Result<Vec<u8>, Error> {
        const PIECE: usize = 512;
        let mut bytes = Vec::new();
        while self.append_to(&mut bytes, PIECE).await? > 0 {
            if bytes.len() > limit {
                return Err(Error::TooLarge);
            }
        }
        Ok(bytes)
    }

    /// Waits until a `read` would return at once. Who waits for a peer that may be silent for long does it here, and
    /// needs a buffer only then.
    ///
    /// # Errors
    /// If the connection is no more, or nothing came in the time set by [`TcpStream::set_read_timeout`].
    pub async fn readable(&self) -> Result<(), Error> {
        within(self.read_timeout.get(), |context| self.stream.poll_readable(context)).await
    }

    /// Writes some of `bytes`, and returns how many.
    ///
    /// # Errors
    /// If the connection is no more, was closed on this side, or its peer took nothing in the time set by
    /// [`TcpStream::set_write_timeout`].
    pub fn write(&self, bytes: &[u8]) -> impl Future<Output = Result<usize, Error>> {
        within(self.write_timeout.get(), |context| self.stream.poll_write(context, bytes))
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// As [`TcpStream::write`].
    pub async fn write_all(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = self.write(rest).await?;
            rest = &rest[written..];
        }
        Ok(())
    }

    /// Ends the stream to the peer. What comes from it can still be read.
    ///
    /// ```
    /// # libos::block_on(async {
    /// use libos::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
    /// let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    /// let (server, _) = listener.accept().await.unwrap();
    /// client.write_all(b"question").await.unwrap();
    /// client.close_write().unwrap();
    /// assert_eq!(server.read_to_end(100).await.unwrap(), b"question");
    /// server.write_all(b"answer").await.unwrap();
    /// drop(server);
    /// assert_eq!(client.read_to_end(100).await.unwrap(), b"answer");
    /// # });
    /// ```
    ///
    /// # Errors
    /// What the host says; none in a VM.
    pub fn close_write(&self) -> Result<(), Error> {
        self.stream.close_write()
    }

    /// Whether small writes go out at once instead of waiting for what is on its way to be acknowledged.
    ///
    /// # Errors
    /// What the host says; none in a VM.
    pub fn set_nodelay(&self, nodelay: bool) -> Result<(), Error> {
        self.stream.set_nodelay(nodelay)
    }

    /// Asks a peer that is silent for so long whether it is still there, and gives the connection up if it does not
    /// answer. `None`, as it is at first: a silent connection may be so for ever.
    ///
    /// # Errors
    /// What the host says; none in a VM.
    pub fn set_keepalive(&self, after: Option<Duration>) -> Result<(), Error> {
        self.stream.set_keepalive(after)
    }

    /// How long a `read` waits; for ever if `None`.
    pub fn set_read_timeout(&self, limit: Option<Duration>) {
        self.read_timeout.set(limit);
    }

    /// How long a `write` waits; for ever if `None`. A peer that acknowledges nothing for a minute is given up anyway.
    pub fn set_write_timeout(&self, limit: Option<Duration>) {
        self.write_timeout.set(limit);
    }

    /// The peer's address.
    ///
    /// # Errors
    /// If the connection is no more.
    pub fn peer_addr(&self) -> Result<SocketAddr, Error> {
        self.stream.peer_addr()
    }

    /// This side's address.
    ///
    /// # Errors
    /// If the connection is no more.
    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.stream.local_addr()
    }

    /// Two halves that live as long as the stream is borrowed.
    ///
    /// ```
    /// # libos::block_on(async {
    /// use libos::net::{Error, ReadHalf, TcpListener, TcpStream, WriteHalf};
    /// use libos::task::join;
    ///
    /// async fn ask(to: WriteHalf<'_>) -> Result<(), Error> {
    ///     to.write_all(b"question").await
    /// }
    /// async fn hear(from: ReadHalf<'_>) -> Result<usize, Error> {
    ///     from.readable().await?;
    ///     from.read(&mut [0; 16]).await
    /// }
    ///
    /// let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
    /// let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    /// let (server, _) = listener.accept().await.unwrap();
    /// let (reader, writer) = client.split();
    /// let answered = async { server.write_all(b"answer").await };
    /// let (asked, (heard, _)) = join(ask(writer), join(hear(reader), answered)).await;
    /// assert_eq!((asked, heard), (Ok(()), Ok(6)));
    /// # });
    /// ```
    #[must_use]
    pub const fn split(&self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        (ReadHalf(self), WriteHalf(self))
    }

    /// Two halves for two tasks. The connection ends with the second one; dropping the half that writes ends the
    /// stream to the peer.
    ///
    /// ```
    /// # libos::block_on(async {
    /// use libos::net::{OwnedReadHalf, OwnedWriteHalf, TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
    /// let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    /// let (reader, writer): (OwnedReadHalf, OwnedWriteHalf) = client.into_split();
    /// let (server, _) = listener.accept().await.unwrap();
    /// libos::task::spawn(async move { writer.write_all(b"over").await.unwrap() }).detach();
    /// assert_eq!(server.read_to_end(100).await.unwrap(), b"over");
    /// drop(server);
    /// assert_eq!(reader.read(&mut [0; 8]).await, Ok(0));
    /// # });
    /// ```
    #[must_use]
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        let shared = Rc::new(self);
        (OwnedReadHalf(shared.clone()), OwnedWriteHalf(shared))
    }
}

/// The reading half of a borrowed stream.
#[derive(Clone, Copy, Debug)]
pub struct ReadHalf<'a>(&'a TcpStream);

/// The writing half of a borrowed stream.
#[derive(Clone, Copy, Debug)]
pub struct WriteHalf<'a>(&'a TcpStream);

/// The reading half of a stream.
#[derive(Debug)]
pub struct OwnedReadHalf(Rc<TcpStream>);

/// The writing half of a stream. Dropping it ends the stream to the peer.
#[derive(Debug)]
pub struct OwnedWriteHalf(Rc<TcpStream>);

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        // A connection that is no more has ended already.
        let _ = self.0.close_write();
    }
}

/// What is a stream, or a part of one.
trait Part {
    /// The stream.
    fn whole(&self) -> &TcpStream;
}

/// Implements the traits of `embedded_io_async`.
macro_rules! implement_io {
    ($part:ty, $($direction:ident)*) => {
        impl embedded_io_async::ErrorType for $part {
            type Error = Error;
        }

        $(implement_io!($direction $part);)*
    };
    (read $part:ty) => {
        impl embedded_io_async::Read for $part {
            async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
                self.whole().read(bytes).await
            }
        }
    };
    (write $part:ty) => {
        impl embedded_io_async::Write for $part {
            async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
                self.whole().write(bytes).await
            }

            async fn flush(&mut self) -> Result<(), Error> {
                // What was written goes out on its own.
                Ok(())
            }
        }
    };
}

impl Part for TcpStream {
    fn whole(&self) -> &TcpStream {
        self
    }
}

impl Part for &TcpStream {
    fn whole(&self) -> &TcpStream {
        self
    }
}

implement_io!(TcpStream, read write);
implement_io!(&TcpStream, read write);

/// What the halves share.
macro_rules! implement_half {
    ($half:ty, $direction:ident) => {
        impl Part for $half {
            fn whole(&self) -> &TcpStream {
                &self.0
            }
        }

        implement_io!($half, $direction);
        implement_half!($direction $half);
    };
    (read $half:ty) => {
        impl $half {
            /// As [`TcpStream::read`].
            ///
            /// # Errors
            /// As [`TcpStream::read`].
            pub async fn read(&self, bytes: &mut [u8]) -> Result<usize, Error> {
                self.0.read(bytes).await
            }

            /// As [`TcpStream::readable`].
            ///
            /// # Errors
            /// As [`TcpStream::readable`].
            pub async fn readable(&self) -> Result<(), Error> {
                self.0.readable().await
            }
        }
    };
    (write $half:ty) => {
        impl $half {
            /// As [`TcpStream::write`].
            ///
            /// # Errors
            /// As [`TcpStream::write`].
            pub async fn write(&self, bytes: &[u8]) -> Result<usize, Error> {
                self.0.write(bytes).await
            }

            /// As [`TcpStream::write_all`].
            ///
            /// # Errors
            /// As [`TcpStream::write`].
            pub async fn write_all(&self, bytes: &[u8]) -> Result<(), Error> {
                self.0.write_all(bytes).await
            }
        }
    };
}

implement_half!(ReadHalf<'_>, read);
implement_half!(OwnedReadHalf, read);
implement_half!(WriteHalf<'_>, write);
implement_half!(OwnedWriteHalf, write);
