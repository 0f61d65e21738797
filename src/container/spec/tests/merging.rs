//! The image's configuration under the client's, and what follows from it.

use super::*;

#[test]
fn the_image_lies_under_the_client() {
    let image = || {
        serde_json::from_value::<ContainerConfig>(json!({
            "Entrypoint": ["/entry"], "Cmd": ["serve"], "Env": ["A=image", "B=image"],
            "User": "app", "WorkingDir": "/app", "StopSignal": "SIGINT",
            "Labels": {"l": "image", "m": "image"}, "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}},
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5000000},
        }))
        .unwrap()
    };
    for (client, args) in [
        (json!({}), &["/entry", "serve"][..]),
        (json!({"Cmd": ["a"]}), &["/entry", "a"]),
        // An entry point of one's own resets the image's command.
        (json!({"Entrypoint": ["/mine"]}), &["/mine"]),
        (
            json!({"Entrypoint": ["/mine"], "Cmd": ["a"]}),
            &["/mine", "a"],
        ),
        (json!({"Entrypoint": [""], "Cmd": ["a"]}), &["a"]),
        (json!({"Entrypoint": [], "Cmd": ["a"]}), &["a"]),
        (json!({"Entrypoint": []}), &["serve"]),
    ] {
        let mut config: ContainerConfig = serde_json::from_value(client.clone()).unwrap();
        merge(&mut config, &image()).unwrap();
        assert_eq!(merge::arguments(&config), args, "{client}");
    }
    let mut config: ContainerConfig = serde_json::from_value(json!({"Entrypoint": [""]})).unwrap();
    let error = merge(&mut config, &image()).unwrap_err();
    assert_eq!(error.to_string(), "no command specified");

    let mut config: ContainerConfig = serde_json::from_value(json!({
        "Env": ["B=mine", "C=mine"], "Labels": {"l": "mine"}, "Volumes": {"/more": {}},
        "User": "root", "Healthcheck": {"Retries": 2},
    }))
    .unwrap();
    merge(&mut config, &image()).unwrap();
    assert_eq!(config.env, Some(strings(&["B=mine", "C=mine", "A=image"])));
    assert_eq!(config.user, "root");
    assert_eq!(config.working_dir, "/app");
    assert_eq!(config.stop_signal, "SIGINT");
    let labels = serde_json::to_value(&config.labels).unwrap();
    assert_eq!(labels, json!({"l": "mine", "m": "image"}));
    assert_eq!(config.volumes.unwrap().len(), 2);
    assert_eq!(config.exposed_ports.unwrap().len(), 1);
    let health = config.healthcheck.unwrap();
    assert_eq!((health.interval, health.retries), (5_000_000, 2));
    assert_eq!(health.test, Some(strings(&["CMD", "x"])));
}

#[test]
fn names_of_hosts() {
    let id = "0123456789abcdef";
    let named = |config: Value, mode: &str, joined| {
        let config: ContainerConfig = serde_json::from_value(config).unwrap();
        hostname(
            &config,
            &host(json!({"NetworkMode": mode})),
            id,
            "laptop",
            joined,
        )
    };
    assert_eq!(named(json!({}), "", None), "0123456789ab");
    assert_eq!(named(json!({"Hostname": "box"}), "host", None), "box");
    assert_eq!(named(json!({}), "host", None), "laptop");
    assert_eq!(named(json!({}), "container:x", Some("other")), "other");
}

#[test]
fn environments_of_any_size() {
    // Quadratic work would not end today.
    let many = |value: &str| -> Vec<String> {
        (0..300_000)
            .map(|number| format!("V{number}={value}"))
            .collect()
    };
    let mut config = config(json!({"Env": many("mine")}));
    let image = ContainerConfig {
        env: Some(many("image")),
        ..ContainerConfig::default()
    };
    merge(&mut config, &image).unwrap();
    let env = environment(&config, false, &many("exec"));
    assert_eq!(env.len(), 300_002);
    assert_eq!(env[2], "V0=exec");
}

#[test]
fn an_exec_sessions_environment() {
    let config = config(json!({"Env": ["A=1", "B=2"]}));
    let env = environment(&config, true, &strings(&["B=3", "C=4"]));
    assert_eq!(
        env[1..],
        ["HOSTNAME=0123456789ab", "TERM=xterm", "A=1", "B=3", "C=4"]
    );
    let env = environment(&config, false, &strings(&["A", "HOSTNAME", "C=1", "C=2"]));
    assert_eq!(env[1..], ["B=2", "C=2"]);
}
