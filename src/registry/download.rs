//! A file from anywhere on the web, for `docker import http://…`.
//!
//! The same connections as a registry's: proxies, certificates, time-outs and cancelling are as
//! there. It is not tried again where it breaks off, as nothing says what it should have been.

use std::io::{self, Read};

use ureq::BodyReader;
use ureq::http::{Method, StatusCode};

use super::Registries;
use super::cancel::Cancel;
use super::error::Error;
use super::failure::of_io;
use super::http::{Request, status_text};
use super::url::Url;

/// A file that is being fetched: its bytes. The errors are this folder's, see [`Error::from_io`].
pub struct Download {
    length: Option<u64>,
    url: Url,
    body: BodyReader<'static>,
}

impl Download {
    /// Its length in bytes, where the server tells.
    pub fn length(&self) -> Option<u64> {
        self.length
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer).map_err(|error| {
            io::Error::from(Error::Request {
                method: "Get".to_owned(),
                url: self.url.to_string(),
                source: of_io(error),
            })
        })
    }
}

impl Registries {
    /// Begins to fetch `url`; one without a scheme is taken for a host's root over plain HTTP, as
    /// Docker takes it.
    pub fn download(&self, url: &str, cancel: &Cancel) -> Result<Download, Error> {
        let address = absolute(url)?;
        let http = self.http(&address.authority, cancel)?;
        let response = http.send(Request::new(Method::GET, address))?;
        if response.status.as_u16() < StatusCode::BAD_REQUEST.as_u16() {
            return Ok(Download {
                length: response.length(),
                url: response.url.clone(),
                body: response.into_reader(),
            });
        }
        let status = response.status;
        let body = String::from_utf8_lossy(&response.read_error()).into_owned();
        Err(Error::Download {
            url: url.to_owned(),
            code: status.as_u16(),
            status: status_text(status),
            body: body.trim().to_owned(),
        })
    }
}

fn absolute(url: &str) -> Result<Url, Error> {
    let invalid = |reason: &str| Error::Invalid(format!("parse {url:?}: {reason}"));
    match url.split_once("://") {
        Some(("http" | "https", _)) => {
            Url::parse(url).ok_or_else(|| invalid("invalid character or host in URL"))
        }
        Some((scheme, _)) => Err(Error::Invalid(format!(
            "Get {url:?}: unsupported protocol scheme {scheme:?}"
        ))),
        None => Url::parse(&format!("http://{url}"))
            .ok_or_else(|| invalid("invalid character or host in URL")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_address_is() {
        let of = |text: &str| {
            absolute(text)
                .map(|url| url.to_string())
                .map_err(|e| e.to_string())
        };
        assert_eq!(of("http://a/b.tar?c"), Ok("http://a/b.tar?c".into()));
        assert_eq!(of("a:1"), Ok("http://a:1/".into()));
        assert_eq!(
            of("ftp://a/b"),
            Err("Get \"ftp://a/b\": unsupported protocol scheme \"ftp\"".into())
        );
        assert!(of("http://us er/").is_err());
        assert!(of("").is_err());
    }
}
