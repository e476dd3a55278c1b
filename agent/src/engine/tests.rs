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
    assert_eq!(instance.log, LogWay::File(log, Writing::JsonFile));
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
    assert_eq!(step(Some((ENDED, 0))), (3, vec![(EventKind::Oom, 0), (EventKind::Die, 137)]));
    assert_eq!(step(Some((AGAIN, 0))), (2, vec![(EventKind::Start, 0)]));
    assert_eq!(
        step(Some((RUNNING, 1))).1[..2],
        [(EventKind::Die, 0), (EventKind::Start, 0)],
        "a restart between looks"
    );
    assert_eq!(step(None), (2, vec![(EventKind::Destroy, 0)]));
}

fn podman(root: &Path, containers: &[(&str, Vec<(&str, String)>)]) -> Place {
    let storage = root.join("var/lib/containers/storage");
    fs::create_dir_all(storage.join("libpod")).unwrap();
    fs::write(storage.join("libpod/bolt_state.db"), super::bolt::tests::database(containers)).unwrap();
    Place { socket: None, host_root: root.to_owned(), data_root: "/var/lib/containers/storage".into() }
}

#[test]
fn podmans_database_gives_name_image_labels_state_and_log_and_never_environment_or_command() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("var/ctr.log");
    fs::create_dir_all(dir.path().join("run/x/userdata")).unwrap();
    fs::create_dir_all(dir.path().join("var")).unwrap();
    fs::write(dir.path().join("run/x/healthcheck.log"), r#"{"Status":"unhealthy","FailingStreak":3}"#).unwrap();
    fs::write(&log, "").unwrap();
    let config = format!(
        r#"{{"id":"{ID}","name":"web","CreateCommand":["podman","run","-e","PASSWORD=hunter2"],"rootfsImageName":"localhost/web:7",
        "labels":{{"com.docker.compose.project":"shop","com.docker.compose.service":"web","other":"x"}},
        "logPath":"/var/ctr.log","logDriver":"k8s-file","createNetNS":true}}"#
    );
    let state = |state: u8, more: &str| {
        format!(r#"{{"state":{state},"startedTime":"2026-11-23T00:33:50.9Z","restartCount":2{more}}}"#)
    };
    let running = state(
        3,
        r#","pid":77,"runDir":"/run/x/userdata","networkStatus":{"podman":{"interfaces":{"eth0":{"subnets":[{"ipnet":"10.88.0.4/16"}]}}}}"#,
    );
    let place =
        podman(dir.path(), &[(ID, vec![("config", config.clone()), ("netns", "x".into()), ("state", running)])]);
    let [web] = &read_all(&place).unwrap()[..] else { panic!("one container") };
    assert_eq!((web.name.as_str(), web.image.as_str(), web.pid, web.restart_count), ("web", "localhost/web:7", 77, 2));
    assert_eq!((web.identity().as_str(), web.labels.len()), ("compose:shop/web/1", 2));
    assert_eq!((web.is_running, web.health, web.exit_code), (true, Some(2), None));
    assert_eq!(web.log, LogWay::File(log, Writing::Cri));
    assert_eq!(web.address, "10.88.0.4".parse().ok());
    assert!(!format!("{web:?}").contains("hunter2"));
    let ended = state(6, r#","exitCode":137,"oomKilled":true"#);
    let place = podman(dir.path(), &[(ID, vec![("config", config), ("state", ended)])]);
    let [web] = &read_all(&place).unwrap()[..] else { panic!("one container") };
    assert_eq!((web.is_running, web.pid, web.exit_code, web.is_oom_killed), (false, 0, Some(137), true));
}

#[test]
fn a_database_that_is_written_to_meanwhile_is_no_end_of_all_containers() {
    let dir = tempfile::tempdir().unwrap();
    let place = podman(dir.path(), &[]);
    assert!(read_all(&place).unwrap().is_empty());
    let file = dir.path().join("var/lib/containers/storage/libpod/bolt_state.db");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(read_all(&place).unwrap_err().to_string().contains("read again at the next look"));
}

#[test]
fn a_newer_podman_gives_names_images_processes_and_logs_from_the_list_of_its_storage() {
    let dir = tempfile::tempdir().unwrap();
    let storage = dir.path().join("var/lib/containers/storage/overlay-containers");
    fs::create_dir_all(storage.join(ID).join("userdata")).unwrap();
    fs::write(storage.join(ID).join("userdata/ctr.log"), "").unwrap();
    let list = format!(
        r#"[{{"id":"{ID}","names":["web"],"metadata":"{{\"image-name\":\"localhost/web:7\"}}","created":"2026-11-23T00:32:03Z"}},
        {{"id":"bbbb","names":["done"],"created":"2026-11-23T00:32:03Z"}}]"#
    );
    fs::write(storage.join("containers.json"), list).unwrap();
    for id in [ID, "bbbb"] {
        let run = dir.path().join("run/containers/storage/overlay-containers").join(id).join("userdata");
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join("pidfile"), "77").unwrap();
    }
    fs::create_dir_all(dir.path().join("proc/77")).unwrap();
    fs::write(dir.path().join("proc/77/cgroup"), format!("0::/machine.slice/libpod-{ID}.scope/container\n")).unwrap();
    let place =
        Place { socket: None, host_root: dir.path().to_owned(), data_root: "/var/lib/containers/storage".into() };
    let [web, done] = &read_all(&place).unwrap()[..] else { panic!("two containers") };
    assert_eq!((web.name.as_str(), web.image.as_str(), web.pid, web.is_running), ("web", "localhost/web:7", 77, true));
    assert_eq!(web.log, LogWay::File(storage.join(ID).join("userdata/ctr.log"), Writing::Cri));
    assert!(!done.is_running, "its process number belongs to another container by now");
}

#[test]
fn a_log_without_a_file_comes_through_the_engine_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    let file = dir.path().join("log");
    fs::write(&file, "").unwrap();
    let docker = |driver, path, has_socket| place.log_way(driver, path, Maker::Docker, has_socket);
    assert_eq!(docker("json-file", "/log", true), LogWay::File(file.clone(), Writing::JsonFile));
    assert_eq!(docker("json-file", "/not/there", true), LogWay::Stream);
    assert_eq!(docker("journald", "", true), LogWay::Stream);
    assert_eq!(docker("journald", "", false), LogWay::None);
    assert_eq!(docker("none", "", true), LogWay::None);
    for driver in ["k8s-file", "json-file"] {
        let way = place.log_way(driver, "/log", Maker::Podman, true);
        assert_eq!(way, LogWay::File(file.clone(), Writing::Cri), "Podman writes one format whatever it calls it");
    }
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

#[test]
fn the_time_before_a_piece_of_a_log_is_read_as_docker_and_podman_write_it() {
    let at = 1_795_456_644_123_456_789;
    for (piece, read, text) in [
        (&b"2026-11-23T17:57:24.123456789Z boom\n"[..], Some(at), &b"boom\n"[..]),
        (b"2026-11-24T01:57:24.123456789+08:00 two words\n", Some(at), b"two words\n"),
        (b"2026-11-23T17:57:24.1Z \n", Some(at - 23_456_789), b"\n"),
        (b"no time at all\n", None, b"no time at all\n"),
        (b"2026-13-45T99:57:24Z x", None, b"2026-13-45T99:57:24Z x"),
        (b"", None, b""),
    ] {
        assert_eq!(stream::stamped(piece), (read, text), "{}", String::from_utf8_lossy(piece));
    }
}

proptest! {
    #[test]
    fn times_are_read_as_a_library_reads_them(
        at in 0_i64..4_102_444_800_000_000_000, digits in 0_usize..=9, east_minutes in -14 * 60..=14 * 60_i64,
        noise in "[0-9TZ:.+-]{0,36}",
    ) {
        let at = at - at % 10_i64.pow(9 - digits as u32);
        let local = jiff::Timestamp::from_nanosecond(i128::from(at + east_minutes * 60 * 1_000_000_000)).unwrap();
        let zone = match east_minutes {
            0 => "Z".to_owned(),
            east => format!("{}{:02}:{:02}", if east > 0 { '+' } else { '-' }, east.abs() / 60, east.abs() % 60),
        };
        let fraction = &format!(".{:09}", at.rem_euclid(1_000_000_000))[..if digits == 0 { 0 } else { digits + 1 }];
        let text = format!("{}{fraction}{zone}", local.strftime("%Y-%m-%dT%H:%M:%S"));
        let library: jiff::Timestamp = text.parse().unwrap();
        prop_assert_eq!(i128::from(at), library.as_nanosecond(), "{}", text);
        let piece = format!("{text} boom");
        prop_assert_eq!(stream::stamped(piece.as_bytes()), (Some(at), &b"boom"[..]), "{}", text);
        if let (Some(read), _) = stream::stamped(format!("{noise} x").as_bytes()) {
            let library = noise.parse::<jiff::Timestamp>().map(|library| library.as_nanosecond());
            prop_assert_eq!(library.ok(), Some(i128::from(read)), "{}", noise);
        }
    }
}
