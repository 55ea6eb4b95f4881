//! One client's connection: its requests, one after the other, each to a back end and the answer back.

use crate::body::{CopyError, Input, copy};
use crate::head::{Framing, Parsed, RequestHead, ResponseHead, read_request, read_response};
use crate::proxy::Proxy;
use alloc::format;
use core::net::IpAddr;
use core::pin::pin;
use libos::http::Status;
use libos::net::{Error, TcpStream};
use libos::task::{Either, select};
use libos::time::{Duration, Instant, timeout, timeout_at};

/// Back ends that are tried for one request.
const MOST_TRIES: u32 = 3;

/// Interim responses to one request.
const MOST_INTERIM: u32 = 16;

/// How long a client that was told what is wrong may take to hear it.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that such a client may still send.
const LINGER_BYTES: usize = 64 * 1024;

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Its next request.
    Request,
    /// All was said.
    Close,
    /// Nothing more can be said: what was said is not whole.
    Abort,
}

/// What became of a request at one back end.
enum Attempt {
    /// The client has its answer.
    Answered(Next),
    /// The connection was closed before a byte of an answer.
    Unanswered,
    /// The answer was none, or came too late.
    Failed(Status),
    /// The client has to be told this.
    Client(Status),
}

/// Why there is no head of a response.
enum NoHead {
    /// The back end closed without a word.
    Closed,
    /// It said something else.
    Bad,
    /// The client took no interim response.
    Client,
}

/// A client's connection.
pub struct Client<'a> {
    proxy: &'a Proxy,
    stream: &'a TcpStream,
    address: IpAddr,
    input: Input,
}

impl<'a> Client<'a> {
    /// A connection that was just made.
    #[must_use]
    pub fn new(proxy: &'a Proxy, stream: &'a TcpStream, address: IpAddr) -> Self {
        Self { proxy, stream, address, input: Input::default() }
    }

    /// Serves it to its end.
    pub async fn serve(mut self) {
        // Pieces are as large as they are.
        let _ = self.stream.set_nodelay(true);
        self.stream.set_write_timeout(Some(self.proxy.settings.stall_timeout));
        loop {
            let head = match self.next_request().await {
                Ok(Some(head)) => head,
                Ok(None) => return,
                Err(status) => break self.refuse(status, false).await,
            };
            self.stream.set_read_timeout(Some(self.proxy.settings.stall_timeout));
            let next = self.exchange(&head).await;
            self.stream.set_read_timeout(None);
            match next {
                Next::Request => {}
                Next::Close => break,
                Next::Abort => return,
            }
        }
        self.linger().await;
    }

    /// The next request; `None` if there is to be none.
    async fn next_request(&mut self) -> Result<Option<RequestHead>, Status> {
        let settings = &self.proxy.settings;
        let mut deadline = None;
        loop {
            // Empty lines before a request are allowed, and no beginning of one.
            let skipped = self.input.bytes().iter().take_while(|&&b| b == b'\r' || b == b'\n').count();
            self.input.consume(skipped);
            let has_begun = !self.input.bytes().is_empty();
            if has_begun {
                match read_request(self.input.bytes(), self.address) {
                    Parsed::Complete(head, length) => {
                        self.input.consume(length);
                        return Ok(Some(head));
                    }
                    Parsed::Refused(status) => return Err(status),
                    Parsed::Partial => {}
                }
            }
            let until = deadline.unwrap_or_else(|| Instant::now() + settings.idle_timeout);
            match timeout_at(until, self.input.fill(self.stream)).await {
                Ok(Ok(true)) => {}
                Err(_) if has_begun => return Err(Status::REQUEST_TIMEOUT),
                _ => return Ok(None),
            }
            // From the first byte on, whatever it is.
            deadline.get_or_insert_with(|| Instant::now() + settings.head_timeout);
        }
    }

    /// Says what is wrong.
    async fn refuse(&self, status: Status, keeps_alive: bool) {
        let (code, reason) = (status.code(), status.reason());
        let connection = if keeps_alive { "" } else { "connection: close\r\n" };
        let retry = if status == Status::SERVICE_UNAVAILABLE { "retry-after: 1\r\n" } else { "" };
        let length = reason.len() + 1;
        let answer = format!(
            "HTTP/1.1 {code} {reason}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n{connection}{retry}\r\n\
             {reason}\n"
        );
        // Whoever does not want to hear it need not.
        let _ = self.stream.write_all(answer.as_bytes()).await;
    }

    /// Tells the client that a request cannot be answered. One without a body leaves the connection as it was.
    async fn give_up(&self, head: &RequestHead, status: Status) -> Next {
        // The answer to a `HEAD` has no body: nothing of ours may be taken for the next answer.
        let stays = head.keeps_alive && head.framing == Framing::Nothing && !head.is_head && !head.is_http_1_0;
        self.refuse(status, stays).await;
        if stays { Next::Request } else { Next::Close }
    }

    /// Closes in a way that lets the client hear what was said, even if it is still sending.
    async fn linger(mut self) {
        if self.stream.close_write().is_err() {
            return;
        }
        let deadline = Instant::now() + LINGER;
        let mut seen = self.input.bytes().len();
        while seen < LINGER_BYTES {
            self.input = Input::default();
            match timeout_at(deadline, self.input.fill(self.stream)).await {
                Ok(Ok(true)) => seen += self.input.bytes().len(),
                _ => return,
            }
        }
    }

    /// Finds a back end that answers a request.
    async fn exchange(&mut self, head: &RequestHead) -> Next {
        // What has no body can be said again; and it may be, if doing it twice is as good as doing it once.
        let is_repeatable = head.is_idempotent && head.framing == Framing::Nothing;
        let (mut tried, mut status) = (0u64, Status::SERVICE_UNAVAILABLE);
        for _ in 0..MOST_TRIES {
            let Some(lease) = self.proxy.pick(tried) else { break };
            let number = lease.number;
            tried |= 1 << number;
            if is_repeatable && let Some(stream) = self.proxy.take(number).await {
                match self.attempt(head, number, stream).await {
                    Attempt::Answered(next) => return next,
                    // It has closed a free connection in the same moment: a new one tells more.
                    Attempt::Unanswered => {}
                    Attempt::Failed(status) => return self.fail(head, number, status).await,
                    Attempt::Client(status) => return self.give_up(head, status).await,
                }
            }
            let stream = match self.proxy.connect(number).await {
                Ok(stream) => stream,
                Err(e) => {
                    self.proxy.note(number, false);
                    status = if e == Error::TimedOut { Status::GATEWAY_TIMEOUT } else { Status::BAD_GATEWAY };
                    continue;
                }
            };
            match self.attempt(head, number, stream).await {
                Attempt::Answered(next) => return next,
                Attempt::Unanswered if is_repeatable => {
                    self.proxy.note(number, false);
                    status = Status::BAD_GATEWAY;
                }
                Attempt::Unanswered => return self.fail(head, number, Status::BAD_GATEWAY).await,
                Attempt::Failed(status) => return self.fail(head, number, status).await,
                Attempt::Client(status) => return self.give_up(head, status).await,
            }
        }
        self.give_up(head, status).await
    }

    /// A back end has failed, and nobody else can be asked.
    async fn fail(&self, head: &RequestHead, number: usize, status: Status) -> Next {
        self.proxy.note(number, false);
        self.give_up(head, status).await
    }

    /// Sends a request to a back end, while its answer may begin already, and the answer back.
    async fn attempt(&mut self, head: &RequestHead, number: usize, backend: TcpStream) -> Attempt {
        let settings = &self.proxy.settings;
        let (client, mut answer) = (self.stream, Input::default());
        // A request may take its time to come.
        backend.set_read_timeout(None);
        let (response, is_sent) = {
            let source = (client, &mut self.input);
            let mut send = pin!(copy(source, head.framing, &backend, head.framing, head.forward.clone()));
            let mut receive = pin!(response_head(&backend, &mut answer, client, head));
            match select(receive.as_mut(), send.as_mut()).await {
                Either::First(response) => (response, false),
                Either::Second(Ok(())) => match timeout(settings.response_timeout, receive).await {
                    Ok(response) => (response, true),
                    Err(_) => return Attempt::Failed(Status::GATEWAY_TIMEOUT),
                },
                // It takes no more: it may have said why.
                Either::Second(Err(CopyError::Destination)) => match timeout(LINGER, receive).await {
                    Ok(response) => (response, false),
                    Err(_) => return Attempt::Failed(Status::BAD_GATEWAY),
                },
                Either::Second(Err(CopyError::Stalled)) => return Attempt::Client(Status::REQUEST_TIMEOUT),
                Either::Second(Err(CopyError::Malformed)) => return Attempt::Client(Status::BAD_REQUEST),
                Either::Second(Err(CopyError::Ended)) => return Attempt::Answered(Next::Abort),
            }
        };
        match response {
            Ok(response) => {
                // The head of a request without a body was sent by the first poll, or there would be no answer.
                let is_sent = is_sent || head.framing == Framing::Nothing;
                Attempt::Answered(self.respond(head, (number, backend), answer, &response, is_sent).await)
            }
            Err(NoHead::Closed) => Attempt::Unanswered,
            Err(NoHead::Bad) => Attempt::Failed(Status::BAD_GATEWAY),
            Err(NoHead::Client) => Attempt::Answered(Next::Abort),
        }
    }

    /// Sends an answer back. `is_sent`: the back end has got all of the request.
    async fn respond(
        &self,
        head: &RequestHead,
        (number, backend): (usize, TcpStream),
        mut input: Input,
        response: &ResponseHead,
        is_sent: bool,
    ) -> Next {
        let framing_out = response.framing_to(head.is_http_1_0);
        let keeps_alive = head.keeps_alive && is_sent && framing_out != Framing::UntilClose;
        let begin = response.write(head.is_http_1_0, keeps_alive);
        backend.set_read_timeout(Some(self.proxy.settings.stall_timeout));
        match copy((&backend, &mut input), response.framing, self.stream, framing_out, begin).await {
            Ok(()) => {}
            Err(CopyError::Destination) => return Next::Abort,
            Err(_) => {
                // The client sees that it is not whole, since the connection ends before it should.
                self.proxy.note(number, false);
                return Next::Abort;
            }
        }
        self.proxy.note(number, true);
        // What comes behind an answer nobody has asked for: it must not become the answer to somebody else.
        if response.keeps_alive && is_sent && input.bytes().is_empty() {
            self.proxy.put(number, backend);
        }
        if keeps_alive { Next::Request } else { Next::Close }
    }
}

/// Reads the head of the final response; interim ones go to the client.
async fn response_head(
    backend: &TcpStream,
    input: &mut Input,
    client: &TcpStream,
    head: &RequestHead,
) -> Result<ResponseHead, NoHead> {
    let mut interim = 0;
    loop {
        match read_response(input.bytes(), head.is_head) {
            Parsed::Complete(response, length) if response.status >= 200 => {
                input.consume(length);
                return Ok(response);
            }
            Parsed::Complete(response, length) => {
                input.consume(length);
                interim += 1;
                if interim > MOST_INTERIM {
                    return Err(NoHead::Bad);
                }
                // HTTP/1.0 knows none.
                if !head.is_http_1_0 {
                    client.write_all(&response.write(false, true)).await.map_err(|_| NoHead::Client)?;
                }
            }
            Parsed::Refused(_) => return Err(NoHead::Bad),
            Parsed::Partial => match input.fill(backend).await {
                Ok(true) => {}
                _ if input.bytes().is_empty() && interim == 0 => return Err(NoHead::Closed),
                _ => return Err(NoHead::Bad),
            },
        }
    }
}
