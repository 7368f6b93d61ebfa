//! Bytes on their way out of one connection.
//!
//! Small pieces are copied into a shared tail, so that many answers leave in one write; large ones are
//! queued as they are. Drained buffers go back to the engine's [`Pool`], so that nothing is allocated in
//! steady state and an idle connection holds nothing.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

/// A piece of at least this many bytes is queued instead of copied. Copying 16 KiB costs about as much as
/// one more element in a vectored write.
pub(crate) const QUEUE_LEN_MIN: usize = 16 * 1024;

/// The tail takes copies until it holds this much: a socket rarely takes more in one write.
const TAIL_LEN_MAX: usize = 64 * 1024;

/// Buffers that wait for their next use.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// For lines and small answers.
    small: Vec<Vec<u8>>,
    /// Capacity of all that are in `small`.
    small_len: usize,
    /// For large payloads. New ones would be given pages by the kernel, one fault each.
    large: Vec<Vec<u8>>,
    /// Capacity of all that are in `large`.
    large_len: usize,
}

impl Pool {
    /// As much is kept for small ones: thousands of clients may be answered in one turn.
    const SMALL_LEN_MAX: usize = 1024 * 1024;
    /// As much is kept for large payloads, and a single one that is larger is not: it would pin its size for ever.
    const LARGE_LEN_MAX: usize = 4 * 1024 * 1024;

    fn take(&mut self) -> Vec<u8> {
        let buffer = self.small.pop().unwrap_or_default();
        self.small_len -= buffer.capacity();
        buffer
    }

    /// An empty buffer that `len` bytes fit into, and not many more.
    pub(crate) fn take_large(&mut self, len: usize) -> Vec<u8> {
        let fits = |buffer: &Vec<u8>| (len..=4 * len).contains(&buffer.capacity());
        match self.large.iter().rposition(fits) {
            Some(at) => {
                let buffer = self.large.swap_remove(at);
                self.large_len -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(len),
        }
    }

    pub(crate) fn give(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        let capacity = buffer.capacity();
        if capacity <= TAIL_LEN_MAX {
            if capacity > 0 && self.small_len + capacity <= Self::SMALL_LEN_MAX {
                self.small_len += capacity;
                self.small.push(buffer);
            }
        } else if self.large_len + capacity <= Self::LARGE_LEN_MAX {
            self.large_len += capacity;
            self.large.push(buffer);
        }
    }

    /// Takes back what was shared, if this is the last that holds it.
    pub(crate) fn give_shared(&mut self, buffer: Arc<Vec<u8>>) {
        if let Some(buffer) = Arc::into_inner(buffer) {
            self.give(buffer);
        }
    }
}

#[derive(Debug)]
enum Segment {
    Owned(Vec<u8>),
    Shared(Arc<Vec<u8>>),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// A queue of bytes.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that are gone.
    sent: usize,
    len: usize,
}

impl SendQueue {
    /// Bytes that wait.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffer that `len` more bytes may be appended to; the caller counts them.
    fn tail(&mut self, len: usize, pool: &mut Pool) -> &mut Vec<u8> {
        let room = match self.segments.back() {
            Some(Segment::Owned(tail)) => tail.is_empty() || tail.len() + len <= TAIL_LEN_MAX,
            Some(Segment::Shared(_)) | None => false,
        };
        if !room {
            self.segments.push_back(Segment::Owned(pool.take()));
        }
        match self.segments.back_mut() {
            Some(Segment::Owned(tail)) => tail,
            Some(Segment::Shared(_)) | None => unreachable!("an owned tail was just ensured"),
        }
    }

    /// Appends a copy of `bytes`.
    pub(crate) fn push(&mut self, bytes: &[u8], pool: &mut Pool) {
        if bytes.is_empty() {
            return;
        }
        self.tail(bytes.len(), pool).extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends `bytes`, leaving an empty buffer in its place: a large one is moved, a small one copied so
    /// that its owner keeps its capacity.
    pub(crate) fn take(&mut self, bytes: &mut Vec<u8>, pool: &mut Pool) {
        if bytes.len() < QUEUE_LEN_MIN {
            self.push(bytes, pool);
            bytes.clear();
        } else {
            self.len += bytes.len();
            self.segments
                .push_back(Segment::Owned(std::mem::take(bytes)));
        }
    }

    /// Appends `bytes` without copying.
    pub(crate) fn share(&mut self, bytes: &Arc<Vec<u8>>) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.segments.push_back(Segment::Shared(Arc::clone(bytes)));
        }
    }

    /// The next bytes to write, as many pieces as `slices` takes.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        let mut skip = self.sent;
        for (slot, segment) in slices.iter_mut().zip(&self.segments) {
            *slot = IoSlice::new(&segment.bytes()[skip..]);
            skip = 0;
            count += 1;
        }
        count
    }

    /// The first `count` bytes have been written.
    pub(crate) fn consume(&mut self, count: usize, pool: &mut Pool) {
        assert!(
            count <= self.len,
            "more bytes written than queued: {count} of {}",
            self.len
        );
        self.len -= count;
        self.sent += count;
        while let Some(first) = self.segments.front() {
            let first_len = first.bytes().len();
            if self.sent < first_len {
                break;
            }
            self.sent -= first_len;
            match self.segments.pop_front() {
                Some(Segment::Owned(buffer)) => pool.give(buffer),
                Some(Segment::Shared(buffer)) => pool.give_shared(buffer),
                None => {}
            }
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        self.consume(self.len, pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(queue: &SendQueue) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 16];
        let count = queue.slices(&mut slices);
        slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn bytes_leave_in_order_whatever_their_size() {
        let mut pool = Pool::default();
        let mut queue = SendQueue::default();
        let large = vec![b'L'; QUEUE_LEN_MIN];
        queue.push(b"one", &mut pool);
        queue.share(&Arc::new(b"two".to_vec()));
        queue.push(b"three", &mut pool);
        let mut moved = large.clone();
        queue.take(&mut moved, &mut pool);
        assert!(moved.is_empty());
        queue.push(b"four", &mut pool);
        let expected = [b"onetwothree", &large[..], b"four"].concat();
        assert_eq!(all(&queue), expected);
        for (index, count) in [1, 4, 2, 100, QUEUE_LEN_MIN - 100].into_iter().enumerate() {
            let before = all(&queue);
            queue.consume(count, &mut pool);
            assert_eq!(all(&queue), before[count..], "step {index}");
        }
        let rest = queue.len();
        queue.consume(rest, &mut pool);
        assert!(queue.is_empty());
        assert!(queue.segments.is_empty());
    }

    #[test]
    fn large_buffers_are_used_again_by_what_is_about_as_large() {
        const LEN: usize = 300_000;
        let mut pool = Pool::default();
        let mut queue = SendQueue::default();
        let shared = Arc::new(vec![b's'; LEN]);
        queue.take(&mut vec![b'o'; LEN], &mut pool);
        queue.share(&shared);
        queue.clear(&mut pool);
        assert_eq!(pool.large.len(), 1, "the other one is still held");
        pool.give_shared(shared);
        assert_eq!((pool.large.len(), pool.large_len), (2, 2 * LEN));
        assert_eq!(pool.take_large(LEN + 1).capacity(), LEN + 1);
        assert_eq!(pool.take_large(LEN / 5).capacity(), LEN / 5);
        assert_eq!(pool.take_large(LEN / 2).capacity(), LEN);
        assert_eq!((pool.large.len(), pool.large_len), (1, LEN));
        for _ in 0..100 {
            pool.give(vec![0; LEN]);
        }
        assert!(pool.large_len <= Pool::LARGE_LEN_MAX);
    }

    #[test]
    #[should_panic(expected = "more bytes written than queued")]
    fn more_than_queued_is_our_own_mistake() {
        SendQueue::default().consume(1, &mut Pool::default());
    }
}
