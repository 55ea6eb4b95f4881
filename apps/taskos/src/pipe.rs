//! Pipes: a few bytes between programs, in order. Ends count themselves, so that each side knows when the other is gone.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::RefCell;
use programs::abi::PIPE_BYTES;

#[derive(Debug, Default)]
struct Inner {
    bytes: VecDeque<u8>,
    nr_readers: usize,
    nr_writers: usize,
}

/// Which end of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Reader,
    Writer,
}

#[derive(Debug)]
struct End {
    pipe: Rc<RefCell<Inner>>,
    side: Side,
}

impl End {
    fn new(pipe: &Rc<RefCell<Inner>>, side: Side) -> Self {
        let end = Self { pipe: pipe.clone(), side };
        *end.count(&mut end.pipe.borrow_mut()) += 1;
        end
    }

    fn count<'a>(&self, inner: &'a mut Inner) -> &'a mut usize {
        match self.side {
            Side::Reader => &mut inner.nr_readers,
            Side::Writer => &mut inner.nr_writers,
        }
    }
}

impl Clone for End {
    fn clone(&self) -> Self {
        Self::new(&self.pipe, self.side)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        *self.count(&mut self.pipe.borrow_mut()) -= 1;
    }
}

/// The end that bytes come out of.
#[derive(Clone, Debug)]
pub struct Reader(End);

/// The end that bytes go into.
#[derive(Clone, Debug)]
pub struct Writer(End);

/// What came of reading or writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// So many bytes were moved.
    Done(usize),
    /// None can be now.
    Wait,
    /// None ever will be: there is no other end.
    Broken,
}

/// Makes a pipe.
#[must_use]
pub fn pipe() -> (Reader, Writer) {
    let inner = Rc::new(RefCell::new(Inner::default()));
    (Reader(End::new(&inner, Side::Reader)), Writer(End::new(&inner, Side::Writer)))
}

impl Reader {
    /// What a read would come to, of at most so many bytes: it takes none.
    #[must_use]
    pub fn available(&self, length: usize) -> Transfer {
        let inner = self.0.pipe.borrow();
        match inner.bytes.len().min(length) {
            0 if length > 0 && inner.nr_writers > 0 => Transfer::Wait,
            0 if length > 0 => Transfer::Broken,
            n => Transfer::Done(n),
        }
    }

    /// The first bytes, without taking them.
    pub fn peek(&self, bytes: &mut [u8]) {
        for (to, from) in bytes.iter_mut().zip(&self.0.pipe.borrow().bytes) {
            *to = *from;
        }
    }

    /// Takes so many bytes.
    pub fn take(&self, length: usize) {
        let mut inner = self.0.pipe.borrow_mut();
        let length = length.min(inner.bytes.len());
        inner.bytes.drain(..length);
    }
}

impl Writer {
    /// What a write of so many bytes would come to: it writes none.
    #[must_use]
    pub fn room(&self, length: usize) -> Transfer {
        let inner = self.0.pipe.borrow();
        if inner.nr_readers == 0 {
            return Transfer::Broken;
        }
        match PIPE_BYTES.saturating_sub(inner.bytes.len()).min(length) {
            0 if length > 0 => Transfer::Wait,
            n => Transfer::Done(n),
        }
    }

    /// Writes bytes, as many as there is room for.
    pub fn put(&self, bytes: &[u8]) {
        let mut inner = self.0.pipe.borrow_mut();
        let room = PIPE_BYTES.saturating_sub(inner.bytes.len());
        inner.bytes.extend(bytes.iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_and_no_more_than_fit() {
        let (reader, writer) = pipe();
        assert_eq!(reader.available(10), Transfer::Wait);
        assert_eq!(reader.available(0), Transfer::Done(0));
        writer.put(b"abc");
        assert_eq!(reader.available(10), Transfer::Done(3));
        let mut bytes = [0; 2];
        reader.peek(&mut bytes);
        reader.take(2);
        assert_eq!((&bytes, reader.available(10)), (b"ab", Transfer::Done(1)));
        writer.put(&[7; 2 * PIPE_BYTES]);
        assert_eq!((writer.room(1), writer.room(0)), (Transfer::Wait, Transfer::Done(0)));
        assert_eq!(reader.available(2 * PIPE_BYTES), Transfer::Done(PIPE_BYTES));
        reader.take(PIPE_BYTES - 1);
        assert_eq!(writer.room(2 * PIPE_BYTES), Transfer::Done(PIPE_BYTES - 1));
    }

    #[test]
    fn each_side_knows_when_the_last_of_the_other_is_gone() {
        let (reader, writer) = pipe();
        let second = writer.clone();
        writer.put(b"x");
        drop(writer);
        drop(second);
        assert_eq!(reader.available(1), Transfer::Done(1), "what was written is still there");
        reader.take(1);
        assert_eq!(reader.available(1), Transfer::Broken);

        let (reader, writer) = pipe();
        let second = reader.clone();
        drop(reader);
        assert_eq!(writer.room(1), Transfer::Done(1));
        drop(second);
        assert_eq!(writer.room(1), Transfer::Broken);
    }
}
