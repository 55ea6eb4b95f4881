//! `firn ask`: a line for the supervisor's console, and the line it answers with.
//!
//! Most commands are answered at once. What takes long is done in the background, and the machine's serial line is
//! free for other questions meanwhile: the answer is then known by how it begins.

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::project::Project;
use crate::serial::Conversation;
use std::time::Duration;

/// Longest line that may be typed, in bytes: no command needs as much.
const MAX_LINE_BYTES: usize = 200;

/// How the supervisor answers a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    /// How its answer begins.
    begins: &'static str,
    /// How an error of it begins that is said later; `None` if it answers at once.
    late_error: Option<&'static str>,
}

impl Answer {
    /// The answer to a command; for one that the supervisor does not know, an error is all there can be.
    fn to(line: &str) -> Self {
        let at_once = |begins| Self { begins, late_error: None };
        match *line.split(' ').collect::<Vec<_>>() {
            ["status", ..] => at_once("status {"),
            ["memory", ..] => at_once("memory {"),
            ["vm", ..] => at_once("vm {"),
            ["vm-memory", ..] => at_once("vm-memory {"),
            ["vm-time", ..] => at_once("vm-time {"),
            ["park", vms, ..] if vms != "all" && !vms.contains('-') => at_once("parked vm "),
            ["park", ..] => Self { begins: "parked ", late_error: Some("park: ") },
            ["pause", ..] => at_once("paused vm "),
            ["start", ..] => at_once("started vm "),
            ["churn", ..] => Self { begins: "churn {", late_error: Some("churn: ") },
            ["storm", ..] => Self { begins: "storm {", late_error: Some("storm: ") },
            ["race", ..] => Self { begins: "race {", late_error: Some("race: ") },
            ["down", ..] => at_once("going down"),
            _ => at_once("\n"),
        }
    }

    /// Whether a line is it. One that was parked alone is not what a command for many says.
    fn is(self, text: &str) -> bool {
        let is_another = self.late_error.is_some() && text.starts_with("parked vm ");
        text.starts_with(self.begins) && !is_another
    }
}

/// Asks, and waits for the answer.
///
/// # Errors
/// `NoMachine`, `Argument` if it cannot be typed, `Failed` with the supervisor's error or if it does not answer.
pub fn ask(project: &Project, name: &str, words: &[String], timeout: Duration) -> Result<String> {
    let line = line(words)?;
    let machine = Machine::open_alive(project, name)?;
    let answer = Answer::to(&line);
    let mut conversation = Conversation::start(&machine, timeout)?;
    conversation.say(&line)?;
    let Some(late_error) = answer.late_error else {
        let said = conversation.wait(|text| answer.is(text), "");
        // It is gone before it can say so.
        let is_down = line == "down" && said.is_err() && !machine.is_alive();
        return if is_down { Ok(format!("machine {name}: {}", machine.meaning())) } else { said };
    };
    // What it refuses at once it refuses before it answers anything else; after that the line is free for others.
    conversation.say("status")?;
    let said = conversation.wait(|text| answer.is(text) || text.starts_with("status {"), "")?;
    if answer.is(&said) {
        return Ok(said);
    }
    conversation.give_way();
    conversation.wait(|text| answer.is(text), late_error)
}

/// The line to type.
fn line(words: &[String]) -> Result<String> {
    let line = words.iter().flat_map(|word| word.split(' ')).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
    let problem = if line.is_empty() {
        "it is empty".to_owned()
    } else if line.len() > MAX_LINE_BYTES {
        format!("it is longer than {MAX_LINE_BYTES} bytes")
    } else if !line.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        format!("{line:?} has characters that cannot be typed")
    } else {
        return Ok(line);
    };
    let remedy = "give a command of the supervisor's, such as status or park all disk".into();
    Err(Error::Argument { argument: "COMMAND", problem, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_typed_as_given() {
        for (given, typed) in
            [("status", "status"), ("park/all/disk", "park all disk"), ("park all/ disk", "park all disk")]
        {
            assert_eq!(line(&words(given)).unwrap(), typed);
        }
        for bad in ["", " ", "status\ndown", "vm\t1", "vm é", "vm \u{1b}[A", &"x".repeat(201)] {
            let error = line(&words(bad)).unwrap_err();
            assert_eq!(error.status(), crate::error::STATUS_BAD_INPUT, "{bad:?}");
        }
    }

    #[test]
    fn each_command_knows_its_answer() {
        for (line, answer) in [
            ("status", "status {\"vms\":1}"),
            ("memory", "memory {\"free_pages\":1}"),
            ("vm 7", "vm {\"vm\":7}"),
            ("vm-memory 7", "vm-memory {\"vm\":7}"),
            ("vm-time 7", "vm-time {\"vm\":7}"),
            ("park 7", "parked vm 7"),
            ("park all disk", "parked 7 VMs"),
            ("park 1-7", "parked 0 VMs"),
            ("pause 7", "paused vm 7"),
            ("start 7", "started vm 7"),
            ("churn 11 7", "churn {\"first\":11}"),
            ("down", "going down"),
        ] {
            assert!(Answer::to(line).is(answer), "{line}");
            // What others ask meanwhile, and what the supervisor says of itself.
            for other in ["fleet web: 7 VMs started", "vm 7 sent a frame", "", "error: no", "vm"] {
                assert!(!Answer::to(line).is(other), "{line}: {other}");
            }
        }
        assert!(!Answer::to("park all").is("parked vm 7"));
        assert!(!Answer::to("park 7").is("parked 7 VMs"));
        assert!(!Answer::to("prak all").is("parked 7 VMs"));
    }
}
