//! slirp: the process that connects a user's networks with the world, one a user.
//!
//! ```text
//!  keeper ── link ──▶ main thread           starts and ends the networks' threads
//!                      ├── worker  (host's namespace, no capability)     names, published ports
//!                      ├── egress  (host's namespace, confined)          the way out
//!                      └── helper  (network's namespace, two capabilities)  makes sockets there
//! ```
//!
//! It is forked by the keeper, like shims, and started again by it when it dies: the keeper gives it
//! every network's namespace, and all else it reads from files that the daemon wrote ([`state`]). So
//! neither names nor published ports need a living daemon, and containers reach each other without
//! this process. Its flows end with it; nothing else does.
//!
//! **The link** is a packet socket; each message is an [`Order`] with its descriptors beside it. The
//! keeper says what there is, and passes on what the daemon says. When it ends, this process ends.

pub mod answers;
pub mod descriptors;
pub mod dns;
pub mod egress;
mod helper;
mod ports;
mod reactor;
mod sockets;
pub mod state;
mod worker;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::sys::fdpass;
pub use helper::listen_here;
use sockets::HostSockets;
use state::{Book, Publication};
use worker::{Change, Worker};

/// The process's name, as `ps` shows it.
pub const NAME: &str = "moss-slirp";

/// The longest message.
const LONGEST: usize = 64 << 10;

/// As many sockets come with one message; more are told in several.
pub const MOST_SOCKETS: usize = 24;

/// What this process is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// First of all: where the files are.
    Begin {
        /// The exec root.
        exec_root: PathBuf,
    },
    /// Serve a network; the descriptor is its namespace. One that is served already is served anew.
    Pin {
        /// Its id.
        network: String,
    },
    /// Serve it no more.
    Unpin {
        /// Its id.
        network: String,
    },
    /// Its file is another. The descriptors are sockets for some of what is published anew.
    Changed {
        /// Its id.
        network: String,
        /// What the sockets are for, in order.
        sockets: Vec<Publication>,
        /// The last descriptor is one to answer at, by an [`Answer`], once it is done.
        #[serde(default)]
        answer: bool,
    },
}

/// What cannot be published, and the system's number of why.
pub type Answer = Vec<(Publication, i32)>;

/// So many are told at most.
const MOST_FAILED: usize = 128;

/// Confines the calling thread, which is to read what containers send.
pub type Confine = fn() -> io::Result<()>;

/// The process's life; returns its exit status.
pub fn run(link: &OwnedFd, confine: Confine) -> i32 {
    // Names and descriptors are all that is left of the keeper that was forked.
    let _ = rustix::thread::set_name(c"moss-slirp");
    let mut networks: HashMap<String, Worker> = HashMap::new();
    let mut book: Option<Arc<Book>> = None;
    let sockets = Arc::new(HostSockets::default());
    let mut buffer = vec![0; LONGEST];
    loop {
        let (length, descriptors) = match fdpass::receive(link, &mut buffer) {
            Ok((0, _)) => return 0,
            Ok(received) => received,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                // There was no descriptor left for what came with it. What changed is in a file; a network that
                // was to be served is not.
                tracing::error!("an order came without its descriptors: {error}");
                networks
                    .values()
                    .for_each(|it| it.change(Change::default()));
                continue;
            }
            Err(_) => return 1,
        };
        let order = serde_json::from_slice(buffer.get(..length).unwrap_or_default());
        match (order, &book) {
            (Ok(Order::Begin { exec_root }), _) => book = Some(Arc::new(Book::new(exec_root))),
            (Ok(Order::Pin { network }), Some(book)) => {
                let Some(namespace) = descriptors.into_iter().next() else {
                    continue;
                };
                // The one before holds the port of names; it goes first.
                networks.remove(&network);
                book.add(&network);
                let known = (Arc::clone(book), Arc::clone(&sockets));
                match Worker::start(network.clone(), namespace, known, confine) {
                    Ok(worker) => drop(networks.insert(network, worker)),
                    Err(error) => tracing::error!("network {network} is not served: {error}"),
                }
            }
            (Ok(Order::Unpin { network }), Some(book)) => {
                networks.remove(&network);
                book.remove(&network);
            }
            (
                Ok(Order::Changed {
                    network,
                    sockets,
                    answer,
                }),
                _,
            ) => {
                let mut descriptors = descriptors;
                let answer = if answer { descriptors.pop() } else { None };
                let given = sockets.into_iter().zip(descriptors).collect();
                if let Some(worker) = networks.get(&network) {
                    worker.change(Change { given, answer });
                }
            }
            // From a keeper of another version; what it means is not known here.
            (Err(_), _) | (_, None) => {}
        }
    }
}
