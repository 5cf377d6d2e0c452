#!/bin/sh
# Installs, by apt, the real servers which tests/real_servers.py and tests/real_services.py start.
# Does nothing where they are there already. Without the rights to install it says what is missing
# and leaves it at that: the tests of a missing server are skipped, except in CI (CI=true), where it
# is a failure.
set -eu

PATH=$PATH:/usr/sbin:/sbin # some servers live there, and a user's PATH need not name it
POLICY=/usr/sbin/policy-rc.d
MARK="put here by tests/install-servers.sh of socksclient, process $$, until it ends"

say() { echo "install-servers.sh: $*" >&2; }

missing() {
    for name in danted microsocks sshd ssh ssh-keygen unshare mount perl \
        v2ray ss-server ss-local dnsmasq vsftpd; do
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
            */systemd/system/*.service | */systemd/system/*.socket)
                command -v systemctl >/dev/null || continue
                as_root systemctl --quiet disable "${path##*/}" ;;
            /etc/init.d/*) as_root update-rc.d "${path##*/}" disable ;;
        esac >&2 || say "could not disable ${path##*/}"
    done
}

# Only what is missing: naming an installed package would upgrade it, and restart its service.
install() {
    forbid_starting || { say "cannot write $POLICY, so nothing is installed"; return; }
    apt update || say "apt-get update failed; trying with the lists that are here"
    apt install -y --no-install-recommends "$@" || say "apt-get install failed"
    disable_services_of "$@"
}

# The lists below are split into words on purpose: names of commands and packages have no spaces.
names=$(missing)
[ -n "$names" ] || exit 0

if ! command -v apt-get >/dev/null; then
    why="there is no apt-get here"
elif [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
    why="installing needs root, or sudo without a password"
else
    why="apt-get did not bring them"
    install $(packages_of $names)
    names=$(missing)
    [ -n "$names" ] || exit 0
fi

if [ "${CI:-}" = true ]; then
    say "missing:" $names "($why), and CI must test with all of them"
    exit 1
fi
say "missing:" $names "($why); the tests which need them will be skipped"
