//! What daemon.json and flags come to, and what is refused.

use proptest::prelude::*;

use serde_json::json;

use super::*;

/// Flags, by their directives.
fn typed(directives: Value) -> Options {
    let Value::Object(directives) = directives else {
        panic!("no directives: {directives}");
    };
    Options {
        directives,
        ..Options::default()
    }
}

fn join(options: &Options, text: &str) -> Result<Config, String> {
    Config::join(options, text.as_bytes())
}

#[test]
fn flags_and_file_are_joined() {
    let options = typed(json!({"data-root": "/flag"}));
    let file = r#"{"hosts": ["unix:///a", "fd://"], "debug": true, "labels": ["a=b"]}"#;
    let config = join(&options, file).unwrap();
    let limited = join(&options, r#"{"max-layer-entries": 5}"#).unwrap();
    assert_eq!(
        (limited.layer_entries, limited.warnings.len()),
        (Some(5), 0)
    );
    assert_eq!(config.hosts, ["unix:///a", "fd://"]);
    assert_eq!(config.data_root, Some("/flag".into()));
    assert!(config.debug);
    assert!(config.warnings.is_empty());
    assert_eq!(join(&Options::default(), " ").unwrap(), Config::default());
    let marked = join(&Options::default(), "\u{feff}{\"debug\": true}");
    assert!(marked.unwrap().debug);
}

#[test]
fn what_dockerd_refuses_is_refused_in_its_words() {
    let path = Path::new("/nonexistent/daemon.json");
    let options = Options {
        config_file: Some(path.into()),
        ..Options::default()
    };
    assert_eq!(
        Config::read(&options, path).unwrap_err().to_string(),
        "unable to configure the Docker daemon with file /nonexistent/daemon.json: \
         open /nonexistent/daemon.json: no such file or directory"
    );
    let options = Options {
        config_file: Some("/".into()),
        ..Options::default()
    };
    assert_eq!(
        Config::read(&options, path).unwrap_err().to_string(),
        "unable to configure the Docker daemon with file /: read /: is a directory"
    );
    assert!(Config::read(&Options::default(), path).is_ok());
    let refused = |text| join(&Options::default(), text).unwrap_err();
    assert_eq!(
        refused(r#"{"foo": 1, "debug": true, "bar": 2}"#),
        "the following directives don't match any configuration option: foo, bar"
    );
    assert_eq!(
        refused(r#"{"debug": "yes"}"#),
        "json: cannot unmarshal string into Go struct field Config.debug of type bool"
    );
    assert_eq!(
        refused(r#"{"log-level": "loud"}"#),
        "invalid logging level: loud"
    );
    assert_eq!(refused(r#"{"labels": ["x"]}"#), "bad attribute format: x");
    assert_eq!(
        refused(r#"{"max-concurrent-downloads": -1}"#),
        "invalid max concurrent downloads: -1"
    );
    assert_eq!(
        refused(r#"{"max-download-attempts": -1}"#),
        "invalid max download attempts: -1"
    );
    assert_eq!(
        refused(r#"{"max-layer-entries": "many"}"#),
        "json: cannot unmarshal string into Go struct field Config.max-layer-entries of type int"
    );
    assert_eq!(
        refused(r#"{"registry-mirrors": ["m.example"]}"#),
        "invalid mirror: unsupported scheme \"\" in \"m.example\""
    );
    assert_eq!(
        refused(r#"{"proxies": {"ftp-proxy": "x"}}"#),
        "the following directives don't match any configuration option: ftp-proxy"
    );
    refused("[]");
    refused("{");
}

#[test]
fn roots_are_where_the_configuration_says() {
    let user = Paths {
        exec_root: "/run/moss".into(),
        data_root: "/data/moss".into(),
        socket: "/run/moss.sock".into(),
        config: "/etc/moss".into(),
    };
    let options = typed(json!({"exec-root": "/flag"}));
    let config = join(&options, r#"{"data-root": "/file"}"#).unwrap();
    let paths = config.paths(&user).unwrap();
    assert_eq!(paths.data_root, Path::new("/file"));
    assert_eq!(paths.exec_root, Path::new("/flag"));
    assert_eq!(Config::default().paths(&user).unwrap(), user);
}

#[test]
fn registries_are_reached_as_it_says() {
    let text = r#"{"insecure-registries": ["10.0.0.0/8"], "max-concurrent-downloads": 5,
        "max-download-attempts": 2,
        "registry-mirrors": ["https://m.example"], "proxies": {"no-proxy": "*"}}"#;
    let config = join(&Options::default(), text).unwrap();
    assert_eq!(config.concurrent_downloads, Some(5));
    assert!(config.warnings.is_empty());
    let reached = config.reached();
    assert_eq!(reached.download_attempts, Some(2));
    assert_eq!(reached.insecure_registries, ["10.0.0.0/8"]);
    assert_eq!(reached.mirrors, ["https://m.example"]);
    assert_eq!(reached.proxies.no_proxy, "*");
}

#[test]
fn a_directive_is_given_once() {
    let options = typed(json!({"hosts": ["unix:///a", "fd://"], "debug": true}));
    assert_eq!(
        join(&options, r#"{"hosts": ["unix:///b"], "debug": false}"#).unwrap_err(),
        "the following directives are specified both as a flag and in the configuration file: \
         debug: (from flag: true, from file: false), \
         hosts: (from flag: [unix:///a fd://], from file: [unix:///b])"
    );
}

#[test]
fn directives_without_effect_are_told_once() {
    let text = r#"{"iptables": false, "userland-proxy": true, "live-restore": false}"#;
    let config = join(&Options::default(), text).unwrap();
    assert_eq!(config.warnings.len(), 3, "{:?}", config.warnings);
    assert!(config.warnings[1].contains("\"iptables\""));
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused(text in ".*") {
        let _ = join(&Options::default(), &text);
    }
}
