//! Commands about the server and the connection.

use super::{COMMANDS, Command, Context, Outcome, Refusal, find, is, next};
use crate::glob;
use crate::resp::{Arguments, Replies, number};
use alloc::format;
use alloc::string::String;

/// `PING [message]`
pub(super) fn ping(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    match arguments.len() {
        0 => {
            context.replies.simple("PONG");
            Ok(())
        }
        1 => echo(context, arguments),
        _ => Err(Refusal::Arity),
    }
}

/// `ECHO message`
pub(super) fn echo(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let message = next(arguments)?;
    context.replies.reserve(Replies::bulk_bytes(message.len()))?;
    context.replies.bulk(message);
    Ok(())
}

/// `QUIT`
pub(super) fn quit(context: &mut Context<'_>, _: &mut Arguments<'_>) -> Outcome {
    context.replies.simple("OK");
    Ok(())
}

/// `SELECT 0`: there is one database.
pub(super) fn select(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    match number(next(arguments)?) {
        Some(0) => context.replies.simple("OK"),
        Some(_) => return Err(Refusal::Other("ERR DB index is out of range")),
        None => return Err(Refusal::Other("ERR invalid DB index")),
    }
    Ok(())
}

/// `HELLO [2]`: what is spoken here.
pub(super) fn hello(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    match arguments.next() {
        None => {}
        Some(b"2") if arguments.len() == 0 => {}
        Some(b"2") => return Err(Refusal::Syntax),
        Some(_) => return Err(Refusal::Other("NOPROTO unsupported protocol version")),
    }
    let replies = &mut *context.replies;
    let words = [("server", "firn-kv"), ("version", env!("CARGO_PKG_VERSION")), ("mode", "standalone")];
    replies.array(2 * words.len() + 2);
    for (name, value) in words {
        replies.bulk(name.as_bytes());
        replies.bulk(value.as_bytes());
    }
    replies.bulk(b"proto");
    replies.integer(2);
    Ok(())
}

/// `CONFIG GET name...`: what is set, under the names that clients look for.
pub(super) fn config(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    if !is(next(arguments)?, "get") {
        return Err(Refusal::Other("ERR what is set follows from the VM's arguments: only CONFIG GET is there"));
    }
    if arguments.len() == 0 {
        return Err(Refusal::Arity);
    }
    let settings = context.settings;
    let all = [
        ("maxmemory", format!("{}", settings.max_memory)),
        ("maxclients", format!("{}", settings.max_clients)),
        ("timeout", format!("{}", settings.idle_timeout.as_secs())),
        ("maxmemory-policy", "noeviction".into()),
        ("databases", "1".into()),
        ("save", String::new()),
        ("appendonly", "no".into()),
    ];
    let is_asked = |name: &str| arguments.clone().any(|pattern| glob::matches(pattern, name.as_bytes()));
    let asked = || all.iter().filter(|(name, _)| is_asked(name));
    context.replies.array(2 * asked().count());
    for (name, value) in asked() {
        context.replies.bulk(name.as_bytes());
        context.replies.bulk(value.as_bytes());
    }
    Ok(())
}

/// `COMMAND [COUNT | DOCS | INFO name...]`
pub(super) fn command(context: &mut Context<'_>, arguments: &mut Arguments<'_>) -> Outcome {
    let replies = &mut *context.replies;
    match arguments.next() {
        None => {
            replies.reserve(COMMANDS.len() * ENTRY_BYTES)?;
            replies.array(COMMANDS.len());
            COMMANDS.iter().for_each(|command| describe(replies, command));
        }
        Some(word) if is(word, "count") => replies.count(COMMANDS.len()),
        // The documentation of commands is not in the image: nothing is said about any of them.
        Some(word) if is(word, "docs") => replies.array(0),
        Some(word) if is(word, "info") => {
            replies.reserve((arguments.len() + 1) * ENTRY_BYTES)?;
            replies.array(arguments.len());
            for name in arguments {
                match find(name) {
                    Some(command) => describe(replies, command),
                    None => replies.nil(),
                }
            }
        }
        Some(_) => return Err(Refusal::Other("ERR unknown subcommand of COMMAND")),
    }
    Ok(())
}

/// Most bytes that [`describe`] writes.
const ENTRY_BYTES: usize = 128;

fn describe(replies: &mut Replies, command: &Command) {
    replies.array(6);
    replies.bulk(command.name.as_bytes());
    replies.integer(command.arity.into());
    replies.array(command.flags.len());
    command.flags.iter().for_each(|flag| replies.simple(flag));
    let (first, last, step) = command.keys;
    [first, last, step].into_iter().for_each(|n| replies.integer(n.into()));
}

/// `INFO [section...]`: always all sections.
pub(super) fn info(context: &mut Context<'_>, _: &mut Arguments<'_>) -> Outcome {
    let Context { store, replies, counters, settings, now } = context;
    let keys = store.len(*now);
    let text = format!(
        "# Server\r\nserver_name:firn-kv\r\nfirn_kv_version:{}\r\nuptime_in_seconds:{}\r\n\r\n\
         # Clients\r\nconnected_clients:{}\r\nmaxclients:{}\r\n\r\n\
         # Memory\r\nused_memory:{}\r\nmaxmemory:{}\r\nmaxmemory_policy:noeviction\r\n\r\n\
         # Stats\r\ntotal_connections_received:{}\r\nrejected_connections:{}\r\ntotal_commands_processed:{}\r\n\
         expired_keys:{}\r\nkeyspace_hits:{}\r\nkeyspace_misses:{}\r\n\r\n\
         # Keyspace\r\n{}",
        env!("CARGO_PKG_VERSION"),
        counters.since.elapsed().as_secs(),
        counters.clients.get(),
        settings.max_clients,
        store.used(),
        store.limit(),
        counters.connections.get(),
        counters.refused.get(),
        counters.commands.get(),
        store.expired(),
        counters.hits.get(),
        counters.misses.get(),
        match keys {
            0 => String::new(),
            _ => format!("db0:keys={keys},expires={},avg_ttl=0\r\n", store.nr_deadlines()),
        },
    );
    replies.reserve(Replies::bulk_bytes(text.len()))?;
    replies.bulk(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_command_has_room() {
        for command in COMMANDS {
            let mut replies = Replies::default();
            describe(&mut replies, command);
            assert!(replies.bytes().len() <= ENTRY_BYTES, "{}", command.name);
        }
    }
}
