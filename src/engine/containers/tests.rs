use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::container::protocol::Started;
use crate::container::record::State;
use crate::overlay::Driver;
use crate::types::digest::Digest;
use crate::types::timestamp::Timestamp;

fn container(directory: &Path) -> Arc<Container> {
    let record = Record {
        id: ContainerId::random(),
        name: "old".to_owned(),
        created: Timestamp::ZERO,
        image: Digest::of(b""),
        image_name: String::new(),
        os: String::new(),
        layers: Vec::new(),
        driver: Driver::Overlay2,
        config: Default::default(),
        host_config: Default::default(),
        networking: Default::default(),
        mounts: Vec::new(),
        state: State::Created { failure: None },
        links: Vec::new(),
        endpoints: BTreeMap::new(),
        ports: BTreeMap::new(),
        finished: None,
        restart_count: 0,
        stopped_by_user: false,
        health: None,
        boot_id: String::new(),
    };
    Container::new(record, directory.to_owned())
}

#[test]
fn a_start_that_panics_is_over() {
    let container = container(Path::new("/nonexistent"));
    let starting = container.starting(&mut container.data());
    assert!(container.data().is_busy());
    let panicked = std::thread::spawn(move || {
        let _starting = starting;
        panic!("a defect");
    });
    assert!(panicked.join().is_err());
    assert!(!container.settled().is_busy());
}

#[test]
fn who_waits_no_more_is_forgotten() {
    let container = container(Path::new("/nonexistent"));
    let called = Arc::new(AtomicUsize::new(0));
    let wait = |condition| {
        let called = Arc::clone(&called);
        let waiter = Box::new(move |_| {
            called.fetch_add(1, Ordering::SeqCst);
        });
        container.data().wait(&container, condition, waiter)
    };
    let (kept, left) = (wait(WaitCondition::NextExit), wait(WaitCondition::NextExit));
    let removal = wait(WaitCondition::Removed);
    drop(left);
    for waiter in container.take_waiters(|condition| condition == WaitCondition::NextExit) {
        waiter(Ended {
            code: 0,
            error: String::new(),
        });
    }
    assert_eq!(called.load(Ordering::SeqCst), 1);
    assert_eq!(container.data().waiters.len(), 1);
    drop((kept, removal));
    assert!(container.data().waiters.is_empty());
}

#[test]
fn an_end_is_told_before_the_next_start() {
    let container = container(Path::new("/nonexistent"));
    let told = Arc::new(AtomicUsize::new(0));
    let ending = container.ending(&mut container.data());
    let (starting, seen) = (Arc::clone(&container), Arc::clone(&told));
    let start = std::thread::spawn(move || {
        let _data = starting.told();
        seen.load(Ordering::SeqCst)
    });
    std::thread::sleep(Duration::from_millis(10));
    told.store(1, Ordering::SeqCst);
    drop(ending);
    assert_eq!(start.join().unwrap(), 1);
}

#[test]
fn a_start_waits_for_the_clients_on_their_way() {
    let container = container(Path::new("/nonexistent"));
    let client = container.arriving();
    let here = |data: &Data| data.arriving == 0;
    assert!(!container.wait_until(Some(Duration::from_millis(10)), here));
    let waiting = Arc::clone(&container);
    let start = std::thread::spawn(move || waiting.wait_until(None, here));
    drop(client);
    assert!(start.join().unwrap());
}

#[test]
fn one_run_is_not_another() {
    let container = container(Path::new("/nonexistent"));
    let run = |pid| Started {
        pid,
        start_time: 1,
        at: 1,
    };
    let mut data = container.data();
    data.record.state = State::Running {
        started: run(7),
        paused: false,
    };
    assert!(!data.is_over(Some(run(7))));
    assert!(data.is_over(Some(run(6))));
    assert!(data.is_over(None));
}

#[test]
fn what_was_changed_last_is_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let container = container(directory.path());
    let threads = (0..8).map(|number| {
        let container = Arc::clone(&container);
        std::thread::spawn(move || {
            container.data().record.restart_count += 1;
            container.data().record.name = number.to_string();
            container.save(false).unwrap();
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().unwrap();
    }
    let read = Record::read(directory.path()).unwrap();
    assert_eq!(read.name, container.record().name);
    assert_eq!(read.restart_count, 8);
}
