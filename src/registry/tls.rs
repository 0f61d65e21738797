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

use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig, parse_pem};

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
pub(super) struct HostRoots(OnceLock<Vec<Certificate<'static>>>);

impl HostRoots {
    fn get(&self) -> &[Certificate<'static>] {
        self.0.get_or_init(|| {
            host_authorities(
                std::env::var_os("SSL_CERT_FILE").map(PathBuf::from),
                std::env::var_os("SSL_CERT_DIR").as_deref(),
            )
        })
    }
}

/// What a connection to one registry is secured with besides.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    roots: Vec<Certificate<'static>>,
    client: Option<ClientCert>,
}

impl Identity {
    /// For the registry at `authority`.
    pub(super) fn load(directories: &[PathBuf], authority: &str) -> Result<Self, Error> {
        let mut identity = Self {
            roots: Vec::new(),
            client: None,
        };
        for directory in directories {
            let own = directory.join(authority);
            read_directory(&own, &mut identity.roots, &mut identity.client)?;
        }
        Ok(identity)
    }

    /// The library's settings; `own` where it is the registry itself that is spoken to.
    pub(super) fn settings(&self, host: &HostRoots, verify: bool, own: bool) -> TlsConfig {
        let roots = if verify {
            [host.get(), &self.roots].concat()
        } else {
            Vec::new()
        };
        TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .client_cert(self.client.clone().filter(|_| own))
            .disable_verification(!verify)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build()
    }
}

fn host_authorities(
    file: Option<PathBuf>,
    directories: Option<&OsStr>,
) -> Vec<Certificate<'static>> {
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
    roots: &mut Vec<Certificate<'static>>,
    client: &mut Option<ClientCert>,
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
            let key = parse_pem(&key).find_map(|item| match item {
                Ok(PemItem::PrivateKey(key)) => Some(key),
                _ => None,
            });
            let (false, Some(key)) = (chain.is_empty(), key) else {
                return Err(Error::Invalid(format!(
                    "tls: failed to find certificate and key in {name} and {key_name}"
                )));
            };
            check_pair(&chain, &key, &path)?;
            *client = Some(ClientCert::new_with_certs(&chain, key));
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

/// The HTTP library takes a pair for granted, and ends the program if it is none.
fn check_pair(
    chain: &[Certificate<'static>],
    key: &ureq::tls::PrivateKey<'static>,
    path: &Path,
) -> Result<(), Error> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let unusable = |reason: &str| {
        Error::Invalid(format!(
            "tls: cannot use client certificate {}: {reason}",
            path.display()
        ))
    };
    let found = |error: &rustls::Error| match error.to_string() {
        // The library reads version 3 alone; what Go takes, older openssl makes unasked.
        text if text.contains("UnsupportedCertVersion") => "it is an X.509 version 1 certificate, \
            and only version 3 can be used: sign it anew with extensions (openssl x509 -req … \
            -extfile FILE, where FILE says basicConstraints = CA:FALSE)"
            .to_owned(),
        text => text,
    };
    let key = PrivateKeyDer::try_from(key.der().to_vec()).map_err(unusable)?;
    let chain = chain
        .iter()
        .map(|certificate| CertificateDer::from(certificate.der().to_vec()))
        .collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_client_auth_cert(chain, key)
        })
        .map(drop)
        .map_err(|error| unusable(&found(&error)))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;

    let file = fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What can be read of a file; Go too skips what it cannot.
fn certificates(pem: &[u8]) -> impl Iterator<Item = Certificate<'static>> + '_ {
    parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
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
