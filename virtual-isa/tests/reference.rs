//! The ISA reference of the book against the crate it describes.

use std::collections::BTreeMap;
use virtual_isa::instruction::{Instruction, InstructionError};
use virtual_isa::{ISA_VERSION, context, control, layout, limits, network, register::RegisterPage, tlb};

/// Rows of all tables of the page: the first cell without its backquotes, then the others.
fn rows() -> Vec<Vec<String>> {
    let page = include_str!("../../docs/src/isa.md");
    let cell = |cell: &str| cell.trim().trim_matches('`').to_string();
    page.lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|---"))
        .map(|line| line.trim_matches('|').split('|').map(cell).collect())
        .collect()
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The table whose header's cells are these, by its first column as a number.
fn table(header: &[&str]) -> BTreeMap<u64, Vec<String>> {
    let rows = rows();
    let start = rows.iter().position(|row| row == header).expect("the table is there");
    rows[start + 1..].iter().map_while(|row| Some((number(&row[0])?, row[1..].to_vec()))).collect()
}

#[test]
fn instructions_are_the_numbered_ones() {
    let table = table(&["number", "instruction", "what it does", "result"]);
    for number in 0..100 {
        let listed = table.get(&number).map(|row| row[0].split('(').next().unwrap().replace('_', ""));
        let real = Instruction::try_from(number).ok().map(|i| format!("{i:?}").to_lowercase());
        assert_eq!(listed, real, "instruction {number}");
    }
}

#[test]
fn errors_are_the_numbered_ones() {
    let listed: Vec<(i64, String)> = rows()
        .into_iter()
        .filter_map(|row| Some((row[0].parse::<i64>().ok().filter(|n| *n < 0)?, row[1].clone())))
        .collect();
    assert_eq!(listed.len(), 6);
    for (number, name) in listed {
        let error = InstructionError::read(number.cast_unsigned()).unwrap_err();
        assert_eq!(error as i64, number);
        let said = error.to_string();
        assert!(said == name || said == format!("undefined virtual {}", name.rsplit(' ').next().unwrap()), "{said}");
    }
}

#[test]
fn the_layout_is_the_real_one() {
    let table = table(&["address", "what", "bytes", "rights"]);
    let bytes = |address: u64| table.get(&address).unwrap_or_else(|| panic!("{address:#x}"))[1].parse::<u64>().ok();
    assert_eq!(bytes(layout::STACK_BOTTOM), Some(layout::STACK_TOP - layout::STACK_BOTTOM));
    assert_eq!(bytes(layout::REGISTER_PAGE), Some(4096));
    assert_eq!(bytes(layout::CONTROL_PAGE), Some(4096));
    assert_eq!(bytes(layout::TRANSMIT_RING), Some(u64::from(layout::TRANSMIT_RING_BYTES)));
    assert_eq!(bytes(layout::RECEIVE_RING), Some(u64::from(layout::RECEIVE_RING_BYTES)));
    assert_eq!(bytes(layout::REQUEST_RING), Some(u64::from(layout::REQUEST_RING_BYTES)));
    assert_eq!(bytes(layout::COMPLETION_RING), Some(u64::from(layout::COMPLETION_RING_BYTES)));
    assert!(table.contains_key(&layout::IMAGE_BASE));
}

#[test]
fn the_register_page_is_the_real_one() {
    let table = table(&["offset", "field", "bytes"]);
    let mut at = 0;
    for (offset, row) in &table {
        assert_eq!(*offset, at, "fields follow each other");
        at += row[1].parse::<u64>().unwrap();
    }
    assert_eq!(at.next_multiple_of(8), RegisterPage::BYTES as u64);
}

#[test]
fn the_control_page_is_the_real_one() {
    let table = table(&["offset", "field", "writer"]);
    let offsets = [
        (control::PENDING, "pending"),
        (control::ENABLED, "enabled"),
        (control::DEADLINE, "deadline"),
        (control::TRANSMIT_HEAD, "transmit ring head"),
        (control::TRANSMIT_TAIL, "transmit ring tail"),
        (control::RECEIVE_HEAD, "receive ring head"),
        (control::RECEIVE_TAIL, "receive ring tail"),
        (control::CONSOLE_HEAD, "console input head"),
        (control::CONSOLE_TAIL, "console input tail"),
        (control::REQUEST_HEAD, "request ring head"),
        (control::REQUEST_TAIL, "request ring tail"),
        (control::COMPLETION_HEAD, "completion ring head"),
        (control::COMPLETION_TAIL, "completion ring tail"),
        (control::EXIT, "exit"),
        (control::CONTEXT, "context"),
        (control::CONSOLE_INPUT, "console input"),
    ];
    assert_eq!(table.len(), offsets.len());
    for (offset, name) in offsets {
        assert!(table[&(offset as u64)][0].starts_with(name), "{name} at {offset:#x}");
    }
}

#[test]
fn numbers_in_the_text_are_the_real_ones() {
    let page = include_str!("../../docs/src/isa.md");
    let said = [
        format!("Version {ISA_VERSION}."),
        format!("An image ends below `{:#x}`", layout::IMAGE_LIMIT),
        format!("from {} to {} pages", limits::MIN_MEMORY_PAGES, limits::MAX_MEMORY_PAGES),
        format!("at most {} bytes with random", limits::MAX_ENTROPY_BYTES),
        format!("prints at most {} bytes", limits::MAX_CONSOLE_BYTES),
        format!("at most {} pages at a time", limits::MAX_PAGES_PER_STEP),
        format!("frames of {} to {} bytes", network::MIN_FRAME_BYTES, network::MAX_FRAME_BYTES),
        format!("At most {} frames, and", limits::MAX_RECEIVE_QUEUE_FRAMES),
        format!("at most {} KiB of them", limits::MAX_RECEIVE_QUEUE_BYTES / 1024),
        format!("up to {} return addresses", limits::MAX_BACKTRACE),
        format!("loads 1 to {} [TLB entries]", limits::MAX_TLB_WRITE),
        format!("`count` says, 1 to {}, that", limits::MAX_TLB_WRITE),
        format!("named by its *asid*, 1 to {}.", limits::MAX_ASIDS),
        format!("an asid of 0 or above {},", limits::MAX_ASIDS),
        format!("The TLB holds {} entries.", limits::TLB_ENTRIES),
        format!("Its addresses are below 2<sup>{}</sup>;", (tlb::VIRTUAL_PAGES * 4096).ilog2()),
        format!("besides {:#x}, which must be set", context::FLAGS),
    ];
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in said {
        assert!(page.contains(&text), "the page does not say: {text}");
    }
}

#[test]
fn causes_of_exits_are_the_numbered_ones() {
    use virtual_isa::context::Exit;
    use virtual_isa::exception::{Access, Exception};
    let table = table(&["cause", "exit", "address", "detail", "code"]);
    let (address, access) = (1, Access::Read);
    let exits = [
        (Exit::Interrupt, "interrupt"),
        (Exit::Instruction, "instruction"),
        (Exit::Miss { address, access }, "miss"),
        (Exit::Protection { address, access }, "protection"),
        (Exit::Exception { exception: Exception::Divide, code: 0 }, "exception"),
    ];
    assert_eq!(table.len(), exits.len());
    for (exit, name) in exits {
        assert!(table[&exit.cause()][0].starts_with(name), "{name}");
    }
}

#[test]
fn bits_of_an_entry_are_the_real_ones() {
    use tlb::{Entry, Key, Rights};
    let page = include_str!("../../docs/src/isa.md");
    let said = format!(
        "rights: {} read, {} write, {} execute, {} user",
        Rights::READ.bits(),
        Rights::WRITE.bits(),
        Rights::EXECUTE.bits(),
        Rights::USER.bits()
    );
    assert!(page.contains(&said));
    let entry = Entry { key: Key { asid: 5, page: 3 }, physical: 7, rights: Rights::READ | Rights::USER };
    assert_eq!(entry.to_words(), [3 << 12 | 5, 7 << 12 | 9]);
}
