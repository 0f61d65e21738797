//! Answers against the shapes that the OpenAPI files give for their versions.

use std::collections::BTreeMap;

use super::*;
use crate::api::container::EndpointSettings;
use crate::api::{descriptor, storage};

/// The names of an answer's fields, sorted, in one string.
fn names(answer: &Value) -> String {
    let mut names: Vec<&str> = answer.as_object().map_or_else(Vec::new, |fields| {
        fields.keys().map(String::as_str).collect()
    });
    names.sort_unstable();
    names.join(" ")
}

fn at(answer: &impl Shape, minor: u16) -> Value {
    answer.to_json(ApiVersion::new(1, minor))
}

fn inspect() -> container::Inspect {
    let endpoint = |address: &str| EndpointSettings {
        ip_address: address.to_owned(),
        ..EndpointSettings::default()
    };
    container::Inspect {
        id: "0123456789abcdef".repeat(4),
        config: container::ContainerConfig {
            hostname: "host".to_owned(),
            ..container::ContainerConfig::default()
        },
        image_manifest_descriptor: Some(descriptor::Descriptor::default()),
        graph_driver: Some(storage::DriverData::default()),
        network_settings: container::NetworkSettings {
            networks: BTreeMap::from([
                ("bridge".to_owned(), endpoint("172.17.0.2")),
                ("mine".to_owned(), endpoint("172.18.0.2")),
            ]),
            ..container::NetworkSettings::default()
        },
        ..container::Inspect::default()
    }
}

#[test]
fn container_inspect() {
    let newest = at(&inspect(), 55);
    assert_eq!(
        names(&newest),
        "AppArmorProfile Args Config Created Driver ExecIDs GraphDriver HostConfig HostnamePath \
         HostsPath Id Image ImageManifestDescriptor LogPath MountLabel Mounts Name \
         NetworkSettings Path Platform ProcessLabel ResolvConfPath RestartCount State"
    );
    assert_eq!(
        names(&newest["NetworkSettings"]),
        "Networks Ports SandboxID SandboxKey"
    );
    assert_eq!(
        names(&newest["State"]),
        "Dead Error ExitCode FinishedAt OOMKilled Paused Pid Restarting Running StartedAt Status"
    );

    let old = at(&inspect(), 41);
    assert_eq!(
        names(&old["NetworkSettings"]),
        "Bridge EndpointID Gateway GlobalIPv6Address GlobalIPv6PrefixLen HairpinMode IPAddress \
         IPPrefixLen IPv6Gateway LinkLocalIPv6Address LinkLocalIPv6PrefixLen MacAddress Networks \
         Ports SandboxID SandboxKey SecondaryIPAddresses SecondaryIPv6Addresses"
    );
    assert_eq!(old["NetworkSettings"]["IPAddress"], "172.17.0.2");
    assert_eq!(old.get("ImageManifestDescriptor"), None);
    let networks = &old["NetworkSettings"]["Networks"];
    assert_eq!(networks["mine"]["Aliases"], json!(["0123456789ab", "host"]));
    assert_eq!(networks["bridge"]["Aliases"], Value::Null);
    assert_eq!(
        names(&networks["mine"]),
        "Aliases DriverOpts EndpointID Gateway GlobalIPv6Address GlobalIPv6PrefixLen IPAMConfig \
         IPAddress IPPrefixLen IPv6Gateway Links MacAddress NetworkID"
    );
    assert!(
        at(&inspect(), 51)["NetworkSettings"]
            .get("IPAddress")
            .is_some()
    );
}

#[test]
fn a_snapshot_was_a_graph_driver() {
    let mut inspect = inspect();
    inspect.graph_driver = None;
    inspect.storage = Some(storage::Storage {
        root_fs: Some(storage::RootFsStorage {
            snapshot: Some(storage::RootFsSnapshot {
                name: "overlayfs".to_owned(),
            }),
        }),
    });
    let newest = at(&inspect, 52);
    assert_eq!(newest["Storage"]["RootFS"]["Snapshot"]["Name"], "overlayfs");
    assert_eq!(newest.get("GraphDriver"), None);
    let old = at(&inspect, 51);
    assert_eq!(
        old["GraphDriver"],
        json!({ "Data": null, "Name": "overlayfs" })
    );
    assert_eq!(old.get("Storage"), None);
}

#[test]
fn host_config_has_dockers_nulls() {
    let answer = &at(&inspect(), 55)["HostConfig"];
    assert_eq!(
        names(answer),
        "AutoRemove Binds BlkioDeviceReadBps BlkioDeviceReadIOps BlkioDeviceWriteBps \
         BlkioDeviceWriteIOps BlkioWeight BlkioWeightDevice CapAdd CapDrop Cgroup CgroupParent \
         CgroupnsMode ConsoleSize ContainerIDFile CpuCount CpuPercent CpuPeriod CpuQuota \
         CpuRealtimePeriod CpuRealtimeRuntime CpuShares CpusetCpus CpusetMems DeviceCgroupRules \
         DeviceRequests Devices Dns DnsOptions DnsSearch ExtraHosts GroupAdd IOMaximumBandwidth \
         IOMaximumIOps IpcMode Isolation Links LogConfig MaskedPaths Memory MemoryReservation \
         MemorySwap MemorySwappiness NanoCpus NetworkMode OomKillDisable OomScoreAdj PidMode \
         PidsLimit PortBindings Privileged PublishAllPorts ReadonlyPaths ReadonlyRootfs \
         RestartPolicy SecurityOpt ShmSize UTSMode Ulimits UsernsMode VolumeDriver VolumesFrom"
    );
    for name in [
        "Binds",
        "CapAdd",
        "Dns",
        "PortBindings",
        "MemorySwappiness",
        "MaskedPaths",
    ] {
        assert_eq!(answer[name], Value::Null, "{name}");
    }
    assert_eq!(answer["LogConfig"], json!({ "Type": "", "Config": null }));
    assert_eq!(answer["ConsoleSize"], json!([0, 0]));
    let config = &at(&inspect(), 55)["Config"];
    assert_eq!(
        names(config),
        "AttachStderr AttachStdin AttachStdout Cmd Domainname Entrypoint Env Hostname Image \
         Labels OpenStdin StdinOnce Tty User Volumes WorkingDir"
    );
    assert_eq!(at(&inspect(), 51)["Config"]["OnBuild"], Value::Null);
    assert_eq!(at(&inspect(), 41)["HostConfig"]["KernelMemory"], 0);
}

#[test]
fn image_inspect() {
    let image = image::Inspect {
        size: 7,
        config: Some(image::ImageConfig {
            cmd: Some(vec!["sh".to_owned()]),
            ..image::ImageConfig::default()
        }),
        descriptor: Some(descriptor::Descriptor::default()),
        graph_driver: Some(storage::DriverData::default()),
        ..image::Inspect::default()
    };
    let newest = at(&image, 55);
    assert_eq!(
        names(&newest),
        "Architecture Config Descriptor GraphDriver Id Metadata Os RepoDigests RepoTags RootFS Size"
    );
    assert_eq!(newest["Config"], json!({ "Cmd": ["sh"] }));
    let middle = at(&image, 51);
    assert_eq!(
        names(&middle),
        "Architecture Author Comment Config Descriptor DockerVersion GraphDriver Id Metadata Os \
         Parent RepoDigests RepoTags RootFS Size"
    );
    assert_eq!(
        names(&middle["Config"]),
        "Cmd Entrypoint Env Labels OnBuild User Volumes WorkingDir"
    );
    let old = at(&image, 43);
    assert_eq!(old["VirtualSize"], 7);
    assert_eq!(old["Created"], "0001-01-01T00:00:00Z");
    assert_eq!(old["Container"], "");
    assert_eq!(old["ContainerConfig"]["Cmd"], Value::Null);
    assert_eq!(old["Config"]["Hostname"], "");
    assert_eq!(old["Config"]["Cmd"], json!(["sh"]));
    assert_eq!(old.get("Descriptor"), None);
    assert_eq!(at(&image, 44).get("VirtualSize"), None);
    assert_eq!(at(&image, 45).get("ContainerConfig"), None);
}

#[test]
fn image_list() {
    let images = vec![image::Summary {
        containers: 2,
        size: 7,
        ..image::Summary::default()
    }];
    let newest = at(&images, 55);
    assert_eq!(
        newest,
        json!([{ "Containers": 2, "Created": 0, "Id": "", "Labels": null, "ParentId": "",
            "RepoDigests": [], "RepoTags": [], "SharedSize": 0, "Size": 7 }])
    );
    let old = at(&images, 41);
    assert_eq!(old[0]["RepoTags"], json!(["<none>:<none>"]));
    assert_eq!(old[0]["RepoDigests"], json!(["<none>@<none>"]));
    assert_eq!(
        (&old[0]["VirtualSize"], &old[0]["Containers"]),
        (&json!(7), &json!(-1))
    );
}

#[test]
fn container_list() {
    let summary = container::Summary {
        health: Some(container::HealthSummary::default()),
        host_config: container::SummaryHostConfig {
            network_mode: "none".to_owned(),
            annotations: Some(BTreeMap::from([("a".to_owned(), "b".to_owned())])),
        },
        ..container::Summary::default()
    };
    assert_eq!(
        names(&at(&summary, 55)),
        "Command Created Health HostConfig Id Image ImageID Labels Mounts Names NetworkSettings \
         Ports State Status"
    );
    assert_eq!(at(&summary, 51).get("Health"), None);
    assert_eq!(
        at(&summary, 45)["HostConfig"],
        json!({ "NetworkMode": "none" })
    );
}

#[test]
fn info() {
    let info = system::Info {
        runc_commit: system::Commit { id: "c".to_owned() },
        runtimes: BTreeMap::from([(
            "moss".to_owned(),
            system::Runtime {
                status: Some(BTreeMap::from([("a".to_owned(), "b".to_owned())])),
                ..system::Runtime::default()
            },
        )]),
        ..system::Info::default()
    };
    let newest = at(&info, 55);
    assert_eq!(newest["RuncCommit"], json!({ "ID": "c" }));
    assert_eq!(newest["Swarm"]["LocalNodeState"], "inactive");
    assert_eq!(newest.get("BridgeNfIptables"), None);
    let known = "Architecture CDISpecDirs CPUSet CPUShares CgroupDriver ContainerdCommit \
        Containers ContainersPaused ContainersRunning ContainersStopped CpuCfsPeriod CpuCfsQuota \
        Debug DefaultRuntime DockerRootDir Driver DriverStatus ExperimentalBuild GenericResources \
        HttpProxy HttpsProxy ID IPv4Forwarding Images IndexServerAddress InitBinary InitCommit \
        Isolation KernelVersion Labels LiveRestoreEnabled LoggingDriver MemTotal MemoryLimit NCPU \
        NEventsListener NFd NGoroutines Name NoProxy OSType OSVersion OomKillDisable \
        OperatingSystem PidsLimit Plugins RegistryConfig RuncCommit Runtimes SecurityOptions \
        ServerVersion SwapLimit Swarm SystemTime Warnings";
    assert_eq!(names(&newest), known);
    let old = at(&info, 43);
    assert_eq!(old["RuncCommit"], json!({ "ID": "c", "Expected": "c" }));
    assert_eq!(old["BridgeNfIp6tables"], false);
    assert_eq!(old["Runtimes"]["moss"].get("status"), None);
    let artifacts = &old["RegistryConfig"]["AllowNondistributableArtifactsCIDRs"];
    assert!(artifacts.is_null());
}

#[test]
fn version() {
    let version = system::Version {
        version: "29.0.0+moss.0.1.0".to_owned(),
        min_api_version: ApiVersion::MIN,
        ..system::Version::default()
    };
    assert_eq!(
        at(&version, 55),
        json!({ "Platform": { "Name": "" }, "Version": "29.0.0+moss.0.1.0", "ApiVersion": "1.55",
            "MinAPIVersion": "1.22", "Os": "", "Arch": "" })
    );
}

#[test]
fn disk_usage() {
    let usage = system::DiskUsage {
        layers_size: 9,
        images: Some(vec![image::Summary::default()]),
        containers: Some(Vec::new()),
        image_usage: Some(system::Usage {
            total_size: 9,
            ..system::Usage::default()
        }),
        ..system::DiskUsage::default()
    };
    assert_eq!(
        names(&at(&usage, 55)),
        "Containers ImageUsage Images LayersSize"
    );
    assert_eq!(at(&usage, 55)["ImageUsage"], json!({ "TotalSize": 9 }));
    assert_eq!(names(&at(&usage, 51)), "Containers Images LayersSize");
    assert_eq!(at(&usage, 43)["Images"][0]["VirtualSize"], 0);
    assert_eq!(at(&usage, 41)["BuilderSize"], 0);
}

#[test]
fn events() {
    let event = event::Event {
        kind: "container".to_owned(),
        action: "start".to_owned(),
        actor: event::Actor {
            id: "abc".to_owned(),
            attributes: BTreeMap::from([("image".to_owned(), "debian".to_owned())]),
        },
        scope: "local".to_owned(),
        time: 1,
        time_nano: 1_000_000_000,
    };
    let newest = json!({ "Type": "container", "Action": "start", "scope": "local", "time": 1,
        "timeNano": 1_000_000_000, "Actor": { "ID": "abc", "Attributes": { "image": "debian" } } });
    assert_eq!(at(&event, 55), newest);
    let old = at(&event, 51);
    assert_eq!(
        (&old["status"], &old["id"], &old["from"]),
        (&json!("start"), &json!("abc"), &json!("debian"))
    );
    let bare = event::Event {
        kind: "container".to_owned(),
        ..event::Event::default()
    };
    let bare = at(&bare, 51);
    assert_eq!((&bare["id"], &bare["from"]), (&json!(""), &json!("")));
    let created = event::Event {
        kind: "image".to_owned(),
        action: "create".to_owned(),
        ..event::Event::default()
    };
    assert!(created.known_to(ApiVersion::new(1, 46)) && !created.known_to(ApiVersion::new(1, 45)));
}

#[test]
fn networks() {
    let network = network::Network {
        status: Some(network::NetworkStatus::default()),
        ..network::Network::default()
    };
    let newest = at(&network, 55);
    assert_eq!(
        names(&newest),
        "Attachable ConfigFrom ConfigOnly Created Driver EnableIPv4 EnableIPv6 IPAM Id Ingress \
         Internal Labels Name Options Scope Status"
    );
    assert_eq!(newest["Labels"], json!({}));
    let old = at(&network, 41);
    assert_eq!((old.get("EnableIPv4"), old.get("Status")), (None, None));
    assert_eq!(old["Containers"], json!({}));
}
