#!/bin/sh
# Installs the real servers which the tests start: Debian's by apt; mitmproxy by pip (of $PYTHON),
# into a venv of its own, as it wants its own versions of many things. So does niquests, which is no
# server: it replaces urllib3. The script does nothing if they are there already. Without the rights to
# install, or a network, it says what is missing and leaves it at that: the tests that need it are
# skipped, except in CI (CI=true), where it is a failure.
set -eu
cd "$(dirname "$0")/.."

PATH=$PATH:/usr/sbin:/sbin # some servers live there, and a user's PATH need not name it
POLICY=/usr/sbin/policy-rc.d
MARK="put here by tests/install-servers.sh of socksclient, process $$, until it ends"

say() { echo "install-servers.sh: $*" >&2; }

missing() {
    for name in danted microsocks sshd ssh ssh-keygen unshare mount perl \
        v2ray ss-server ss-local dnsmasq vsftpd \
        tinyproxy privoxy stunnel squid i2pd tor tor-gencert curl dovecot redis-server openssl; do
        command -v "$name" >/dev/null || echo "$name"
    done
}

packages_of() {
    for name in "$@"; do
        case $name in
            danted) echo dante-server ;;
            sshd) echo openssh-server ;;
            ssh | ssh-keygen) echo openssh-client ;;
            unshare) echo util-linux ;;
            perl) echo perl-base ;;
            ss-server | ss-local) echo shadowsocks-libev ;;
            dnsmasq) echo dnsmasq-base ;; # the package dnsmasq is the service
            tinyproxy) echo tinyproxy-bin ;; # so is tinyproxy
            stunnel) echo stunnel4 ;;
            tor-gencert) echo tor ;;
            dovecot) echo dovecot-imapd ;;
            *) echo "$name" ;;
        esac
    done | sort -u
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" >&2
}

# While policy-rc.d says 101, Debian's packages start no service. One that is there already is
# somebody else's decision and stays: only the file with the mark of this very run is removed.
forbid_starting() {
    trap allow_starting EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    [ -e "$POLICY" ] || [ -L "$POLICY" ] ||
        printf '#!/bin/sh\n# %s\nexit 101\n' "$MARK" |
        as_root sh -c 'umask 022; set -C; cat >"$1" && chmod 755 "$1"' sh "$POLICY" ||
        [ -e "$POLICY" ]
}

allow_starting() {
    if grep -qsF "$MARK" "$POLICY"; then as_root rm -f "$POLICY"; fi
}

# policy-rc.d does not keep a package from enabling its service for the next boot.
disable_services_of() {
    for path in $(dpkg -L "$@" 2>/dev/null); do
        case $path in
            */systemd/system/*.service | */systemd/system/*.socket | \
                */systemd/system/*.timer | */systemd/system/*.target)
                command -v systemctl >/dev/null || continue
                as_root systemctl --quiet disable "${path##*/}" ;;
            /etc/init.d/*) as_root update-rc.d "${path##*/}" disable ;;
        esac >&2 || say "could not disable ${path##*/}"
    done
}

installed() {
    dpkg-query -W -f '${db:Status-Abbrev}${binary:Package}\n' | sed -n 's/^i. //p'
}

# The lists below are split into words on purpose: names of commands and packages have no spaces.

# Only what is missing: naming an installed package would upgrade it, and restart its service.
install() {
    forbid_starting || { say "cannot write $POLICY, so nothing is installed"; return; }
    apt update || say "apt-get update failed; trying with the lists that are here"
    before=$(installed)
    apt install -y --no-install-recommends "$@" || say "apt-get install failed"
    disable_services_of $(installed | grep -vxF "$before") # with those that came as dependencies
}

# install_venv FOLDER PACKAGE...
# A package may be there although pip was interrupted; .done says that pip has finished.
install_venv() {
    venv=$1
    shift
    [ ! -e "$venv/.done" ] || return 0
    say "making $venv"
    "${PYTHON:-python3}" -m venv --clear "$venv" >&2 &&
        "$venv/bin/python" -m pip install --quiet --retries 1 --upgrade pip >&2 &&
        "$venv/bin/python" -m pip install --quiet --retries 1 "$@" >&2 &&
        : >"$venv/.done" || { rm -rf "$venv"; return 1; }
}

lacking() {
    if [ "${CI:-}" = true ]; then
        say "missing: $*, and CI must test with all of them"
        failed=1
    else
        say "missing: $*; the tests which need them will be skipped"
    fi
}

failed=
names=$(missing)
if [ -n "$names" ]; then
    if ! command -v apt-get >/dev/null; then
        why="there is no apt-get here"
    elif [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
        why="installing needs root, or sudo without a password"
    else
        why="apt-get did not bring them"
        install $(packages_of $names)
        names=$(missing)
    fi
    [ -z "$names" ] || lacking $names "($why)"
fi
install_venv .venv-mitmproxy 'mitmproxy>=11' || lacking "mitmproxy (pip did not bring it)"
# socksclient.requests imports idna. The first start of Python in that venv puts
# urllib3-future in the place of urllib3; the tests start several at once.
install_venv .venv-niquests 'niquests>=3.21' 'requests>=2.32.3' idna &&
    .venv-niquests/bin/python -c pass || lacking "niquests (pip did not bring it)"
[ -z "$failed" ]
