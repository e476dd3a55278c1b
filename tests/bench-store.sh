#!/bin/bash
# What storing costs, on this machine: `make bench-store`. A server of its own on SQLite and then on MariaDB, a
# simulated fleet over TLS, one kept-alive connection a host. Prints processor time (trust it; wall time only on an
# idle machine), memory, bytes a sample, reads. The bars are in docs/database.md.
# Variables one may set: FOREWARN_BIN (target/release), HOSTS (1000), ENGINES ("sqlite mysql"), BURST_MINUTES (of data
# of each host, 200), LONG_RATE (blocks a second of a run of ten minutes; 0, the default, leaves it out), PEERS (a folder
# with the programs victoria-metrics, prometheus; without it the peers are named and not run).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${FOREWARN_BIN:-target/release}
hosts=${HOSTS:-1000}
fleet=$bin/examples/fleet
folder=$(mktemp -d "${TMPDIR:-/tmp}/forewarn-bench-XXXXXX")
server="" database=""

end() {
    for part in $server $database; do kill -TERM "$part" 2>/dev/null && wait "$part" 2>/dev/null || true; done
    server="" database=""
}
trap 'end; rm -rf "$folder"' EXIT

start_mysql() {
    local data=$folder/mysql
    mkdir -p "$data" "$folder/mysql-tmp"
    mariadb-install-db --no-defaults --datadir="$data" --user="$(id -un)" --auth-root-authentication-method=normal \
        --skip-test-db >"$folder/install.log" 2>&1
    mariadbd --no-defaults --user="$(id -un)" --datadir="$data" --tmpdir="$folder/mysql-tmp" --socket="$folder/sock" \
        --port=23306 --bind-address=127.0.0.1 --skip-name-resolve --skip-log-bin --max-allowed-packet=64M \
        --innodb-buffer-pool-size=512M --innodb-log-file-size=512M >"$folder/mysql.log" 2>&1 &
    database=$!
    for _ in $(seq 200); do
        mariadb --no-defaults --user=root --socket="$folder/sock" -e "SELECT 1" >/dev/null 2>&1 && break
        sleep 0.1
    done
    mariadb --no-defaults --user=root --socket="$folder/sock" -e \
        "CREATE DATABASE forewarn CHARACTER SET utf8mb4; CREATE USER 'forewarn'@'%' IDENTIFIED BY 'quiet-harbour-73';
         GRANT ALL ON forewarn.* TO 'forewarn'@'%';"
}

# start_server ENGINE COMPACT_EVERY_MS
start_server() {
    local url=""
    rm -rf "$folder/data"
    mkdir -p "$folder/data"
    if [ "$1" = mysql ]; then
        mariadb --no-defaults --user=root --socket="$folder/sock" -e "DROP DATABASE forewarn; CREATE DATABASE forewarn CHARACTER SET utf8mb4"
        url=mysql://forewarn:quiet-harbour-73@127.0.0.1:23306/forewarn
    else
        url=sqlite://$folder/data/forewarn.db
    fi
    # Forecasts are another cost than storing: none within the run.
    cat >"$folder/server.toml" <<TOML
data_dir = "$folder/data"
[database]
url = "$url"
[console]
listen = "127.0.0.1:28440"
[https]
listen = "127.0.0.1:28441"
[judge]
forecast_every_ms = 3600000
[store]
compact_every_ms = $2
TOML
    rm -f "$folder/token"
    RUST_LOG=warn "$bin/forewarn-server" run --config "$folder/server.toml" --local-agent-token "$folder/token" \
        >"$folder/server.log" 2>&1 &
    server=$!
    for _ in $(seq 300); do [ -s "$folder/token" ] && break; sleep 0.1; done
    tokens=()
    for _ in $(seq $(((hosts + 999) / 1000))); do
        tokens+=(--token "$("$bin/forewarn-server" token --config "$folder/server.toml" --uses 1000 2>/dev/null | tail -n 1)")
    done
    watched=(--watch "server=$server")
    [ "$1" = mysql ] && watched+=(--watch "mysqld=$database")
    database_url=$url
}

load() {
    "$fleet" load --server https://127.0.0.1:28441 "${tokens[@]}" --hosts "$hosts" "${watched[@]}" "$@"
}

stop_server() {
    kill -TERM "$server"
    wait "$server" 2>/dev/null || true
    server=""
}

# The databases' files after a run, and what of them is free: SQLite says it, InnoDB gives free pages back seldom.
sizes() {
    "$fleet" read --database "$database_url" --hosts 0 | grep -v " a host" || true
}

for engine in ${ENGINES:-sqlite mysql}; do
    [ "$engine" = mysql ] && start_mysql
    echo "== $engine: intake, blocks of 60 s (606 samples), merging deferred; load average $(cut -d' ' -f1 /proc/loadavg)"
    start_server "$engine" 86400000
    load --minutes 30 --ticks 6 --fresh
    stop_server
    echo "== $engine: intake, blocks of 30 s"
    start_server "$engine" 86400000
    load --minutes 10 --ticks 3 --fresh
    stop_server
    echo "== $engine: a burst, merging deferred: what it leaves to merge"
    start_server "$engine" 86400000
    load --minutes "${BURST_MINUTES:-200}" --ticks 6 --fresh --in-flight 128
    sizes
    stop_server
    echo "== $engine: intake and merging of whole hours, every sample verified"
    start_server "$engine" 2000
    hosts_all=$hosts
    hosts=$((hosts / 10))
    load --minutes 360 --ticks 6 --ago-min 360 --settle-s 40 --verify "$database_url"
    hosts=$hosts_all
    sizes
    stop_server
    if [ "${LONG_RATE:-0}" != 0 ]; then
        echo "== $engine: ten minutes at $LONG_RATE blocks a second, merging as they come"
        start_server "$engine" 2000
        minutes=$((LONG_RATE * 600 / hosts))
        load --minutes "$minutes" --ticks 6 --ago-min "$minutes" --rate "$LONG_RATE" --lazy --settle-s 30
        sizes
        stop_server
    fi
done
for peer in victoria-metrics prometheus; do
    command -v "$peer" >/dev/null || [ -x "${PEERS:-/nowhere}/$peer" ] || echo "$peer: not on this machine, not run"
done
