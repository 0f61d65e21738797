//! With tokens of a server of its own.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::tls::certificate;
use super::{Running, layer, program, round_trip, run, store};
use crate::served::{Served, answer};
use crate::{message, open, reference, registries, somebody};
use moss::registry::{Access, Cancel, Credentials, ErrorKind, Mount, Target};
use moss::types::digest::Digest;

/// A token server that docker-registry believes: its tokens are signed with openssl.
fn token_server(path: &Path) -> Served {
    let count = AtomicUsize::new(0);
    let key = path.join("issuer.key").display().to_string();
    let pem = fs::read_to_string(path.join("issuer.crt")).expect("a certificate");
    let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    Served::new(move |head, stream| {
        // Parameters of the query, or of the form.
        let text = match head.method.as_str() {
            "POST" => String::from_utf8_lossy(&head.body).into_owned(),
            _ => head
                .target
                .split_once('?')
                .map(|(_, query)| query.to_owned())
                .unwrap_or_default(),
        };
        let parameters: Vec<(String, String)> = text
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| {
                let value = value
                    .replace("%3A", ":")
                    .replace("%2F", "/")
                    .replace("%2C", ",");
                (name.to_owned(), value.replace('+', " "))
            })
            .collect();
        let parameter = |name: &'static str| {
            let of = parameters.iter().filter(move |(known, _)| known == name);
            of.map(|(_, value)| value.as_str())
        };
        let basic = format!("Basic {}", STANDARD.encode("somebody:secret"));
        let known = head.field("authorization") == Some(&basic)
            || parameter("refresh_token").any(|token| token == "refresh");
        let stranger = head.field("authorization").is_none() && head.method == "GET";
        if !known && !stranger {
            let fields = [("Content-Type", "application/json")];
            return answer(
                stream,
                "401 Unauthorized",
                &fields,
                br#"{"details":"incorrect username or password"}"#,
            );
        }
        // Strangers may pull from `public` only.
        let access: Vec<String> = parameter("scope")
            .flat_map(|scopes| scopes.split(' '))
            .filter_map(|scope| {
                let mut parts = scope.splitn(3, ':');
                let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
                let actions: Vec<String> = actions
                    .split(',')
                    .filter(|action| known || (*action == "pull" && name == "public"))
                    .map(|action| format!("\"{action}\""))
                    .collect();
                Some(format!(
                    r#"{{"type":"{kind}","name":"{name}","actions":[{}]}}"#,
                    actions.join(",")
                ))
            })
            .collect();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        let header = format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{der}"]}}"#);
        let claims = format!(
            r#"{{"iss":"issuer","sub":"","aud":"service","exp":{},"nbf":{},"iat":{now},"jti":"{}","access":[{}]}}"#,
            now + 300,
            now - 10,
            count.fetch_add(1, Ordering::SeqCst),
            access.join(",")
        );
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = run(
            "openssl",
            &["dgst", "-sha256", "-sign", &key],
            signed.as_bytes(),
        );
        let refresh = if parameter("offline_token").any(|wanted| wanted == "true") {
            r#","refresh_token":"refresh""#
        } else {
            ""
        };
        let body = format!(
            r#"{{"token":"{signed}.{}","expires_in":300{refresh}}}"#,
            URL_SAFE_NO_PAD.encode(signature)
        );
        answer(stream, "200 OK", &[], body.as_bytes())
    })
}

#[test]
fn a_registry_with_tokens() {
    if program("openssl", "MOSS_TEST_OPENSSL").is_none() {
        return;
    }
    let mut tokens = None;
    let Some(running) = Running::start("127.0.0.1", |path| {
        certificate(path, "issuer", "basicConstraints=CA:FALSE\n", None);
        let server = token_server(path);
        let auth = format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: service\n    issuer: issuer\n    rootcertbundle: {}\n",
            server.address,
            path.join("issuer.crt").display()
        );
        tokens = Some(server);
        (String::new(), auth)
    }) else {
        return;
    };
    let tokens = tokens.expect("it was made with the registry");
    let name = running.name("private/app");
    round_trip(&registries(), &name, somebody("somebody", "secret"));
    // One token for what is pushed and one for what is pulled.
    let asked: Vec<String> = tokens
        .requests()
        .iter()
        .map(|head| head.target.clone())
        .collect();
    assert_eq!(
        asked,
        [
            "/token?account=somebody&scope=repository%3Aprivate%2Fapp%3Apush%2Cpull&service=service",
            "/token?account=somebody&scope=repository%3Aprivate%2Fapp%3Apull&service=service",
        ]
    );

    // A mount asks for both repositories.
    let push = open(
        &registries(),
        &running.name("public"),
        somebody("somebody", "secret"),
        Access::Push,
    );
    let digest = Digest::of(&layer());
    assert!(matches!(
        push.mount(digest, &reference(&name)),
        Ok(Mount::Mounted)
    ));
    store(&push, "one", b"layer");
    assert!(
        open(&registries(), &running.name("public"), None, Access::Pull)
            .resolve("one")
            .is_ok()
    );

    let stranger = open(&registries(), &name, None, Access::Pull);
    assert_eq!(
        message(stranger.find(Target::Tag("one"), None)),
        format!(
            "pull access denied for {name}, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
        )
    );
    let wrong = open(
        &registries(),
        &name,
        somebody("somebody", "wrong"),
        Access::Pull,
    );
    assert_eq!(
        message(wrong.resolve("one")),
        format!(
            "Head \"http://{}/v2/private/app/manifests/one\": unauthorized: incorrect username or password",
            running.address
        )
    );

    // A login gives a token that stands for the password from then on.
    let login = |credentials: Option<Credentials>| {
        registries().login(
            &running.address,
            &credentials.unwrap_or_default(),
            &Cancel::new(),
        )
    };
    assert_eq!(
        login(somebody("somebody", "secret")).ok(),
        Some(Some("refresh".to_owned()))
    );
    let refused = login(somebody("somebody", "wrong"));
    assert_eq!(
        refused.as_ref().map_err(|error| error.kind()).err(),
        Some(ErrorKind::Unauthorized)
    );
    assert_eq!(
        message(refused),
        format!(
            "Get \"http://{}/v2/\": unauthorized: incorrect username or password",
            running.address
        )
    );
    let by_token = Some(Credentials {
        identity_token: "refresh".into(),
        ..Credentials::default()
    });
    assert!(
        open(&registries(), &name, by_token, Access::Pull)
            .resolve("one")
            .is_ok()
    );
}
