#!/bin/sh
# Build the image's targets: by docker where its daemon answers, else by buildah, as root.
#
#   deploy/image/build.sh TARGET ...       worker, full; each becomes the image gdaltools-TARGET
#
# EXTRAS ("worker telemetry warp") says what is installed beside gdaltools itself. For buildah a base that is not there is
# made by base.sh, without asking a registry.
set -eu
cd "$(dirname "$0")/../.."

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
base=$(sed -n 's/^FROM \(.*\) AS base$/\1/p' Dockerfile)

# Where no overlay can be mounted (in a container, say), vfs always works.
export STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}"

build_by_docker() {
    docker build --target "$1" --tag "gdaltools-$1" --build-arg "REVISION=$revision" \
        ${EXTRAS:+--build-arg "EXTRAS=$EXTRAS"} .
}

build_by_buildah() {
    buildah image-exists "$base" 2>/dev/null || buildah inspect --type image "$base" >/dev/null 2>&1 ||
        deploy/image/base.sh "$base"
    # Packages come from where this machine takes them, and by the certificates that it trusts.
    settings=$(mktemp -d)
    trap 'rm -rf "$settings"' EXIT
    echo 'system-certs = true' >"$settings/uv.toml"
    set -- "$1" --volume "$settings/uv.toml:/etc/uv/uv.toml:ro"
    for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
        test ! -e "$file" || set -- "$@" --volume "$file:$file:ro"
    done
    target=$1
    shift
    buildah build --isolation chroot --network host --pull=never --format docker --layers \
        --target "$target" --tag "gdaltools-$target" --build-arg "REVISION=$revision" \
        ${EXTRAS:+--build-arg "EXTRAS=$EXTRAS"} "$@" .
}

for target in "$@"; do
    if docker info >/dev/null 2>&1; then
        build_by_docker "$target"
    elif command -v buildah >/dev/null; then
        build_by_buildah "$target"
    else
        echo "Neither a docker daemon nor buildah is here: install docker, or Debian's packages buildah and podman" >&2
        exit 2
    fi
done
