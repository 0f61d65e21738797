//! Asking the engine things.
//!
//! ```text
//! -H ─▶ $MOSS_HOST ─▶ the socket that the data root's lock names ─▶ the default socket ─▶ start one
//! ```
//!
//! An engine that was named is never started: it may be somebody else's. How this user's own is found
//! or started is told in [`find`].
//!
//! An engine that was started on demand leaves when it has nothing to do, and may do so just as a
//! verb connects. It says so before it stops listening to whom it has not heard; the verb then asks
//! the next one. One that was killed has said nothing: what changes nothing is asked again.
//!
//! A [`Client`] keeps one connection for requests that are answered at once; what takes longer
//! (waits, logs, hijacks) gets a connection of its own.

mod find;

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args;
use super::error::Refused;
use super::http::{Body, BodyReader, Connection, Head, Hijacked, Target};
use crate::api::error::ErrorBody;
use crate::api::version::ApiVersion;
use crate::sys::lock;
use crate::sys::paths::Paths;
use find::start;

pub use find::{Place, living, paths};

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Answer {
    /// Its head.
    pub head: Head,
    /// Its body.
    pub body: BodyReader,
}

/// The engine, as verbs see it.
#[derive(Debug)]
pub struct Client {
    socket: RefCell<PathBuf>,
    /// For an engine of this user's own: where it keeps things, and the pid that was connected to.
    home: Option<(Paths, args::Roots, u32)>,
    idle: RefCell<Option<Connection>>,
    warned: Cell<bool>,
}

impl Client {
    /// Finds the engine, or starts it.
    pub fn find(place: &Place) -> Result<Client> {
        match place {
            Place::Named(socket) => Ok(Client::on(socket.clone(), None)),
            Place::Own => {
                let roots = args::Roots::default();
                let error = match paths(&roots) {
                    Ok(paths) => return Client::own(&paths, &roots),
                    Err(error) => error,
                };
                // A daemon that was started before the file was spoilt still serves.
                let living = Paths::of_user().ok().and_then(|user| living(&user).ok()?);
                living.map(|socket| Client::on(socket, None)).ok_or(error)
            }
        }
    }

    /// Finds the engine that keeps things there, or starts it.
    pub fn own(paths: &Paths, roots: &args::Roots) -> Result<Client> {
        // The usual case costs one connection, which is kept.
        let holder = lock::holder(&paths.data_root);
        let pid = holder.as_ref().map_or(0, |holder| holder.pid);
        let usual = holder.and_then(|holder| holder.socket);
        let usual = usual.unwrap_or_else(|| paths.socket.clone());
        let mut client = match Connection::open(&usual) {
            Ok(connection) => Client::on(usual, Some(connection)),
            Err(_) => match living(paths)? {
                Some(socket) => Client::on(socket, None),
                None => Client::on(start(paths, roots)?, None),
            },
        };
        client.home = Some((paths.clone(), roots.clone(), pid));
        Ok(client)
    }

    fn on(socket: PathBuf, connection: Option<Connection>) -> Client {
        Client {
            socket: RefCell::new(socket),
            home: None,
            idle: RefCell::new(connection),
            warned: Cell::new(false),
        }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.borrow().clone()
    }

    /// A connection to another engine in place of one that was about to leave when it was
    /// connected to, and so has not heard what it was asked; where that may be `repeated`, also in
    /// place of one that was killed. An engine that is started on demand leaves when nobody is
    /// connected: somebody may just be on the way.
    fn anew(&self, repeated: bool) -> Result<Option<Connection>> {
        let Some((paths, roots, pid)) = &self.home else {
            return Ok(None);
        };
        let root = &paths.data_root;
        if !(lock::has_left(root, *pid) || repeated && lock::is_gone(root, *pid)) {
            return Ok(None);
        }
        let socket = match living(paths)? {
            Some(socket) => socket,
            None => start(paths, roots)?,
        };
        self.socket.replace(socket);
        self.connect().map(Some)
    }

    fn connect(&self) -> Result<Connection> {
        let socket = self.socket.borrow();
        Connection::open(&socket).map_err(|error| {
            let place = socket.display();
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow!(
                    "Cannot connect to the moss daemon at unix://{place}. Is the moss daemon running?"
                ),
                _ => anyhow::Error::new(error)
                    .context(format!("cannot connect to the moss daemon at unix://{place}")),
            }
        })
    }

    /// Sends a request on the kept connection, or on a new one where the engine has closed that,
    /// and reads the head of the answer. Refusals are errors.
    pub fn ask(&self, method: &str, target: &Target, body: Body<'_>) -> Result<Answer> {
        self.ask_with(method, target, &[], body)
    }

    /// The same with more fields in the request's head.
    pub fn ask_with(
        &self,
        method: &str,
        target: &Target,
        fields: &[(&str, &str)],
        mut body: Body<'_>,
    ) -> Result<Answer> {
        let kept = self.idle.borrow_mut().take();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let target = versioned(target);
        let sent = connection.send(method, &target, fields, &mut body, false);
        let head = match (sent, connection.head()) {
            (_, Ok(head)) => head,
            // Closed since the last answer. What could not be sent was not done, and to ask for
            // something twice changes nothing; anything else may have been done before the end.
            (sent, Err(_))
                if connection.is_used()
                    && !matches!(body, Body::Stream(_))
                    && (sent.is_err() || method == "GET" || method == "HEAD") =>
            {
                connection = self.connect()?;
                connection.send(method, &target, fields, &mut body, false)?;
                connection.head().context("no answer from the engine")?
            }
            (sent, Err(unheard)) => {
                let again = match body {
                    Body::Stream(_) => None,
                    _ if connection.is_used() => None,
                    _ => self.anew(sent.is_err() || method == "GET" || method == "HEAD")?,
                };
                let Some(again) = again else {
                    let (error, what) = match sent {
                        Err(error) => (error, "cannot send the request"),
                        Ok(()) => (unheard, "no answer from the engine"),
                    };
                    return Err(anyhow::Error::new(error).context(what));
                };
                connection = again;
                connection.send(method, &target, fields, &mut body, false)?;
                connection.head().context("no answer from the engine")?
            }
        };
        self.check_version(&head);
        let body = match method {
            "HEAD" => connection.no_body(&head),
            _ => connection.body(&head)?,
        };
        self.accept(Answer { head, body })
    }

    /// Turns a refusal into an error.
    fn accept(&self, mut answer: Answer) -> Result<Answer> {
        if answer.head.status < 400 {
            return Ok(answer);
        }
        let mut text = Vec::new();
        answer.body.read_to_end(&mut text)?;
        self.keep(answer.body);
        let message = match serde_json::from_slice::<ErrorBody>(&text) {
            Ok(body) => body.message,
            Err(_) => String::from_utf8_lossy(&text).trim().to_owned(),
        };
        Err(anyhow::Error::new(Refused {
            status: answer.head.status,
            message,
        }))
    }

    fn keep(&self, body: BodyReader) {
        if let Some(connection) = body.finish() {
            *self.idle.borrow_mut() = Some(connection);
        }
    }

    /// A verb of another version than the daemon's is named once; both work on.
    fn check_version(&self, head: &Head) {
        let ours = env!("CARGO_PKG_VERSION");
        let theirs = head.field("server").and_then(moss_version);
        if let Some(theirs) = theirs
            && theirs != ours
            && !self.warned.replace(true)
        {
            eprintln!(
                "WARNING: this is moss {ours}, the daemon at unix://{} is moss {theirs}; \
                 restart it with 'moss system stop' (containers go on)",
                self.socket.borrow().display()
            );
        }
    }

    /// Reads the whole answer.
    pub fn bytes(&self, method: &str, target: &Target, body: Body<'_>) -> Result<Vec<u8>> {
        let mut answer = self.ask(method, target, body)?;
        let mut text = Vec::new();
        answer
            .body
            .read_to_end(&mut text)
            .context("cannot read the engine's answer")?;
        self.keep(answer.body);
        Ok(text)
    }

    /// `GET`, answered in JSON.
    pub fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T> {
        read(&self.bytes("GET", target, Body::Empty)?)
    }

    /// `POST` of a JSON body, answered in JSON.
    pub fn post<T: DeserializeOwned>(&self, target: &Target, body: &impl Serialize) -> Result<T> {
        let body = Body::Json(serde_json::to_vec(body)?);
        read(&self.bytes("POST", target, body)?)
    }

    /// `POST` without a body, answered in JSON.
    pub fn post_empty<T: DeserializeOwned>(&self, target: &Target) -> Result<T> {
        read(&self.bytes("POST", target, Body::Empty)?)
    }

    /// `POST` without a body whose answer says nothing.
    pub fn act(&self, target: &Target) -> Result<()> {
        self.bytes("POST", target, Body::Empty).map(drop)
    }

    /// Sends a request on a connection of its own; the answer is read later.
    pub fn begin(&self, target: &Target, body: Body<'_>, hijack: bool) -> Result<Pending> {
        let mut body = body;
        let mut connection = self.connect()?;
        connection
            .send("POST", &versioned(target), &[], &mut body, hijack)
            .context("cannot send the request")?;
        Ok(Pending { connection })
    }

    /// Reads the head of a pending answer, and turns a refusal into an error.
    pub fn answer(&self, mut pending: Pending) -> Result<Answer> {
        let head = pending
            .connection
            .head()
            .context("no answer from the engine")?;
        self.check_version(&head);
        let body = pending.connection.body(&head)?;
        self.accept(Answer { head, body })
    }

    /// Takes a pending hijack over.
    pub fn hijacked(&self, mut pending: Pending) -> Result<(Head, Hijacked)> {
        let head = pending
            .connection
            .head()
            .context("no answer from the engine")?;
        self.check_version(&head);
        if head.status == 101 || head.status == 200 {
            return Ok((head, pending.connection.hijacked()));
        }
        let body = pending.connection.body(&head)?;
        match self.accept(Answer { head, body }) {
            Ok(_) => bail!("the engine did not take the connection over"),
            Err(error) => Err(error),
        }
    }
}

/// A request that was sent and is not answered yet.
#[derive(Debug)]
pub struct Pending {
    connection: Connection,
}

fn versioned(target: &Target) -> String {
    format!("/v{}{}", ApiVersion::MAX, target.as_str())
}

fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).context("cannot read the engine's answer")
}

/// The version of moss in `Docker/29.5.0+moss.0.1.0 (linux)`.
fn moss_version(server: &str) -> Option<&str> {
    let (_, rest) = server.split_once("+moss.")?;
    rest.split_whitespace().next()
}

/// The address in the form of `$DOCKER_HOST`.
pub fn address(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Write};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::sys::lock::Holder;

    #[test]
    fn the_daemons_version_is_in_its_header() {
        assert_eq!(
            moss_version("Docker/29.5.0+moss.0.1.0 (linux)"),
            Some("0.1.0")
        );
        assert_eq!(moss_version("Docker/28.2.2 (linux)"), None);
    }

    #[test]
    fn what_an_engine_that_leaves_has_not_heard_is_asked_of_the_next() {
        let root = tempfile::tempdir().unwrap();
        let place = |name: &str| root.path().join(name);
        let paths = Paths {
            data_root: place("data"),
            exec_root: place("run"),
            socket: place("next.sock"),
            config: place("config"),
        };
        std::fs::create_dir(&paths.data_root).unwrap();
        let leaving = UnixListener::bind(place("leaving.sock")).unwrap();
        let next = UnixListener::bind(&paths.socket).unwrap();
        let mut holder = Holder {
            socket: Some(place("leaving.sock")),
            pid: 7,
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            ..Holder::default()
        };
        let mut lock = lock::Lock::take(&paths.data_root, &holder).unwrap();
        let target = Target::new("/containers/create", &[]);
        let ask = |client: &Client| client.bytes("POST", &target, Body::Empty);
        let client = Client::own(&paths, &args::Roots::default()).unwrap();
        drop(leaving.accept().unwrap());
        // It has not said that it leaves: it may have done what it was asked.
        let refused = ask(&client).unwrap_err();
        assert!(refused.downcast_ref::<io::Error>().is_some(), "{refused:?}");

        let client = Client::own(&paths, &args::Roots::default()).unwrap();
        drop(leaving.accept().unwrap());
        holder.socket = None;
        lock.name(&holder).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // One connection tells that it lives, another asks.
                while let Ok((stream, _)) = next.accept() {
                    let mut stream = io::BufReader::new(stream);
                    let mut line = String::new();
                    if stream.read_line(&mut line).unwrap_or(0) == 0 {
                        continue;
                    }
                    while line.trim() != "" {
                        line.clear();
                        stream.read_line(&mut line).unwrap();
                    }
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext";
                    stream.get_mut().write_all(answer).unwrap();
                    break;
                }
            });
            assert_eq!(ask(&client).unwrap(), b"next");
        });
        assert_eq!(client.socket(), paths.socket);
    }
}
