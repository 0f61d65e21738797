//! `-f name=value`, as every listing and prune takes it, to the API's `filters` parameter.

use anyhow::{Result, anyhow};

use crate::api::filters::Filters;

/// `-f name=value` as the `filters` parameter; empty where there are none.
pub fn filters(given: &[String]) -> Result<String> {
    let mut filters = Filters::default();
    for filter in given {
        let (name, value) = filter
            .split_once('=')
            .ok_or_else(|| anyhow!("invalid argument \"{filter}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"))?;
        filters.add(name.trim().to_lowercase().as_str(), value.trim());
    }
    if filters.is_empty() {
        return Ok(String::new());
    }
    Ok(serde_json::to_string(&filters)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_a_parameter() {
        let given = ["label=a=b".to_owned(), "Status=exited".to_owned()];
        assert_eq!(
            filters(&given).unwrap(),
            r#"{"label":{"a=b":true},"status":{"exited":true}}"#
        );
        assert_eq!(filters(&[]).unwrap(), "");
        assert!(filters(&["x".into()]).is_err());
    }
}
