#!/bin/sh
# Make what stands in for the Dockerfile's base image where no registry can be reached: Debian with its own
# Python, of the same release and about the same size, as a local image of that name.
#
#   deploy/image/base.sh NAME              for example docker.io/library/python:3.13-slim-trixie
#
# Needs root, debootstrap and buildah. DEBIAN_MIRROR says where packages come from, else debootstrap does.
set -eu

name=$1
release=${name##*-}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv \
    "$release" "$folder" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >&2
ln -sf python3 "$folder/usr/bin/python"
# What slim images leave out.
rm -rf "$folder"/usr/share/doc/* "$folder"/usr/share/man/* "$folder"/usr/share/locale/* \
    "$folder"/var/cache/apt/* "$folder"/var/lib/apt/lists/* "$folder"/var/log/*
find "$folder" -name __pycache__ -type d -prune -exec rm -rf {} +

container=$(buildah from scratch)
buildah add --quiet "$container" "$folder" / >/dev/null
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
buildah commit --rm --quiet "$container" "$name" >/dev/null
echo "made $name" >&2
