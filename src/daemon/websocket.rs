//! Attaching by WebSocket (RFC 6455): the handshake, and frames on one side of a pair of sockets, bytes
//! on the other.
//!
//! A container's streams know nothing of frames, so whoever attaches this way gets one end of a pair,
//! and two threads carry over: one from the client (which must mask what it sends), one to it. What
//! comes is passed on as it comes, whatever the frames; what goes is a binary frame each time. These
//! threads are the daemon's, so unlike a hijacked connection this one ends with it.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::{
    CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};

use super::STACK;
use super::answer::{Answer, Failure, Hijack};
use super::request::Request;

/// What a key is hashed with (RFC 6455, section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes of a frame's payload at once.
const PIECE: usize = 32 * 1024;

/// Longest payload of a control frame.
const CONTROL: u64 = 125;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Answers a handshake; `join` gets the other end, whose bytes are the frames' payloads.
///
/// # Errors
///
/// 400 for what is no handshake of version 13.
pub fn answer(
    request: &Request,
    join: impl FnOnce(OwnedFd) + Send + 'static,
) -> Result<Answer, Failure> {
    // Clients of older versions expect text.
    let kind = if request.since(28) { BINARY } else { TEXT };
    Ok(Answer::Hijack(Hijack {
        head: head(&request.headers)?,
        take: Box::new(move |connection, early| {
            if let Err(error) = carry(connection, early, kind, join) {
                tracing::debug!("a websocket ended: {error}");
            }
        }),
    }))
}

/// The answer's head, in Go's words where there is none.
fn head(headers: &HeaderMap) -> Result<String, Failure> {
    let text = |name| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or("")
    };
    let upgrades = text(UPGRADE).eq_ignore_ascii_case("websocket")
        && text(CONNECTION).to_ascii_lowercase().contains("upgrade");
    if !upgrades {
        return Err(Failure::bad_request("not websocket protocol"));
    }
    let key = text(SEC_WEBSOCKET_KEY);
    if key.is_empty() {
        return Err(Failure::bad_request("mismatch challenge/response"));
    }
    if text(SEC_WEBSOCKET_VERSION) != "13" {
        return Err(Failure::bad_request("missing or bad WebSocket Version"));
    }
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n",
        accept(key)
    );
    let protocol = text(SEC_WEBSOCKET_PROTOCOL);
    if protocol.contains(',') {
        return Err(Failure::bad_request("bad protocol"));
    }
    if !protocol.is_empty() {
        let _ = write!(head, "Sec-WebSocket-Protocol: {protocol}\r\n");
    }
    Ok(head)
}

fn accept(key: &str) -> String {
    STANDARD.encode(sha1(format!("{key}{GUID}").as_bytes()))
}

/// SHA-1 (FIPS 180-4), which is good for this handshake and nothing else.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    let mut state: [u32; 5] = [
        0x6745_2301,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ];
    for block in padded.chunks_exact(64) {
        let mut words = [0_u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes
                .iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte));
        }
        for t in 16..80 {
            words[t] = (words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (t, word) in words.iter().enumerate() {
            let (mixed, constant) = match t {
                0..20 => (b & c | !b & d, 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = a
                .rotate_left(5)
                .wrapping_add(mixed)
                .wrapping_add(e)
                .wrapping_add(constant)
                .wrapping_add(*word);
            (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
        }
        for (sum, add) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(add);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

/// The way to the client.
struct Out {
    client: UnixStream,
    /// A close frame was sent, and nothing may follow (section 5.5.1): the client's was answered, or
    /// the container has said all.
    is_closed: bool,
}

/// Carries over until one of both sides has ended.
fn carry(
    connection: OwnedFd,
    early: Vec<u8>,
    kind: u8,
    join: impl FnOnce(OwnedFd),
) -> io::Result<()> {
    let client = UnixStream::from(connection);
    client.set_nonblocking(false)?;
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let out = Mutex::new(Out {
        client: client.try_clone()?,
        is_closed: false,
    });
    let mut source = io::Cursor::new(early).chain(&client);
    std::thread::scope(|scope| {
        let writer = std::thread::Builder::new().stack_size(STACK);
        writer.spawn_scoped(scope, || {
            let sent = send(&ours, &out, kind);
            // Whatever was wrong, there is nothing more to be had.
            let _ = client.shutdown(Shutdown::Both);
            sent
        })?;
        join(theirs.into());
        let received = receive(&mut source, &ours, &out);
        let _ = ours.shutdown(Shutdown::Both);
        received
    })
}

/// From the container to the client.
fn send(mut ours: &UnixStream, out: &Mutex<Out>, kind: u8) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match ours.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(length) => frame(out, kind, &piece[..length])?,
        }
    }
    // 1000: all is said.
    frame(out, CLOSE, &1000_u16.to_be_bytes())
}

/// Writes one frame, unless the connection is closed.
fn frame(out: &Mutex<Out>, kind: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(payload.len() + 4);
    frame.push(0x80 | kind);
    match u16::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(length as u8),
        Ok(length) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => return Err(io::ErrorKind::InvalidInput.into()),
    }
    frame.extend(payload);
    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
    if out.is_closed {
        return Ok(());
    }
    out.is_closed = kind == CLOSE;
    out.client.write_all(&frame)
}

/// From the client to the container, until it closes.
fn receive(source: &mut impl Read, mut ours: &UnixStream, out: &Mutex<Out>) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let Some(header) = Header::read(source)? else {
            return Ok(());
        };
        let mut left = header.length;
        let mut place = 0;
        let mut control = Vec::new();
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let length = source.read(&mut piece[..most])?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= length as u64;
            for byte in &mut piece[..length] {
                *byte ^= header.mask[place % 4];
                place += 1;
            }
            if header.kind < CLOSE {
                ours.write_all(&piece[..length])?;
            } else {
                control.extend(&piece[..length]);
            }
        }
        match header.kind {
            CLOSE => return frame(out, CLOSE, &control),
            PING => frame(out, PONG, &control)?,
            _ => {}
        }
    }
}

/// What a client's frame begins with.
struct Header {
    kind: u8,
    length: u64,
    mask: [u8; 4],
}

impl Header {
    /// `None` at the end.
    fn read(source: &mut impl Read) -> io::Result<Option<Header>> {
        let mut start = [0; 2];
        match source.read_exact(&mut start) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let bad = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        let (kind, reserved) = (start[0] & 0xf, start[0] & 0x70);
        if start[1] & 0x80 == 0 || reserved != 0 {
            return bad("a client's frame that is not masked, or of an extension");
        }
        let length = match start[1] & 0x7f {
            126 => {
                let mut length = [0; 2];
                source.read_exact(&mut length)?;
                u16::from_be_bytes(length).into()
            }
            127 => {
                let mut length = [0; 8];
                source.read_exact(&mut length)?;
                u64::from_be_bytes(length)
            }
            length => length.into(),
        };
        if kind >= CLOSE && length > CONTROL {
            return bad("a control frame that is too long");
        }
        let mut mask = [0; 4];
        source.read_exact(&mut mask)?;
        Ok(Some(Header { kind, length, mask }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_specification_has_it() {
        assert_eq!(
            accept("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        let mut headers = HeaderMap::new();
        assert!(head(&headers).is_err());
        for (name, value) in [
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let head = head(&headers).unwrap();
        assert!(head.ends_with("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    }

    /// A masked frame.
    fn masked(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![0x80 | kind];
        match u8::try_from(payload.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | length),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        frame.extend(mask);
        let bytes = payload.iter().enumerate();
        frame.extend(bytes.map(|(place, byte)| byte ^ mask[place % 4]));
        frame
    }

    #[test]
    fn payloads_are_carried_both_ways() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let early = masked(BINARY, b"first ")[..4].to_vec();
        let rest = masked(BINARY, b"first ")[4..].to_vec();
        let serving = std::thread::spawn(move || {
            carry(server.into(), early, BINARY, |end| {
                std::thread::spawn(move || {
                    let mut end = UnixStream::from(end);
                    end.set_nonblocking(false).unwrap();
                    let mut got = vec![0; 206];
                    end.read_exact(&mut got).unwrap();
                    end.write_all(&got).unwrap();
                });
            })
        });
        client.write_all(&rest).unwrap();
        client.write_all(&masked(PING, b"?")).unwrap();
        client.write_all(&masked(TEXT, &[b'x'; 200])).unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        let mut expected = vec![0x80 | PONG, 1, b'?', 0x80 | BINARY, 126, 0, 206];
        expected.extend(b"first ");
        expected.extend([b'x'; 200]);
        expected.extend([0x80 | CLOSE, 2, 3, 232]);
        assert_eq!(all, expected);
        serving.join().unwrap().unwrap();
    }

    #[test]
    fn a_close_frame_is_answered_by_one() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (sender, joined) = std::sync::mpsc::channel();
        let serving = std::thread::spawn(move || {
            carry(server.into(), Vec::new(), BINARY, |end| {
                sender.send(end).unwrap();
            })
        });
        let _end = joined.recv().unwrap();
        client.write_all(&masked(CLOSE, &[3, 232])).unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert_eq!(all, [0x80 | CLOSE, 2, 3, 232]);
        serving.join().unwrap().unwrap();
    }

    #[test]
    fn what_is_not_masked_ends_it() {
        assert!(Header::read(&mut &[0x82, 1, 0][..]).is_err());
        assert!(Header::read(&mut &[0x89, 0xfe, 1, 0][..]).is_err());
        assert!(Header::read(&mut &[][..]).unwrap().is_none());
    }
}
