//! The libOS in a VM: what stands directly on the virtual ISA.

pub mod console;
pub mod instruction;
pub mod registers;

mod allocator;
pub(crate) mod copy;
mod logger;
mod memory;
mod panic;
pub(crate) mod runtime;
mod single;
pub(crate) mod start;

pub(crate) use allocator::heap;
pub(crate) use memory::{completion_ring, control, receive_ring, request_ring, transmit_ring};
pub(crate) use single::Single;

pub(crate) mod clock {
    //! The machine's clock, and sleeping.

    use super::{registers, runtime};
    use crate::timers::Key;
    use core::task::{Context, Poll};

    pub(crate) use registers::{epoch_ns, now_ns};

    /// One entry of the runtime's timers.
    #[derive(Debug)]
    pub struct Timer(Option<Key>);

    impl Timer {
        pub const fn new() -> Self {
            Self(None)
        }

        /// Reads no clock, which is dear under emulation: a deadline that has passed already fires before the next
        /// sleep.
        pub fn poll_until(&mut self, deadline_ns: u64, context: &mut Context<'_>) -> Poll<()> {
            runtime::with_timers(|timers| match self.0 {
                Some(key) if timers.update(key, context.waker()) => Poll::Pending,
                Some(_) => Poll::Ready(()),
                None => {
                    self.0 = Some(timers.insert(deadline_ns, context.waker().clone()));
                    Poll::Pending
                }
            })
        }

        fn cancel(&mut self) {
            if let Some(key) = self.0.take() {
                // Dropped after the timers are free again.
                let _waker = runtime::with_timers(|timers| timers.remove(key));
            }
        }
    }

    impl Drop for Timer {
        fn drop(&mut self) {
            self.cancel();
        }
    }
}

pub(crate) mod entropy {
    //! The machine's random bytes.

    use super::{Single, instruction};
    use crate::rand::Generator;

    static GENERATOR: Single<Generator> = Single::new(Generator::new());

    pub fn with_generator<R>(work: impl FnOnce(&mut Generator) -> R) -> R {
        GENERATOR.with(work)
    }

    pub fn seed(seed: &mut [u8; 32]) {
        instruction::entropy(seed);
    }
}
