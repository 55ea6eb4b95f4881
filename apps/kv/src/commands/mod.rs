//! What each command does. A command either does all it says or refuses and changes nothing.

mod keys;
mod server;
mod strings;

use crate::Settings;
use crate::resp::{Arguments, NoRoom, Replies};
use crate::store::{Full, MAX_KEY_BYTES, Store};
use core::cell::Cell;
use libos::time::Instant;

/// What is counted.
#[derive(Debug)]
pub struct Counters {
    /// When counting began.
    pub since: Instant,
    /// Clients that are connected.
    pub clients: Cell<usize>,
    /// Connections that were accepted.
    pub connections: Cell<u64>,
    /// Connections that were refused, as there were too many.
    pub refused: Cell<u64>,
    /// Commands that were executed.
    pub commands: Cell<u64>,
    /// Keys that were asked for and there.
    pub hits: Cell<u64>,
    /// Keys that were asked for and not there.
    pub misses: Cell<u64>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            clients: Cell::default(),
            connections: Cell::default(),
            refused: Cell::default(),
            commands: Cell::default(),
            hits: Cell::default(),
            misses: Cell::default(),
        }
    }
}

/// Adds one.
pub fn count(counter: &Cell<u64>) {
    counter.set(counter.get().wrapping_add(1));
}

/// What a command works on.
#[derive(Debug)]
pub struct Context<'a> {
    /// The keys.
    pub store: &'a mut Store,
    /// Where replies go.
    pub replies: &'a mut Replies,
    /// What is counted.
    pub counters: &'a Counters,
    /// Limits.
    pub settings: &'a Settings,
    /// Milliseconds of the machine's clock.
    pub now: u64,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It goes on.
    Continue,
    /// It ends when the replies are written.
    Close,
}

/// Why a command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// Arguments that are too few or too many.
    Arity,
    /// Words that make no sense there.
    Syntax,
    /// Something else than a number.
    NotInteger,
    /// The sum is too large to be a number.
    Overflow,
    /// The time to live is none.
    Expire,
    /// The key is too long.
    Key,
    /// No room for the data.
    Full,
    /// No room for the reply.
    NoRoom(usize),
    /// Anything else.
    Other(&'static str),
}

impl From<Full> for Refusal {
    fn from(Full: Full) -> Self {
        Self::Full
    }
}

impl From<NoRoom> for Refusal {
    fn from(NoRoom(bytes): NoRoom) -> Self {
        Self::NoRoom(bytes)
    }
}

type Outcome = Result<(), Refusal>;

/// One command.
struct Command {
    /// Its name, in small letters.
    name: &'static str,
    /// How many arguments it takes with its name; at least so many if negative.
    arity: i8,
    /// What clients and proxies are told of it.
    flags: &'static [&'static str],
    /// The first and last argument that is a key, and the step between two; 0 if there is none.
    keys: (i8, i8, i8),
    run: fn(&mut Context<'_>, &mut Arguments<'_>) -> Outcome,
}

const READ: &[&str] = &["readonly", "fast"];
const WRITE: &[&str] = &["write", "denyoom", "fast"];
const FREE: &[&str] = &["write", "fast"];
const SLOW: &[&str] = &["readonly"];
const NO_DATA: &[&str] = &["loading", "stale", "fast"];
const NONE: (i8, i8, i8) = (0, 0, 0);
const ONE: (i8, i8, i8) = (1, 1, 1);
const ALL: (i8, i8, i8) = (1, -1, 1);

macro_rules! commands {
    ($($name:literal $arity:literal $flags:ident $keys:expr, $run:path;)*) => {
        &[$(Command { name: $name, arity: $arity, flags: $flags, keys: $keys, run: $run }),*]
    };
}

/// All of them. The first ones are asked for most.
static COMMANDS: &[Command] = commands! {
    "get" 2 READ ONE, strings::get;
    "set" -3 WRITE ONE, strings::set;
    "incr" 2 WRITE ONE, strings::incr;
    "mget" -2 READ ALL, strings::mget;
    "mset" -3 WRITE (1, -1, 2), strings::mset;
    "del" -2 FREE ALL, keys::del;
    "exists" -2 READ ALL, keys::exists;
    "expire" 3 WRITE ONE, keys::expire;
    "ttl" 2 READ ONE, keys::ttl;
    "append" 3 WRITE ONE, strings::append;
    "command" -1 NO_DATA NONE, server::command;
    "config" -2 NO_DATA NONE, server::config;
    "dbsize" 1 READ NONE, keys::dbsize;
    "decr" 2 WRITE ONE, strings::decr;
    "decrby" 3 WRITE ONE, strings::decrby;
    "echo" 2 NO_DATA NONE, server::echo;
    "flushall" -1 FREE NONE, keys::flush;
    "flushdb" -1 FREE NONE, keys::flush;
    "getdel" 2 FREE ONE, strings::getdel;
    "hello" -1 NO_DATA NONE, server::hello;
    "incrby" 3 WRITE ONE, strings::incrby;
    "info" -1 NO_DATA NONE, server::info;
    "keys" 2 SLOW NONE, keys::keys;
    "persist" 2 FREE ONE, keys::persist;
    "pexpire" 3 WRITE ONE, keys::pexpire;
    "ping" -1 NO_DATA NONE, server::ping;
    "pttl" 2 READ ONE, keys::pttl;
    "quit" -1 NO_DATA NONE, server::quit;
    "scan" -2 SLOW NONE, keys::scan;
    "select" 2 NO_DATA NONE, server::select;
    "setnx" 3 WRITE ONE, strings::setnx;
    "strlen" 2 READ ONE, strings::strlen;
    "type" 2 READ ONE, keys::kind;
    "unlink" -2 FREE ALL, keys::del;
};

fn find(name: &[u8]) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name.as_bytes().eq_ignore_ascii_case(name))
}

/// Executes a request, and replies to it.
///
/// # Errors
/// [`NoRoom`] if the reply does not fit and could fit with more room. Nothing was changed, and nothing replied.
pub fn execute(context: &mut Context<'_>, mut arguments: Arguments<'_>) -> Result<Flow, NoRoom> {
    let nr_arguments = arguments.len();
    // An empty request.
    let Some(name) = arguments.next() else { return Ok(Flow::Continue) };
    let Some(command) = find(name) else {
        let name = name.get(..64).unwrap_or(name).escape_ascii();
        context.replies.error(format_args!("ERR unknown command '{name}'"));
        return Ok(Flow::Continue);
    };
    let least = usize::from(command.arity.unsigned_abs());
    let is_right = if command.arity < 0 { nr_arguments >= least } else { nr_arguments == least };
    let outcome = if is_right { (command.run)(context, &mut arguments) } else { Err(Refusal::Arity) };
    let replies = &mut *context.replies;
    let name = command.name;
    match outcome {
        Ok(()) => {}
        Err(Refusal::NoRoom(bytes)) => return Err(NoRoom(bytes)),
        Err(Refusal::Arity) => replies.error(format_args!("ERR wrong number of arguments for '{name}' command")),
        Err(Refusal::Syntax) => replies.error("ERR syntax error"),
        Err(Refusal::NotInteger) => replies.error("ERR value is not an integer or out of range"),
        Err(Refusal::Overflow) => replies.error("ERR increment or decrement would overflow"),
        Err(Refusal::Expire) => replies.error(format_args!("ERR invalid expire time in '{name}' command")),
        Err(Refusal::Key) => replies.error(format_args!("ERR the key is longer than {MAX_KEY_BYTES} bytes")),
        Err(Refusal::Full) => replies.error("OOM command not allowed when used memory > 'maxmemory'."),
        Err(Refusal::Other(message)) => replies.error(message),
    }
    Ok(if name == "quit" && outcome.is_ok() { Flow::Close } else { Flow::Continue })
}

/// The next argument. There is one: the command's arity was checked, and what is optional is asked for otherwise.
fn next<'a>(arguments: &mut Arguments<'a>) -> Result<&'a [u8], Refusal> {
    arguments.next().ok_or(Refusal::Arity)
}

/// The next argument, which is a key.
fn next_key<'a>(arguments: &mut Arguments<'a>) -> Result<&'a [u8], Refusal> {
    next(arguments).and_then(check_key)
}

fn check_key(key: &[u8]) -> Result<&[u8], Refusal> {
    if key.len() > MAX_KEY_BYTES { Err(Refusal::Key) } else { Ok(key) }
}

/// The next argument, which is a number.
fn next_number(arguments: &mut Arguments<'_>) -> Result<i64, Refusal> {
    crate::resp::number(next(arguments)?).ok_or(Refusal::NotInteger)
}

/// Whether an argument is this word, in letters of any size.
fn is(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}
