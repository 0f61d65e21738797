//! What goes wrong below HTTP, from the libraries' errors to Go's words.
//!
//! Clients, scripts and people's search engines know Docker's errors by the texts of Go's `net`,
//! `net/http`, `crypto/tls` and `crypto/x509`; this is where they come from.

use std::io;

/// Why there was no answer, worded as Go words it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The [`Cancel`](super::Cancel) was used.
    #[error("context canceled")]
    Cancelled,
    /// The name is unknown.
    #[error("dial tcp: lookup {host}: {reason}")]
    Lookup {
        /// The name.
        host: String,
        /// `no such host`.
        reason: String,
    },
    /// No connection.
    #[error("dial tcp {address}: connect: {reason}")]
    Connect {
        /// Where to.
        address: String,
        /// `connection refused`.
        reason: String,
    },
    /// No answer to the attempt to connect.
    #[error("dial tcp {0}: i/o timeout")]
    ConnectTimeout(String),
    /// No answer to the attempt to connect, or to TLS's greeting, in the time that there is.
    #[error("net/http: TLS handshake timeout")]
    HandshakeTimeout,
    /// The registry speaks HTTP where HTTPS was tried.
    #[error("http: server gave HTTP response to HTTPS client")]
    HttpForHttps,
    /// The registry's certificate is refused.
    #[error("tls: failed to verify certificate: x509: {0}")]
    Certificate(String),
    /// TLS failed otherwise.
    #[error("remote error: tls: {0}")]
    Tls(String),
    /// The connection ended before the answer did.
    #[error("EOF")]
    Eof,
    /// The connection broke.
    #[error("read tcp: {0}")]
    Broken(String),
    /// No answer in time.
    #[error("net/http: request canceled (Client.Timeout exceeded while awaiting headers)")]
    Timeout,
    /// Nothing came for a long time in the middle of an answer.
    #[error(
        "net/http: request canceled (Client.Timeout or context cancellation while reading body)"
    )]
    Stalled,
    /// The answer is no HTTP.
    #[error("net/http: HTTP/1.x transport connection broken: {0}")]
    Malformed(String),
    /// Redirected too often.
    #[error("stopped after {0} redirects")]
    Redirects(usize),
    /// Redirected to where nobody may go.
    #[error("invalid redirect to {0:?}")]
    Redirect(String),
    /// The proxy refused.
    #[error("proxyconnect tcp: {0}")]
    Proxy(String),
}

impl Failure {
    /// Whether another attempt may end otherwise.
    pub(super) fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::ConnectTimeout(_)
                | Self::HandshakeTimeout
                | Self::Eof
                | Self::Broken(_)
                | Self::Timeout
                | Self::Stalled
                | Self::Connect { .. }
                | Self::Proxy(_)
        )
    }
}

/// A system call's error without Rust's number, in lower case, as Go words it.
pub(super) fn words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |code| nix::errno::Errno::from_raw(code).desc().to_lowercase(),
    )
}

/// What a failing stream of the library's means.
pub(super) fn of_io(error: io::Error) -> Failure {
    of_library(ureq::Error::from(error))
}

/// What went wrong in a request.
pub(super) fn of_library(error: ureq::Error) -> Failure {
    match error {
        ureq::Error::Other(other) => match other.downcast::<Failure>() {
            Ok(failure) => *failure,
            Err(other) => Failure::Malformed(other.to_string()),
        },
        ureq::Error::Timeout(ureq::Timeout::Connect) => Failure::HandshakeTimeout,
        ureq::Error::Timeout(_) => Failure::Timeout,
        ureq::Error::Rustls(error) => of_tls(&error),
        ureq::Error::ConnectProxyFailed(reason) => Failure::Proxy(reason),
        ureq::Error::HostNotFound => Failure::Lookup {
            host: String::new(),
            reason: "no such host".into(),
        },
        ureq::Error::Io(error) => of_socket(&error),
        other => Failure::Malformed(other.to_string()),
    }
}

fn of_socket(error: &io::Error) -> Failure {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return of_tls(tls);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotConnected => Failure::Eof,
        _ => Failure::Broken(words(error)),
    }
}

/// A refused certificate in the words of Go's x509 package.
fn of_tls(error: &rustls::Error) -> Failure {
    use rustls::CertificateError as Certificate;

    let rustls::Error::InvalidCertificate(certificate) = error else {
        return match error {
            rustls::Error::AlertReceived(alert) => {
                // Go's words for an alert are lower-case ones with spaces: `BadCertificate`.
                let mut words = String::new();
                for character in format!("{alert:?}").chars() {
                    if character.is_ascii_uppercase() && !words.is_empty() {
                        words.push(' ');
                    }
                    words.push(character.to_ascii_lowercase());
                }
                Failure::Tls(words)
            }
            other => Failure::Tls(other.to_string()),
        };
    };
    let date = |time: u64| {
        i64::try_from(time)
            .ok()
            .and_then(|time| time::OffsetDateTime::from_unix_timestamp(time).ok())
            .and_then(|time| {
                time.format(&time::format_description::well_known::Rfc3339)
                    .ok()
            })
            .unwrap_or_default()
    };
    Failure::Certificate(match certificate {
        Certificate::UnknownIssuer => "certificate signed by unknown authority".into(),
        Certificate::Expired | Certificate::NotValidYet => {
            "certificate has expired or is not yet valid".into()
        }
        Certificate::ExpiredContext { time, not_after } => format!(
            "certificate has expired or is not yet valid: current time {} is after {}",
            date(time.as_secs()),
            date(not_after.as_secs())
        ),
        Certificate::NotValidYetContext { time, not_before } => format!(
            "certificate has expired or is not yet valid: current time {} is before {}",
            date(time.as_secs()),
            date(not_before.as_secs())
        ),
        Certificate::NotValidForNameContext {
            expected,
            presented,
        } => {
            // `DnsName("a.example")`.
            let names: Vec<&str> = presented
                .iter()
                .map(|name| name.split('"').nth(1).unwrap_or(name))
                .collect();
            let wanted = expected.to_str();
            if names.is_empty() {
                format!("certificate is not valid for any names, but wanted to match {wanted}")
            } else {
                format!(
                    "certificate is valid for {}, not {wanted}",
                    names.join(", ")
                )
            }
        }
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{AlertDescription, CertificateError};

    use super::*;

    #[test]
    fn certificates_are_refused_in_gos_words() {
        let text =
            |error: CertificateError| of_tls(&rustls::Error::InvalidCertificate(error)).to_string();
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let prefix = "tls: failed to verify certificate: x509: ";
        assert_eq!(
            text(CertificateError::UnknownIssuer),
            format!("{prefix}certificate signed by unknown authority")
        );
        assert_eq!(
            text(CertificateError::ExpiredContext {
                time: at(86_400),
                not_after: at(0)
            }),
            format!(
                "{prefix}certificate has expired or is not yet valid: current time \
                 1970-01-02T00:00:00Z is after 1970-01-01T00:00:00Z"
            )
        );
        let expected = ServerName::try_from("r.example").expect("a name");
        assert_eq!(
            text(CertificateError::NotValidForNameContext {
                expected: expected.clone(),
                presented: vec![
                    "DnsName(\"a.example\")".into(),
                    "DnsName(\"b.example\")".into()
                ]
            }),
            format!("{prefix}certificate is valid for a.example, b.example, not r.example")
        );
        assert_eq!(
            text(CertificateError::NotValidForNameContext {
                expected,
                presented: Vec::new()
            }),
            format!(
                "{prefix}certificate is not valid for any names, but wanted to match r.example"
            )
        );
        assert_eq!(
            of_tls(&rustls::Error::AlertReceived(
                AlertDescription::BadCertificate
            ))
            .to_string(),
            "remote error: tls: bad certificate"
        );
    }
}
