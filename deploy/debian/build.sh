#!/bin/bash
# Builds holdfast_VERSION_ARCH.deb in the given folder (dist): the program with what it needs of Python in
# /usr/lib/holdfast, unit, user, folders and documentation. Usage: build.sh [FOLDER] ; PYTHON=/usr/bin/python3
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
OUT=$(mkdir -p "${1:-$ROOT/dist}" && cd "${1:-$ROOT/dist}" && pwd)
PYTHON=${PYTHON:-/usr/bin/python3}
PIP=${PIP:-"$PYTHON -m pip"}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
umask 022

tree=$WORK/tree
mkdir -p "$WORK/source" "$tree/DEBIAN"
for name in actors bus cli config kernel pyproject.toml README.md LICENSE; do cp -r "$ROOT/$name" "$WORK/source/"; done
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$ROOT/pyproject.toml")
python=$($PYTHON -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$($PYTHON -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
architecture=$(dpkg --print-architecture)

$PIP install --quiet --disable-pip-version-check --no-compile --target "$tree/usr/lib/holdfast" "$WORK/source"
rm -rf "$tree/usr/lib/holdfast/bin"
find "$tree" -name __pycache__ -type d -prune -exec rm -rf {} +

install -d "$tree/usr/bin"
cat >"$tree/usr/bin/holdfast" <<'PROGRAM'
#!/usr/bin/python3 -sP
import sys

sys.path.insert(0, "/usr/lib/holdfast")
from holdfast.cli.main import main

main()
PROGRAM
chmod 755 "$tree/usr/bin/holdfast"

install -D -m 644 "$ROOT/deploy/systemd/holdfast.service" "$tree/lib/systemd/system/holdfast.service"
install -D -m 644 "$ROOT/deploy/systemd/holdfast.sysusers" "$tree/usr/lib/sysusers.d/holdfast.conf"
install -D -m 644 "$ROOT/deploy/systemd/holdfast.tmpfiles" "$tree/usr/lib/tmpfiles.d/holdfast.conf"
install -d "$tree/usr/share/doc/holdfast"
cp "$ROOT/README.md" "$ROOT/deploy/systemd/strict.conf" "$tree/usr/share/doc/holdfast/"
cp "$ROOT"/docs/*.md "$tree/usr/share/doc/holdfast/"
cp "$ROOT/LICENSE" "$tree/usr/share/doc/holdfast/copyright"

cat >"$tree/DEBIAN/control" <<CONTROL
Package: holdfast
Version: $version
Architecture: $architecture
Maintainer: holdfast <holdfast@localhost>
Section: net
Priority: optional
Depends: python3 (>= $python), python3 (<< $next), libpcre2-8-0
Recommends: nftables, iproute2, systemd
Installed-Size: $(du -sk "$tree" | cut -f1)
Description: high availability and load balancing for Linux
 VRRP, BFD and IPVS with health checks from a keepalived.conf, as independent
 actors on a message bus: every transition says why it happened.
CONTROL

cat >"$tree/DEBIAN/postinst" <<'SCRIPT'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    systemd-sysusers holdfast.conf || true
    systemd-tmpfiles --create holdfast.conf || true
    # It is started when there is a configuration for it, by whoever wrote that.
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        systemctl try-restart holdfast.service
    fi
fi
SCRIPT
cat >"$tree/DEBIAN/prerm" <<'SCRIPT'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl stop holdfast.service
fi
SCRIPT
cat >"$tree/DEBIAN/postrm" <<'SCRIPT'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
if [ "$1" = purge ]; then
    rm -rf /var/lib/holdfast
fi
SCRIPT
chmod 755 "$tree"/DEBIAN/p*

dpkg-deb --root-owner-group --build "$tree" "$OUT/holdfast_${version}_${architecture}.deb"
