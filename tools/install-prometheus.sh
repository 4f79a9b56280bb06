#!/usr/bin/env bash
# Unpacks Debian's prometheus and promtool into the user's cache folder, for the tests of deploy/monitoring.
# Nothing is installed or started: the package itself would add a service.
#
#   tools/install-prometheus.sh           unpack them; needs no root
#   tools/install-prometheus.sh --check   say where they are, and fail if they are nowhere
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/tritium
for program in "$(command -v promtool || true)" "$cache/prometheus/usr/bin/promtool"; do
    if [ -x "$program" ] && [ -x "$(dirname "$program")/prometheus" ]; then
        echo "prometheus and promtool are in $(dirname "$program")"
        exit 0
    fi
done
if [ "${1-}" = --check ]; then
    echo "missing: prometheus"
    exit 1
fi
# Unpacked aside and moved: no half of it is ever taken for all.
mkdir -p "$cache"
work=$(mktemp -d "$cache/.partial-XXXXXX")
trap 'rm -rf "$work"' EXIT
# As root, apt would hand the download to a user who may not write here.
download() { (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root prometheus); }
if ! download 2> /dev/null; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    download
fi
dpkg-deb --extract "$work"/*.deb "$work/unpacked"
mv "$work/unpacked" "$cache/prometheus"
echo "prometheus and promtool are in $cache/prometheus/usr/bin"
