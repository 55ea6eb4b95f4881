//! The operating system: its tasks, whose turn it is, and what becomes of them.
//!
//! Tasks have their turns one after the other. A turn ends when its time is up, which the machine's timer says, or
//! earlier: the task sleeps, waits, yields, or ends.

use crate::calls::{Answer, Call};
use crate::elf;
use crate::fate::{Fate, StartError, Tally};
use crate::task::{Handle, Pid, Task, load};
use crate::{Image, Say, Settings};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use core::fmt;
use libos::mmu::{Exit, Mmu, Pool};
use libos::task::yield_now;
use libos::time::{Instant, sleep_until};

/// Most tasks at a time.
pub const MAX_TASKS: usize = 256;

/// Most tasks at a time that descend from one that nobody spawned, with that one.
pub const MAX_FAMILY: usize = 8;

/// Most bytes that a task prints; what it prints beyond is lost.
pub const MAX_PRINTED: usize = 512;

/// Most bytes of a line.
const MAX_LINE: usize = 100;

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TurnEnd {
    /// Its time is up, or something else wants the processor.
    Interrupted,
    /// The task lets others have their turn.
    Yielded,
    /// It sleeps until then.
    Sleeps(u64),
    /// It waits until something has changed.
    Waits,
    /// It is no more.
    Ended(Fate),
}

/// What has been done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How tasks have ended.
    pub ends: Tally,
    /// Turns.
    pub turns: u64,
    /// System calls.
    pub calls: u64,
    /// Misses of the TLB.
    pub misses: u64,
    /// Pages that were made for tasks.
    pub fills: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ends, turns, calls, misses, fills } = self;
        write!(f, "{ends}; turns {turns}, calls {calls}, misses {misses}, pages {fills}")
    }
}

/// The operating system.
pub struct Kernel {
    mmu: Mmu,
    pool: Pool,
    images: &'static [Image],
    settings: Settings,
    say: Box<dyn FnMut(&str)>,
    tasks: BTreeMap<Pid, Task>,
    /// Tasks that can run, in the order of their turns. One that has ended meanwhile is skipped.
    ready: VecDeque<Pid>,
    sleeping: BTreeSet<(u64, Pid)>,
    waiting: BTreeSet<Pid>,
    last_pid: Pid,
    counts: Counts,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("tasks", &self.tasks).field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Kernel {
    /// One with these programs and no task. `say` prints a line.
    #[must_use]
    pub fn new(
        mmu: Mmu,
        pool: Pool,
        images: &'static [Image],
        settings: Settings,
        say: impl FnMut(&str) + 'static,
    ) -> Self {
        Self {
            mmu,
            pool,
            images,
            settings,
            say: Box::new(say),
            tasks: BTreeMap::new(),
            ready: VecDeque::new(),
            sleeping: BTreeSet::new(),
            waiting: BTreeSet::new(),
            last_pid: 0,
            counts: Counts::default(),
        }
    }

    /// Starts a program that nobody spawned.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(&mut self, label: &str, program: &str, argument: u64) -> Result<Pid, StartError> {
        let task = self.make(label, program, argument)?;
        Ok(self.add(task))
    }

    /// Starts a program for another one, which is out of the table.
    pub(crate) fn start_child(
        &mut self,
        parent: &Task,
        program: &str,
        argument: u64,
        handle: Option<Handle>,
    ) -> Result<Pid, StartError> {
        let family = self.tasks.values().filter(|task| task.family == parent.family).count() + 1;
        if family >= MAX_FAMILY {
            return Err(StartError::Limit);
        }
        let mut task = self.make(program, program, argument)?;
        (task.parent, task.family) = (Some(parent.pid), parent.family);
        if let Some(handle) = handle {
            // A new task has all of them free.
            task.handles.add(handle).map_err(|_| StartError::Limit)?;
        }
        Ok(self.add(task))
    }

    fn make(&mut self, label: &str, program: &str, argument: u64) -> Result<Task, StartError> {
        // The one whose turn it is may be out of the table.
        if self.tasks.len() + 1 >= MAX_TASKS {
            return Err(StartError::Limit);
        }
        let image = self.images.iter().find(|image| image.name == program).ok_or(StartError::NoProgram)?;
        let program = elf::read(image.bytes).map_err(StartError::Elf)?;
        let space = load(&self.mmu, &self.pool, self.settings.task_pages, &program).map_err(StartError::Map)?;
        self.last_pid += 1;
        Ok(Task::new(self.last_pid, label, &program, space, argument))
    }

    fn add(&mut self, task: Task) -> Pid {
        let pid = task.pid;
        self.tasks.insert(pid, task);
        self.ready.push_back(pid);
        pid
    }

    /// Runs tasks until there are none.
    pub async fn run(&mut self) -> Counts {
        while !self.tasks.is_empty() {
            self.wake();
            match self.ready.pop_front() {
                Some(pid) => {
                    if self.turn(pid) {
                        // What is pending is the runtime's to look at.
                        yield_now().await;
                    }
                }
                None => match self.sleeping.first() {
                    Some(&(until_ns, _)) => sleep_until(Instant::from_nanos(until_ns)).await,
                    None => self.kill_all_that_wait(),
                },
            }
        }
        self.counts
    }

    /// Gives a task its turn. Whether it was interrupted.
    fn turn(&mut self, pid: Pid) -> bool {
        let Some(mut task) = self.tasks.remove(&pid) else { return false };
        self.counts.turns += 1;
        let deadline_ns = self.now_ns().saturating_add(self.settings.quantum_ns);
        let mut end = self.run_task(&mut task, deadline_ns);
        if end == TurnEnd::Interrupted && self.now_ns() >= deadline_ns {
            task.nr_full_turns += 1;
            if task.nr_full_turns >= self.settings.turns {
                self.end(task, Fate::OutOfTime);
                return true;
            }
        }
        if let TurnEnd::Sleeps(until_ns) = end
            && until_ns <= self.now_ns()
        {
            end = TurnEnd::Yielded;
        }
        match end {
            TurnEnd::Interrupted | TurnEnd::Yielded => self.ready.push_back(pid),
            TurnEnd::Sleeps(until_ns) => _ = self.sleeping.insert((until_ns, pid)),
            TurnEnd::Waits => _ = self.waiting.insert(pid),
            TurnEnd::Ended(fate) => {
                self.end(task, fate);
                return false;
            }
        }
        self.tasks.insert(pid, task);
        end == TurnEnd::Interrupted
    }

    /// Runs a task until its turn ends. The call that it waits to make comes first.
    fn run_task(&mut self, task: &mut Task, deadline_ns: u64) -> TurnEnd {
        if let Some(call) = task.waits_to.take()
            && let Some(end) = self.answer(task, call)
        {
            return end;
        }
        loop {
            let exit = match task.space.enter(&mut task.thread, deadline_ns) {
                Ok(exit) => exit,
                Err(error) => return TurnEnd::Ended(Fate::BadRegisters(error)),
            };
            match exit {
                Exit::Interrupt => return TurnEnd::Interrupted,
                Exit::Fault(fault) => return TurnEnd::Ended(Fate::Fault(fault)),
                Exit::Exception { exception, .. } => return TurnEnd::Ended(Fate::Exception(exception)),
                Exit::Instruction => match Call::of(&task.thread.registers) {
                    Err(number) => return TurnEnd::Ended(Fate::UndefinedCall(number)),
                    Ok(call) => {
                        self.counts.calls += 1;
                        if let Some(end) = self.answer(task, call) {
                            return end;
                        }
                    }
                },
            }
        }
    }

    /// Makes a task's call, and gives it the result. `None` if it goes on.
    fn answer(&mut self, task: &mut Task, call: Call) -> Option<TurnEnd> {
        let (result, end) = match self.perform(task, call) {
            Ok(Answer::Value(value)) => (value, None),
            Err(error) => (error.to_word(), None),
            Ok(Answer::Yield) => (0, Some(TurnEnd::Yielded)),
            Ok(Answer::Sleep(until_ns)) => (0, Some(TurnEnd::Sleeps(until_ns))),
            Ok(Answer::Exit(status)) => (0, Some(TurnEnd::Ended(Fate::Exited(status)))),
            Ok(Answer::Wait) => {
                task.waits_to = Some(call);
                return Some(TurnEnd::Waits);
            }
        };
        task.thread.registers.rax = result;
        end
    }

    /// Something has changed that a task may wait for: all look again.
    pub(crate) fn has_changed(&mut self) {
        self.ready.extend(core::mem::take(&mut self.waiting));
    }

    /// Makes those ready that have slept long enough.
    fn wake(&mut self) {
        let now = self.now_ns();
        while let Some(&(until_ns, pid)) = self.sleeping.first().filter(|(until_ns, _)| *until_ns <= now) {
            self.sleeping.remove(&(until_ns, pid));
            self.ready.push_back(pid);
        }
    }

    /// Nobody runs and nobody sleeps: nothing can change for those that wait.
    fn kill_all_that_wait(&mut self) {
        for pid in core::mem::take(&mut self.waiting) {
            if let Some(task) = self.tasks.remove(&pid) {
                self.end(task, Fate::Stuck);
            }
        }
    }

    /// A task is no more: its memory and its handles go with it.
    fn end(&mut self, mut task: Task, fate: Fate) {
        self.flush(&mut task);
        if self.settings.say >= Say::Ends {
            (self.say)(&format!("{} {}: {fate}\n", task.pid, task.label));
        }
        let usage = task.space.usage();
        self.counts.misses += usage.misses;
        self.counts.fills += usage.fills;
        self.counts.ends.add(fate);
        let parent = task.parent.and_then(|parent| self.tasks.get_mut(&parent));
        if let Some(status) = parent.and_then(|parent| parent.children.get_mut(&task.pid)) {
            *status = Some(fate.status());
        }
        drop(task);
        self.has_changed();
    }

    /// Prints for a task, whole lines, each with its name before it.
    pub(crate) fn print(&mut self, task: &mut Task, bytes: &[u8]) {
        for &byte in bytes.iter().take(MAX_PRINTED.saturating_sub(task.printed)) {
            task.printed += 1;
            if byte != b'\n' {
                task.line.push(byte);
            }
            if byte == b'\n' || task.line.len() == MAX_LINE {
                self.flush(task);
            }
        }
    }

    fn flush(&mut self, task: &mut Task) {
        let line = core::mem::take(&mut task.line);
        if !line.is_empty() && self.settings.say >= Say::All {
            // What a program prints can be anything, and must not look like a message of anybody else.
            let text: String =
                line.iter().map(|&b| if (b' '..=b'~').contains(&b) { char::from(b) } else { '?' }).collect();
            (self.say)(&format!("{} {}| {text}\n", task.pid, task.label));
        }
    }

    /// The pages that tasks have.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The machine's clock.
    pub(crate) fn now_ns(&self) -> u64 {
        Instant::now().as_nanos()
    }
}
