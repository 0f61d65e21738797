//! Which certificates are believed: the host's, and those of `certs.d`.
//!
//! The host's authorities are looked for where Go's programs look (`SSL_CERT_FILE`, `SSL_CERT_DIR`,
//! else the places of the distributions), because that is where an administrator who runs Docker
//! has put them. `certs.d/HOST/*.crt` are more authorities for one registry; `X.cert` with `X.key`
//! is a certificate of our own to show to it. Those are read for each pull, so that a changed file
//! needs no restart; the host's once, when first a certificate is to be verified, as Go does it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore, SignatureScheme,
};
use ureq::tls::{PemItem, PrivateKey, parse_pem};

use super::error::Error;

/// Files that hold all authorities of the host: the first that is there is taken.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Directories of single authorities, read where no bundle was found.
const DIRECTORIES: &[&str] = &["/etc/ssl/certs", "/etc/pki/tls/certs"];
/// Largest file that is read for certificates, in bytes.
const FILE_MAX: u64 = 16 << 20;

/// The host's authorities, read when they are first asked for.
#[derive(Debug, Default)]
pub(super) struct HostRoots(OnceLock<RootCertStore>);

impl HostRoots {
    fn get(&self) -> &RootCertStore {
        self.0.get_or_init(|| {
            store_of(host_authorities(
                std::env::var_os("SSL_CERT_FILE").map(PathBuf::from),
                std::env::var_os("SSL_CERT_DIR").as_deref(),
            ))
        })
    }
}

/// What of them can be read; Go too skips what cannot.
fn store_of(authorities: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(authorities);
    store
}

/// What a connection to one registry is secured with besides.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    roots: RootCertStore,
    client: Option<Arc<CertifiedKey>>,
}

impl Identity {
    /// For the registry at `authority`.
    pub(super) fn load(directories: &[PathBuf], authority: &str) -> Result<Self, Error> {
        let (mut roots, mut client) = (Vec::new(), None);
        for directory in directories {
            read_directory(&directory.join(authority), &mut roots, &mut client)?;
        }
        Ok(Self::with(roots, client))
    }

    /// Of more authorities than the host's, and a certificate of our own.
    pub(super) fn with(
        authorities: Vec<CertificateDer<'static>>,
        client: Option<Arc<CertifiedKey>>,
    ) -> Self {
        Self {
            roots: store_of(authorities),
            client,
        }
    }

    /// The TLS library's configuration; `own` where it is the registry itself that is spoken to.
    ///
    /// # Errors
    /// Where the library has no version of TLS to offer, which is its own doing.
    pub(super) fn config(
        &self,
        host: &HostRoots,
        verify: bool,
        own: bool,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = if verify {
            let mut roots = host.get().clone();
            roots.extend(self.roots.roots.iter().cloned());
            builder.with_root_certificates(roots)
        } else {
            let anybody = Arc::new(Anybody(provider));
            builder
                .dangerous()
                .with_custom_certificate_verifier(anybody)
        };
        Ok(Arc::new(match self.client.as_ref().filter(|_| own) {
            Some(client) => {
                let client = SingleCertAndKey::from(Arc::clone(client));
                builder.with_client_cert_resolver(Arc::new(client))
            }
            None => builder.with_no_client_auth(),
        }))
    }
}

/// Verifies nothing: what an insecure registry asks for.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn host_authorities(
    file: Option<PathBuf>,
    directories: Option<&OsStr>,
) -> Vec<CertificateDer<'static>> {
    let mut roots = Vec::new();
    let bundles = match file {
        Some(file) => vec![file],
        None => BUNDLES.iter().map(PathBuf::from).collect(),
    };
    for bundle in bundles {
        if let Ok(pem) = read(&bundle) {
            roots.extend(certificates(&pem));
            break;
        }
    }
    let searched: Vec<PathBuf> = match directories {
        Some(list) => std::env::split_paths(list).collect(),
        None if roots.is_empty() => DIRECTORIES.iter().map(PathBuf::from).collect(),
        None => Vec::new(),
    };
    for directory in searched {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            if let Ok(pem) = read(&entry.path()) {
                roots.extend(certificates(&pem));
            }
        }
    }
    roots
}

fn read_directory(
    directory: &Path,
    roots: &mut Vec<CertificateDer<'static>>,
    client: &mut Option<Arc<CertifiedKey>>,
) -> Result<(), Error> {
    let unreadable = |path: &Path| {
        let path = path.display().to_string();
        move |source| Error::Certificates { path, source }
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(error) => return Err(unreadable(directory)(error)),
    };
    let names: BTreeSet<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    for name in &names {
        let path = directory.join(name);
        if name.ends_with(".crt") {
            roots.extend(certificates(&read(&path).map_err(unreadable(&path))?));
        } else if let Some(stem) = name.strip_suffix(".cert") {
            let key_name = format!("{stem}.key");
            if !names.contains(&key_name) {
                return Err(Error::Invalid(format!(
                    "missing key {key_name} for client certificate {name}. CA certificates must \
                     use the extension .crt"
                )));
            }
            let key_path = directory.join(&key_name);
            let chain: Vec<_> = certificates(&read(&path).map_err(unreadable(&path))?).collect();
            let key = read(&key_path).map_err(unreadable(&key_path))?;
            let key = private_key(&key);
            let (false, Some(key)) = (chain.is_empty(), key) else {
                return Err(Error::Invalid(format!(
                    "tls: failed to find certificate and key in {name} and {key_name}"
                )));
            };
            let pair = pair(chain, key.der()).map_err(|reason| {
                Error::Invalid(format!(
                    "tls: cannot use client certificate {}: {reason}",
                    path.display()
                ))
            })?;
            *client = Some(Arc::new(pair));
        } else if let Some(stem) = name.strip_suffix(".key") {
            let certificate = format!("{stem}.cert");
            if !names.contains(&certificate) {
                return Err(Error::Invalid(format!(
                    "missing client certificate {certificate} for key {name}"
                )));
            }
        }
    }
    Ok(())
}

/// A certificate with its key. One that the TLS library cannot read, as it can none of X.509's
/// version 1, is for the server to judge, as with Go.
pub(super) fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: &[u8],
) -> Result<CertifiedKey, String> {
    let key = PrivateKeyDer::try_from(key.to_vec())?;
    let provider = rustls::crypto::ring::default_provider();
    let key = provider.key_provider.load_private_key(key);
    let pair = CertifiedKey::new(chain, key.map_err(|error| error.to_string())?);
    match pair.keys_match() {
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err("private key does not match public key".to_owned())
        }
        _ => Ok(pair),
    }
}

pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;

    let file = fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first key in a file.
pub(super) fn private_key(pem: &[u8]) -> Option<PrivateKey<'_>> {
    parse_pem(pem).find_map(|item| match item {
        Ok(PemItem::PrivateKey(key)) => Some(key),
        _ => None,
    })
}

/// What can be read of a file; Go too skips what it cannot.
pub(super) fn certificates(pem: &[u8]) -> impl Iterator<Item = CertificateDer<'static>> + '_ {
    parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate.der().to_vec().into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_pair_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let load = || {
            Identity::load(&[directory.path().to_owned()], "r.example:5000")
                .map(drop)
                .map_err(|error| error.to_string())
        };
        assert_eq!(load(), Ok(()));
        let own = directory.path().join("r.example:5000");
        fs::create_dir(&own).expect("a directory");
        fs::write(own.join("ca.crt"), "nonsense").expect("a file");
        assert_eq!(load(), Ok(()));
        fs::write(own.join("client.cert"), "").expect("a file");
        assert_eq!(
            load(),
            Err("missing key client.key for client certificate client.cert. CA certificates must use the extension .crt".into())
        );
        fs::write(own.join("client.key"), "").expect("a file");
        assert!(load().is_err_and(|text| text.contains("client.cert and client.key")));
        fs::remove_file(own.join("client.cert")).expect("it was there");
        assert_eq!(
            load(),
            Err("missing client certificate client.cert for key client.key".into())
        );
    }
}
