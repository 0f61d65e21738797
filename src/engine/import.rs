//! `docker import`: an image of one layer, from a client's archive or from the web.

use std::io::{self, Read};

use crate::api::progress::JsonMessage;
use crate::engine::Engine;
use crate::engine::error::Result;
use crate::engine::images::{image_error, signed};
use crate::engine::pull::{Tell, registry_error};
use crate::image::Import;
use crate::registry::{Cancel, Download};
use crate::types::digest::Digest;

/// Bytes of a download between two messages about it; Docker's.
const STEP: i64 = 512 << 10;

impl Engine {
    /// Makes an image of one layer from a root filesystem's tar; returns its id.
    pub fn image_import(&self, source: &mut dyn Read, import: &Import) -> Result<Digest> {
        let id = self
            .images
            .import(source, import)
            .map_err(|error| image_error(&error))?;
        if let Some(name) = &import.name {
            self.image_event("tag", &id, &name.familiar());
        }
        self.image_event("import", &id, &id.to_string());
        Ok(id)
    }

    /// The same from a URL. Ends soon after `cancel` is used.
    pub fn image_import_from(
        &self,
        url: &str,
        import: &Import,
        cancel: &Cancel,
        tell: Tell<'_>,
    ) -> Result<()> {
        let found = self
            .registries()
            .download(url, cancel)
            .map_err(|error| registry_error(&error))?;
        let url = match url.contains("://") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        };
        tell(JsonMessage::status("", format!("Downloading from {url}")));
        let mut source = Followed {
            total: signed(found.length().unwrap_or(0)),
            body: found,
            read: 0,
            told: 0,
            tell,
        };
        let id = self.image_import(&mut source, import)?;
        tell(JsonMessage::status("", id.to_string()));
        Ok(())
    }
}

/// A download whose client is told how far it is.
struct Followed<'a> {
    body: Download,
    total: i64,
    read: i64,
    told: i64,
    tell: Tell<'a>,
}

impl Read for Followed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.body.read(buffer)?;
        self.read += signed(length as u64);
        let ended = length == 0 && self.told < self.read;
        if self.read - self.told >= STEP || ended {
            self.told = self.read;
            let message = JsonMessage::progress("", "Importing", self.read, self.total);
            (self.tell)(message);
        }
        Ok(length)
    }
}
