#!/bin/sh
# Runs the static agent in a small guest with a kernel of Debian and cgroup v2, beside a container made by hand (its
# cgroup, and the state files that Docker would write), and compares what it says with the kernel's own files.
# Needs qemu-system-x86, busybox-static and, for the kernel, either KERNEL=/path/to/vmlinuz or apt-get.
set -eu
cd "$(dirname "$0")/.."
agent=${AGENT:-target/release/forewarn-agent}
work=$(mktemp -d "${TMPDIR:-/tmp}/fw-guest-XXXXXX")
trap 'rm -rf "$work"' EXIT

kernel=${KERNEL:-}
if [ -z "$kernel" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
    (cd "$work" && apt-get download -q "$package" >/dev/null 2>&1 && dpkg-deb -x linux-image*.deb kernel)
    kernel=$(ls "$work"/kernel/boot/vmlinuz-*)
fi

mkdir -p "$work/root/bin" "$work/root/proc" "$work/root/sys" "$work/root/dev" "$work/root/tmp"
cp /bin/busybox "$work/root/bin/busybox"
for name in $(/bin/busybox --list); do
    [ "$name" = busybox ] || ln -sf busybox "$work/root/bin/$name"
done
cp "$agent" "$work/root/agent"
cat >"$work/root/init" <<'GUEST'
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs tmp /tmp
id=4f1d7c2be3a04f1d7c2be3a04f1d7c2be3a04f1d7c2be3a04f1d7c2be3a0aaaa
group=/sys/fs/cgroup/system.slice/docker-$id.scope
echo '+cpu +memory +io +pids' >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p "$group" /var/lib/docker/containers/$id
echo '+cpu +memory +io +pids' >/sys/fs/cgroup/system.slice/cgroup.subtree_control
echo 67108864 >"$group/memory.max"
echo '50000 100000' >"$group/cpu.max"
# Half a core is allowed, a whole one wanted; twenty megabytes are held.
sh -c "echo \$\$ >$group/cgroup.procs; dd if=/dev/zero of=/tmp/held bs=1M count=20 2>/dev/null; while :; do :; done" &
state="{\"Running\":true,\"Pid\":$!,\"StartedAt\":\"2026-11-22T17:40:31Z\"}"
config="{\"ID\":\"$id\",\"Name\":\"/guest\",\"State\":$state,\"Config\":{\"Image\":\"x\"}}"
echo "$config" >/var/lib/docker/containers/$id/config.v2.json
echo '{"LogConfig":{"Type":"none"},"NetworkMode":"host"}' >/var/lib/docker/containers/$id/hostconfig.json
printf 'data_dir = "/tmp/data"\n[engine]\nsocket = ""\n' >/agent.toml
sleep 4
/agent check --config /agent.toml | grep cgroup
/agent once --config /agent.toml --json | tr -d ' \n' | sed 's/},{/\n/g' >/tmp/once
said() { # said ENTITY METRIC: the value, whole
    sed -n "s/^.*\"entity\":\"$1\",\"instance\":\"\",\"metric\":\"$2\",\"value\":\([-0-9.e]*\).*/\1/p" /tmp/once | awk '{ printf "%d", $1 }'
}
wrong=0
equal() { # equal WHAT SAID IS TOLERANCE
    awk -v said="$2" -v is="$3" -v may="$4" 'BEGIN { exit !(said != "" && said - is <= may && is - said <= may) }' && verdict=ok || verdict=WRONG wrong=1
    echo "$verdict $1: the agent says $2, the kernel $3"
}
held=$(($(cat "$group/memory.current") - $(awk '$1 == "inactive_file" { print $2 }' "$group/memory.stat")))
equal 'memory of the container' "$(said guest mem_used_bytes)" "$held" 65536
equal 'its limit' "$(said guest mem_limit_bytes)" "$(cat "$group/memory.max")" 0
equal 'its processes' "$(said guest pids)" "$(cat "$group/pids.current")" 0
equal 'OOM kills' "$(said guest oom_kills)" "$(awk '$1 == "oom_kill" { print $2 }' "$group/memory.events")" 0
cores=$(sed -n 's/.*"cpu_used_cores","value":\([0-9.]*\).*/\1/p' /tmp/once)
equal 'cores that it used, in per cent' "$(awk -v c="$cores" 'BEGIN { printf "%d", c * 100 }')" 50 10
total=$(awk '$1 == "MemTotal:" { print $2 * 1024 }' /proc/meminfo)
equal 'memory of the host' "$(sed -n 's/.*"mem_total_bytes","value":\([0-9.]*\).*/\1/p' /tmp/once | awk '{ printf "%d", $1 }')" "$total" 0
throttled=$(sed -n 's/.*"cpu_throttled_ratio","value":\([0-9.]*\).*/\1/p' /tmp/once)
equal 'that it was throttled' "$(awk -v t="$throttled" 'BEGIN { print (t > 0.3) + 0 }')" 1 0
echo "guest ended with $wrong"
poweroff -f
GUEST
chmod +x "$work/root/init"
(cd "$work/root" && find . | /bin/busybox cpio -o -H newc 2>/dev/null | gzip -1 >"$work/initrd.gz")
timeout 300 qemu-system-x86_64 -M q35 -accel tcg -cpu max -m 700 -smp 1 -nographic -no-reboot \
    -kernel "$kernel" -initrd "$work/initrd.gz" -append 'console=ttyS0 quiet psi=1 panic=-1' >"$work/out" 2>&1 || true
tr -d '\r' <"$work/out" | grep -E '^(ok|WRONG|containers|guest ended)' || true
if ! grep -q 'guest ended with 0' "$work/out"; then
    tail -20 "$work/out" >&2
    echo "the guest did not agree, or did not end" >&2
    exit 1
fi
