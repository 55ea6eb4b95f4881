//! Programs in address spaces that this VM makes, which try all that they must not: each must come back, and for the
//! right reason, and nothing else may change.
#![cfg_attr(firn_guest, no_std, no_main)]

hostile::only_in_a_vm!();

#[cfg(firn_guest)]
mod attack {
    extern crate alloc;

    use alloc::boxed::Box;
    use core::sync::atomic::Ordering;
    use hostile::failure;
    use hostile::frames::word;
    use hostile::spaces::{Page, enter, entry, execute, invalidate, load, page_number};
    use libos::instruction::{Instruction, InstructionError as E, NO_DEADLINE};
    use virtual_isa::context::{Context, Exit, FLAGS};
    use virtual_isa::control::ENABLED;
    use virtual_isa::exception::{Access, Exception};
    use virtual_isa::layout::{CONTROL_PAGE, IMAGE_BASE, REGISTER_PAGE};
    use virtual_isa::limits::MAX_ASIDS;
    use virtual_isa::register::REGISTER_MAGIC;
    use virtual_isa::tlb::{Entry, Key, Right, Rights, VIRTUAL_PAGES};

    /// Where the spaces have their pages.
    const CODE: u64 = 0x40_0000;
    const DATA: u64 = 0x50_0000;
    const CONSTANT: u64 = 0x60_0000;
    const KERNELS: u64 = 0x70_0000;
    const OTHERS: u64 = 0x80_0000;
    const TIME: u64 = 0x90_0000;
    const FAR: u64 = 0xfff_ffff_f000;

    const READ: &[u8] = &[0x48, 0x8b, 0x07, 0x0f, 0x05]; // mov rax, [rdi]; syscall
    const WRITE: &[u8] = &[0x48, 0x89, 0x07, 0x0f, 0x05]; // mov [rdi], rax; syscall
    const JUMP: &[u8] = &[0xff, 0xe7]; // jmp rdi
    const SYSCALL: &[u8] = &[0x0f, 0x05];
    const SPIN: &[u8] = &[0xeb, 0xfe];
    const DIVIDE: &[u8] = &[0x31, 0xc9, 0xf7, 0xf1]; // xor ecx, ecx; div ecx
    const STEP: &[u8] = &[0x90, 0x90, 0x0f, 0x05];
    const MISALIGNED: &[u8] = &[0x8b, 0x47, 0x01, 0x0f, 0x05]; // mov eax, [rdi + 1]; syscall
    const VECTOR: &[u8] = &[0x66, 0x48, 0x0f, 0x6e, 0xc0, 0x0f, 0x05]; // movq xmm0, rax; syscall

    const LOAD_SEGMENT: &[u8] = &[0x8e, 0xd8, 0x0f, 0x05]; // mov ds, eax; syscall
    const READ_SEGMENT: &[u8] = &[0x8c, 0xd8, 0x0f, 0x05]; // mov eax, ds; syscall

    const R: Rights = Rights::READ.union(Rights::USER);
    const RW: Rights = R.union(Rights::WRITE);
    const RX: Rights = R.union(Rights::EXECUTE);

    struct Pages {
        code: Box<Page>,
        data: Box<Page>,
        constant: Box<Page>,
        kernels: Box<Page>,
        others: Box<Page>,
    }

    fn fill(page: &mut Page, bytes: &[u8]) {
        for (at, &byte) in bytes.iter().enumerate() {
            // SAFETY: a byte of the page. Contexts use it too, but none runs now.
            unsafe { page.0.as_mut_ptr().add(at).write_volatile(byte) };
        }
    }

    fn first_word(page: &Page) -> u64 {
        // SAFETY: as above.
        unsafe { page.0.as_ptr().cast::<u64>().read_volatile() }
    }

    fn expect<T: PartialEq + core::fmt::Debug>(what: &str, got: T, wanted: T) {
        if got != wanted {
            failure(format_args!("{what}: {got:x?} and not {wanted:x?}"));
        }
    }

    /// Runs a program in space 1 until it comes back.
    fn run(pages: &mut Pages, code: &[u8], context: Context) -> (Context, Exit) {
        fill(&mut pages.code, code);
        match enter(1, Right::User, NO_DEADLINE, &context) {
            Ok(came_back) => came_back,
            Err(e) => failure(format_args!("{context:x?} is refused: {e}")),
        }
    }

    fn at(rdi: u64) -> Context {
        Context { rdi, rax: 0x1234_5678, rbx: 0xb, r15: 0xf, ..Context::at(CODE, DATA + 4096) }
    }

    fn map(pages: &Pages) {
        let entries = [
            entry(1, CODE, &pages.code, RX),
            entry(1, DATA, &pages.data, RW),
            entry(1, CONSTANT, &pages.constant, R),
            entry(1, KERNELS, &pages.kernels, RW.difference(Rights::USER)),
            entry(2, OTHERS, &pages.others, RW),
            entry(1, FAR, &pages.data, RW),
            Entry { physical: page_number(REGISTER_PAGE), ..entry(1, TIME, &pages.data, R) },
        ];
        expect("entries", load(&entries), Ok(0));
    }

    /// What is allowed goes on.
    fn use_space(pages: &mut Pages) {
        fill(&mut pages.constant, &0x1111_2222u64.to_le_bytes());
        let (after, exit) = run(pages, READ, at(CONSTANT));
        expect("a read", (exit, after.rax), (Exit::Instruction, 0x1111_2222));
        expect("its registers", (after.rip, after.rbx, after.r15, after.rdi), (CODE + 5, 0xb, 0xf, CONSTANT));
        let (_, exit) = run(pages, WRITE, at(DATA + 8));
        expect("a write", exit, Exit::Instruction);
        let (after, _) = run(pages, READ, at(FAR + 8));
        expect("what was written, elsewhere", after.rax, 0x1234_5678);
        let (after, _) = run(pages, READ, at(TIME));
        expect("the register page", after.rax, REGISTER_MAGIC);
        run(pages, VECTOR, at(0));
        // The one data segment there is: no program tells another anything by it.
        run(pages, LOAD_SEGMENT, Context { rax: 0x1b, ..at(0) });
        let (after, _) = run(pages, READ_SEGMENT, at(0));
        expect("a data segment register", (after.rax, after.rip), (0, CODE + 4));
    }

    /// Memory that is not the program's, or not for this.
    fn reach(pages: &mut Pages) {
        let secret = 0x05ec_2e70u64;
        fill(&mut pages.kernels, &secret.to_le_bytes());
        fill(&mut pages.others, &secret.to_le_bytes());
        let (read, write, execute) = (Access::Read, Access::Write, Access::Execute);
        let none = [
            0,
            8,
            0x1_0000 - 8,
            REGISTER_PAGE,
            CONTROL_PAGE,
            IMAGE_BASE,
            &raw const *pages.kernels as u64,
            OTHERS,
            DATA + 4096,
            1 << 44,
            0x7fff_ffff_f000,
            0xffff_8000_0000_0000,
            0xffff_ffff_8000_0000,
            u64::MAX - 7,
        ];
        for address in none {
            let (after, exit) = run(pages, READ, at(address));
            expect("a read of nothing", exit, Exit::Miss { address, access: read });
            expect("where", (after.rip, after.rax), (CODE, 0x1234_5678));
            expect("a write to nothing", run(pages, WRITE, at(address)).1, Exit::Miss { address, access: write });
            let (after, exit) = run(pages, JUMP, at(address));
            expect("a jump to nothing", exit, Exit::Miss { address, access: execute });
            expect("where", after.rip, address);
        }
        for address in [KERNELS, KERNELS + 8] {
            expect(
                "a read of the kernel's",
                run(pages, READ, at(address)).1,
                Exit::Protection { address, access: read },
            );
            let (_, exit) = run(pages, WRITE, at(address));
            expect("a write to the kernel's", exit, Exit::Protection { address, access: write });
            let (_, exit) = run(pages, JUMP, at(address));
            expect("a jump to the kernel's", exit, Exit::Protection { address, access: execute });
        }
        for address in [CONSTANT, CODE + 16, TIME] {
            let (_, exit) = run(pages, WRITE, at(address));
            expect("a write to what is only read", exit, Exit::Protection { address, access: write });
        }
        for address in [DATA, CONSTANT, TIME] {
            let (_, exit) = run(pages, JUMP, at(address));
            expect("a jump to data", exit, Exit::Protection { address, access: execute });
        }
        let wild = run(pages, READ, at(0x8000_0000_0000)).1;
        expect("an address that is none", wild, Exit::Exception { exception: Exception::GeneralProtection, code: 0 });
        expect("the secrets", (first_word(&pages.kernels), first_word(&pages.others)), (secret, secret));
    }

    /// Instructions that raise something.
    fn raise(pages: &mut Pages) {
        let general: [&[u8]; 8] = [
            &[0xf4],             // hlt
            &[0xfa],             // cli
            &[0xec],             // in al, dx
            &[0x0f, 0x22, 0xd8], // mov cr3, rax
            &[0x0f, 0x32],       // rdmsr
            &[0x0f, 0x01, 0xf8], // swapgs
            &[0x0f, 0x06],       // clts
            &[0xcd, 0x80],       // int 0x80
        ];
        let exception = |code: &[u8], context: Context, pages: &mut Pages| match run(pages, code, context).1 {
            Exit::Exception { exception, .. } => exception,
            other => failure(format_args!("{code:x?}: {other:x?}")),
        };
        for code in general {
            expect("a privileged instruction", exception(code, at(0), pages), Exception::GeneralProtection);
        }
        expect("ud2", exception(&[0x0f, 0x0b], at(0), pages), Exception::IllegalInstruction);
        expect("int3", exception(&[0xcc], at(0), pages), Exception::Breakpoint);
        expect("a division by zero", exception(DIVIDE, at(0), pages), Exception::Divide);
        let aligned = Context { rflags: FLAGS | 1 << 18, ..at(DATA) };
        match run(pages, MISALIGNED, aligned).1 {
            Exit::Exception { exception: Exception::AlignmentCheck, code: 0 } => {}
            // Emulated processors check no alignment.
            Exit::Instruction => {}
            other => failure(format_args!("a misaligned access: {other:x?}")),
        }
        // One instruction at a time, the system call included.
        let mut context = Context { rflags: FLAGS | 1 << 8, ..at(0) };
        fill(&mut pages.code, STEP);
        for rip in [CODE + 1, CODE + 2] {
            let (after, exit) =
                enter(1, Right::User, NO_DEADLINE, &context).unwrap_or_else(|e| failure(format_args!("{e}")));
            expect("a single step", exit, Exit::Exception { exception: Exception::Debug, code: 0 });
            expect("where", after.rip, rip);
            context = after;
        }
    }

    /// Virtual instructions of programs are for this kernel alone.
    fn call(pages: &mut Pages) {
        for number in (0..=16).chain([255, 1 << 32, u64::MAX]) {
            let (after, exit) = run(pages, SYSCALL, Context { rax: number, rsi: 1, rdx: u64::MAX, ..at(1) });
            expect("a system call", (exit, after.rax, after.rdi, after.rip), (Exit::Instruction, number, 1, CODE + 2));
        }
        // At kernel right they are performed, and entering another context is not permitted.
        fill(&mut pages.code, &[0x0f, 0x05, 0x0f, 0x0b]);
        for (number, answer) in [(3, 0), (11, E::NotPermitted.to_word()), (77, E::UndefinedInstruction.to_word())] {
            let context = Context { rax: number, rsi: 0, ..at(u64::from(number == 11)) };
            let (after, exit) =
                enter(1, Right::Kernel, NO_DEADLINE, &context).unwrap_or_else(|e| failure(format_args!("{e}")));
            expect("an instruction at kernel right", after.rax, answer);
            expect("and after it", exit, Exit::Exception { exception: Exception::IllegalInstruction, code: 0 });
        }
    }

    /// Programs that do not come back by themselves.
    fn interrupt(pages: &mut Pages) {
        fill(&mut pages.code, SPIN);
        for _ in 0..20 {
            let deadline = libos::time::Instant::now().as_nanos() + 300_000;
            let came_back = enter(1, Right::User, deadline, &at(0));
            expect(
                "a program that spins",
                came_back.map(|(after, exit)| (after.rip, exit)),
                Ok((CODE, Exit::Interrupt)),
            );
            if libos::time::Instant::now().as_nanos() < deadline {
                failure(format_args!("it was interrupted before its time"));
            }
        }
    }

    /// What this kernel must not ask for.
    fn ask(pages: &Pages) {
        let good = entry(1, DATA, &pages.data, RW);
        let bad = [
            (Entry { physical: libos::registers().memory_pages, ..good }, E::BadAddress),
            (Entry { physical: u32::MAX, ..good }, E::BadAddress),
            (Entry { physical: 0, ..good }, E::BadAddress),
            (Entry { physical: page_number(CONTROL_PAGE), ..good }, E::BadAddress),
            (Entry { physical: page_number(REGISTER_PAGE), ..good }, E::BadAddress),
            (Entry { physical: page_number(IMAGE_BASE), ..good }, E::BadAddress),
            (Entry { rights: Rights::all(), ..good }, E::BadArgument),
            (Entry { rights: Rights::USER, ..good }, E::BadArgument),
            (Entry { key: Key { asid: 0, ..good.key }, ..good }, E::BadArgument),
            (Entry { key: Key { asid: MAX_ASIDS + 1, ..good.key }, ..good }, E::BadArgument),
            (Entry { key: Key { page: 0, ..good.key }, ..good }, E::BadArgument),
        ];
        for (entry, error) in bad {
            expect("a bad entry", load(&[good, entry]), Err(error));
        }
        // SAFETY: all of these must be refused.
        unsafe {
            for words in [[0xffff_8000_0000_0000, 1, 0], [u64::MAX - 7, 64, 0], [0x7fff_ffff_f000, 1, 0]] {
                expect("a bad list", execute(Instruction::TlbWrite, words), Err(E::BadAddress));
            }
            expect("too many", execute(Instruction::TlbWrite, [DATA, 65, 0]), Err(E::BadArgument));
        }
        for flags in [0x3202, 0x4202, 0x2_0202, 2, 0] {
            let came_back = enter(1, Right::User, NO_DEADLINE, &Context { rflags: flags, ..at(0) });
            expect("flags that raise privilege", came_back, Err(E::BadArgument));
        }
        for rip in [1 << 47, 0xffff_8000_0000_0000, u64::MAX] {
            let came_back = enter(1, Right::User, NO_DEADLINE, &Context { rip, ..at(0) });
            expect("an instruction pointer that is none", came_back, Err(E::BadArgument));
        }
    }

    /// All spaces, more than the kernel has tables for, over a page that is given back again and again.
    fn play(pages: &mut Pages) {
        fill(&mut pages.code, READ);
        for round in 0..3u64 {
            for asid in 1..=MAX_ASIDS {
                // Far apart, so that each takes tables of its own.
                let place = DATA + (u64::from(asid) << 30);
                let entries = [entry(asid, CODE, &pages.code, RX), entry(asid, place, &pages.data, RW)];
                expect("entries", load(&entries), Ok(0));
                let word = round << 32 | u64::from(asid);
                fill(&mut pages.data, &word.to_le_bytes());
                for wanted in [word, 0] {
                    let came_back = enter(asid, Right::User, NO_DEADLINE, &at(place));
                    expect(
                        "a word of its own",
                        came_back.map(|(after, exit)| (after.rax, exit)),
                        Ok((wanted, Exit::Instruction)),
                    );
                    // SAFETY: a page of this program's, of which nothing is expected.
                    let discarded = unsafe { execute(Instruction::Discard, [&raw const *pages.data as u64, 4096, 0]) };
                    expect("discard", discarded, Ok(0));
                }
            }
        }
        expect("dropping all", invalidate(Key { asid: 0, page: 0 }, VIRTUAL_PAGES), Ok(0));
        for asid in 1..=MAX_ASIDS {
            let came_back = enter(asid, Right::User, NO_DEADLINE, &at(DATA));
            let miss = Exit::Miss { address: CODE, access: Access::Execute };
            expect("a space that is empty", came_back.map(|(_, exit)| exit), Ok(miss));
        }
    }

    #[libos::main]
    async fn main() {
        let page = || Box::new(Page::ZERO);
        let mut pages = Pages { code: page(), data: page(), constant: page(), kernels: page(), others: page() };
        // What this libOS waits for must not end a context that has something to show.
        word(ENABLED).store(0, Ordering::Release);
        map(&pages);
        use_space(&mut pages);
        reach(&mut pages);
        raise(&mut pages);
        call(&mut pages);
        interrupt(&mut pages);
        ask(&pages);
        play(&mut pages);
        hostile::ok()
    }
}
