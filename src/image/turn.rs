//! Turns of decoders that want much memory: one has it at a time, in the whole process.
//!
//! What an image's layers are compressed with is the image's choice, and what it takes to undo that
//! is up to 128 MiB a layer; how many layers there are at once is ours. Most take a tenth and wait
//! for nobody. Whoever has the turn waits for nothing but its own source.

use std::io;

use super::slots::{Slot, Slots};

static WIDE: Slots = Slots::new(1);

/// A turn that may have to be waited for.
pub(super) struct Turn {
    /// Fails when it is of no use any more.
    is_wanted: Box<dyn Fn() -> io::Result<()> + Send>,
    slot: Option<Slot<'static>>,
}

impl Turn {
    /// One that nobody waits for yet.
    pub(super) fn new(is_wanted: impl Fn() -> io::Result<()> + Send + 'static) -> Self {
        Self {
            is_wanted: Box::new(is_wanted),
            slot: None,
        }
    }

    /// Waits for it. It is kept until this value is dropped.
    ///
    /// # Errors
    /// Why it is of no use any more.
    pub(super) fn take(&mut self) -> io::Result<()> {
        if self.slot.is_none() {
            self.slot = Some(WIDE.take(&self.is_wanted, || ())?);
        }
        Ok(())
    }
}
