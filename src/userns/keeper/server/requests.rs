//! The daemons' requests, and their answers.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::{Next, Server};
use crate::sys::fdpass;
use crate::userns::keeper::protocol::{MAX_MESSAGE, Order, Reply, Request, Status, VERSION};

/// A request and its answer's length fit easily; a status reply is the longest message.
const MAX_REQUEST: usize = 4 << 10;

impl Server {
    /// Reads one request of the connection at `place` and answers it.
    pub(super) fn serve_connection(&mut self, place: usize) -> Next {
        let mut buffer = [0; MAX_REQUEST];
        let received = fdpass::receive(&self.connections[place], &mut buffer);
        let (length, descriptors) = match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::GoOn,
            Ok((0, _)) | Err(_) => {
                self.connections.swap_remove(place);
                self.idle_since = Instant::now();
                if self.connections.is_empty() {
                    self.find_orphans();
                }
                return Next::GoOn;
            }
            Ok(received) => received,
        };
        let mut descriptors = descriptors.into_iter();
        let request = match serde_json::from_slice(&buffer[..length]) {
            Ok(request) => request,
            Err(error) => {
                let message = format!("it does not understand the request: {error}");
                self.answer(place, &Reply::Failed { message });
                return Next::GoOn;
            }
        };
        let lacking = || Reply::Failed {
            message: "a descriptor is missing".into(),
        };
        let reply = match request {
            Request::Hello { .. } => Reply::Hello {
                version: VERSION,
                build: self.build.clone(),
                pid: std::process::id().cast_signed(),
                maps: self.maps.clone(),
            },
            Request::Spawn => match descriptors.next() {
                Some(connection) => self.spawn(connection),
                None => lacking(),
            },
            Request::Pin { network } => match descriptors.next() {
                Some(namespace) => {
                    self.pin(network, namespace);
                    Reply::Done
                }
                None => lacking(),
            },
            Request::Tell { order } => {
                let told: Vec<OwnedFd> = descriptors.collect();
                self.slirp.tell(&order, &told);
                Reply::Done
            }
            Request::Unpin { network } => {
                self.networks.remove(&network);
                let network = &network;
                self.slirp.tell(&Order::Unpin { network }, &[]);
                Reply::Done
            }
            Request::Namespace { network } => {
                let namespace = self.networks.get(&network);
                let twin = namespace.and_then(|namespace| namespace.try_clone().ok());
                let held = twin.is_some();
                self.answer_with(place, &Reply::Namespace { held }, twin.as_ref());
                return Next::GoOn;
            }
            Request::Status => Reply::Status(Status {
                shims: self.shims.iter().map(|shim| shim.pid).collect(),
                connections: self.connections.len(),
                forked: self.forked,
                networks: self.networks.keys().cloned().collect(),
            }),
            Request::Revive => {
                let left: Vec<OwnedFd> = descriptors.collect();
                self.revival.leave(left.try_into().ok());
                Reply::Done
            }
            Request::Upgrade { build } => match descriptors.next() {
                Some(program) => Reply::Failed {
                    message: self
                        .upgrade(place, &build, &File::from(program))
                        .to_string(),
                },
                None => lacking(),
            },
            Request::Stop { force } if !force && !self.shims.is_empty() => Reply::Failed {
                message: format!("{} containers run", self.shims.len()),
            },
            Request::Stop { .. } => {
                self.answer(place, &Reply::Done);
                return Next::Leave;
            }
        };
        self.answer(place, &reply);
        Next::GoOn
    }

    /// Answers; an asker that has gone is noticed when its connection is read next.
    pub(super) fn answer(&mut self, place: usize, reply: &Reply) {
        self.answer_with(place, reply, None);
    }

    fn answer_with(&mut self, place: usize, reply: &Reply, descriptor: Option<&OwnedFd>) {
        let Some(connection) = self.connections.get(place) else {
            return;
        };
        let mut bytes = serde_json::to_vec(reply).unwrap_or_default();
        if bytes.len() > MAX_MESSAGE {
            bytes = b"{\"failed\":{\"message\":\"the answer is too long\"}}".to_vec();
        }
        // An asker has one question open, so the answer fits; for one that asks and never listens
        // nobody else is kept waiting. Its connection's end is noticed as any other's.
        let descriptors: Vec<_> = descriptor.into_iter().map(AsFd::as_fd).collect();
        if fdpass::send(connection, &bytes, &descriptors).is_err() {
            let _ = rustix::net::shutdown(connection, rustix::net::Shutdown::Both);
        }
    }
}
