//! Behind a line that cuts each connection after so many bytes.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Running;
use crate::uploads::reader_of;
use crate::{content, open, read_all, registries};
use moss::registry::Access;
use moss::types::digest::Digest;

/// Relays to `to` until the test program ends; each connection so many bytes of the client's.
fn line(to: &str, bytes: u64) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    let (to, cuts) = (to.to_owned(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&cuts);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(&to).expect("it listens");
            let (mut back, mut forth) = (
                server.try_clone().expect("a descriptor"),
                client.try_clone().expect("a descriptor"),
            );
            std::thread::spawn(move || io::copy(&mut back, &mut forth));
            let cuts = Arc::clone(&counted);
            std::thread::spawn(move || {
                let (mut client, mut server) = (client, server);
                let sent = io::copy(&mut client.by_ref().take(bytes), &mut server);
                if sent.is_ok_and(|sent| sent == bytes) {
                    cuts.fetch_add(1, Ordering::SeqCst);
                }
                let _ = server.shutdown(Shutdown::Both);
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    (address, cuts)
}

#[test]
fn a_blob_gets_through_a_line_that_cuts_connections() {
    let Some(running) = Running::start("127.0.0.1", |_| Default::default()) else {
        return;
    };
    let (line, cuts) = line(&running.address, 1_500_000);
    let body = content(6_000_000);
    let digest = Digest::of(&body);
    open(&registries(), &format!("{line}/app"), None, Access::Push)
        .push_blob(digest, 6_000_000, reader_of(&body))
        .expect("it arrives");
    // This registry forgets an upload of which a request was cut.
    assert!(cuts.load(Ordering::SeqCst) >= 2, "one request, and a piece");
    let pull = open(&registries(), &running.name("app"), None, Access::Pull);
    let blob = pull.blob(digest, Some(6_000_000)).expect("it is there");
    assert!(read_all(blob).expect("it arrives") == body);
}
