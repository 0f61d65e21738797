//! TLS to servers that are no registries: the same authorities of the host, the same words where it
//! fails.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::failure::{Failure, of_io};
use super::tls::{HostRoots, Identity};

/// What a connection is to be secured with.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// More authorities than the host's.
    pub authorities: Option<&'a Path>,
    /// A certificate of our own, and its key; both where one is there.
    pub own: Option<(&'a Path, &'a Path)>,
    /// Whether the server has to prove who it is.
    pub verify: bool,
}

/// A secured connection.
#[derive(Debug)]
pub struct Secured(StreamOwned<ClientConnection, TcpStream>);

impl Secured {
    /// Exchanges the greetings with the server of the name `host`; each of its words may take `patience`.
    ///
    /// # Errors
    /// In Go's words.
    pub fn begin(
        socket: TcpStream,
        host: &str,
        files: &Files<'_>,
        patience: Duration,
    ) -> Result<Self, String> {
        let config = Identity::of(files)?
            .config(&HostRoots::default(), files.verify, true)
            .map_err(|error| error.to_string())?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("x509: invalid host name {host:?}"))?;
        let connection = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
        let wait = |socket: &TcpStream, patience| {
            socket
                .set_read_timeout(patience)
                .and_then(|()| socket.set_write_timeout(patience))
        };
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::HandshakeTimeout,
            _ => of_io(error),
        };
        let mut stream = StreamOwned::new(connection, socket);
        wait(&stream.sock, Some(patience))
            .and_then(|()| stream.conn.complete_io(&mut stream.sock))
            .and_then(|_| wait(&stream.sock, None))
            .map_err(|error| failed(error).to_string())?;
        Ok(Self(stream))
    }

    /// Sends all of `bytes`, as long as that takes.
    ///
    /// # Errors
    /// That the connection is broken.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        use std::io::Write;

        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// Whether the server has closed it, as far as that is known now. What it says is passed over.
    pub fn has_ended(&mut self) -> bool {
        let StreamOwned { conn, sock } = &mut self.0;
        if sock.set_nonblocking(true).is_err() {
            return true;
        }
        let ended = loop {
            match conn.read_tls(sock) {
                Ok(0) => break true,
                Ok(_) => match conn.process_new_packets() {
                    Ok(state) if state.peer_has_closed() => break true,
                    Ok(state) => {
                        let mut said = vec![0; state.plaintext_bytes_to_read()];
                        if io::Read::read_exact(&mut conn.reader(), &mut said).is_err() {
                            break true;
                        }
                    }
                    Err(_) => break true,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
            }
        };
        sock.set_nonblocking(false).is_err() || ended
    }
}

impl Identity {
    /// What some files hold.
    fn of(files: &Files<'_>) -> Result<Self, String> {
        let unread = |path: &Path, error: &io::Error| {
            format!("open {}: {}", path.display(), super::failure::words(error))
        };
        let mut roots = Vec::new();
        if let Some(path) = files.authorities.filter(|_| files.verify) {
            let pem = super::tls::read(path).map_err(|error| {
                let why = unread(path, &error);
                format!(
                    "could not read CA certificate {:?}: {why}",
                    path.display().to_string()
                )
            })?;
            roots.extend(super::tls::certificates(&pem));
            if roots.is_empty() {
                let path = path.display().to_string();
                return Err(format!(
                    "failed to append certificates from PEM file: {path:?}"
                ));
            }
        }
        let unpaired = |why: String| format!("could not load X509 key pair: {why}");
        let client = match files.own {
            Some((certificate, key)) => {
                let read = |path: &Path| {
                    super::tls::read(path).map_err(|error| unpaired(unread(path, &error)))
                };
                let (certificate, key) = (read(certificate)?, read(key)?);
                let chain: Vec<_> = super::tls::certificates(&certificate).collect();
                let key = super::tls::private_key(&key)
                    .ok_or_else(|| unpaired("no valid private key found".to_owned()))?;
                if chain.is_empty() {
                    let why = "tls: failed to find any PEM data in certificate input";
                    return Err(unpaired(why.to_owned()));
                }
                let pair = super::tls::pair(chain, key.der());
                Some(Arc::new(
                    pair.map_err(|why| unpaired(format!("tls: {why}")))?,
                ))
            }
            None => None,
        };
        Ok(Self::with(roots, client))
    }
}
