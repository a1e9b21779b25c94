#!/usr/bin/env bash
# Runs every script of this directory against a binary. Leaves nothing behind.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
RUNELOG="$(realpath "${1:?the runelog binary}")"
export RUNELOG
venv="${INTEROP_VENV:-$(mktemp -d)/venv}"
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q 'websockets>=15' 'httpx[http2]>=0.28'
    [ -n "${INTEROP_VENV:-}" ] || trap 'rm -rf "$(dirname "$venv")"' EXIT
fi
curl --version | head -n 1
"$venv/bin/pip" list 2>/dev/null | grep -E '^(websockets|httpx|h2) '
chromium --version 2>/dev/null || true
failed=()
for script in curl.sh websocket.py http2.py browser.py; do
    printf '\n== %s\n' "$script"
    case "$script" in
    *.sh) timeout 120 "$here/$script" || failed+=("$script") ;;
    *.py) timeout 120 "$venv/bin/python" "$here/$script" || failed+=("$script") ;;
    esac
done
if [ "${#failed[@]}" -gt 0 ]; then
    printf '\n== failed: %s\n' "${failed[*]}"
    exit 1
fi
printf '\n== all as the contract says\n'
