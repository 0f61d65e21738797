//! Bodies that clients send, and what is said of those that make no sense.

use super::*;
use crate::api::container::{CreateRequest, HostConfig};
use crate::api::exec::ExecConfig;
use proptest::prelude::*;
use serde_json::json;

fn create(body: &str) -> Result<CreateRequest, String> {
    from_slice(body.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn bytes_that_are_no_utf8() {
    let request: CreateRequest = from_slice(b"{\"Image\":\"caf\xe9\"}").unwrap_or_default();
    assert_eq!(request.config.image, "caf\u{fffd}");
}

#[test]
fn any_case_and_null_and_unknown() {
    let request = create(
        r#"{"image":"a","CMD":"sh","Env":null,"hostconfig":{"memory":5,"Binds":[null,"a:b"],
        "portBindings":{"80/tcp":[{"hostport":"8080"}],"81/tcp":null},"Privileged":null,
        "ConsoleSize":[24],"Nonsense":[1]},"NetworkingConfig":null,"Foo":{}}"#,
    );
    let request = request.unwrap_or_default();
    assert_eq!(request.config.image, "a");
    assert_eq!(request.config.cmd, Some(vec!["sh".to_owned()]));
    let host = request.host_config;
    assert_eq!(host.memory, 5);
    assert_eq!(host.binds, Some(vec![String::new(), "a:b".to_owned()]));
    assert_eq!(host.console_size, [24, 0]);
    let ports = host.port_bindings.unwrap_or_default();
    let first = ports["80/tcp"].as_ref().and_then(|list| list.first());
    assert_eq!(first.map(|b| b.host_port.as_str()), Some("8080"));
    assert_eq!(ports["81/tcp"], None);
}

#[test]
fn an_exact_name_wins() {
    let exec: ExecConfig = from_slice(br#"{"user":"a","User":"b","USER":"c"}"#).unwrap_or_default();
    assert_eq!(exec.user, "b");
}

#[test]
fn empty_is_zero() {
    for body in ["", " \n", "null", "{}"] {
        assert_eq!(create(body), Ok(CreateRequest::default()), "{body:?}");
    }
}

#[test]
fn wrong_types_name_the_field() {
    for (body, message) in [
        (
            r#"{"HostConfig":{"Memory":"1g"}}"#,
            "invalid JSON: json: cannot unmarshal string into Go struct field \
             CreateRequest.HostConfig.Memory of type int64",
        ),
        (
            r#"{"HostConfig":{"memory":1.5}}"#,
            "invalid JSON: json: cannot unmarshal number 1.5 into Go struct field \
             CreateRequest.HostConfig.Memory of type int64",
        ),
        (
            r#"{"Tty":"yes"}"#,
            "invalid JSON: json: cannot unmarshal string into Go struct field \
             CreateRequest.Tty of type bool",
        ),
        (
            r#"{"Cmd":[1]}"#,
            "invalid JSON: json: cannot unmarshal number into Go struct field \
             CreateRequest.Cmd of type string",
        ),
        (
            r#"{"HostConfig":{"BlkioWeight":70000}}"#,
            "invalid JSON: json: cannot unmarshal number 70000 into Go struct field \
             CreateRequest.HostConfig.BlkioWeight of type uint16",
        ),
        (
            r#"{"HostConfig":{"Mounts":[{"BindOptions":{"NonRecursive":1}}]}}"#,
            "invalid JSON: json: cannot unmarshal number into Go struct field \
             CreateRequest.HostConfig.Mounts.BindOptions.NonRecursive of type bool",
        ),
        (
            "[]",
            "invalid JSON: json: cannot unmarshal array into Go value of type ContainerConfig",
        ),
        ("{} {}", "unexpected content after JSON"),
    ] {
        assert_eq!(create(body), Err(message.to_owned()), "{body}");
    }
    assert!(create("{").is_err_and(|text| text.starts_with("invalid JSON: ")));
    assert!(create(&"[".repeat(100_000)).is_err());
}

#[test]
fn own_output_reads_back() {
    let host = HostConfig {
        memory: 7,
        binds: Some(Vec::new()),
        ..HostConfig::default()
    };
    let text = serde_json::to_vec(&host).unwrap_or_default();
    assert_eq!(from_slice(&text), Ok(host.clone()));
    assert_eq!(serde_json::from_slice::<HostConfig>(&text).ok(), Some(host));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|n| json!(n)),
        "\\PC{0,6}".prop_map(Value::from),
    ];
    let name = prop_oneof![
        Just("HostConfig".to_owned()),
        Just("hostconfig".to_owned()),
        Just("Mounts".to_owned()),
        Just("Cmd".to_owned()),
        Just("PortBindings".to_owned()),
        Just("NetworkingConfig".to_owned()),
        Just("EndpointsConfig".to_owned()),
        Just("Memory".to_owned()),
        Just("ConsoleSize".to_owned()),
        "[A-Za-z]{0,6}",
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_panics(value in any_json()) {
        let body = serde_json::to_vec(&value).unwrap_or_default();
        for error in [
            from_slice::<CreateRequest>(&body).err(),
            from_slice::<ExecConfig>(&body).err(),
            from_slice::<crate::api::network::NetworkCreateRequest>(&body).err(),
        ].into_iter().flatten() {
            prop_assert!(error.to_string().starts_with("invalid JSON: "));
        }
    }

    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = from_slice::<CreateRequest>(&body);
    }
}
