//! What every prune has in common.

use crate::api::filters::Filters;
use crate::engine::error::{Error, Result};
use crate::types::timestamp::Timestamp;

/// The `until` of a prune: only what is older goes.
pub(super) fn bound(filters: &Filters) -> Result<Option<Timestamp>> {
    let mut values = filters.values("until");
    let first = values.next();
    if values.next().is_some() {
        return Err(Error::invalid("more than one until filter specified"));
    }
    first
        .map(|text| Timestamp::parse(text, Timestamp::now()))
        .transpose()
        .map_err(|error| Error::invalid(format!("invalid value for 'until' filter: {error}")))
}
