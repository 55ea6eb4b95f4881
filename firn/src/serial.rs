//! The serial line: what its lines mean, and asking the supervisor over it.

use crate::down;
use crate::error::{Error, Result};
use crate::logs::Tail;
use crate::machine::{Machine, files};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// Who a line is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The kernel's log.
    Kernel {
        /// Its level.
        level: &'a str,
        /// What it says.
        text: &'a str,
    },
    /// The console of a VM.
    Vm {
        /// Which.
        vm: u32,
        /// What it says.
        text: &'a str,
    },
    /// Neither.
    Other,
}

impl<'a> Line<'a> {
    /// Reads a line, such as `[    1.234567] vm 7| text`.
    #[must_use]
    pub fn parse(line: &'a str) -> Self {
        Self::parse_stamped(line).unwrap_or(Self::Other)
    }

    fn parse_stamped(line: &'a str) -> Option<Self> {
        let (stamp, rest) = line.strip_prefix('[')?.split_once("] ")?;
        if stamp.is_empty() || !stamp.chars().all(|c| c.is_ascii_digit() || c == '.' || c == ' ') {
            return None;
        }
        if let Some((vm, text)) = rest.strip_prefix("vm ").and_then(|rest| rest.split_once('|'))
            && let Ok(vm) = vm.parse()
        {
            return Some(Self::Vm { vm, text: text.strip_prefix(' ').unwrap_or(text) });
        }
        let (level, text) = rest.split_once(' ')?;
        let text = if level.len() == 4 { text.strip_prefix(' ').unwrap_or(text) } else { text };
        matches!(level, "error" | "warn" | "info" | "debug").then_some(Self::Kernel { level, text })
    }

    /// The VM that a line is from or about.
    #[must_use]
    pub fn vm(&self) -> Option<u32> {
        match self {
            Self::Vm { vm, .. } => Some(*vm),
            Self::Kernel { text, .. } => text.strip_prefix("vm ")?.split([' ', ':']).next()?.parse().ok(),
            Self::Other => None,
        }
    }

    /// What it says, if the supervisor says it.
    #[must_use]
    pub const fn supervisor(&self) -> Option<&'a str> {
        match self {
            Self::Vm { vm: 0, text } => Some(text),
            _ => None,
        }
    }
}

/// Splits what comes in pieces into lines.
#[derive(Debug, Default)]
pub struct Splitter(Vec<u8>);

impl Splitter {
    /// Takes a piece and gives the lines it completes.
    pub fn push(&mut self, piece: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(piece);
        let Some(last) = self.0.iter().rposition(|&b| b == b'\n') else { return Vec::new() };
        let rest = self.0.split_off(last + 1);
        let whole = std::mem::replace(&mut self.0, rest);
        let lines = whole[..last].split(|&b| b == b'\n');
        lines.map(|line| String::from_utf8_lossy(line).trim_end_matches('\r').to_owned()).collect()
    }
}

/// How often the log is looked at for an answer.
const LOOK: Duration = Duration::from_millis(5);

/// How long it takes, once the emulator is gone, until it is known how it ended.
const SOON: Duration = Duration::from_secs(3);

/// Writes a line to the supervisor and gives the rest of the first line it prints that starts with `answer`.
///
/// # Errors
/// `Failed` if it does not answer in time, or answers with an error; `Io`.
pub fn ask(machine: &Machine, question: &str, answer: &str, timeout: Duration) -> Result<String> {
    let mut conversation = Conversation::start(machine, timeout)?;
    conversation.say(question)?;
    let line = conversation.wait(|text| text.starts_with(answer), "")?;
    Ok(line[answer.len()..].trim().to_owned())
}

/// Questions to the supervisor, and what it prints after the first of them.
#[derive(Debug)]
pub struct Conversation<'a> {
    machine: &'a Machine,
    tail: Tail,
    /// Lines that have been printed and not been looked at.
    printed: VecDeque<String>,
    /// Held while nobody else may ask.
    turn: Option<File>,
    timeout: Duration,
    end: Instant,
}

impl<'a> Conversation<'a> {
    /// Waits for its turn. All of the conversation may take so long.
    ///
    /// # Errors
    /// `Failed` if others use the line all the time; `Io`.
    pub fn start(machine: &'a Machine, timeout: Duration) -> Result<Self> {
        let end = Instant::now() + timeout;
        let turn = Some(take_turn(machine, end)?);
        let tail = Tail::open_at_end(&machine.file(files::SERIAL_LOG))?;
        Ok(Self { machine, tail, printed: VecDeque::new(), turn, timeout, end })
    }

    /// Writes a line to the supervisor.
    ///
    /// # Errors
    /// `Io`.
    pub fn say(&self, line: &str) -> Result<()> {
        write_line(self.machine, line)
    }

    /// Lets others ask, while this one goes on listening.
    pub fn give_way(&mut self) {
        self.turn = None;
    }

    /// Waits for a line of the supervisor's, or for an error of it that begins so.
    ///
    /// # Errors
    /// `Failed` with that error, if it says nothing of this in time, or if the machine ends; `Io`.
    pub fn wait(&mut self, is_answer: impl Fn(&str) -> bool, error: &str) -> Result<String> {
        loop {
            // In this order: what a machine says before it ends is in the log when its end is seen.
            let is_over = !self.machine.is_alive();
            self.printed.extend(self.tail.lines()?);
            while let Some(line) = self.printed.pop_front() {
                let Some(text) = Line::parse(&line).supervisor() else { continue };
                if is_answer(text) {
                    return Ok(text.to_owned());
                }
                if let Some(problem) = text.strip_prefix("error: ").filter(|problem| problem.starts_with(error)) {
                    return Err(Error::failed(format!("the supervisor says: {problem}"), ""));
                }
            }
            let name = &self.machine.record.name;
            if is_over {
                down::wait(self.machine, SOON);
                let problem = format!("machine {name:?} has ended: {}", self.machine.meaning());
                return Err(Error::failed(problem, format!("`firn logs --name {name}` shows why")));
            }
            if Instant::now() >= self.end {
                let seconds = self.timeout.as_secs();
                return Err(Error::failed(
                    format!("the supervisor of machine {name:?} did not answer within {seconds} s"),
                    format!("`firn logs --name {name} 0` shows what it is doing"),
                ));
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Writes a line to the supervisor and expects no answer.
///
/// # Errors
/// `Io`.
pub fn tell(machine: &Machine, line: &str, timeout: Duration) -> Result<()> {
    let _turn = take_turn(machine, Instant::now() + timeout)?;
    write_line(machine, line)
}

/// Types a line. If the emulator is gone this fails at once, as nobody reads.
fn write_line(machine: &Machine, line: &str) -> Result<()> {
    let path = machine.file(files::SERIAL_IN);
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
    let mut pipe = options.open(&path).map_err(Error::io("write to", &path))?;
    pipe.write_all(format!("{line}\n").as_bytes()).map_err(Error::io("write to", &path))
}

/// One question at a time, so that its answer is not taken for another's.
fn take_turn(machine: &Machine, end: Instant) -> Result<File> {
    let path = machine.file(files::SERIAL_LOCK);
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    while file.try_lock().is_err() {
        if Instant::now() >= end {
            return Err(Error::failed("other firn commands are using the machine's serial line", "try again"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_who_they_are_from() {
        let parse = Line::parse;
        assert_eq!(parse("[    1.234567] info  text here"), Line::Kernel { level: "info", text: "text here" });
        assert_eq!(parse("[    1.234567] error text"), Line::Kernel { level: "error", text: "text" });
        assert_eq!(parse("[12345.234567] vm 7| hello | you"), Line::Vm { vm: 7, text: "hello | you" });
        assert_eq!(parse("[    1.234567] vm 0| "), Line::Vm { vm: 0, text: "" });
        for other in ["", "[", "[1.2", "[x] info text", "[    1.2] vm x| t", "SeaBIOS (version 1)", "[] info  x"] {
            assert_eq!(parse(other), Line::Other, "{other}");
        }
        assert_eq!(parse("[    1.0] vm 0| fleet x: 3 VMs started").supervisor(), Some("fleet x: 3 VMs started"));
        assert_eq!(parse("[    1.0] vm 1| fleet x: 3 VMs started").supervisor(), None);
    }

    #[test]
    fn reports_belong_to_their_vm() {
        let vm = |line| Line::parse(line).vm();
        assert_eq!(vm("[    1.0] warn  vm 7 ended: memory violation: write to 0x0"), Some(7));
        assert_eq!(vm("[    1.0] warn  vm 7   backtrace 0x20abc"), Some(7));
        assert_eq!(vm("[    1.0] vm 8| vm 7 ended"), Some(8));
        assert_eq!(vm("[    1.0] warn  vms 7"), None);
    }

    #[test]
    fn pieces_become_lines() {
        let mut splitter = Splitter::default();
        assert!(splitter.push(b"one").is_empty());
        assert_eq!(splitter.push(b" line\r\nsecond\nth"), ["one line", "second"]);
        assert_eq!(splitter.push(b"ird\n"), ["third"]);
    }
}
