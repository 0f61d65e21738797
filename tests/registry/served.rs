//! A small HTTP server whose answers are whatever a test likes, byte for byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Head {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Head {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What becomes of the connection after an answer.
pub enum Then {
    Keep,
    Close,
}

pub struct Served {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Head>>>,
}

impl Served {
    /// Serves until the test program ends. Bodies of PATCH are left to the handler to read.
    pub fn new(
        handler: impl Fn(&Head, &mut BufReader<TcpStream>) -> Then + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("it is bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, handler) = (Arc::clone(&requests), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, handler) = (Arc::clone(&seen), Arc::clone(&handler));
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    while let Some(head) = read_head(&mut stream) {
                        seen.lock().expect("no test panics here").push(head.clone());
                        if matches!(handler(&head, &mut stream), Then::Close) {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }

    /// `127.0.0.1:PORT/NAME`.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub fn requests(&self) -> Vec<Head> {
        self.requests.lock().expect("no test panics here").clone()
    }

    /// The requests whose target has `part` in it.
    pub fn of(&self, part: &str) -> Vec<Head> {
        let mut requests = self.requests();
        requests.retain(|head| head.target.contains(part));
        requests
    }
}

fn read_head(stream: &mut BufReader<TcpStream>) -> Option<Head> {
    let mut line = String::new();
    stream
        .read_line(&mut line)
        .ok()
        .filter(|length| *length > 0)?;
    let mut words = line.split_whitespace();
    let mut head = Head {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        fields: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        stream
            .read_line(&mut line)
            .ok()
            .filter(|length| *length > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        head.fields
            .push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = head
        .field("content-length")
        .and_then(|text| text.parse().ok());
    if let Some(length) = length.filter(|_| head.method != "PATCH") {
        head.body = vec![0; length];
        stream.read_exact(&mut head.body).ok()?;
    }
    Some(head)
}

/// Sends an answer with a body and its length.
pub fn answer(
    stream: &mut BufReader<TcpStream>,
    status: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Then {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    // In one write: what is still held back when the connection is reset never arrives.
    send(stream, &[head.as_bytes(), body].concat())
}

/// Sends bytes; the other side may be gone.
pub fn send(stream: &mut BufReader<TcpStream>, bytes: &[u8]) -> Then {
    match stream.get_mut().write_all(bytes) {
        Ok(()) => Then::Keep,
        Err(_) => Then::Close,
    }
}
