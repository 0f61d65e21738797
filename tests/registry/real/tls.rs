//! Over TLS, with certificates of its own.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;

use super::{Running, program, round_trip, run};
use crate::{message, open, registries};
use moss::registry::{Access, Config, Registries};

/// An address of this machine that is not loopback, where certificates are looked at.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the kernel merely chooses where it would be sent from.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

/// A key and a certificate by it: signed by `ca`, or by itself.
pub(super) fn certificate(path: &Path, name: &str, extension: &str, ca: Option<&str>) {
    let at = |suffix: &str| path.join(suffix).display().to_string();
    run(
        "openssl",
        &[
            "req",
            "-new",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &at(&format!("{name}.key")),
            "-out",
            &at(&format!("{name}.csr")),
        ],
        b"",
    );
    fs::write(at("extensions"), extension).expect("a file");
    let (csr, crt, key) = (
        at(&format!("{name}.csr")),
        at(&format!("{name}.crt")),
        at(&format!("{name}.key")),
    );
    let extensions = at("extensions");
    let mut arguments = vec![
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        &csr,
        "-out",
        &crt,
        "-extfile",
        &extensions,
    ];
    let signer = ca.map(|ca| (at(&format!("{ca}.crt")), at(&format!("{ca}.key"))));
    match &signer {
        Some((crt, key)) => arguments.extend(["-CA", crt, "-CAkey", key, "-CAcreateserial"]),
        None => arguments.extend(["-signkey", &key]),
    }
    run("openssl", &arguments, b"");
}

#[test]
fn a_registry_over_tls() {
    if program("openssl", "MOSS_TEST_OPENSSL").is_none() {
        return;
    }
    let Some(address) = own_address() else {
        eprintln!("skipped: no address but loopback, where certificates are not verified");
        return;
    };
    let Some(running) = Running::start(&address, |path| {
        certificate(path, "ca", "basicConstraints=critical,CA:TRUE\n", None);
        certificate(
            path,
            "server",
            &format!("subjectAltName=IP:{address}\n"),
            Some("ca"),
        );
        certificate(path, "client", "extendedKeyUsage=clientAuth\n", Some("ca"));
        let at = |name: &str| path.join(name).display().to_string();
        let tls = format!(
            "  tls:\n    certificate: {}\n    key: {}\n    clientcas: [{}]\n",
            at("server.crt"),
            at("server.key"),
            at("ca.crt")
        );
        (tls, String::new())
    }) else {
        return;
    };
    let name = running.name("app");
    let root = format!("https://{}/v2/", running.address);
    let stranger = open(&registries(), &name, None, Access::Pull);
    assert_eq!(
        message(stranger.resolve("one")),
        format!(
            "Get \"{root}\": tls: failed to verify certificate: x509: certificate signed by unknown authority"
        )
    );

    let certificates = running.directory.path().join("certs.d");
    let own = certificates.join(&running.address);
    fs::create_dir_all(&own).expect("a directory");
    let copy = |from: &str, to: &str| {
        fs::copy(running.directory.path().join(from), own.join(to)).expect("a file");
    };
    let known = || {
        Registries::new(Config {
            certificates: vec![certificates.clone()],
            ..Config::default()
        })
        .expect("a sound configuration")
    };
    copy("ca.crt", "ca.crt");
    // The server wants to know who one is.
    let error = message(open(&known(), &name, None, Access::Pull).resolve("one"));
    assert!(
        error.starts_with(&format!("Get \"{root}\": remote error: tls: ")),
        "{error}"
    );
    copy("client.crt", "client.cert");
    copy("client.key", "client.key");
    round_trip(&known(), &name, None);

    // By another name than the certificate's: insecure is insecure, loopback included.
    let insecure = Registries::new(Config {
        insecure_registries: vec![running.address.clone()],
        certificates: vec![certificates.clone()],
        ..Config::default()
    })
    .expect("a sound configuration");
    assert!(
        open(&insecure, &name, None, Access::Pull)
            .resolve("one")
            .is_ok()
    );
}
