//! Debian's docker-registry, as people run it: open, with passwords, over TLS, with tokens.

mod cut;
mod tls;
mod tokens;

use std::fs;
use std::io::{BufRead, BufReader, Cursor, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

use super::{message, open, read_all, reference, registries, somebody};
use moss::registry::{
    Access, Cancel, Credentials, ErrorKind, Mount, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Registries,
    Repository, Target,
};
use moss::types::digest::Digest;

/// A program in `PATH`, or where a variable says.
fn program(name: &str, variable: &str) -> Option<PathBuf> {
    let found = match std::env::var_os(variable) {
        Some(path) => Some(PathBuf::from(path)),
        None => std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|directory| directory.join(name))
            .find(|path| path.exists()),
    };
    if found.is_none() {
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// A running registry; its storage goes with it.
struct Running {
    child: Child,
    directory: TempDir,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts one; `more` is YAML for its configuration, written once its directory is known.
    fn start(host: &str, more: impl FnOnce(&Path) -> (String, String)) -> Option<Self> {
        let program = program("docker-registry", "MOSS_TEST_REGISTRY")?;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let (http, rest) = more(path);
        let config = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
             rootdirectory: {}/storage\n  delete:\n    enabled: true\nhttp:\n  addr: {host}:0\n{http}{rest}",
            path.display()
        );
        fs::write(path.join("config.yml"), config).expect("a file");
        let mut child = Command::new(program)
            .args(["serve", &path.join("config.yml").display().to_string()])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let log = child.stderr.take().expect("it is piped");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut said = String::new();
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on ") {
                    let end = rest.find([',', '"']).unwrap_or(rest.len());
                    let _ = sender.send(Ok(rest[..end].to_owned()));
                }
                said.push_str(&line);
                said.push('\n');
            }
            let _ = sender.send(Err(said));
        });
        let address = receiver
            .recv_timeout(Duration::from_secs(20))
            .expect("it says where it listens")
            .expect("it listens");
        Some(Self {
            child,
            directory,
            address,
        })
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

fn run(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write as _;

    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    child
        .stdin
        .take()
        .expect("it is piped")
        .write_all(input)
        .expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{program} {arguments:?}");
    output.stdout
}

/// Stores an image of one layer under a tag: its manifest's digest.
fn store(repository: &Repository, tag: &str, layer: &[u8]) -> Digest {
    let config =
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    for blob in [&config[..], layer] {
        let bytes = blob.to_vec();
        repository
            .push_blob(Digest::of(blob), blob.len() as u64, |offset| {
                let mut cursor = Cursor::new(bytes.clone());
                cursor.seek(SeekFrom::Start(offset))?;
                Ok(Box::new(cursor))
            })
            .expect("the blob is stored");
    }
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{OCI_CONFIG}","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        Digest::of(config),
        config.len(),
        Digest::of(layer),
        layer.len()
    );
    repository
        .put_manifest(Some(tag), OCI_MANIFEST, manifest.as_bytes())
        .expect("the manifest is stored")
}

fn layer() -> Vec<u8> {
    (0..3_000_000u32).map(|at| (at * 7 % 255) as u8).collect()
}

/// Pushes and pulls an image, as the credentials allow.
fn round_trip(registries: &Registries, name: &str, credentials: Option<Credentials>) {
    let layer = layer();
    let push = open(registries, name, credentials.clone(), Access::Push);
    let digest = store(&push, "one", &layer);
    let pull = open(registries, name, credentials, Access::Pull);
    let resolved = pull.resolve("one").expect("it is there");
    assert_eq!(resolved.digest, digest);
    assert_eq!(resolved.media_type, OCI_MANIFEST);
    let found = pull.find(Target::Tag("one"), None).expect("it is found");
    assert_eq!(found.chain[0].digest, digest);
    let described = &found.manifest.layers[0];
    let blob = pull
        .blob(described.digest, Some(described.size))
        .expect("it opens");
    assert_eq!(read_all(blob).expect("it arrives"), layer);
    assert_eq!(
        pull.small_blob(found.manifest.config.digest, 1 << 20)
            .map(|bytes| bytes.len() as u64)
            .ok(),
        Some(found.manifest.config.size)
    );
    assert_eq!(pull.tags().ok(), Some(vec!["one".to_owned()]));
}

#[test]
fn an_open_registry() {
    let Some(running) = Running::start("127.0.0.1", |_| Default::default()) else {
        return;
    };
    let name = running.name("team/app");
    round_trip(&registries(), &name, None);

    let pull = open(&registries(), &name, None, Access::Pull);
    assert_eq!(
        message(pull.resolve("nope")),
        format!("manifest for {name}:nope not found: manifest unknown: manifest unknown")
    );
    let absent = Digest::of(b"absent");
    assert_eq!(message(pull.blob(absent, None)), "unknown blob");
    assert_eq!(pull.blob_size(absent).ok(), Some(None));
    assert_eq!(
        open(&registries(), &running.name("other"), None, Access::Pull)
            .tags()
            .map_err(|error| error.kind())
            .err(),
        Some(ErrorKind::NotFound)
    );

    // A mount, an index, an upload that is given up, and ones whose digest is right and wrong.
    let layer = layer();
    let digest = Digest::of(&layer);
    let push = open(&registries(), &running.name("second"), None, Access::Push);
    assert_eq!(push.blob_size(digest).ok(), Some(None));
    assert!(matches!(
        push.mount(digest, &reference(&name)),
        Ok(Mount::Mounted)
    ));
    assert_eq!(push.blob_size(digest).ok(), Some(Some(3_000_000)));
    match push.mount(absent, &reference(&name)) {
        Ok(Mount::Upload(upload)) => upload.abandon().expect("it is forgotten"),
        _ => panic!("what is not there cannot be mounted"),
    }
    let send = |digest: Digest, bytes: &[u8]| {
        let bytes = bytes.to_vec();
        let size = bytes.len() as u64;
        push.push_blob(digest, size, move |offset| {
            let rest = bytes[offset as usize..].to_vec();
            Ok(Box::new(std::io::Cursor::new(rest)))
        })
    };
    let whole = vec![1; 100_000];
    send(Digest::of(&whole), &whole).expect("it is stored");
    assert_eq!(
        message(send(Digest::of(&whole[1..]), b"x")),
        "digest invalid: provided digest did not match uploaded content"
    );

    let image = store(&push, "amd64", b"layer");
    let bytes = push.manifest_by_digest(image).expect("it is there").bytes;
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{image}","size":{},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
        bytes.len()
    );
    let stored = push
        .put_manifest(Some("all"), OCI_INDEX, index.as_bytes())
        .expect("it is stored");
    assert!(push.manifest_by_digest(stored).is_ok());
    let amd64 = "linux/amd64/v3".parse().expect("a platform");
    let found = push
        .find(Target::Tag("all"), Some(&amd64))
        .expect("it runs");
    assert_eq!(found.chain.len(), 2);
    assert_eq!(
        (found.chain[0].digest, found.chain[1].digest),
        (stored, image)
    );
    let arm = "linux/arm64/v8".parse().expect("a platform");
    assert_eq!(
        message(push.find(Target::Digest(stored), Some(&arm))),
        "no matching manifest for linux/arm64 in the manifest list entries"
    );
}

#[test]
fn a_registry_with_passwords() {
    if program("htpasswd", "MOSS_TEST_HTPASSWD").is_none() {
        return;
    }
    let Some(running) = Running::start("127.0.0.1", |path| {
        let file = path.join("htpasswd");
        fs::write(&file, run("htpasswd", &["-Bbn", "somebody", "secret"], b"")).expect("a file");
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: moss\n    path: {}\n",
            file.display()
        );
        (String::new(), auth)
    }) else {
        return;
    };
    let name = running.name("app");
    round_trip(&registries(), &name, somebody("somebody", "secret"));
    let root = format!("http://{}/v2/", running.address);
    assert_eq!(
        message(open(&registries(), &name, None, Access::Pull).resolve("one")),
        format!("Head \"{root}app/manifests/one\": no basic auth credentials")
    );
    let wrong = open(
        &registries(),
        &name,
        somebody("somebody", "wrong"),
        Access::Pull,
    );
    assert_eq!(
        message(wrong.resolve("one")),
        "unauthorized: authentication required"
    );

    let login = |password: &str| {
        let credentials = somebody("somebody", password).unwrap_or_default();
        registries().login(&running.address, &credentials, &Cancel::new())
    };
    assert_eq!(login("secret").ok(), Some(None));
    assert_eq!(
        message(login("wrong")),
        format!("login attempt to {root} failed with status: 401 Unauthorized")
    );
}
