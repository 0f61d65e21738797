//! gzip on several threads, and the same bytes whatever their number.
//!
//! ```text
//! source ─▶ splitter ──▶ deflate ─┬─▶ reader, in order: header, blocks, trailer
//!              │   └───▶ deflate ─┤
//!              └── order ─────────┘
//! ```
//!
//! The source is cut into blocks of [`BLOCK`] bytes that are compressed each for itself and end at
//! a byte's border (a sync flush), so that they only have to be put one after the other to be one
//! member of a gzip file (RFC 1952), as every reader knows it. That costs about a hundredth of the
//! size. No time and no name are in the header: a layer that is pushed twice has one digest.
//!
//! Memory: [`AHEAD`] blocks a thread, compressed or not. Nothing is read before somebody reads, and
//! dropping the reader ends the threads.

use std::io::{self, Read};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use flate2::{Compress, Compression, Crc, FlushCompress};

/// Bytes that are compressed together.
const BLOCK: usize = 256 << 10;
/// Blocks under way for each thread.
const AHEAD: usize = 2;
/// Most threads of one stream.
const THREADS_MAX: usize = 8;
/// zlib's measure of thrift. Three is twice as fast as its default and a twentieth larger.
const LEVEL: u32 = 3;

/// RFC 1952: deflate, no flags, no time, no hints, on no system in particular.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// RFC 1951: a last block with nothing in it.
const LAST: [u8; 2] = [3, 0];

/// A block that is compressed.
struct Block {
    deflated: Vec<u8>,
    crc: Crc,
    size: usize,
}

type Outcome = io::Result<Block>;

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
    crc: Crc,
    size: u64,
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
            ready: HEADER.to_vec(),
            at: 0,
            crc: Crc::new(),
            size: 0,
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
        self.at = 0;
        self.ready = match order.recv() {
            Ok(block) => {
                let block = block.recv().map_err(|_| interrupted())??;
                self.crc.combine(&block.crc);
                self.size += block.size as u64;
                block.deflated
            }
            Err(_) => {
                self.order = None;
                let mut end = LAST.to_vec();
                end.extend(self.crc.sum().to_le_bytes());
                // RFC 1952: modulo 2³².
                end.extend((self.size as u32).to_le_bytes());
                end
            }
        };
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
    loop {
        let mut plain = Vec::with_capacity(BLOCK);
        let read = source.by_ref().take(BLOCK as u64).read_to_end(&mut plain);
        let (out, block) = sync_channel(1);
        match read {
            Ok(0) => return,
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
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Where nobody waits the reader is gone; the splitter notices.
        let _ = job.out.send(deflate(&mut compress, &job.plain));
    }
}

fn deflate(compress: &mut Compress, plain: &[u8]) -> Outcome {
    compress.reset();
    let mut deflated = Vec::with_capacity(plain.len() / 2 + 1024);
    loop {
        let consumed = usize::try_from(compress.total_in()).unwrap_or(plain.len());
        compress
            .compress_vec(&plain[consumed..], &mut deflated, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        // Room that is left means that nothing waits to be written.
        if compress.total_in() == plain.len() as u64 && deflated.len() < deflated.capacity() {
            break;
        }
        deflated.reserve(plain.len() / 4 + 1024);
    }
    let mut crc = Crc::new();
    crc.update(plain);
    Ok(Block {
        deflated,
        crc,
        size: plain.len(),
    })
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;

    fn compressed(plain: &[u8], threads: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let source = io::Cursor::new(plain.to_vec());
        let mut gzip = Gzip::with_threads(source, threads).unwrap();
        gzip.read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn one_member_that_anybody_reads() {
        let noise = |at: u32| (at.wrapping_mul(2_654_435_761) >> 13) as u8;
        let random: Vec<u8> = (0..3 * BLOCK as u32 + 17).map(noise).collect();
        let text = b"moss has no roots\n".repeat(100_000);
        for plain in [&b""[..], b"x", &text, &text[..BLOCK], &random] {
            let gzip = compressed(plain, 2);
            let mut back = Vec::new();
            GzDecoder::new(&gzip[..]).read_to_end(&mut back).unwrap();
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
