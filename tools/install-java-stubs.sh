#!/usr/bin/env bash
# Installs what the Java program of docs/other-languages.md is built with, from Debian's packages.
#
#   tools/install-java-stubs.sh           install what is missing; needs root, or sudo
#   tools/install-java-stubs.sh --check   print what is missing, and fail if anything is
set -euo pipefail

packages=(
    protobuf-compiler protobuf-compiler-grpc-java-plugin  # protoc and its plugin
    libgrpc-java libprotobuf-java                         # what stubs are compiled against
    libgeronimo-annotation-1.3-spec-java                  # javax.annotation, which they name
    libgoogle-gson-java                                   # gRPC needs it; the program, too
    libguava-java libnetty-java libperfmark-java          # what gRPC needs besides
)

missing=()
# Fails when a package is unknown, and without dpkg: then it is missing.
installed=$(dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' "${packages[@]}" \
    2>/dev/null || true)
for package in "${packages[@]}"; do
    grep -qx "installed $package" <<< "$installed" || missing+=("$package")
done
# Any JDK will do, whoever installed it.
command -v javac > /dev/null || missing+=(default-jdk-headless)

[ ${#missing[@]} -gt 0 ] || exit 0
if [ "${1-}" = --check ]; then
    echo "missing: ${missing[*]}"
    exit 1
fi
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq --no-install-recommends "${missing[@]}"
