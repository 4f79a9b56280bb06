#!/usr/bin/env bash
# Brings Debian's openclipart-svg, the data set of recipes/openclipart.toml: 25 MB to fetch, 175 MB on disk.
#
#   tools/install-openclipart.sh           install it as root, else unpack it into the user's cache folder
#   tools/install-openclipart.sh --check   say where it is, and fail if it is nowhere
set -euo pipefail

package=openclipart-svg
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tritium
for place in / "$cache/$package/"; do
    if [ -d "${place}usr/share/openclipart/svg" ]; then
        echo "$package is in ${place}usr/share/openclipart/svg"
        exit 0
    fi
done
if [ "${1-}" = --check ]; then
    echo "missing: $package"
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$package"
    exit 0
fi
# Fetching and unpacking need no root. Unpacked aside and moved: no half of it is ever taken for all.
mkdir -p "$cache"
work=$(mktemp -d "$cache/.partial-XXXXXX")
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get download -qq "$package")
dpkg-deb --extract "$work"/*.deb "$work/unpacked"
mv "$work/unpacked" "$cache/$package"
echo "$package is in $cache/$package/usr/share/openclipart/svg"
