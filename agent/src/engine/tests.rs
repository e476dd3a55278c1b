//! Promises of the engine room that need no engine: state files, and what follows from two readings.

use std::fs;

use proptest::prelude::*;

use super::state::{Diff, read_all};
use super::*;

const ID: &str = "4f1d7c2be3a04f1d7c2be3a04f1d7c2be3a04f1d7c2be3a04f1d7c2be3a0aaaa";

fn place(root: &Path) -> Place {
    Place { socket: None, host_root: root.to_owned(), data_root: "/var/lib/docker".into() }
}

fn folder(root: &Path) -> PathBuf {
    let folder = root.join("var/lib/docker/containers").join(ID);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn put(root: &Path, state: &str, restart_count: u64) {
    let config = format!(
        r#"{{"StreamConfig":{{}},"State":{state},"ID":"{ID}","Created":"2026-11-22T17:40:30Z","Managed":false,"Path":"sh",
        "Config":{{"Hostname":"4f1d","Env":["PASSWORD=hunter2","PATH=/bin"],"Image":"shop/db:7",
        "Labels":{{"com.docker.compose.project":"shop","com.docker.compose.service":"db","maintainer":"someone"}}}},
        "Image":"sha256:abc","LogPath":"/var/lib/docker/containers/{ID}/{ID}-json.log","Name":"/shop-db-1",
        "Driver":"overlay2","RestartCount":{restart_count},"HasBeenStartedBefore":true}}"#
    );
    fs::write(folder(root).join("config.v2.json"), config).unwrap();
    let host = r#"{"LogConfig":{"Type":"json-file","Config":{}},"NetworkMode":"default","Memory":0}"#;
    fs::write(folder(root).join("hostconfig.json"), host).unwrap();
}

const RUNNING: &str = r#"{"Running":true,"Paused":false,"Pid":4242,"ExitCode":0,"StartedAt":"2026-11-22T17:40:31Z","FinishedAt":"0001-01-01T00:00:00Z","Health":{"Status":"starting","FailingStreak":0,"Log":[]}}"#;
const HEALTHY: &str =
    r#"{"Running":true,"Pid":4242,"ExitCode":0,"StartedAt":"2026-11-22T17:40:31Z","Health":{"Status":"healthy"}}"#;
const ENDED: &str =
    r#"{"Running":false,"Pid":0,"ExitCode":137,"OOMKilled":true,"StartedAt":"2026-11-22T17:40:31Z","Health":null}"#;
const AGAIN: &str = r#"{"Running":true,"Pid":5000,"ExitCode":0,"StartedAt":"2026-11-22T17:50:00Z"}"#;

#[test]
fn state_files_give_name_image_labels_state_and_log_and_never_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), RUNNING, 2);
    let log = folder(dir.path()).join(format!("{ID}-json.log"));
    fs::write(&log, "").unwrap();
    let instances = read_all(&place(dir.path())).unwrap();
    let [instance] = instances.as_slice() else { panic!("{instances:?}") };
    assert_eq!((instance.name.as_str(), instance.image.as_str(), instance.pid), ("shop-db-1", "shop/db:7", 4242));
    assert_eq!((instance.is_running, instance.health, instance.exit_code), (true, Some(1), None));
    assert_eq!(instance.log, LogWay::File(log));
    assert_eq!(instance.identity(), "compose:shop/db/1");
    assert_eq!(instance.labels.len(), 2, "labels without a meaning here are left out");
    let told = format!("{instance:?} {:?}", instance.attributes());
    assert!(!told.contains("hunter2") && !told.contains("PATH"), "{told}");
}

#[test]
fn damaged_state_files_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), RUNNING, 0);
    let other = dir.path().join("var/lib/docker/containers/bbbb");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("config.v2.json"), "{\"ID\":").unwrap();
    fs::write(dir.path().join("var/lib/docker/containers/file"), "x").unwrap();
    assert_eq!(read_all(&place(dir.path())).unwrap().len(), 1);
    assert!(read_all(&place(&dir.path().join("nowhere"))).is_err());
}

#[test]
fn two_readings_tell_what_happened_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut diff = Diff::default();
    let mut step = |state: Option<(&str, u64)>| {
        match state {
            Some((state, restarts)) => put(dir.path(), state, restarts),
            None => fs::remove_dir_all(folder(dir.path())).unwrap(),
        }
        let notices = diff.step(read_all(&place(dir.path())).unwrap(), 7);
        let kinds: Vec<(EventKind, i32)> = notices
            .iter()
            .filter_map(|notice| match notice {
                Notice::Happened { kind, code, .. } => Some((*kind, *code)),
                _ => None,
            })
            .collect();
        (notices.len(), kinds)
    };
    assert_eq!(step(Some((RUNNING, 0))), (1, vec![]), "the first reading is the state, no event");
    assert_eq!(step(Some((RUNNING, 0))), (0, vec![]));
    assert_eq!(step(Some((HEALTHY, 0))), (2, vec![(EventKind::Health, 0)]));
    assert_eq!(step(Some((ENDED, 0))), (2, vec![(EventKind::Die, 137)]));
    assert_eq!(step(Some((AGAIN, 0))), (2, vec![(EventKind::Start, 0)]));
    assert_eq!(
        step(Some((RUNNING, 1))).1[..2],
        [(EventKind::Die, 0), (EventKind::Start, 0)],
        "a restart between looks"
    );
    assert_eq!(step(None), (2, vec![(EventKind::Destroy, 0)]));
}

#[test]
fn a_log_without_a_file_comes_through_the_engine_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    let file = dir.path().join("log");
    fs::write(&file, "").unwrap();
    assert_eq!(place.log_way("json-file", "/log", true), LogWay::File(file));
    assert_eq!(place.log_way("json-file", "/not/there", true), LogWay::Stream);
    assert_eq!(place.log_way("journald", "", true), LogWay::Stream);
    assert_eq!(place.log_way("journald", "", false), LogWay::None);
    assert_eq!(place.log_way("none", "", true), LogWay::None);
}

proptest! {
    #[test]
    fn random_state_files_never_panic(text in "\\PC{0,200}", state in "[{}\":,a-zA-Z0-9]{0,80}") {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), &state, 0);
        fs::write(folder(dir.path()).join("hostconfig.json"), text).unwrap();
        let _ = read_all(&place(dir.path())).unwrap();
    }
}
