//! Speaking with one client.
//!
//! Requests that came together are executed together, and their replies go out together. Small ones are on the house:
//! 1 KiB of a request, 2 KiB of replies. What needs more takes it from what all connections have for that together,
//! and is refused if there is not enough. A connection that waits for its client has no buffer at all.

use crate::commands::{Context, Flow, count, execute};
use crate::resp::{Arguments, BASE_REPLY_BYTES, NoRoom, Parser, Replies};
use crate::server::{Shared, now_ms};
use alloc::vec::Vec;
use libos::net::{Error, TcpStream};
use libos::sync::Charge;
use libos::task::yield_now;
use libos::time::{Duration, Instant, timeout, timeout_at};

/// Bytes of requests that every connection may hold.
const BASE_INPUT_BYTES: usize = 1024;

/// How long a client that was refused may take to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Commands after which others have their turn.
const TURN: usize = 64;

/// One client's connection.
struct Connection<'a> {
    stream: &'a TcpStream,
    shared: &'a Shared,
    parser: Parser,
    /// Bytes that were read and not used yet.
    input: Vec<u8>,
    replies: Replies,
    /// When a request that has begun to come must be complete.
    deadline: Option<Instant>,
    /// Bytes of the common buffers that the input has, and the replies.
    held: [Charge; 2],
}

const INPUT: usize = 0;
const REPLIES: usize = 1;

/// Why there is nothing more to do.
enum End {
    /// The stream is no more, or the client did not say or take anything in time.
    Lost,
    /// It is to be told so.
    Refused(&'static str),
    /// What it sends is no request, and it was told so.
    Malformed,
    /// It has said good-bye.
    Done,
}

impl From<Error> for End {
    fn from(_: Error) -> Self {
        Self::Lost
    }
}

/// Serves a client until it goes, has to go, or has been silent for too long.
pub async fn serve(stream: &TcpStream, shared: &Shared) {
    let (parser, input, replies) = (Parser::default(), Vec::new(), Replies::default());
    let held = [shared.buffers.take_none(), shared.buffers.take_none()];
    let mut connection = Connection { stream, shared, parser, input, replies, deadline: None, held };
    let end = connection.run().await;
    let end = match end {
        Err(End::Refused(message)) => {
            connection.replies.error(message);
            End::Malformed
        }
        Err(end) => end,
        Ok(()) => End::Done,
    };
    if !matches!(end, End::Lost) {
        let _ = connection.flush().await;
    }
    let is_to_linger = matches!(end, End::Malformed);
    drop(connection);
    if is_to_linger {
        linger(stream).await;
    }
}

/// Ends the stream to a client that may still be sending, and throws away what it sends for a moment: if the connection
/// were closed at once, what it has sent and nobody reads would reset it, and the reply would be lost.
async fn linger(stream: &TcpStream) {
    let mut bytes = [0; 256];
    let deadline = Instant::now() + LINGER;
    let _ = stream.close_write();
    while let Ok(Ok(1..)) = timeout_at(deadline, stream.read(&mut bytes)).await {}
}

impl Connection<'_> {
    async fn run(&mut self) -> Result<(), End> {
        loop {
            self.execute_all().await?;
            self.flush().await?;
            self.wait().await?;
        }
    }

    /// Waits for more of a request, and reads it.
    async fn wait(&mut self) -> Result<(), End> {
        let settings = &self.shared.settings;
        if self.input.is_empty() {
            self.input = Vec::new();
            self.replies.release();
            self.hold(INPUT, 0);
            timeout(settings.idle_timeout, self.stream.readable()).await.map_err(|_| End::Lost)??;
            return self.fill().await;
        }
        // From its first byte on, however small the pieces: all of it in time.
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + settings.request_timeout);
        loop {
            match timeout_at(deadline, self.fill()).await {
                Ok(filled) => filled?,
                Err(_) => return Err(End::Refused("ERR the request was not complete in time")),
            }
            if self.input.len() >= self.parser.wanted_bytes() {
                return Ok(());
            }
        }
    }

    /// Reads some more.
    async fn fill(&mut self) -> Result<(), End> {
        let used = self.input.len();
        if used == self.input.capacity() {
            // As much as is known to come, but no more at once than is there already: who only says that much will
            // come, gets nothing for it.
            let (doubled, known) = (used.saturating_mul(2).max(BASE_INPUT_BYTES), self.parser.wanted_bytes());
            let wanted = if known > used + BASE_INPUT_BYTES { doubled.min(known) } else { doubled };
            if !self.hold(INPUT, wanted - BASE_INPUT_BYTES) {
                return Err(End::Refused("OOM the request is larger than what is left for large requests"));
            }
            self.input.reserve_exact(wanted - used);
        }
        self.input.resize(self.input.capacity(), 0);
        let read = self.stream.read(self.input.get_mut(used..).unwrap_or(&mut [])).await;
        self.input.truncate(used + read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err(End::Done),
            _ => Ok(()),
        }
    }

    /// Executes every request that is all there.
    async fn execute_all(&mut self) -> Result<(), End> {
        let (mut start, mut turn) = (0, 0);
        loop {
            let rest = self.input.get(start..).unwrap_or(&[]);
            let length = match self.parser.parse(rest, self.shared.settings.buffer_bytes) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                Err(malformed) => {
                    self.replies.error(format_args!("ERR {malformed}"));
                    return Err(End::Malformed);
                }
            };
            if !self.replies.has_room() {
                self.flush().await?;
            }
            count(&self.shared.counters.commands);
            match self.execute(start, length) {
                Ok(flow) => self.check(flow)?,
                Err(NoRoom(bytes)) => {
                    self.flush().await?;
                    self.execute_large(start, length, bytes)?;
                }
            }
            start += length;
            turn += 1;
            if turn == TURN {
                turn = 0;
                self.flush().await?;
                yield_now().await;
            }
        }
        self.shared.look_after_deadlines();
        if start > 0 {
            self.input.drain(..start);
            self.deadline = None;
        }
        Ok(())
    }

    const fn check(&self, flow: Flow) -> Result<(), End> {
        match flow {
            Flow::Continue => Ok(()),
            Flow::Close => Err(End::Done),
        }
    }

    /// Executes the request that is in this part of the input.
    fn execute(&mut self, start: usize, length: usize) -> Result<Flow, NoRoom> {
        let request = self.input.get(start..start + length).unwrap_or(&[]);
        let mut context = Context {
            store: &mut self.shared.store.borrow_mut(),
            replies: &mut self.replies,
            counters: &self.shared.counters,
            settings: &self.shared.settings,
            now: now_ms(),
        };
        execute(&mut context, Arguments::of(request))
    }

    /// Executes it with room for a reply of so many bytes, or refuses to.
    fn execute_large(&mut self, start: usize, length: usize, bytes: usize) -> Result<(), End> {
        if bytes <= BASE_REPLY_BYTES || self.hold(REPLIES, bytes) {
            self.replies.allow(bytes);
            if let Ok(flow) = self.execute(start, length) {
                return self.check(flow);
            }
        }
        self.replies.error("OOM the reply is larger than what is left for large replies");
        Ok(())
    }

    /// Writes what there is to say.
    async fn flush(&mut self) -> Result<(), End> {
        if !self.replies.bytes().is_empty() {
            self.stream.write_all(self.replies.bytes()).await?;
            self.replies.clear();
            self.hold(REPLIES, 0);
        }
        Ok(())
    }

    /// Has so many bytes of the common buffers for this. Changes nothing if there are not so many.
    fn hold(&mut self, what: usize, bytes: usize) -> bool {
        self.held.get_mut(what).is_some_and(|held| held.change_to(bytes))
    }
}
