//! A registry's refusals, read as Docker's client reads them.
//!
//! 4xx bodies are JSON with a list of codes, or text, or nothing; a Bearer challenge may say
//! `insufficient_scope` besides. Anything else is an unexpected status.

use ureq::http::StatusCode;

use super::challenge;
use super::error::Error;
use super::http::Response;
use super::refusal::Refusal;

/// Turns an answer that is no success into an error.
pub(super) fn refused(response: Response) -> Error {
    let status = response.status;
    if !status.is_client_error() {
        return Error::Status(response.status_text());
    }
    let by_challenge = of_challenges(&response);
    let kind = response.header("content-type").map(|value| {
        let media_type = value.split(';').next().unwrap_or_default();
        media_type.trim().to_ascii_lowercase()
    });
    let body = response.read_error();
    let error = of_body(status, kind.as_deref(), &body);
    match (by_challenge, error) {
        (Some(first), Error::Refused(more)) => first.and(more).into(),
        (Some(first), other) => first.and(Refusal::new("UNKNOWN", other.to_string())).into(),
        (None, error) => error,
    }
}

fn of_challenges(response: &Response) -> Option<Refusal> {
    if response.status != StatusCode::UNAUTHORIZED {
        return None;
    }
    response
        .headers
        .get_all("www-authenticate")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenge::parse)
        .filter(|challenge| challenge.scheme == "bearer")
        .find_map(|challenge| {
            let code = match challenge.parameter("error")? {
                "invalid_token" => "UNAUTHORIZED",
                "insufficient_scope" => "DENIED",
                _ => return None,
            };
            Some(match challenge.parameter("error_description") {
                Some(text) if !text.is_empty() => Refusal::new(code, text),
                _ => Refusal::of_code(code),
            })
        })
}

fn of_body(status: StatusCode, kind: Option<&str>, body: &[u8]) -> Error {
    let plain = |text: &str| {
        let code = match status {
            StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
            StatusCode::FORBIDDEN => "DENIED",
            StatusCode::TOO_MANY_REQUESTS => "TOOMANYREQUESTS",
            _ => "UNKNOWN",
        };
        Error::Refused(Refusal::new(code, text))
    };
    if !matches!(kind, Some("application/json" | "application/vnd.api+json")) {
        return plain(&String::from_utf8_lossy(body));
    }
    #[derive(serde::Deserialize)]
    struct Details {
        #[serde(default)]
        details: String,
    }
    if let Ok(Details { details }) = serde_json::from_slice(body)
        && !details.is_empty()
    {
        return plain(&details);
    }
    let reason = match Refusal::from_json(body) {
        Ok(refusal) if !refusal.is_empty() => return refusal.into(),
        Ok(_) => "no error details found in HTTP response body".to_owned(),
        Err(error) => error.to_string(),
    };
    if status == StatusCode::UNAUTHORIZED {
        return Refusal::of_code("UNAUTHORIZED").into();
    }
    Error::Unparsable {
        status: status.as_u16(),
        reason,
        body: String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let text = |status: u16, kind: Option<&str>, body: &str| {
            let status = StatusCode::from_u16(status).expect("a status");
            of_body(status, kind, body.as_bytes()).to_string()
        };
        let json = Some("application/json");
        assert_eq!(text(403, None, "go away"), "denied: go away");
        assert_eq!(
            text(429, Some("text/plain"), "slow"),
            "toomanyrequests: slow"
        );
        assert_eq!(
            text(401, json, r#"{"details":"incorrect username or password"}"#),
            "unauthorized: incorrect username or password"
        );
        assert_eq!(
            text(404, json, "{}"),
            "error parsing HTTP 404 response body: no error details found in HTTP response body: \"{}\""
        );
        assert_eq!(
            text(401, json, "{}"),
            "unauthorized: authentication required"
        );
        assert_eq!(
            text(
                403,
                json,
                r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied","detail":[]}]}"#
            ),
            "denied: requested access to the resource is denied"
        );
    }
}
