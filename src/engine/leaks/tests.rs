//! What counts as left behind, and what does not.

use super::*;

const HOST: u64 = 1;
const KEEPER: u64 = 2;
const NESTED: u64 = 3;

fn at(pid: i32, parent: i32, name: &str, command: &str, user_namespace: u64) -> Process {
    Process {
        pid,
        parent,
        name: name.into(),
        arguments: command.split('|').map(str::to_owned).collect(),
        user_namespace,
        parent_namespace: (user_namespace != HOST).then_some(user_namespace - 1),
        container: None,
    }
}

/// A keeper, a daemon, and a running container `abc`.
fn clean() -> Snapshot {
    let mut shim = at(30, 20, SHIM, "moss: keeper|/run/x|3", KEEPER);
    shim.container = Some("abc".into());
    Snapshot {
        data_root: "/data".into(),
        exec_root: "/run/x".into(),
        now: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1000)),
        keeper: Some((20, KEEPER)),
        daemon: Some(25),
        processes: vec![
            at(1, 0, "init", "init", HOST),
            at(9, 1, "bash", "bash", HOST),
            at(20, 1, "moss-keeper", "moss: keeper|/run/x|3", KEEPER),
            at(25, 1, "tokio", "/usr/bin/engine|daemon", KEEPER),
            shim,
            at(31, 30, "sh", "sh", NESTED),
            at(33, 20, crate::slirp::NAME, "moss: keeper|/run/x|3", KEEPER),
            at(32, 31, "sleep", "sleep|9", NESTED),
        ],
        containers: HashMap::from([("abc".into(), true)]),
        runtime: vec!["abc".into()],
        ..Snapshot::default()
    }
}

fn lines(snapshot: &Snapshot) -> Vec<String> {
    snapshot.leaks().iter().map(Leak::to_string).collect()
}

#[test]
fn what_runs_as_it_should_is_no_leak() {
    assert_eq!(lines(&clean()), [""; 0]);
    // The keeper was killed: shims go on without it, and so does what they have.
    let mut orphaned = clean();
    orphaned.processes.retain(|process| process.pid != 20);
    assert_eq!(lines(&orphaned), [""; 0]);
}

#[test]
fn a_container_process_without_a_shim_is_a_leak() {
    let mut snapshot = clean();
    snapshot.processes.retain(|process| process.pid != 30);
    snapshot.processes[4].parent = 1;
    assert_eq!(
        lines(&snapshot),
        [
            "process    31 (sh): neither the daemon nor a shim has it",
            "process    32 (sleep 9): neither the daemon nor a shim has it",
        ]
    );
    // The keeper inherits it, and should have killed it.
    snapshot.processes[4].parent = 20;
    assert_eq!(lines(&snapshot).len(), 2);
}

#[test]
fn a_deleted_exec_root_is_no_leak_of_its_own_engine() {
    let mut snapshot = clean();
    snapshot.gone.insert("/run/x".into());
    snapshot.runtime.clear();
    assert_eq!(lines(&snapshot), [""; 0]);
    snapshot.containers.clear();
    assert_eq!(
        lines(&snapshot),
        ["process    30 (moss-shim): its container abc has no record"]
    );
}

#[test]
fn shims_are_known_by_what_they_listen_on() {
    let socket = |flags: &str, path: &str| {
        listening_shim(&format!("00: 00000002 00000000 {flags} 0005 01 77 {path}"))
    };
    let found = Some((77, "abc".to_owned()));
    assert_eq!(socket("00010000", "/proc/self/fd/9/abc/shim.sock"), found);
    assert_eq!(socket("00010000", "/run/x/c/abc/shim.sock"), found);
    assert_eq!(socket("00000000", "/proc/self/fd/9/abc/shim.sock"), None);
    assert_eq!(socket("00010000", "/proc/self/fd/9/keeper.sock"), None);
    assert_eq!(socket("00010000", "@/abc"), None);
    assert_eq!(socket("00010000", ""), None);
    assert_eq!(
        listening_shim("Num       RefCount Protocol Flags    Type St Inode Path"),
        None
    );
}

#[test]
fn a_shim_without_a_record_is_a_leak_with_all_it_has() {
    let mut snapshot = clean();
    snapshot.containers.clear();
    assert_eq!(
        lines(&snapshot),
        [
            "process    30 (moss-shim): its container abc has no record",
            "directory  /run/x/c/abc: its container does not exist",
        ]
    );
}

#[test]
fn keepers_beside_the_one_are_leaks() {
    let mut snapshot = clean();
    snapshot
        .processes
        .push(at(40, 1, "moss-keeper", "moss: keeper|/run/x|3", 7));
    snapshot
        .processes
        .push(at(41, 1, "moss-keeper", "moss: keeper|/run/gone|3", 8));
    snapshot
        .processes
        .push(at(42, 1, "moss-keeper", "moss: keeper|/run/other|3", 9));
    snapshot
        .processes
        .push(at(43, 20, "moss-keeper", "moss: keeper|/run/x|3", KEEPER));
    snapshot.gone.insert("/run/gone".into());
    assert_eq!(
        lines(&snapshot),
        [
            "process    40 (moss: keeper /run/x 3): not the keeper that keeper.json names",
            "process    41 (moss: keeper /run/gone 3): its exec root /run/gone is gone",
        ]
    );
}

#[test]
fn mounts_below_the_roots_are_leaks() {
    let mut snapshot = clean();
    let lines_of = [
        "1 1 0:1 / / rw - ext4 /dev/a rw",
        "1 1 0:1 / /data rw - xfs /dev/b rw",
        "1 1 0:1 / /data/a\\040b rw shared:1 master:2 - tmpfs none rw",
        "1 1 0:1 / /elsewhere rw - overlay moss rw,lowerdir=/data/layers/x",
        "2 1 0:1 / /another rw - overlay moss rw,lowerdir=/data2/layers/x:/x/data",
        "1 1 0:1 net:[1] /run/x/net rw - nsfs nsfs rw",
        "1 1 0:1 / /database rw - tmpfs none rw",
    ];
    snapshot.mounts = lines_of
        .iter()
        .filter_map(|it| parse_mount(it.as_bytes()))
        .collect();
    assert_eq!(
        lines(&snapshot),
        [
            "mount      /data/a b: tmpfs mounted outside any container",
            "mount      /elsewhere: overlay mounted outside any container",
            "namespace  /run/x/net: nsfs mounted outside any container",
        ]
    );
}

#[test]
fn objects_are_a_running_daemons_work_for_a_while() {
    let mut snapshot = clean();
    let seconds = |n| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(n));
    snapshot.objects = vec![("/data/tmp/new".into(), seconds(990))];
    snapshot
        .objects
        .push(("/data/trash/old".into(), seconds(10)));
    snapshot.containers.insert("half".into(), false);
    let found = lines(&snapshot);
    assert_eq!(found.len(), 2);
    assert_eq!(
        found[0],
        "object     /data/containers/half: a container without a record"
    );
    assert!(found[1].starts_with("object     /data/trash/old: half made"));
    snapshot.daemon = None;
    snapshot.processes.retain(|process| process.pid != 25);
    assert_eq!(lines(&snapshot).len(), 3);
}

#[test]
fn this_machine_can_be_looked_at() {
    let root = tempfile::tempdir().unwrap();
    let (data, exec) = (root.path().join("data"), root.path().join("exec"));
    // Whatever else this user runs is none of this test's.
    let kinds = || -> Vec<Kind> {
        let found = find(&data, &exec);
        let own = found
            .iter()
            .filter(|leak| Path::new(&leak.what).starts_with(root.path()));
        own.map(|leak| leak.kind).collect()
    };
    assert_eq!(kinds(), []);
    std::fs::create_dir_all(data.join("tmp/x")).unwrap();
    std::fs::create_dir_all(data.join("containers/half")).unwrap();
    std::fs::create_dir_all(exec.join("c/lost")).unwrap();
    assert_eq!(kinds(), [Kind::Directory, Kind::Object, Kind::Object]);
}

#[test]
fn a_damaged_record_is_named_with_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let container = root.path().join("containers/abc");
    std::fs::create_dir_all(&container).unwrap();
    std::fs::write(container.join(RECORD_FILE), "{\"id\":").unwrap();
    let spare = root.path().join("containers").join(spare::SPARE);
    std::fs::create_dir(&spare).unwrap();
    std::fs::write(spare.join(RECORD_FILE), "").unwrap();
    let snapshot = Snapshot::take(root.path(), &root.path().join("run"));
    let directory = container.display();
    let told = format!(
        "object     {directory}: a container that the engine cannot use: the container record \
         {directory}/{RECORD_FILE} is damaged"
    );
    let found: Vec<String> = snapshot
        .leaked_objects()
        .iter()
        .map(Leak::to_string)
        .collect();
    assert!(found.len() == 1 && found[0].starts_with(&told), "{found:?}");
    let remedy = format!("mv {directory} {}", root.path().join("trash").display());
    assert!(found[0].ends_with(&remedy), "{found:?}");
}
