//! Storms of connections against a server of tasks and timers as a VM runs them, on a VM's own heap: afterwards its
//! memory is the machine's again, wherever something small was left.

use super::*;
use crate::heap::watched::{Vm, inside};
use crate::ready_queue::ReadyQueue;
use crate::timers::{self, Timers};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::Context;

/// Pages of the VM's heap.
const PAGES: usize = 4096;

/// How long a client may take to say what it wants.
const PATIENCE: u64 = 3 * SECOND;

/// Connections of a storm.
const CROWD: usize = 300;

/// Seeds, each of two storms, unless `FIRN_SEEDS` says how many.
const SEEDS: u64 = 5;

/// Pages that may be left beside those that something small is on: a buffer, and ends of what is free.
const MOST_LEFT: usize = 8;

/// What the tasks of the server share.
struct Server {
    stack: RefCell<Stack<Rings>>,
    ready: &'static ReadyQueue,
    timers: RefCell<Timers>,
    now: Cell<u64>,
    /// What a program keeps of a few of its clients, however long they are gone.
    kept: RefCell<Vec<Box<[u8]>>>,
}

/// The server's end of a connection.
struct Stream<'a> {
    server: &'a Server,
    key: Key,
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.server.stack.borrow_mut().release(self.key, self.server.now.get());
    }
}

/// A timer, as [`crate::time::Sleep`] has it in a VM.
struct Alarm<'a> {
    server: &'a Server,
    deadline: u64,
    key: Option<timers::Key>,
}

impl Future for Alarm<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.server.now.get() >= self.deadline {
            return Poll::Ready(());
        }
        let mut timers = self.server.timers.borrow_mut();
        match self.key {
            Some(key) if timers.update(key, context.waker()) => {}
            _ => {
                let key = timers.insert(self.deadline, context.waker().clone());
                drop(timers);
                self.key = Some(key);
            }
        }
        Poll::Pending
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        let waker = self.key.and_then(|key| self.server.timers.borrow_mut().remove(key));
        drop(waker);
    }
}

impl Stream<'_> {
    /// Reads some more, or nothing if none comes in time.
    async fn read(&self, bytes: &mut Vec<u8>) -> usize {
        let Self { server, key } = *self;
        let mut alarm = Alarm { server, deadline: server.now.get() + PATIENCE, key: None };
        poll_fn(|context| {
            match server.stack.borrow_mut().poll_append(key, bytes, 1024, context.waker()) {
                Poll::Ready(read) => return Poll::Ready(read.unwrap_or(0)),
                Poll::Pending => {}
            }
            Pin::new(&mut alarm).poll(context).map(|()| 0)
        })
        .await
    }

    async fn write(&self, bytes: &[u8]) {
        let _ = poll_fn(|context| self.server.stack.borrow_mut().poll_write(self.key, bytes, context.waker())).await;
    }

    /// Answers requests that end with a full stop.
    async fn serve(self) {
        let mut input = Vec::new();
        while self.read(&mut input).await > 0 {
            while let Some(end) = input.iter().position(|&b| b == b'.') {
                let request: Vec<u8> = input.drain(..=end).collect();
                if request.starts_with(b"keep") {
                    self.server.kept.borrow_mut().push(request[4..].into());
                }
                self.write(b"answer").await;
            }
            if input.is_empty() {
                input = Vec::new();
            }
        }
    }
}

impl Server {
    fn new(rings: Rings) -> Rc<Self> {
        let max_buffer_bytes = PAGES / 2 * virtual_isa::PAGE_SIZE;
        let server = Rc::new(Self {
            stack: RefCell::new(Stack::new(rings, &settings(SERVER, max_buffer_bytes), 1)),
            ready: Box::leak(Box::new(ReadyQueue::new())),
            timers: RefCell::new(Timers::new()),
            now: Cell::new(1),
            kept: RefCell::new(Vec::with_capacity(64)),
        });
        let options = ListenOptions { backlog: 1024, half_open: 1024, ..ListenOptions::default() };
        let listener = server.stack.borrow_mut().listen(any(80), options).unwrap();
        server.spawn({
            let server = server.clone();
            async move {
                loop {
                    let accept =
                        |context: &mut Context<'_>| server.stack.borrow_mut().poll_accept(listener, context.waker());
                    let (key, _) = poll_fn(accept).await;
                    let stream_of = server.clone();
                    server.spawn(async move { Stream { server: &stream_of, key }.serve().await });
                }
            }
        });
        server
    }

    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        // SAFETY: one thread, and the queue is static.
        unsafe { self.ready.spawn(future) }.detach();
    }

    /// One turn of a VM's loop. Returns when the next is due.
    fn turn(&self, vm: &Vm) -> Option<u64> {
        let now = self.now.get();
        loop {
            self.ready.run(256);
            self.stack.borrow_mut().poll(now);
            while let Some(waker) = { self.timers.borrow_mut().pop_due(now) } {
                waker.wake();
            }
            if self.ready.is_empty() {
                break;
            }
        }
        self.ready.trim();
        let (stack, timer) = (self.stack.borrow().poll_at(now), self.timers.borrow().next_deadline());
        [stack, timer, vm.heap().tend(now)].into_iter().flatten().min()
    }
}

/// A server in a VM, its clients outside, and the switch between them.
struct Storm {
    /// Held by tasks which it holds: it goes with the VM's memory.
    server: Rc<Server>,
    vm: Box<Vm>,
    client: Stack<Rings>,
    now: u64,
    random: fastrand::Rng,
}

impl Storm {
    fn new(seed: u64, traces: bool) -> Self {
        let vm = Vm::new(PAGES, traces);
        let rings = rings();
        let server = inside(|| Server::new(rings));
        Self { server, vm, client: super::vm(CLIENT, 1 << 26), now: 1, random: fastrand::Rng::with_seed(seed) }
    }

    /// Carries frames to and fro until nothing moves. Returns when something is due next.
    fn settle(&mut self) -> Option<u64> {
        loop {
            self.server.now.set(self.now);
            let due = inside(|| self.server.turn(&self.vm));
            self.client.poll(self.now);
            let mut stack = self.server.stack.borrow_mut();
            let (mut frames, mut log) = (0, Vec::new());
            let mut carry =
                |from: &mut _, to: &mut _, source| Lab::carry(from, to, source, |_, _| false, &mut frames, &mut log);
            let has_moved = carry(&mut stack, &mut self.client, SERVER) | carry(&mut self.client, &mut stack, CLIENT);
            if !has_moved {
                return due.into_iter().chain(self.client.poll_at(self.now)).min();
            }
        }
    }

    fn run(&mut self, duration: u64) {
        let end = self.now + duration;
        while self.now < end {
            let due = self.settle();
            self.now = due.unwrap_or(end).clamp(self.now + MILLISECOND, end.max(self.now + MILLISECOND));
        }
        self.settle();
    }

    fn say(&mut self, client: Key, text: &[u8]) {
        write(&mut self.client, client, text);
    }

    /// Clients of all kinds come in any order, and go, or are sent away. The last has said so much when it goes.
    fn blow(&mut self) {
        let mut clients: Vec<(Key, u32)> = Vec::new();
        let mut nr_left = CROWD;
        while nr_left > 0 || !clients.is_empty() {
            for _ in 0..self.random.usize(..20).min(nr_left) {
                let to = SocketAddr::new(SERVER.into(), 80);
                let client = self.client.connect(to, ConnectOptions::default(), self.now).unwrap();
                clients.push((client, self.random.u32(..100)));
                nr_left -= 1;
            }
            self.settle();
            for _ in 0..self.random.usize(..40).min(clients.len()) {
                let (client, kind) = clients.swap_remove(self.random.usize(..clients.len()));
                match kind {
                    // Slow: it says a part, and stays to be sent away.
                    0..40 => self.say(client, b"a request that does not"),
                    // Rude: it wants two answers and takes none.
                    40..60 => {
                        self.say(client, b"one.two.");
                        self.settle();
                        self.client.abort(client);
                    }
                    // Long: it says much before it comes to an end.
                    60..75 => {
                        for _ in 0..self.random.usize(1..8) {
                            self.say(client, &[b'x'; 700]);
                            self.settle();
                        }
                        self.say(client, b".");
                    }
                    75 => self.say(client, b"keep this."),
                    _ => self.say(client, b"please."),
                }
                if kind >= 40 || self.random.bool() {
                    self.settle();
                    self.client.release(client, self.now);
                }
            }
            self.now += self.random.u64(..200) * MILLISECOND;
        }
    }

    /// What one client asks for.
    fn ask(&mut self) {
        let to = SocketAddr::new(SERVER.into(), 80);
        let client = self.client.connect(to, ConnectOptions::default(), self.now).unwrap();
        self.settle();
        self.say(client, b"please.");
        self.settle();
        assert_eq!(read(&mut self.client, client), Poll::Ready(Ok(b"answer".to_vec())));
        self.client.release(client, self.now);
        self.settle();
    }
}

/// What is left of the storms of a seed: pages that hold something before and after, pages that have to, and what is on
/// them.
struct Left {
    before: usize,
    after: usize,
    in_use: usize,
    nr_discarded: usize,
    described: String,
}

fn weather(seed: u64, traces: bool) -> Left {
    let mut storm = Storm::new(seed, traces);
    storm.ask();
    storm.run(20 * SECOND);
    let before = storm.vm.nr_touched();
    assert_eq!(storm.vm.nr_discarded(), 0, "there is nothing to give back after one request");
    for _ in 0..2 {
        storm.blow();
        storm.run(200 * SECOND);
    }
    let usage = storm.server.stack.borrow().usage();
    assert_eq!((usage.0, usage.1), (0, 0), "connections are left");
    let (after, in_use) = (storm.vm.nr_touched(), storm.vm.nr_in_use());
    let (nr_discarded, described) = (storm.vm.nr_discarded(), storm.vm.describe());
    storm.ask();
    Left { before, after, in_use, nr_discarded, described }
}

#[test]
fn memory_comes_back_after_storms_whatever_is_left_of_them() {
    let seeds = std::env::var("FIRN_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        let Left { before, after, in_use, nr_discarded, .. } = weather(seed, false);
        assert!(before <= 4, "{before}");
        assert!(nr_discarded >= 100, "{nr_discarded} pages are not much of a storm");
        if after > in_use + MOST_LEFT {
            let described = weather(seed, true).described;
            panic!("seed {seed}: {before} pages before, {after} after of which {in_use} are in use by\n{described}");
        }
    }
}
