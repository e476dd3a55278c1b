//! Promises of the sampler: fixture trees for both cgroup versions, and this machine's own `/proc` and `df`.

use std::fs;
use std::process::Command;

use forewarn_common::id::HostId;
use forewarn_common::metric::Id;
use proptest::prelude::*;

use super::*;

const CONTAINER: &str = "4f1d7c2be3a04f1d7c2be3a04f1d7c2be3a04f1d7c2be3a04f1d7c2be3a0aaaa";

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn entity() -> EntityId {
    EntityId::of_host(HostId([1; 16]))
}

fn value(rows: &[Row], id: Id, instance: &str) -> f64 {
    let name = id.spec().name;
    rows.iter()
        .flat_map(|row| row.shape.layout.metrics.iter().zip(&row.values))
        .find(|(metric, _)| metric.name == name && metric.instance == instance)
        .map_or_else(|| panic!("no series {name} {instance}"), |(_, value)| *value)
}

fn target(pid: u32) -> Target {
    Target { entity: entity(), id: CONTAINER.to_owned(), pid, own_network: true }
}

const HOST_SIZE: HostSize = HostSize { mem_total_bytes: Some(8 << 30), cpu_count: Some(4) };

fn sample(containers: &mut Containers, boot_ms: i64) -> Vec<Row> {
    let mut rows = Vec::new();
    containers.sample(boot_ms, HOST_SIZE, &mut rows);
    rows
}

fn put_net(root: &Path, rx: u64) {
    let table = format!(
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
         lo: 999 1 0 0 0 0 0 0 999 1 0 0 0 0 0 0\n  eth0: {rx} 5 1 2 0 0 0 0 70 1 3 0 0 0 0 0\n"
    );
    put(root, "proc/77/net/dev", &table);
}

#[test]
fn a_container_is_read_from_cgroup_v1_against_its_own_limits() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let at = |controller: &str, file: &str| format!("sys/fs/cgroup/{controller}/docker/{CONTAINER}/{file}");
    put(root, "proc/77/cgroup", &format!("5:memory:/docker/{CONTAINER}\n4:cpu:/docker/{CONTAINER}\n"));
    let write = |usage_ns: u64, throttled: u64, write_bytes: u64| {
        put(root, &at("cpuacct", "cpuacct.usage"), &format!("{usage_ns}\n"));
        put(
            root,
            &at("cpu", "cpu.stat"),
            &format!("nr_periods {}\nnr_throttled {throttled}\nthrottled_time 5\n", throttled * 4),
        );
        put(
            root,
            &at("blkio", "blkio.throttle.io_service_bytes"),
            &format!("8:0 Read 4096\n8:0 Write {write_bytes}\n8:0 Total 1\n8:16 Write 0\nTotal 1\n"),
        );
    };
    put(root, &at("cpu", "cpu.cfs_quota_us"), "50000\n");
    put(root, &at("cpu", "cpu.cfs_period_us"), "100000\n");
    put(root, &at("memory", "memory.usage_in_bytes"), "52428800\n");
    put(root, &at("memory", "memory.stat"), "cache 3\ninactive_file 1\ntotal_inactive_file 20971520\n");
    put(root, &at("memory", "memory.limit_in_bytes"), "67108864\n");
    put(root, &at("memory", "memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
    put(root, &at("pids", "pids.current"), "9\n");
    put_net(root, 1000);
    write(1_000_000_000, 10, 8192);

    let mut containers = Containers::new(root);
    assert_eq!(containers.cgroup_version(), 1);
    containers.set_targets([target(77)]);
    let first = sample(&mut containers, 10_000);
    assert!(value(&first, Id::CpuUsed, "").is_nan(), "a rate needs two readings");
    write(2_000_000_000, 15, 12288);
    put(root, &at("memory", "memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
    put_net(root, 1500);
    let rows = sample(&mut containers, 20_000);
    assert_eq!(value(&rows, Id::CpuCores, ""), 0.1);
    assert_eq!(value(&rows, Id::CpuUsed, ""), 0.2, "a tenth of a core of a limit of half a core");
    assert_eq!(value(&rows, Id::CpuThrottled, ""), 0.25);
    assert_eq!(value(&rows, Id::MemUsed, ""), 31_457_280.0, "page cache that can go is not used");
    assert_eq!(value(&rows, Id::MemUsedRatio, ""), 0.46875);
    assert_eq!(value(&rows, Id::MemLimit, ""), 67_108_864.0);
    assert_eq!(value(&rows, Id::OomKills, ""), 0.0, "nothing moved in memory: read after half a minute");
    assert_eq!(value(&sample(&mut containers, 40_000), Id::OomKills, ""), 1.0);
    assert_eq!((value(&rows, Id::DiskRead, ""), value(&rows, Id::DiskWrite, "")), (0.0, 4096.0));
    assert_eq!(value(&rows, Id::Pids, ""), 9.0);
    assert_eq!((value(&rows, Id::NetRx, ""), value(&rows, Id::NetTx, "")), (500.0, 0.0), "loopback is no traffic");
}

#[test]
fn page_cache_is_read_again_as_soon_as_memory_moves_and_else_twice_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let at = |file: &str| format!("sys/fs/cgroup/docker/{CONTAINER}/{file}");
    put(root, "sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    let write = |used: u64, inactive: u64, kills: u64| {
        put(root, &at("memory.current"), &format!("{used}\n"));
        put(root, &at("memory.stat"), &format!("anon 1\ninactive_file {inactive}\n"));
        put(root, &at("memory.events"), &format!("oom 9\noom_kill {kills}\n"));
    };
    let mut containers = Containers::new(root);
    write(100 << 20, 10 << 20, 0);
    containers.set_targets([target(77)]);
    let mut used = |boot_ms: i64| {
        let rows = sample(&mut containers, boot_ms);
        (value(&rows, Id::MemUsed, "") as u64, value(&rows, Id::OomKills, ""))
    };
    assert_eq!(used(0).0, 90 << 20);
    write((100 << 20) + (64 << 10), 20 << 20, 0);
    assert_eq!(used(10_000), ((90 << 20) + (64 << 10), 0.0), "hardly moved: the cache is taken to be as it was");
    write(130 << 20, 40 << 20, 0);
    assert_eq!(used(20_000), (90 << 20, 0.0), "what was added is cache, not use");
    // A kill gives memory back.
    write(50 << 20, 40 << 20, 1);
    assert_eq!(used(30_000), (10 << 20, 1.0));
    write(50 << 20, 20 << 20, 2);
    assert_eq!(used(40_000), (10 << 20, 0.0));
    assert_eq!(used(60_000), (30 << 20, 1.0), "what did not move is read after half a minute");
}

#[test]
fn a_container_is_read_from_cgroup_v2_under_a_systemd_scope() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let at = |file: &str| format!("sys/fs/cgroup/system.slice/docker-{CONTAINER}.scope/{file}");
    put(root, "sys/fs/cgroup/cgroup.controllers", "cpu memory io pids\n");
    // What an agent in its own cgroup namespace sees of another container.
    put(root, "proc/77/cgroup", &format!("0::/../docker-{CONTAINER}.scope\n"));
    let write = |usage_us: u64, stalled_us: u64| {
        put(root, &at("cpu.stat"), &format!("usage_usec {usage_us}\nuser_usec 1\nnr_periods 0\nnr_throttled 0\n"));
        put(
            root,
            &at("memory.pressure"),
            &format!(
                "some avg10=0.00 avg60=0.00 avg300=0.00 total={stalled_us}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
            ),
        );
    };
    put(root, &at("cpu.max"), "max 100000\n");
    put(root, &at("memory.current"), "1073741824\n");
    put(root, &at("memory.stat"), "anon 1\ninactive_file 0\n");
    put(root, &at("memory.max"), "max\n");
    put(root, &at("memory.events"), "low 0\noom 1\noom_kill 1\n");
    put(root, &at("io.stat"), "8:0 rbytes=100 wbytes=200 rios=1 wios=2\n254:0 rbytes=1 wbytes=2\n");
    put(root, &at("pids.current"), "3\n");
    write(0, 0);
    let mut containers = Containers::new(root);
    assert_eq!(containers.cgroup_version(), 2);
    containers.set_targets([Target { own_network: false, ..target(77) }]);
    sample(&mut containers, 0);
    write(20_000_000, 1_000_000);
    let rows = sample(&mut containers, 10_000);
    assert_eq!(value(&rows, Id::CpuCores, ""), 2.0);
    assert_eq!(value(&rows, Id::CpuUsed, ""), 0.5, "without a limit the host's four cores are the limit");
    assert!(value(&rows, Id::MemLimit, "").is_nan());
    assert_eq!(value(&rows, Id::MemUsedRatio, ""), 0.125, "without a limit the host's memory is the limit");
    assert_eq!(value(&rows, Id::PressureMemSome, ""), 0.1);
    assert_eq!(value(&rows, Id::OomKills, ""), 0.0);
    assert!(value(&rows, Id::NetRx, "").is_nan(), "traffic of the host's network is not the container's");
}

#[test]
fn a_container_of_crun_is_read_where_its_limits_are_and_not_in_the_folder_below() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let scope = format!("machine.slice/libpod-{CONTAINER}.scope");
    put(root, "sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    put(root, "proc/77/cgroup", &format!("0::/{scope}/container\n"));
    for (folder, limit) in [(scope.clone(), "67108864"), (format!("{scope}/container"), "max")] {
        put(root, &format!("sys/fs/cgroup/{folder}/memory.current"), "33554432\n");
        put(root, &format!("sys/fs/cgroup/{folder}/memory.stat"), "inactive_file 0\n");
        put(root, &format!("sys/fs/cgroup/{folder}/memory.max"), &format!("{limit}\n"));
    }
    let mut containers = Containers::new(root);
    containers.set_targets([target(77)]);
    let rows = sample(&mut containers, 0);
    assert_eq!((value(&rows, Id::MemLimit, ""), value(&rows, Id::MemUsedRatio, "")), (67_108_864.0, 0.5));
}

#[test]
fn a_container_in_an_unusual_place_is_found_and_a_gone_one_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    put(root, "sys/fs/cgroup/cgroup.controllers", "cpu\n");
    let folder = format!("sys/fs/cgroup/kubepods/besteffort/pod1/cri-{CONTAINER}");
    put(root, &format!("{folder}/memory.current"), "5\n");
    let mut containers = Containers::new(root);
    containers.set_targets([target(77)]);
    assert_eq!((containers.len(), sample(&mut containers, 0).len()), (1, 1));
    fs::remove_dir_all(root.join(&folder)).unwrap();
    containers.set_targets([]);
    containers.set_targets([target(77)]);
    assert_eq!(containers.len(), 0);
}

#[test]
fn no_descriptor_stays_after_many_containers_came_and_went() {
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    put(root, "sys/fs/cgroup/cgroup.controllers", "cpu\n");
    let before = open();
    let mut containers = Containers::new(root);
    for round in 0..50 {
        let id = format!("{round:064x}");
        put(root, &format!("sys/fs/cgroup/docker/{id}/memory.current"), "5\n");
        put(root, &format!("sys/fs/cgroup/docker/{id}/cpu.stat"), "usage_usec 5\n");
        containers.set_targets([Target { id, ..target(1) }]);
        assert_eq!(sample(&mut containers, round).len(), 1);
    }
    containers.set_targets([]);
    // Other tests of this process open files meanwhile: what leaks would be a hundred.
    assert!(open() < before + 50, "{} descriptors before, {} after", before, open());
}

const MOUNTS: &str = r"
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:20 / /proc rw - proc proc rw
23 21 0:21 / /dev/shm rw - tmpfs tmpfs rw
24 21 254:0 /var/lib/x /srv/bind\040mount rw - ext4 /dev/vda rw
25 21 8:17 / /mnt/my\040disk rw - xfs /dev/sdb1 rw
26 21 8:17 / /mnt/the/second rw - xfs /dev/sdb1 rw
27 21 0:50 / /var/lib/docker/overlay2/abc/merged rw - overlay overlay rw
28 21 0:51 / /mnt/nfs rw - nfs4 server:/export rw
29 21 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro
30 21 0:60 /@home /home rw - btrfs /dev/sdc1 rw
31 21 0:61 / /tank rw - zfs tank rw
32 21 8:99 / /mnt/hidden rw - ext4 /dev/sdz9 rw
33 21 0:70 / /mnt/hidden rw - tmpfs tmpfs rw
34 21 8:3 /only/a/part /export rw - ext4 /dev/sda3 rw
35 21 0:71 / /mnt/remote rw - fuse.sshfs user@far:/ rw
garbage
";

#[test]
fn each_real_filesystem_is_there_once_and_no_other() {
    let points = filesystem::real_mount_points(MOUNTS.as_bytes());
    let points: Vec<_> = points.into_iter().map(|point| point.name).collect();
    assert_eq!(points, ["/", "/export", "/home", "/mnt/my disk", "/tank"]);
}

#[test]
fn a_mount_that_this_process_cannot_see_is_missing_and_not_the_disk_below_it() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "proc/1/mountinfo", "32 21 250:77 / /mnt/far rw - ext4 /dev/vdz rw\n");
    put(dir.path(), "mnt/far/file", "x");
    let mut host = Host::new(entity(), dir.path());
    let mut rows = Vec::new();
    host.sample(0, &mut rows);
    assert!(rows.iter().all(|row| row.shape.layout.metrics.iter().all(|metric| metric.instance != "/mnt/far")));
}

#[test]
fn filesystem_values_equal_df() {
    let mut host = Host::new(entity(), Path::new("/"));
    let mut rows = Vec::new();
    host.sample(0, &mut rows);
    let output = Command::new("df").args(["-B1", "--output=target,size,used,avail", "/"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    let [size, used, avail]: [f64; 3] = std::array::from_fn(|i| words[i + 1].parse().unwrap());
    assert_eq!(value(&rows, Id::FsTotal, "/"), size);
    let close = |a: f64, b: f64, part: f64| (a - b).abs() <= b * part;
    assert!(close(value(&rows, Id::FsUsed, "/"), used, 0.01), "{} against df's {used}", value(&rows, Id::FsUsed, "/"));
    assert!(close(value(&rows, Id::FsUsedRatio, "/"), used / (used + avail), 0.01));
}

#[test]
fn host_values_equal_free_nproc_and_proc() {
    let mut host = Host::new(entity(), Path::new("/"));
    let mut rows = Vec::new();
    host.sample(0, &mut rows);
    let free = Command::new("free").arg("-b").output().unwrap();
    let text = String::from_utf8(free.stdout).unwrap();
    let words: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(value(&rows, Id::MemTotal, ""), words[1].parse::<f64>().unwrap());
    let available: f64 = words[6].parse().unwrap();
    assert!((value(&rows, Id::MemAvailable, "") - available).abs() < 0.2 * available);
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    assert!(value(&rows, Id::CpuCount, "") >= cores);
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime_ms = uptime.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1000.0;
    assert!((value(&rows, Id::Uptime, "") - uptime_ms).abs() < 5000.0);
    rows.clear();
    std::thread::sleep(std::time::Duration::from_millis(300));
    host.sample(300, &mut rows);
    let used = value(&rows, Id::CpuUsed, "");
    assert!((0.0..=1.0).contains(&used), "{used}");
}

#[test]
fn cpu_modes_are_shares_of_the_time_between_two_readings() {
    let dir = tempfile::tempdir().unwrap();
    let stat = |user: u64, system: u64, idle: u64, iowait: u64| {
        format!(
            "cpu  {user} 0 {system} {idle} {iowait} 0 0 0 0 0\ncpu0 1 1\ncpu1 1 1\nintr 5\nprocs_running 3\nprocs_blocked 1\n"
        )
    };
    put(dir.path(), "proc/stat", &stat(100, 100, 1000, 0));
    let mut host = Host::new(entity(), dir.path());
    let mut rows = Vec::new();
    host.sample(0, &mut rows);
    put(dir.path(), "proc/stat", &stat(150, 110, 1030, 10));
    rows.clear();
    host.sample(1000, &mut rows);
    assert_eq!(value(&rows, Id::CpuUser, ""), 0.5);
    assert_eq!(value(&rows, Id::CpuSystem, ""), 0.1);
    assert_eq!(value(&rows, Id::CpuIowait, ""), 0.1);
    assert!((value(&rows, Id::CpuUsed, "") - 0.6).abs() < 1e-12, "waiting for a disk is idle");
    assert_eq!((value(&rows, Id::CpuCount, ""), value(&rows, Id::ProcsBlocked, "")), (2.0, 1.0));
    assert!(value(&rows, Id::MemTotal, "").is_nan(), "what cannot be read is missing, not zero");
}

#[test]
fn disks_are_counted_whole_and_once() {
    let text = b" 8 0 sda 10 0 100 5 20 0 200 6 0 77 0\n 8 1 sda1 10 0 100 5 20 0 200 6 0 77 0\n 7 0 loop0 1 0 1 1 1 0 1 1 0 1 0\n 259 0 nvme0n1 1 0 2 0 0 0 0 0 0 3 0\n 259 1 nvme0n1p1 1 0 2 0 0 0 0 0 0 3 0\n 253 0 dm-0 1 0 1 1 1 0 1 1 0 1 0\n 8 16 sdaa 1 0 1 1 1 0 1 1 0 1 0\n";
    let disks = disk::parse(text);
    let names: Vec<_> = disks.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
    assert_eq!(names, ["sda", "nvme0n1", "sdaa"]);
    assert_eq!(disks[0].1, [51_200, 102_400, 10, 20, 77]);
}

#[test]
fn a_counter_that_restarts_is_no_negative_increment() {
    let mut counter = Counter::default();
    assert!(counter.step(Some(10)).is_nan());
    assert_eq!(counter.step(Some(15)), 5.0);
    assert_eq!(counter.step(Some(3)), 3.0);
    assert!(counter.step(None).is_nan());
    assert!(counter.step(Some(9)).is_nan(), "nothing is known of what happened meanwhile");
}

proptest! {
    #[test]
    fn random_bytes_never_panic_a_parser(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        filesystem::real_mount_points(&bytes);
        disk::parse(&bytes);
        net::total(&bytes);
        pressure::parse(&bytes);
        proc_text::value_of(&bytes, b"key");
    }

    #[test]
    fn random_proc_files_never_panic_a_sample(text in "[a-z0-9 :=/.\\n_-]{0,300}", step in 0_i64..100_000) {
        let dir = tempfile::tempdir().unwrap();
        for path in ["proc/stat", "proc/meminfo", "proc/loadavg", "proc/vmstat", "proc/uptime", "proc/diskstats", "proc/1/net/dev", "proc/1/mountinfo", "proc/pressure/cpu"] {
            put(dir.path(), path, &text);
        }
        let mut host = Host::new(entity(), dir.path());
        host.sample(0, &mut Vec::new());
        host.sample(step, &mut Vec::new());
    }
}
