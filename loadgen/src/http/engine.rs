//! The event loop: one thread, edge-triggered readiness, nothing allocated per request.
//!
//! At most `connections` slots are busy. Whenever fewer are, [`Engine::launch`] begins requests until the plan
//! has none; whenever one becomes ready, [`Engine::ready`] takes it a step further. A slot whose connection is
//! not to be kept stays busy until the server has closed it, as HTTP wants it: the side that closes first is the
//! one that must remember the connection for a while, and ports of the load generator are free again at once.

use super::connection::{Phase, Received, slot_of};
use super::error::ErrorKind;
use super::identity::{Identities, MAX_BODY_BYTES};
use super::plan::{Next, Schedule, Sweep};
use super::record::Record;
use super::slots::Slots;
use super::zipf::Zipf;
use super::{Config, Limit, Mode, Outcome, Snapshot, Stage, StartError};
use crate::process::{allow_descriptors, cpu_time};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io::Write;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How often patience, the stop flag and progress are looked at.
const TICK_NS: u64 = 10_000_000;

/// Ticks between two reports of progress.
const TICKS_PER_SNAPSHOT: u32 = 10;

/// Pause after a request that failed before a packet was sent, so that a missing route does not turn into a
/// million failures a second.
const HOLD_NS: u64 = 10_000_000;

/// Patience with a server that was asked to close.
const CLOSING_NS: u64 = 1_000_000_000;

/// Patience with the first attempt to connect of a sweep that retries; doubled with each, up to the last.
const FIRST_CONNECT_NS: u64 = 100_000_000;
const LAST_CONNECT_NS: u64 = 2_000_000_000;

/// Bytes read at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// File descriptors besides the connections.
const OTHER_DESCRIPTORS: u64 = 64;

/// Names the timer among the connections.
const TIMER: Token = Token(usize::MAX);

/// A run under way.
pub struct Engine<'c> {
    config: &'c Config,
    poll: Poll,
    timer: OwnedFd,
    epoch: Instant,
    /// When the run began, on the clock of [`Self::now`].
    start_ns: u64,
    stage: Stage,
    slots: Slots,
    record: Record,
    rng: fastrand::Rng,
    next_target: u32,
    zipf: Option<Zipf>,
    sweep: Option<Sweep>,
    /// The last failure of each target of a sweep that retries.
    last_error: Vec<Option<ErrorKind>>,
    schedule: Option<Schedule>,
    identities: Option<Identities>,
    /// Bodies by slot, if they are to be looked at.
    bodies: Vec<Vec<u8>>,
    request_begin: Vec<u8>,
    request_end: Vec<u8>,
    request: Vec<u8>,
    buffer: Vec<u8>,
    hold_until_ns: u64,
    /// What the timer is set to.
    wake_ns: u64,
    last_end_ns: u64,
    stopping: bool,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl<'c> Engine<'c> {
    /// Prepares a run.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn new(config: &'c Config) -> Result<Self, StartError> {
        let nr_targets = config.targets.count();
        let (nr_slots, by_target) = match config.mode {
            // As many to each as there may be requests at once.
            Mode::Kept => (config.connections.next_multiple_of(nr_targets.max(1)), None),
            mode if mode.keeps_connections() => (config.connections, Some(nr_targets)),
            Mode::Sweep { .. } => (config.connections.min(nr_targets), None),
            _ => (config.connections, None),
        };
        allow_descriptors(u64::from(nr_slots) + OTHER_DESCRIPTORS)?;
        let (sweep, retries) = match config.mode {
            Mode::Sweep { wait } => (Some(Sweep::new(nr_targets, wait.is_some())), wait.is_some()),
            _ => (None, false),
        };
        let end = if config.mode.keeps_connections() { "\r\n\r\n" } else { "\r\nConnection: close\r\n\r\n" };
        let end = if config.port == 80 { end.to_owned() } else { format!(":{}{end}", config.port) };
        let poll = Poll::new()?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .map_err(std::io::Error::from)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let identities = config.identity_of_first.map(|first_vm| Identities::new(first_vm, config.targets));
        Ok(Self {
            config,
            poll,
            timer,
            epoch: Instant::now(),
            start_ns: 0,
            stage: Stage::Running,
            slots: Slots::new(nr_slots, by_target),
            record: Record::new(nr_targets, sweep.is_some()),
            rng: fastrand::Rng::with_seed(config.seed),
            next_target: 0,
            zipf: matches!(config.mode, Mode::Zipf { .. })
                .then(|| Zipf::new(nr_targets, fastrand::Rng::with_seed(config.ranks_seed))),
            last_error: vec![None; if retries { nr_targets as usize } else { 0 }],
            sweep,
            schedule: config.rate.map(Schedule::new),
            bodies: vec![Vec::new(); if identities.is_some() { nr_slots as usize } else { 0 }],
            identities,
            request_begin: format!("GET {} HTTP/1.1\r\nHost: ", config.path).into_bytes(),
            request_end: end.into_bytes(),
            request: Vec::with_capacity(4096),
            buffer: vec![0; BUFFER_BYTES],
            hold_until_ns: 0,
            wake_ns: 0,
            last_end_ns: 0,
            stopping: false,
        })
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// Only if the system's readiness queue fails.
    pub fn run(mut self, observe: &mut dyn FnMut(Snapshot), stop: &AtomicBool) -> Result<Outcome, StartError> {
        let cpu_before = cpu_time();
        let mut setup = None;
        if self.config.mode == Mode::Kept {
            self.stage = Stage::Connecting;
            self.drive(observe, stop)?;
            setup = Some(Duration::from_nanos(self.now()));
            self.stage = Stage::Running;
            self.next_target = 0;
        }
        let started = SystemTime::now();
        self.start_ns = self.now();
        self.drive(observe, stop)?;
        let ended_ns = self.since_start(self.now());
        let window_ns = match self.config.limit {
            Limit::Duration(limit) if self.sweep.is_none() => nanos(limit).min(ended_ns),
            _ => self.last_end_ns,
        };
        for (target, error) in self.last_error.iter().enumerate() {
            if self.record.answered[target] == 0 {
                let error = error.unwrap_or(ErrorKind::ConnectTimedOut);
                self.record.errors[error as usize] += 1;
            }
        }
        Ok(Outcome {
            started,
            setup,
            window: Duration::from_nanos(window_ns),
            elapsed: Duration::from_nanos(self.last_end_ns),
            behind: self.schedule.map_or(0, |schedule| schedule.overdue(window_ns)),
            identity: self.identities.map(|identities| identities.report()),
            record: self.record,
            interrupted: self.stopping,
            cpu: cpu_time().saturating_sub(cpu_before),
        })
    }

    fn drive(&mut self, observe: &mut dyn FnMut(Snapshot), stop: &AtomicBool) -> Result<(), StartError> {
        let mut events = Events::with_capacity(1024);
        let stage_began_ns = self.now();
        let mut next_tick_ns = stage_began_ns + TICK_NS;
        let mut ticks = 0;
        loop {
            let wake_ns = self.launch();
            if self.slots.busy().is_empty() && wake_ns.is_none() {
                return Ok(());
            }
            let now_ns = self.now();
            if let Some(wake_ns) = wake_ns {
                self.wake_at(wake_ns, now_ns)?;
            }
            let timeout = Duration::from_nanos(next_tick_ns.saturating_sub(now_ns));
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in events.iter().filter(|event| event.token() != TIMER) {
                self.ready(event);
            }
            let now_ns = self.now();
            if now_ns >= next_tick_ns {
                next_tick_ns = now_ns + TICK_NS;
                self.expire(now_ns);
                self.stopping |= stop.load(Ordering::Relaxed);
                if self.stopping {
                    return Ok(());
                }
                ticks += 1;
                if ticks % TICKS_PER_SNAPSHOT == 0 {
                    observe(self.snapshot(now_ns - stage_began_ns));
                }
            }
        }
    }

    fn snapshot(&self, elapsed_ns: u64) -> Snapshot {
        let ok = match self.stage {
            Stage::Connecting => self.record.connect.histogram().len(),
            Stage::Running => self.record.ok,
        };
        Snapshot { stage: self.stage, elapsed: Duration::from_nanos(elapsed_ns), ok, failed: self.record.failed() }
    }

    fn now(&self) -> u64 {
        nanos(self.epoch.elapsed())
    }

    fn since_start(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.start_ns)
    }

    /// Has the poll return at that time, more exactly than its own timeout could.
    fn wake_at(&mut self, at_ns: u64, now_ns: u64) -> Result<(), StartError> {
        if self.wake_ns == at_ns && at_ns > now_ns {
            return Ok(());
        }
        self.wake_ns = at_ns;
        let wait = Duration::from_nanos(at_ns.saturating_sub(now_ns).max(1));
        let wait = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: i64::from(wait.subsec_nanos()) };
        let timer = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: wait };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer).map_err(std::io::Error::from)?;
        Ok(())
    }

    /// Begins whatever can begin now. Says when there is more to begin, unless an end of something comes first.
    fn launch(&mut self) -> Option<u64> {
        while !self.stopping && self.slots.busy().len() < self.config.connections as usize {
            let now_ns = self.now();
            if now_ns < self.hold_until_ns {
                return Some(self.hold_until_ns);
            }
            let at_ns = self.since_start(now_ns);
            if self.stage == Stage::Connecting {
                let slot = self.slots.take_free()?;
                self.slots.get(slot).target = slot % self.config.targets.count();
                self.open(slot, now_ns);
            } else if let Some(sweep) = &mut self.sweep {
                if matches!(self.config.mode, Mode::Sweep { wait: Some(wait) } if at_ns >= nanos(wait)) {
                    return None;
                }
                match sweep.next(at_ns) {
                    Next::Ask(target) => {
                        let slot = self.slots.take_free()?;
                        self.slots.get(slot).target = target;
                        self.begin(slot, now_ns, now_ns);
                    }
                    Next::WaitUntil(until_ns) => return Some(self.start_ns + until_ns),
                    Next::Nothing => return None,
                }
            } else {
                match self.config.limit {
                    Limit::Duration(limit) if at_ns >= nanos(limit) => return None,
                    Limit::Requests(limit) if self.record.begun >= limit => return None,
                    _ => {}
                }
                let mut intended_ns = now_ns;
                if let Some(schedule) = &mut self.schedule {
                    intended_ns = self.start_ns + schedule.next_ns();
                    if intended_ns > now_ns {
                        return Some(intended_ns);
                    }
                    schedule.advance();
                }
                let slot = self.pick()?;
                self.begin(slot, intended_ns, now_ns);
            }
        }
        None
    }

    /// Chooses a target, and a slot for a request to it.
    fn pick(&mut self) -> Option<u32> {
        let nr_idle = self.slots.idle().len();
        let target = match self.config.mode {
            Mode::Kept => return (nr_idle > 0).then(|| self.slots.take_idle(self.rng.usize(..nr_idle))),
            Mode::InTurn { .. } => {
                let target = self.next_target;
                self.next_target = (target + 1) % self.config.targets.count();
                target
            }
            Mode::Random { .. } | Mode::Zipf { .. } | Mode::Sweep { .. } => match &self.zipf {
                Some(zipf) => zipf.pick(&mut self.rng),
                None => self.rng.u32(..self.config.targets.count()),
            },
        };
        if self.config.mode.keeps_connections()
            && let Some(slot) = self.slots.take_idle_to(target)
        {
            return Some(slot);
        }
        let slot = match self.slots.take_free() {
            Some(slot) => slot,
            // The pool is full of connections to others: one of them has to go.
            None if nr_idle > 0 => self.slots.take_idle(self.rng.usize(..nr_idle)),
            None => return None,
        };
        let connection = self.slots.get(slot);
        connection.close();
        connection.target = target;
        Some(slot)
    }

    /// Begins a request on a busy slot, over its connection if it has one.
    fn begin(&mut self, slot: u32, intended_ns: u64, now_ns: u64) {
        let connection = self.slots.get(slot);
        connection.intended_ns = intended_ns;
        connection.begun_ns = now_ns;
        let target = connection.target;
        let is_open = connection.is_open();
        self.record.begin(target);
        if is_open {
            self.slots.get(slot).begin_request();
            self.send(slot, now_ns);
        } else {
            self.open(slot, now_ns);
        }
    }

    fn open(&mut self, slot: u32, now_ns: u64) {
        let target = self.slots.get(slot).target;
        let to = SocketAddrV4::new(self.config.targets.address(target), self.config.port);
        let mut patience_ns = nanos(self.config.timeout);
        if let (Some(sweep), false) = (&self.sweep, self.last_error.is_empty()) {
            let doublings = sweep.attempts(target).saturating_sub(1).min(16);
            patience_ns = patience_ns.min((FIRST_CONNECT_NS << doublings).min(LAST_CONNECT_NS));
        }
        let deadline_ns = self.cut_to_wait(now_ns + patience_ns);
        self.record.opened += 1;
        let connection = self.slots.get(slot);
        connection.opened_ns = now_ns;
        connection.deadline_ns = deadline_ns;
        if let Err(kind) = connection.open(self.poll.registry(), slot, to, self.config.mode.keeps_connections()) {
            self.hold_until_ns = now_ns + HOLD_NS;
            self.fail(slot, kind, now_ns);
        }
    }

    /// A sweep that waits ends when its time is out, whatever is under way.
    fn cut_to_wait(&self, deadline_ns: u64) -> u64 {
        match self.config.mode {
            Mode::Sweep { wait: Some(wait) } => deadline_ns.min(self.start_ns + nanos(wait)),
            _ => deadline_ns,
        }
    }

    /// Writes the request of a slot, or what is left of it.
    fn send(&mut self, slot: u32, now_ns: u64) {
        let deadline_ns = self.cut_to_wait(now_ns + nanos(self.config.timeout));
        let address = self.config.targets.address(self.slots.get(slot).target);
        self.request.clear();
        self.request.extend_from_slice(&self.request_begin);
        // Writing to a vector cannot fail.
        let _ = write!(self.request, "{address}");
        self.request.extend_from_slice(&self.request_end);
        let connection = self.slots.get(slot);
        if connection.written == 0 {
            connection.deadline_ns = deadline_ns;
        }
        match connection.send(&self.request) {
            Ok(_) => connection.sent_ns = now_ns,
            Err(kind) => self.fail(slot, kind, now_ns),
        }
    }

    /// Takes a connection that the system calls ready a step further.
    fn ready(&mut self, event: &Event) {
        let (slot, generation) = slot_of(event.token());
        let now_ns = self.now();
        let connection = self.slots.get(slot);
        if connection.generation != generation || !connection.is_open() {
            return;
        }
        let phase = connection.phase;
        match phase {
            Phase::Connecting if event.is_error() => {
                let kind = connection.pending_error().unwrap_or(ErrorKind::Reset);
                self.fail(slot, kind, now_ns);
            }
            Phase::Connecting if event.is_writable() => self.connected(slot, now_ns),
            Phase::Sending if event.is_writable() => self.send(slot, now_ns),
            Phase::Closing if connection.poll_closed() != Ok(false) => self.finish(slot, false),
            Phase::Idle if connection.poll_closed() != Ok(false) => self.slots.drop_idle(slot),
            _ => {}
        }
        // Also right after sending: an edge is told only once, and this one may have come early.
        let connection = self.slots.get(slot);
        let has_news = event.is_readable() || event.is_read_closed() || event.is_error();
        if connection.phase == Phase::Receiving && connection.generation == generation && has_news {
            self.receive(slot, event.is_read_closed() && !event.is_error(), now_ns);
        }
    }

    fn connected(&mut self, slot: u32, now_ns: u64) {
        let connection = self.slots.get(slot);
        self.record.connect.record(now_ns - connection.opened_ns);
        if self.stage == Stage::Connecting {
            self.slots.keep(slot);
        } else {
            connection.begin_request();
            self.send(slot, now_ns);
        }
    }

    fn receive(&mut self, slot: u32, peer_closed: bool, now_ns: u64) {
        let connection = self.slots.get(slot);
        let mut kept = self.bodies.get_mut(slot as usize);
        if let Some(kept) = kept.as_mut().filter(|_| !connection.has_begun()) {
            kept.clear();
        }
        let mut body_bytes = 0;
        let received = connection.receive(&mut self.buffer, peer_closed, &mut |bytes| {
            body_bytes += bytes.len() as u64;
            if let Some(kept) = &mut kept {
                let room = MAX_BODY_BYTES - kept.len().min(MAX_BODY_BYTES);
                kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        });
        self.record.body_bytes += body_bytes;
        match received {
            Received::More => {}
            Received::Failed(kind) => self.fail(slot, kind, now_ns),
            Received::Complete { status, keep_alive, closed } => {
                self.judge(slot, status, now_ns);
                let connection = self.slots.get(slot);
                let keep = keep_alive && self.config.mode.keeps_connections();
                if closed || keep {
                    self.finish(slot, keep && !closed);
                } else {
                    connection.phase = Phase::Closing;
                    connection.deadline_ns = now_ns + CLOSING_NS;
                }
            }
        }
    }

    /// Records a complete response.
    fn judge(&mut self, slot: u32, status: u16, now_ns: u64) {
        let at_ns = self.since_start(now_ns);
        let connection = self.slots.get(slot);
        let (target, sent_ns) = (connection.target, connection.sent_ns);
        let (begun_ns, intended_ns) = (connection.begun_ns, connection.intended_ns);
        let is_identity = match &mut self.identities {
            Some(identities) if (200..300).contains(&status) => identities.take(target, &self.bodies[slot as usize]),
            _ => true,
        };
        if !(200..300).contains(&status) {
            return self.record_failure(target, ErrorKind::BadStatus, now_ns);
        }
        if !is_identity {
            return self.record_failure(target, ErrorKind::BadResponse, now_ns);
        }
        self.record.total.record(now_ns - begun_ns);
        self.record.response.record(now_ns - sent_ns);
        if self.schedule.is_some() {
            self.record.corrected.record(now_ns - intended_ns);
        }
        self.record.succeed(target, at_ns);
        let is_late = matches!(self.config.limit, Limit::Duration(limit) if at_ns > nanos(limit));
        if !is_late || self.sweep.is_some() {
            self.record.ok_in_window += 1;
        }
        self.last_end_ns = self.last_end_ns.max(at_ns);
        if let Some(sweep) = &mut self.sweep {
            sweep.ended(target, true, at_ns);
        }
    }

    fn record_failure(&mut self, target: u32, kind: ErrorKind, now_ns: u64) {
        if self.stage == Stage::Connecting {
            self.record.errors[kind as usize] += 1;
            return;
        }
        let at_ns = self.since_start(now_ns);
        self.last_end_ns = self.last_end_ns.max(at_ns);
        if let Some(sweep) = &mut self.sweep {
            sweep.ended(target, false, at_ns);
        }
        if let Some(last) = self.last_error.get_mut(target as usize) {
            // Not the last word: the target is asked again.
            *last = Some(kind);
            self.record.retried[kind as usize] += 1;
        } else {
            self.record.fail(kind, at_ns);
        }
    }

    /// The request of a slot has failed. One on a kept connection that the server had closed is sent again, over a
    /// new one: closing a connection that has long been idle is no fault.
    fn fail(&mut self, slot: u32, kind: ErrorKind, now_ns: u64) {
        let connection = self.slots.get(slot);
        let is_stale = connection.was_kept && !connection.has_begun();
        if is_stale && matches!(kind, ErrorKind::Reset | ErrorKind::NoResponse) {
            self.record.resent += 1;
            return self.open(slot, now_ns);
        }
        let target = connection.target;
        connection.close();
        self.record_failure(target, kind, now_ns);
        self.finish(slot, false);
    }

    /// A slot has nothing more to do. `keep` says that its connection is good for another request.
    fn finish(&mut self, slot: u32, keep: bool) {
        let is_own = self.config.mode == Mode::Kept;
        if !keep {
            self.slots.get(slot).close();
        }
        if keep || is_own { self.slots.keep(slot) } else { self.slots.release(slot) }
    }

    /// Gives up on what has taken too long.
    fn expire(&mut self, now_ns: u64) {
        for place in (0..self.slots.busy().len()).rev() {
            // The list shrinks from its end as slots leave it.
            let Some(&slot) = self.slots.busy().get(place) else { continue };
            let connection = self.slots.get(slot);
            if now_ns < connection.deadline_ns {
                continue;
            }
            match connection.phase {
                Phase::Connecting => self.fail(slot, ErrorKind::ConnectTimedOut, now_ns),
                Phase::Sending | Phase::Receiving => self.fail(slot, ErrorKind::TimedOut, now_ns),
                Phase::Closing => {
                    self.record.not_closed += 1;
                    self.finish(slot, false);
                }
                Phase::Closed | Phase::Idle => {}
            }
        }
    }
}
