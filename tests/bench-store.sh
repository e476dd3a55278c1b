#!/bin/bash
# What storing costs, on this machine: `make bench-store`. A server of its own on SQLite and then on MariaDB, a
# simulated fleet over TLS, one kept-alive connection a host. Prints processor time (trust it; wall time only on an
# idle machine), memory, bytes a sample, reads. The bars are in docs/sizing.md.
# Variables one may set: FOREWARN_BIN (target/release), HOSTS (1000), ENGINES ("sqlite mysql"), PARTS ("floor intake
# burst merging read linear", and "long", "peers"), BURST_MINUTES (of data of each host, 200), LONG_RATE (blocks a second, 2475 =
# 1.5 M samples) for LONG_S (600) seconds, READ_HOSTS (20) and READ_DAYS (15) at a sample every ten seconds, LINEAR
# ("100 1000 10000" hosts), PAST_HOSTS (60) with PAST_DAYS (90). The peers are Debian's victoria-metrics and prometheus:
# one that is not installed is named. Cold reads need root: the kernel's pages are dropped.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${FOREWARN_BIN:-target/release}
hosts=${HOSTS:-1000}
parts=" ${PARTS:-floor intake burst merging read linear} "
fleet=$bin/examples/fleet
folder=$(mktemp -d "${TMPDIR:-/tmp}/forewarn-bench-XXXXXX")
server="" database=""

end() {
    [ -n "$server" ] && stop_server
    stop_mysql
}
trap 'end; rm -rf "$folder"' EXIT

run_mysql() {
    setsid mariadbd --no-defaults --user="$(id -un)" --datadir="$folder/mysql" --tmpdir="$folder/mysql-tmp" \
        --socket="$folder/sock" --port=23306 --bind-address=127.0.0.1 --skip-name-resolve --skip-log-bin \
        --max-allowed-packet=64M --innodb-buffer-pool-size=512M --innodb-log-file-size=512M \
        >>"$folder/mysql.log" 2>&1 </dev/null &
    database=$!
    echo "$database" >"$folder/mysql.pid"
    for _ in $(seq 200); do
        mariadb --no-defaults --user=root --socket="$folder/sock" -e "SELECT 1" >/dev/null 2>&1 && break
        sleep 0.1
    done
}

stop_mysql() {
    database=$(cat "$folder/mysql.pid" 2>/dev/null || true)
    [ -z "$database" ] && return 0
    kill -TERM "$database" 2>/dev/null || true
    while kill -0 "$database" 2>/dev/null; do sleep 0.1; done
    rm -f "$folder/mysql.pid"
    database=""
}

start_mysql() {
    mkdir -p "$folder/mysql" "$folder/mysql-tmp"
    mariadb-install-db --no-defaults --datadir="$folder/mysql" --user="$(id -un)" \
        --auth-root-authentication-method=normal --skip-test-db >"$folder/install.log" 2>&1
    run_mysql
    mariadb --no-defaults --user=root --socket="$folder/sock" -e \
        "CREATE DATABASE forewarn CHARACTER SET utf8mb4; CREATE USER 'forewarn'@'%' IDENTIFIED BY 'quiet-harbour-73';
         GRANT ALL ON forewarn.* TO 'forewarn'@'%';"
}

# Empties the database of an engine and sets database_url.
fresh() {
    rm -rf "$folder/data"
    mkdir -p "$folder/data"
    database_url=sqlite://$folder/data/forewarn.db
    if [ "$1" = mysql ]; then
        mariadb --no-defaults --user=root --socket="$folder/sock" -e \
            "DROP DATABASE forewarn; CREATE DATABASE forewarn CHARACTER SET utf8mb4"
        database_url=mysql://forewarn:quiet-harbour-73@127.0.0.1:23306/forewarn
    fi
}

# start_server ENGINE COMPACT_EVERY_MS: on an empty database, with tokens for all hosts
start_server() {
    fresh "$1"
    run_server "$1" "$2"
    tokens=()
    for _ in $(seq $(((hosts + 999) / 1000))); do
        tokens+=(--token "$("$bin/forewarn-server" token --config "$folder/server.toml" --uses 1000 2>/dev/null | tail -n 1)")
    done
}

# run_server ENGINE COMPACT_EVERY_MS: on the database that is there
run_server() {
    # Forecasts are another cost than storing: a new host has its first at once, none has a second within the run.
    cat >"$folder/server.toml" <<TOML
data_dir = "$folder/data"
[database]
url = "$database_url"
[console]
listen = "127.0.0.1:28440"
[https]
listen = "127.0.0.1:28441"
[judge]
forecast_every_ms = 3600000
[store]
compact_every_ms = $2
[limits]
connections_max = 20000
TOML
    rm -f "$folder/token"
    RUST_LOG=warn "$bin/forewarn-server" run --config "$folder/server.toml" --local-agent-token "$folder/token" \
        >"$folder/server.log" 2>&1 &
    server=$!
    for _ in $(seq 300); do [ -s "$folder/token" ] && break; sleep 0.1; done
    watched=(--watch "server=$server")
    [ "$1" = mysql ] && watched+=(--watch "mysqld=$database")
    return 0
}

stop_server() {
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=""
}

load() {
    local own=(--hosts "$hosts" "${tokens[@]}")
    [ "$1" = --hosts ] && own=()
    "$fleet" load --server "${url:-https://127.0.0.1:28441}" "${own[@]}" "${watched[@]}" "$@"
}

# The databases' files after a run, and what of them is free: SQLite says it, InnoDB gives free pages back seldom.
sizes() {
    "$fleet" read --database "$database_url" --hosts 0
}

# What the load costs a server that takes every block and looks at none: the part of every figure below that TLS and
# HTTP have on this machine, now.
floor() {
    echo "== floor: the same listener, nothing stored; load average $(cut -d' ' -f1 /proc/loadavg)"
    "$fleet" floor --listen 127.0.0.1:28441 &
    server=$!
    sleep 1
    watched=(--watch "floor=$server")
    load --hosts "$hosts" --preloaded --minutes 30 --ticks 6 --fresh
    stop_server
}

intake() {
    echo "== $1: intake, blocks of 60 s (606 samples), merging deferred; load average $(cut -d' ' -f1 /proc/loadavg)"
    start_server "$1" 86400000
    load --minutes 30 --ticks 6 --fresh
    stop_server
    echo "== $1: intake, blocks of 30 s"
    start_server "$1" 86400000
    load --minutes 10 --ticks 3 --fresh
    stop_server
}

burst() {
    echo "== $1: a burst, merging deferred: what it leaves to merge"
    start_server "$1" 86400000
    load --minutes "${BURST_MINUTES:-200}" --ticks 6 --fresh --in-flight 128
    sizes
    stop_server
}

merging() {
    echo "== $1: intake and merging of whole hours, every sample verified"
    start_server "$1" 2000
    local hosts_all=$hosts
    hosts=$(((hosts + 9) / 10))
    load --minutes 360 --ticks 6 --ago-min 360 --settle-s 40 --verify "$database_url"
    hosts=$hosts_all
    sizes
    stop_server
}

# Merging keeps up if what is left as it was pushed (tier 0) at the end is little.
long() {
    local minutes=$((${LONG_RATE:-2475} * ${LONG_S:-600} / hosts))
    echo "== $1: ${LONG_S:-600} s at ${LONG_RATE:-2475} blocks a second, merging as they come"
    start_server "$1" 2000
    load --minutes "$minutes" --ticks 6 --ago-min "$minutes" --rate "${LONG_RATE:-2475}" --lazy
    sizes
    stop_server
}

reading() {
    echo "== $1: reading, ${READ_HOSTS:-20} hosts with ${READ_DAYS:-15} days at 10 s; cold: database restarted, pages dropped"
    fresh "$1"
    "$fleet" preload --database "$database_url" --hosts "${READ_HOSTS:-20}" --days "${READ_DAYS:-15}" --full-days "${READ_DAYS:-15}"
    local cold='sync; echo 3 > /proc/sys/vm/drop_caches'
    if [ "$1" = mysql ]; then
        # A file, because the fleet runs it with sh, which hands no functions on.
        {
            declare -p folder
            declare -f run_mysql stop_mysql
            echo "stop_mysql; $cold; run_mysql"
        } >"$folder/cold.sh"
        cold="bash $folder/cold.sh"
    fi
    "$fleet" read --database "$database_url" --before-cold "$cold"
    echo "== $1: the same, hot, and questions to the fleet"
    "$fleet" read --database "$database_url" --fleet
    # Another shell may have started it.
    [ "$1" = mysql ] && database=$(cat "$folder/mysql.pid")
    return 0
}

# What the server uses while nobody sends: that much of the account of a load is not its blocks'.
idle() {
    local before after
    before=$(awk '{print $14 + $15}' "/proc/$server/stat")
    sleep 20
    after=$(awk '{print $14 + $15}' "/proc/$server/stat")
    awk -v ticks=$((after - before)) 'BEGIN { printf "idle, server: %.1f ms of processor time a second\n", ticks * 10 / 20 }'
}

# The same number of blocks from few and from many hosts, and merging of an hour of each at a sample a minute.
linear() {
    for count in ${LINEAR:-100 1000 10000}; do
        echo "== $1: $count hosts"
        fresh "$1"
        "$fleet" preload --database "$database_url" --hosts "$count" --days 0
        run_server "$1" 86400000
        # A server that starts reads the names of all hosts once; then what it costs to have them, silent.
        sleep $((5 + count / 400))
        idle
        load --hosts "$count" --preloaded --minutes $((1 + (20000 + count - 1) / count)) --ticks 6
        stop_server
        fresh "$1"
        "$fleet" preload --database "$database_url" --hosts "$count" --days 0 >/dev/null
        run_server "$1" 2000
        load --hosts "$count" --preloaded --minutes 60 --step-ms 60000 --ticks 10 --ago-min 130 --settle-s $((15 + count / 50))
        stop_server
    done
    for days in 0 "${PAST_DAYS:-90}"; do
        echo "== $1: ${PAST_HOSTS:-60} hosts with $days days behind them"
        fresh "$1"
        "$fleet" preload --database "$database_url" --hosts "${PAST_HOSTS:-60}" --days "$days" --full-days 2
        run_server "$1" 86400000
        sleep 10
        idle
        load --hosts "${PAST_HOSTS:-60}" --preloaded --minutes 201 --ticks 6
        stop_server
        run_server "$1" 2000
        # What was pushed before is merged before the account begins.
        sleep 20
        load --hosts "${PAST_HOSTS:-60}" --preloaded --minutes 180 --ticks 60 --ago-min 400 --settle-s 30
        stop_server
    done
}

# start_peer PEER: on an empty folder, as it comes but for where it listens; sets url and what makes it flush and merge.
start_peer() {
    local at=http://127.0.0.1:28480
    rm -rf "$folder/peer"
    mkdir -p "$folder/peer"
    url=$at/api/v1/write
    if [ "$1" = prometheus ]; then
        echo 'global: {}' >"$folder/peer.yml"
        flush="curl -fsS -X POST $at/api/v1/admin/tsdb/snapshot -o /dev/null"
        set -- "$1" --config.file="$folder/peer.yml" --storage.tsdb.path="$folder/peer" --log.level=warn \
            --web.listen-address=127.0.0.1:28480 --web.max-connections=20000 --web.enable-remote-write-receiver --web.enable-admin-api
    else
        flush="curl -fsS $at/internal/force_flush $at/internal/force_merge"
        set -- "$1" -storageDataPath="$folder/peer" -httpListenAddr=127.0.0.1:28480 -loggerLevel=WARN
    fi
    "$@" >"$folder/peer.log" 2>&1 &
    server=$!
    watched=(--watch "$1=$server")
    curl -fsS -o /dev/null --retry 100 --retry-delay 0 --retry-all-errors --retry-connrefused "$at/metrics" 2>/dev/null
}

# The same samples as remote writes over plain HTTP: of 1,000 hosts ten minutes, of 100 hosts six hours.
peers() {
    local peer url flush
    for peer in victoria-metrics prometheus; do
        if ! command -v "$peer" >/dev/null; then
            echo "$peer: not on this machine, not run"
            continue
        fi
        echo "== $peer: intake, requests of 606 samples; load average $(cut -d' ' -f1 /proc/loadavg)"
        start_peer "$peer"
        load --hosts "$hosts" --minutes 10 --ticks 6 --then "$flush" --settle-s 10
        stop_server
        echo "== $peer: intake, then all flushed and merged"
        start_peer "$peer"
        # Few at once, so that no host is an hour ahead of another: Prometheus would refuse the other's.
        load --hosts $(((hosts + 9) / 10)) --minutes 360 --ticks 6 --ago-min 360 --in-flight 16 --then "$flush" --settle-s 40
        du -B1 -d1 "$folder/peer"
        stop_server
    done
    rm -rf "$folder/peer"
}

case $parts in *" floor "*) floor ;; esac
case $parts in *" peers "*) peers ;; esac
for engine in ${ENGINES:-sqlite mysql}; do
    [ "$engine" = mysql ] && start_mysql
    case $parts in *" intake "*) intake "$engine" ;; esac
    case $parts in *" burst "*) burst "$engine" ;; esac
    case $parts in *" merging "*) merging "$engine" ;; esac
    case $parts in *" long "*) long "$engine" ;; esac
    case $parts in *" read "*) reading "$engine" ;; esac
    case $parts in *" linear "*) linear "$engine" ;; esac
    end
done
