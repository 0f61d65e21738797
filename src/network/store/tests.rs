use super::*;
use crate::api::network::IpamConfig;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), &[], "host").unwrap();
    (directory, store)
}

fn request(name: &str, subnet: &str) -> NetworkCreateRequest {
    let config = IpamConfig {
        subnet: subnet.to_owned(),
        ..IpamConfig::default()
    };
    NetworkCreateRequest {
        name: name.to_owned(),
        ipam: (!subnet.is_empty()).then(|| Ipam {
            config: Some(vec![config]),
            ..Ipam::default()
        }),
        ..NetworkCreateRequest::default()
    }
}

fn member(name: &str) -> Member {
    Member {
        endpoint: random_hex(),
        container: name.to_owned(),
        name: name.to_owned(),
        ipv4: None,
        ipv6: None,
        mac: [0; 6],
        names: Vec::new(),
        links: Vec::new(),
        servers: Vec::new(),
        ports: Vec::new(),
    }
}

#[test]
fn networks_outlive_their_store_and_keep_their_addresses() {
    let (directory, store) = store();
    let made = store.create(request("front", ""), &[]).unwrap();
    assert_eq!(made.subnets[0].prefix.to_string(), "172.18.0.0/16");
    assert_eq!(made.subnets[0].gateway.to_string(), "172.18.0.1");
    fs::write(directory.path().join("networks/x.json.tmp-1-2"), "half").unwrap();
    let again = Store::open(directory.path(), &[], "host").unwrap();
    assert_eq!(again.find("front").unwrap(), made);
    assert_eq!(again.find(&made.id[..5]).unwrap(), made);
    let names: Vec<_> = again.list().into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["bridge", "front", "host", "none"]);
    assert_eq!(
        fs::read_dir(directory.path().join("networks"))
            .unwrap()
            .count(),
        4
    );
}

#[test]
fn what_makes_no_network_is_refused_in_dockers_words() {
    let (_directory, store) = store();
    let refused = |request| store.create(request, &[]).unwrap_err().to_string();
    assert_eq!(
        refused(request("host", "")),
        "operation is not permitted on predefined host network "
    );
    assert_eq!(refused(request(" ", "")), "invalid name: name is empty");
    assert_eq!(
        refused(request("a", "172.17.3.0/24")),
        "invalid pool request: Pool overlaps with other one on this address space"
    );
    assert_eq!(
        refused(request("a", "10.1.2.3/24")),
        "invalid network config:\ninvalid subnet 10.1.2.3/24: it should be 10.1.2.0/24"
    );
    let mut odd = request("a", "10.1.2.0/24");
    if let Some(config) = odd.ipam.as_mut().and_then(|ipam| ipam.config.as_mut()) {
        "10.1.3.1".clone_into(&mut config[0].gateway);
    }
    assert_eq!(
        refused(odd),
        "invalid network config:\ninvalid gateway 10.1.3.1: parent subnet 10.1.2.0/24 doesn't \
         contain this address"
    );
    store.create(request("a", ""), &[]).unwrap();
    assert_eq!(
        refused(request("a", "")),
        "network with name a already exists"
    );
}

#[test]
fn members_have_addresses_as_long_as_they_are_in() {
    let (_directory, store) = store();
    let network = store.create(request("a", "10.1.2.0/24"), &[]).unwrap();
    let first = store.join(&network.id, member("one"), None).unwrap();
    assert_eq!(first.ipv4.unwrap().to_string(), "10.1.2.2");
    assert_eq!(first.mac, [2, 0x42, 10, 1, 2, 2]);
    let wanted = Member {
        ipv4: "10.1.2.2".parse().ok(),
        ..member("two")
    };
    let error = store.join(&network.id, wanted.clone(), None).unwrap_err();
    assert_eq!(error.to_string(), "Address already in use");
    let error = store.remove(&network.id).unwrap_err().to_string();
    assert!(
        error.contains("has active endpoints (name:\"one\" id:\""),
        "{error}"
    );
    store.free(
        &network.id,
        &store.leave(&network.id, &first.endpoint).unwrap(),
    );
    let second = store.join(&network.id, wanted, None).unwrap();
    store.leave(&network.id, &second.endpoint);
    store.remove(&network.id).unwrap();
    assert!(store.find("a").is_err());
    assert!(store.remove(&predefined_id("bridge")).is_err());
}
