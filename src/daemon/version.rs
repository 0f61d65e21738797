//! Which version of the API a request speaks, and who we say we are.
//!
//! Without a version in the path it is the newest. Refusals are worded as Docker words them:
//! clients match on the text. Docker compares the numbers between the dots, so `1.41.1` is
//! accepted and lies between 1.41 and 1.42; we take it as 1.41.

use crate::api::version::ApiVersion;

use super::answer::Failure;

/// The version that the path names, or the newest.
pub fn negotiate(text: Option<&str>) -> Result<ApiVersion, Failure> {
    let Some(text) = text else {
        return Ok(ApiVersion::MAX);
    };
    let numbers: Vec<u64> = text.split('.').map(number).collect();
    let (min, max) = (ApiVersion::MIN, ApiVersion::MAX);
    if less(&numbers, min) {
        return Err(Failure::bad_request(format!(
            "client version {text} is too old. Minimum supported API version is {min}, \
             please upgrade your client to a newer version"
        )));
    }
    let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
    let beyond = numbers.iter().skip(2).any(|&n| n > 0);
    let newest = (u64::from(max.major), u64::from(max.minor));
    if (at(0), at(1)) > newest || ((at(0), at(1)) == newest && beyond) {
        return Err(Failure::bad_request(format!(
            "client version {text} is too new. Maximum supported API version is {max}"
        )));
    }
    // Neither number is beyond 16 bits: an older major's minor is, at worst, cut.
    Ok(ApiVersion::new(at(0) as u16, at(1) as u16))
}

/// The last version whose images docker-compose 1 understands.
const COMPOSE_1: ApiVersion = ApiVersion::new(1, 44);

/// The version in which a client is told of an image, where it asked for another one.
///
/// docker-compose 1 asks for whatever is the newest, and then wants fields that went with 1.45: it
/// cannot make a container of a changed service anew without them. All else it understands.
pub fn of_images(asked: ApiVersion, user_agent: &[u8]) -> ApiVersion {
    match user_agent.starts_with(b"docker-compose/1.") {
        true => asked.min(COMPOSE_1),
        false => asked,
    }
}

/// Whether errors to a client of this version are plain text: such clients show a JSON body as it
/// is. Docker does this below 1.24.
pub fn wants_plain_errors(text: &str) -> bool {
    let numbers: Vec<u64> = text.split('.').map(number).collect();
    less(&numbers, ApiVersion::new(1, 24))
}

/// A part of a version: what is no number counts as 0, what overflows as the greatest.
fn number(part: &str) -> u64 {
    match part.parse() {
        Ok(number) => number,
        Err(_) if part.is_empty() => 0,
        Err(_) => u64::MAX,
    }
}

fn less(numbers: &[u64], than: ApiVersion) -> bool {
    let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
    (at(0), at(1)) < (u64::from(than.major), u64::from(than.minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        negotiate(Some(text)).expect_err("must be refused").message
    }

    #[test]
    fn versions_in_range_are_taken() {
        assert_eq!(negotiate(None).expect("newest"), ApiVersion::MAX);
        for minor in 22..=55 {
            let version = negotiate(Some(&format!("1.{minor}"))).expect("in range");
            assert_eq!((version.major, version.minor), (1, minor));
        }
        let odd = negotiate(Some("1.41.1")).expect("in range");
        assert_eq!((odd.major, odd.minor), (1, 41));
    }

    #[test]
    fn others_are_refused_in_dockers_words() {
        assert_eq!(
            refusal("1.99"),
            "client version 1.99 is too new. Maximum supported API version is 1.55"
        );
        assert_eq!(
            refusal("1.10"),
            "client version 1.10 is too old. Minimum supported API version is 1.22, \
             please upgrade your client to a newer version"
        );
        for old in ["1", ".", "1.", "0.99", "1.21.9", "..."] {
            assert!(refusal(old).contains("too old"), "{old}");
        }
        for new in ["2", "1.55.1", "1.56", "99999999999999999999999.1", "2.0"] {
            assert!(refusal(new).contains("too new"), "{new}");
        }
    }

    #[test]
    fn compose_1_is_answered_as_it_understands() {
        let compose = b"docker-compose/1.29.2 docker-py/5.0.3 Linux/6.1";
        assert_eq!(of_images(ApiVersion::MAX, compose), COMPOSE_1);
        let old = ApiVersion::new(1, 38);
        assert_eq!(of_images(old, compose), old);
        for other in [&b"docker-compose/2.1"[..], b"Docker-Client/28.2.2", b""] {
            assert_eq!(of_images(ApiVersion::MAX, other), ApiVersion::MAX);
        }
    }

    #[test]
    fn old_clients_get_plain_errors() {
        assert!(wants_plain_errors("1.22"));
        assert!(!wants_plain_errors("1.24"));
        assert!(!wants_plain_errors("1.99"));
    }
}
