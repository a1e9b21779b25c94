#!/usr/bin/env bash
# How fast the whole server is, by class: for each run a fresh server in a fresh directory on its own
# cores, wrk on another core, at least 10 s a point. Prints each run and the median. Needs wrk, curl,
# taskset. Everything it starts it ends, also when it is interrupted.
#
#   benches/wrk/run.sh                    fsync disk memory ephemeral
#   benches/wrk/run.sh fsync              one class
#   RUNS=5 DURATION_S=30 benches/wrk/run.sh disk
#   SERVER_CPUS=0-2 WRK_CPUS=3 benches/wrk/run.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

RUNS=${RUNS:-3}                      # medians are taken over this many fresh servers
DURATION_S=${DURATION_S:-10}         # of each point
WARMUP_S=${WARMUP_S:-15}             # of single appends first: a fresh directory makes its log files then
SERVER_CPUS=${SERVER_CPUS:-0}        # one shard for each of them
WRK_CPUS=${WRK_CPUS:-1}              # not among the server's
BIN=${BIN:-$here/../../target/release/runelog}
DIR=${DIR:-${TMPDIR:-/tmp}}          # the file system to measure
FREE_GIB_MIN=${FREE_GIB_MIN:-10}     # batch appends write gigabytes
TOPICS=16
[ "$#" -gt 0 ] || set -- fsync disk memory ephemeral

fail() { echo "run.sh: $*" >&2; exit 1; }
for tool in wrk curl taskset; do command -v "$tool" >/dev/null || fail "$tool is missing"; done
[ -x "$BIN" ] || fail "$BIN is missing: cargo build --release, or set BIN"
[ "$DURATION_S" -ge 10 ] || fail "less than 10 s a point says nothing"

root=$(mktemp -d "$DIR/runelog-wrk.XXXXXX")
server=
stop_server() {
    [ -n "$server" ] || return 0
    kill -TERM "$server" 2>/dev/null || true
    for _ in $(seq 300); do kill -0 "$server" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}
trap 'stop_server; rm -rf "$root"' EXIT
trap 'exit 130' INT TERM

start_server() {
    rm -rf "$root/data" "$root/port"
    # Nothing of the caller's environment but what is said here.
    env -i PATH="$PATH" RUST_LOG=warn taskset -c "$SERVER_CPUS" \
        "$BIN" serve --data-dir "$root/data" --port 0 --port-file "$root/port" >"$root/log" 2>&1 &
    server=$!
    for _ in $(seq 200); do
        [ -s "$root/port" ] && break
        kill -0 "$server" 2>/dev/null || { cat "$root/log" >&2; fail "the server did not start"; }
        sleep 0.05
    done
    [ -s "$root/port" ] || fail "the server is not ready after 10 s"
    url=http://$(cat "$root/port")
}

# Class `ephemeral` keeps its records in memory only: without a cap it would fill up and answer 429.
create_topics() {
    local body="{\"durability\":\"$1\"}" name index
    [ "$1" != ephemeral ] || body='{"durability":"ephemeral","cap_bytes":4194304}'
    for name in t b; do
        for index in $(seq 0 $((TOPICS - 1))); do
            curl -sf -o /dev/null -X PUT "$url/v0/topics/$name$index" \
                -H 'content-type: application/json' -d "$body"
        done
    done
}

server_cpu() { awk '{ print $14 + $15 }' "/proc/$server/stat"; }

# point NAME SCRIPT CONNECTIONS
point() {
    local before after out
    before=$(server_cpu)
    out=$(timeout $((DURATION_S + 30)) taskset -c "$WRK_CPUS" \
        wrk -t1 -c"$3" -d"${DURATION_S}s" --latency -s "$here/$2" "$url")
    after=$(server_cpu)
    awk -v class="$class" -v run="$run" -v name="$1" -v conns="$3" \
        -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" -v seconds="$DURATION_S" '
        $1 == "50%" { p50 = $2 }
        $1 == "99%" { p99 = $2 }
        $1 == "Requests/sec:" { rate = $2 }
        /Non-2xx|Socket errors/ { sub(/^ */, ""); bad = "  " $0 }
        END {
            printf "%-9s %3d  %-6s %4d  %11.0f  %9s  %9s  %5.0f %%%s\n",
                class, run, name, conns, rate, p50, p99, 100 * ticks / hz / seconds, bad
        }' <<<"$out" | tee -a "$root/points"
}

echo "machine   $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(nproc) CPUs, kernel $(uname -r)"
echo "data      $(df --output=fstype,source "$root" | tail -1 | tr -s ' ')"
echo "server    $("$BIN" --version), CPUs $SERVER_CPUS; wrk on CPUs $WRK_CPUS, $DURATION_S s a point"
echo "load      $(cut -d' ' -f1-3 /proc/loadavg) before the first run"
printf '%-9s %3s  %-6s %4s  %11s  %9s  %9s  %s\n' class run point conn requests/s p50 p99 'server CPU'
for class in "$@"; do
    for run in $(seq "$RUNS"); do
        free_gib=$(df --output=avail -B1G "$root" | tail -1 | tr -d ' ')
        [ "$free_gib" -ge "$FREE_GIB_MIN" ] || fail "$free_gib GiB free below $DIR, $FREE_GIB_MIN wanted"
        start_server
        create_topics "$class"
        [ "$WARMUP_S" = 0 ] || timeout $((WARMUP_S + 30)) taskset -c "$WRK_CPUS" \
            wrk -t1 -c64 -d"${WARMUP_S}s" -s "$here/single.lua" "$url" >/dev/null
        point single single.lua 64
        point batch batch.lua 16
        point diff diff.lua 16
        stop_server
        rm -rf "$root/data"
        sync
    done
done
echo "medians of requests/s over $RUNS runs"
sort -k1,1 -k3,3 -k5,5n "$root/points" | awk '
    function out() { if (n) printf "%-9s %-6s %11.0f\n", class, name, (rates[int((n + 1) / 2)] + rates[int(n / 2) + 1]) / 2 }
    $1 != class || $3 != name { out(); n = 0; class = $1; name = $3 }
    { rates[++n] = $5 }
    END { out() }'
