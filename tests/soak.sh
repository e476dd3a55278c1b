#!/bin/bash
# The soak: a server with its embedded database under a steady simulated fleet for SOAK_MINUTES; forecasts, merging,
# retention and the console's questions go on meanwhile. Memory and file descriptors are sampled; the last quarter must
# be no higher than the second one. Variables one may set: FOREWARN_BIN (target/release), SOAK_MINUTES (60), SOAK_HOSTS
# (100).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${FOREWARN_BIN:-target/release}
minutes=${SOAK_MINUTES:-60}
hosts=${SOAK_HOSTS:-100}
# Resident memory of the last quarter may be so many percent above the second: the caches are full by then.
growth_percent_max=10
folder=$(mktemp -d "${TMPDIR:-/tmp}/forewarn-soak-XXXXXX")
server="" load=""
end() {
    for part in $load $server; do kill -TERM "$part" 2>/dev/null && wait "$part" 2>/dev/null || true; done
    rm -rf "$folder"
}
trap end EXIT
cat >"$folder/server.toml" <<TOML
data_dir = "$folder/data"
[console]
listen = "127.0.0.1:28540"
[https]
listen = "127.0.0.1:28541"
[judge]
forecast_every_ms = 60000
[store]
compact_every_ms = 60000
TOML
RUST_LOG=warn "$bin/forewarn-server" run --config "$folder/server.toml" --local-agent-token "$folder/token" \
    >"$folder/server.log" 2>&1 &
server=$!
for _ in $(seq 300); do grep -q password "$folder/server.log" && break; sleep 0.1; done
password=$(sed -n 's/.*password (shown only this once): //p' "$folder/server.log")
curl -sf -c "$folder/cookies" -H 'content-type: application/json' -d "{\"user\":\"admin\",\"password\":\"$password\"}" \
    http://127.0.0.1:28540/api/v1/login >/dev/null
token=$("$bin/forewarn-server" token --config "$folder/server.toml" --uses 1000 2>/dev/null | tail -n 1)
"$bin/examples/fleet" live --server https://127.0.0.1:28541 --token "$token" --hosts "$hosts" --history-days 1 --block-s 10 \
    >"$folder/load.log" 2>&1 &
load=$!
until grep -q "the history is there" "$folder/load.log"; do
    kill -0 "$load" || { cat "$folder/load.log"; exit 1; }
    sleep 1
done
echo "soak: $hosts hosts, a block every 10 s each, $minutes minutes; minute, resident KiB, descriptors, threads"
: >"$folder/samples"
for second in $(seq 0 10 $((minutes * 60))); do
    resident=$(awk '/^VmRSS/ {print $2}' "/proc/$server/status")
    threads=$(awk '/^Threads/ {print $2}' "/proc/$server/status")
    descriptors=$(find "/proc/$server/fd" -maxdepth 1 -type l 2>/dev/null | wc -l)
    echo "$second $resident $descriptors $threads" >>"$folder/samples"
    [ $((second % 300)) -eq 0 ] && echo "soak: $((second / 60)) $resident $descriptors $threads"
    for question in overview incidents "rank?metric=mem_used_ratio&by=p95"; do
        curl -sf -b "$folder/cookies" "http://127.0.0.1:28540/api/v1/$question" >/dev/null || echo "soak: $question was not answered"
    done
    kill -0 "$load" 2>/dev/null || { echo "soak: the load ended"; cat "$folder/load.log"; exit 1; }
    sleep 10
done
grep -c . "$folder/server.log" | sed 's/^/soak: lines of the server.s log: /'
awk -v limit="$growth_percent_max" '
    { resident[NR] = $2; descriptors[NR] = $3 }
    END {
        quarter = int(NR / 4)
        for (i = quarter + 1; i <= 2 * quarter; i++) { r2 += resident[i]; d2 += descriptors[i] }
        for (i = NR - quarter + 1; i <= NR; i++) { r4 += resident[i]; d4 += descriptors[i] }
        printf "soak: second quarter %d KiB and %.1f descriptors, last quarter %d KiB and %.1f: %+.1f %% memory\n", \
            r2 / quarter, d2 / quarter, r4 / quarter, d4 / quarter, (r4 / r2 - 1) * 100
        exit !(r4 <= r2 * (1 + limit / 100) && d4 / quarter <= d2 / quarter + 5)
    }' "$folder/samples"
echo "soak: flat"
