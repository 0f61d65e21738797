//! gzip on several threads, and the same bytes whatever their number.
//!
//! ```text
//! source ─▶ splitter ──▶ deflate ─┬─▶ reader, in order: member by member
//!              │   └───▶ deflate ─┤
//!              └── order ─────────┘
//! ```
//!
//! The source is cut into blocks of [`BLOCK`] bytes, each a member of a gzip file (RFC 1952), which
//! may have many: every reader takes them for one stream. That costs about a hundredth of the size.
//! Where nothing has to be kept from one block to the next libdeflate can be used, which at its
//! quickest is as thrifty as zlib in the middle, in a third of the time. No time and no name are in
//! the headers: a layer that is pushed twice has one digest.
//!
//! Memory: [`AHEAD`] blocks a thread, compressed or not. Nothing is read before somebody reads, and
//! dropping the reader ends the threads.

use std::io::{self, Read};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use libdeflater::{CompressionLvl, Compressor};

/// Bytes that are compressed together.
const BLOCK: usize = 256 << 10;
/// Blocks under way for each thread.
const AHEAD: usize = 2;
/// Most threads of one stream.
const THREADS_MAX: usize = 8;
/// libdeflate's lowest level. On a Debian system with postgres: 130 MB/s and 0.379 of the size; the
/// sixth 68 MB/s and 0.348, zlib's third 53 MB/s and 0.373.
const LEVEL: i32 = 1;

/// A member of the file.
type Outcome = io::Result<Vec<u8>>;

/// A block to be compressed, and where it goes then.
struct Job {
    plain: Vec<u8>,
    out: SyncSender<Outcome>,
}

/// What a source is when it is compressed.
pub(crate) struct Gzip {
    /// The blocks in order, each as soon as it is compressed.
    order: Option<Receiver<Receiver<Outcome>>>,
    threads: Vec<JoinHandle<()>>,
    /// What is read next.
    ready: Vec<u8>,
    at: usize,
}

impl Gzip {
    /// Compresses a source with as many threads as there are processors.
    pub(crate) fn new(source: impl Read + Send + 'static) -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        Self::with_threads(source, processors.min(THREADS_MAX))
    }

    fn with_threads(source: impl Read + Send + 'static, count: usize) -> io::Result<Self> {
        let (order_in, order) = sync_channel(count * AHEAD);
        let (jobs, queue) = sync_channel::<Job>(count);
        let queue = Arc::new(Mutex::new(queue));
        // Made first: what fails below ends the threads that there are by dropping it.
        let mut gzip = Self {
            order: Some(order),
            threads: Vec::with_capacity(count + 1),
            ready: Vec::new(),
            at: 0,
        };
        for _ in 0..count {
            let queue = Arc::clone(&queue);
            let thread = thread::Builder::new().name("layer-deflate".to_owned());
            gzip.threads.push(thread.spawn(move || work(&queue))?);
        }
        let thread = thread::Builder::new().name("layer-split".to_owned());
        let splitter = thread.spawn(move || split(source, &jobs, &order_in))?;
        gzip.threads.push(splitter);
        Ok(gzip)
    }

    /// Takes the next piece of output; `false` at the end.
    fn next(&mut self) -> io::Result<bool> {
        let Some(order) = &self.order else {
            return Ok(false);
        };
        let Ok(block) = order.recv() else {
            self.order = None;
            return Ok(false);
        };
        self.ready = block.recv().map_err(|_| interrupted())??;
        self.at = 0;
        Ok(true)
    }
}

impl Read for Gzip {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() {
            if !self.next()? {
                return Ok(0);
            }
        }
        let amount = buffer.len().min(self.ready.len() - self.at);
        buffer[..amount].copy_from_slice(&self.ready[self.at..self.at + amount]);
        self.at += amount;
        Ok(amount)
    }
}

impl Drop for Gzip {
    fn drop(&mut self) {
        // The splitter finds nobody to send to, and the workers nothing more to do.
        self.order = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn interrupted() -> io::Error {
    io::Error::other("the compression was cut short")
}

fn split(mut source: impl Read, jobs: &SyncSender<Job>, order: &SyncSender<Receiver<Outcome>>) {
    let mut is_first = true;
    loop {
        let mut plain = Vec::with_capacity(BLOCK);
        let read = source.by_ref().take(BLOCK as u64).read_to_end(&mut plain);
        let (out, block) = sync_channel(1);
        match read {
            // Nothing at all is one member too.
            Ok(0) if !is_first => return,
            Ok(_) => {
                if order.send(block).is_err() || jobs.send(Job { plain, out }).is_err() {
                    return;
                }
            }
            Err(error) => {
                let _ = out.send(Err(error));
                let _ = order.send(block);
                return;
            }
        }
        is_first = false;
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    let mut compressor = Compressor::new(CompressionLvl::new(LEVEL).unwrap_or_default());
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Where nobody waits the reader is gone; the splitter notices.
        let _ = job.out.send(compress(&mut compressor, &job.plain));
    }
}

fn compress(compressor: &mut Compressor, plain: &[u8]) -> Outcome {
    let mut member = vec![0; compressor.gzip_compress_bound(plain.len())];
    let size = compressor.gzip_compress(plain, &mut member);
    member.truncate(size.map_err(io::Error::other)?);
    // Several blocks wait at a time, most of them much smaller than they could be.
    member.shrink_to_fit();
    Ok(member)
}

#[cfg(test)]
mod tests {
    use flate2::read::MultiGzDecoder;

    use super::*;

    fn compressed(plain: &[u8], threads: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let source = io::Cursor::new(plain.to_vec());
        let mut gzip = Gzip::with_threads(source, threads).unwrap();
        gzip.read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn what_anybody_reads() {
        let noise = |at: u32| (at.wrapping_mul(2_654_435_761) >> 13) as u8;
        let random: Vec<u8> = (0..3 * BLOCK as u32 + 17).map(noise).collect();
        let text = b"moss has no roots\n".repeat(100_000);
        for plain in [&b""[..], b"x", &text, &text[..BLOCK], &random] {
            let gzip = compressed(plain, 2);
            let mut back = Vec::new();
            MultiGzDecoder::new(&gzip[..])
                .read_to_end(&mut back)
                .unwrap();
            assert_eq!(back, plain);
            assert!(gzip.len() < plain.len() + plain.len() / 100 + 100);
        }
        assert!(compressed(&text, 2).len() < text.len() / 20);
    }

    #[test]
    fn the_same_bytes_by_any_number_of_threads() {
        let plain: Vec<u8> = (0..5 * BLOCK as u32).map(|at| (at / 7) as u8).collect();
        let one = compressed(&plain, 1);
        assert_eq!(one, compressed(&plain, 1));
        assert_eq!(one, compressed(&plain, 7));
    }

    #[test]
    fn a_source_that_fails_is_told_of() {
        struct Broken(usize);

        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::Error::other("broken"));
                }
                self.0 -= 1;
                Ok(buffer.len())
            }
        }

        let mut gzip = Gzip::with_threads(Broken(100), 2).unwrap();
        let error = gzip.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "broken");
    }

    #[test]
    fn an_endless_source_ends_with_its_reader() {
        let mut gzip = Gzip::with_threads(io::repeat(7), 3).unwrap();
        gzip.read_exact(&mut [0; 4096]).unwrap();
        drop(gzip);
    }
}
