#!/bin/bash
# Installs what is missing, and only that. Usage: setup.sh python | run | test
# python: an interpreter with venv. run: what the daemon and the demo use. test: the peers and tools of the tests too.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"

need=()
want() { # want COMMAND-OR-PATH PACKAGE
    case "$1" in
        /*) [ -e "$1" ] || need+=("$2") ;;
        *) command -v "$1" >/dev/null 2>&1 || need+=("$2") ;;
    esac
}

case "${1:-}" in
    python)
        python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3-venv)
        ;;
    run)
        want ip iproute2
        want ping iputils-ping
        want nft nftables
        # Regular expressions in HTTP checks are PCRE2's own.
        ldconfig -p 2>/dev/null | grep -q 'libpcre2-8\.so\.0' || need+=(libpcre2-8-0)
        ;;
    test)
        "$0" run
        want keepalived keepalived
        want tcpdump tcpdump
        want tshark tshark
        want bird bird2
        want /usr/lib/frr/bfdd frr
        want ipvsadm ipvsadm
        want linux.uml user-mode-linux
        want depmod kmod
        want node nodejs
        want npm npm
        want nats-server nats-server
        want openssl openssl
        want systemd-analyze systemd
        want setpriv util-linux
        ;;
    *)
        echo "usage: $0 python|run|test" >&2
        exit 2
        ;;
esac

if [ ${#need[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "missing packages: ${need[*]}; run as root, or: apt-get install ${need[*]}" >&2
        exit 1
    fi
    echo "installing ${need[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    # Daemons that a package starts by itself would take part in the tests' networks.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d.holdfast && chmod +x /usr/sbin/policy-rc.d.holdfast
    made=0
    if [ ! -e /usr/sbin/policy-rc.d ]; then ln -s policy-rc.d.holdfast /usr/sbin/policy-rc.d; made=1; fi
    trap '[ "$made" = 1 ] && rm -f /usr/sbin/policy-rc.d; rm -f /usr/sbin/policy-rc.d.holdfast' EXIT
    apt-get -qq install -y --no-install-recommends "${need[@]}" >/dev/null
fi
