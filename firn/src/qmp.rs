//! The emulator's control socket: questions and answers in JSON, one a line (QMP).
//!
//! The emulator listens to one client at a time and others wait in line, so each says what it wants and goes. The
//! socket is a file: it does not matter in which network namespace the emulator is.

use crate::error::{Error, Result};
use crate::machine::files;
use crate::swap::DRIVE;
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the emulator may take for all of a conversation.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take to quit.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// What has gone to and from a disk, as the emulator counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DiskStatistics {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes they read.
    pub read_bytes: u64,
    /// Bytes they wrote.
    pub write_bytes: u64,
}

/// The statistics of the swap disk of the machine in a folder.
///
/// # Errors
/// `Failed` if the emulator does not answer in time, or not with those.
pub fn swap_statistics(folder: &Path) -> Result<DiskStatistics> {
    let talk = || {
        let mut client = Client::start(connect(folder, files::QMP_SOCKET)?, TIMEOUT)?;
        let answer = client.ask("query-blockstats")?;
        statistics_of(&answer, DRIVE).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("it knows no statistics of a disk {DRIVE:?}: {answer}"))
        })
    };
    talk().map_err(|error| {
        let socket = folder.join(files::QMP_SOCKET);
        Error::failed(
            format!("the emulator does not say what the swap disk did ({}): {error}", socket.display()),
            "try again; `firn ps` says whether the machine is up",
        )
    })
}

/// The statistics of a disk in an answer to `query-blockstats`.
fn statistics_of(answer: &Value, drive: &str) -> Option<DiskStatistics> {
    let disk = answer.as_array()?.iter().find(|disk| disk["device"] == drive)?;
    let number = |name: &str| disk["stats"][name].as_u64();
    Some(DiskStatistics {
        reads: number("rd_operations")?,
        writes: number("wr_operations")?,
        read_bytes: number("rd_bytes")?,
        write_bytes: number("wr_bytes")?,
    })
}

/// A conversation with the emulator.
struct Client {
    socket: UnixStream,
    lines: BufReader<UnixStream>,
    end: Instant,
}

impl Client {
    /// Waits for the emulator's greeting, and returns it.
    fn start(socket: UnixStream, timeout: Duration) -> io::Result<Self> {
        let lines = BufReader::new(socket.try_clone()?);
        let mut client = Self { socket, lines, end: Instant::now() + timeout };
        let greeting = client.receive()?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it greets with {greeting}")));
        }
        client.ask("qmp_capabilities")?;
        Ok(client)
    }

    /// Gives a command and gets what it returns.
    fn ask(&mut self, command: &str) -> io::Result<Value> {
        self.socket.set_write_timeout(Some(self.time_left()?))?;
        self.socket.write_all(format!("{}\n", json!({"execute": command})).as_bytes())?;
        loop {
            // What has happened to the machine is told in between.
            let mut answer = self.receive()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(format!("{command}: {}", error["desc"].as_str().unwrap_or("refused"))));
            }
        }
    }

    fn receive(&mut self) -> io::Result<Value> {
        self.socket.set_read_timeout(Some(self.time_left()?))?;
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(serde_json::from_str(&line)?),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(late()),
            Err(error) => Err(error),
        }
    }

    fn time_left(&self) -> io::Result<Duration> {
        self.end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or_else(late)
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// Connects to a socket in a folder whose path may be longer than a socket's address can be.
fn connect(folder: &Path, socket: &str) -> io::Result<UnixStream> {
    let folder = File::open(folder)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{socket}", folder.as_raw_fd()))
}

/// Tells the emulator to quit, without the machine's help.
///
/// # Errors
/// `Io` if it does not listen.
pub fn quit(folder: &Path) -> Result<()> {
    let file = folder.join(files::QMP_SOCKET);
    let talk = || {
        let mut socket = connect(folder, files::QMP_SOCKET)?;
        socket.set_read_timeout(Some(QUIT_TIMEOUT))?;
        socket.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n")?;
        // It answers, then closes, or resets the connection as it goes.
        let _ = socket.read_to_end(&mut Vec::new());
        Ok(())
    };
    talk().map_err(Error::io("talk to the emulator at", &file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": []}}"#;
    const DONE: &str = r#"{"return": {}}"#;
    const EVENT: &str = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}"#;
    const STATISTICS: &str = r##"{"return": [
        {"device": "other", "stats": {"rd_operations": 9, "wr_operations": 9, "rd_bytes": 9, "wr_bytes": 9}},
        {"device": "swap", "parent": {"stats": {"rd_operations": 8, "wr_operations": 8, "rd_bytes": 8, "wr_bytes": 8}},
         "stats": {"wr_bytes": 40960, "rd_merged": 0, "wr_operations": 3, "rd_bytes": 8192, "rd_operations": 2},
         "node-name": "#block105"}]}"##;

    fn one_line(text: &str) -> String {
        text.replace('\n', " ")
    }

    /// An emulator that says these lines, each after the first when it was asked something, at a socket in a folder.
    fn emulator(folder: &Path, lines: &[&str]) -> std::thread::JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(folder.join(files::QMP_SOCKET)).unwrap();
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut questions = BufReader::new(socket.try_clone().unwrap()).lines();
            let mut asked = Vec::new();
            for (n, line) in lines.iter().enumerate() {
                if n > 0 {
                    asked.extend(questions.next().transpose().ok().flatten());
                }
                socket.write_all(format!("{line}\r\n").as_bytes()).unwrap();
            }
            // It hears what it does not answer, and goes only then.
            asked.extend(questions.next().transpose().ok().flatten());
            asked
        })
    }

    #[test]
    fn statistics_are_those_of_the_swap_disk() {
        let folder = tempfile::tempdir().unwrap();
        let with_event = format!("{EVENT}\r\n{}", one_line(STATISTICS));
        let emulator = emulator(folder.path(), &[GREETING, DONE, &with_event]);
        let expected = DiskStatistics { reads: 2, writes: 3, read_bytes: 8192, write_bytes: 40960 };
        assert_eq!(swap_statistics(folder.path()).unwrap(), expected);
        let asked = emulator.join().unwrap();
        assert_eq!(asked, [r#"{"execute":"qmp_capabilities"}"#, r#"{"execute":"query-blockstats"}"#]);
    }

    #[test]
    fn bad_answers_are_errors() {
        let cases: [(&[&str], &str); 6] = [
            (&["SSH-2.0"], "expected value"),
            (&[DONE], "it greets with"),
            (&[GREETING], "end of file"),
            (&[GREETING, DONE, r#"{"error": {"class": "GenericError", "desc": "not now"}}"#], "not now"),
            (&[GREETING, DONE, r#"{"return": []}"#], "no statistics of a disk \"swap\""),
            (&[GREETING, DONE, r#"{"return": [{"device": "swap", "stats": {"rd_operations": -1}}]}"#], "no statistics"),
        ];
        for (lines, words) in cases {
            let folder = tempfile::tempdir().unwrap();
            let emulator = emulator(folder.path(), lines);
            let message = swap_statistics(folder.path()).unwrap_err().to_string();
            assert!(message.contains(words), "{lines:?}: {message}");
            emulator.join().unwrap();
        }
        let nobody = tempfile::tempdir().unwrap();
        assert!(swap_statistics(nobody.path()).is_err());
    }

    #[test]
    fn nobody_waits_for_an_emulator_that_says_nothing() {
        let (socket, other) = UnixStream::pair().unwrap();
        let begun = Instant::now();
        let error = Client::start(socket, Duration::from_millis(50)).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(5));
        drop(other);
        // Nor for one that talks of other things for ever.
        let (socket, mut other) = UnixStream::pair().unwrap();
        let talker = std::thread::spawn(move || {
            let mut say = |line: &str| other.write_all(format!("{line}\n").as_bytes());
            say(GREETING).and_then(|()| say(DONE)).unwrap();
            while say(EVENT).is_ok() {}
        });
        let mut client = Client::start(socket, Duration::from_millis(200)).unwrap();
        assert_eq!(client.ask("query-blockstats").unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(client);
        talker.join().unwrap();
    }

    #[test]
    fn sockets_with_long_paths_can_be_reached() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let handle = File::open(&deep).unwrap();
        let address = format!("/proc/self/fd/{}/s", handle.as_raw_fd());
        let _listener = UnixListener::bind(address).unwrap();
        assert!(connect(&deep, "s").is_ok());
        assert!(connect(&deep, "t").is_err());
    }
}
