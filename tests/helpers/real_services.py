"""Real servers that the tests reach directly or through a proxy: a name server and FTP servers.

The servers are context managers like those of `real_servers`, and promise the same.
"""

from __future__ import annotations

import os
import pwd
import secrets
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from helpers import real_servers
from helpers.real_servers.process import Address, path_of, running

BIG = [f"{number:0250}" for number in range(20)]
"""The TXT records of big.test, which are too long for an answer over UDP."""

# dnsmasq asks no other server, and answers NXDOMAIN to every other name ("#"). By default it would
# become another user.
_DNSMASQ_CONFIG = """\
port={port}
listen-address={host}
bind-interfaces
user={user}
pid-file=
log-facility=-
no-hosts
no-resolv
address=/#/
host-record=a.test,192.0.2.1
host-record=aaaa.test,2001:db8::1
host-record=both.test,192.0.2.2,2001:db8::2
txt-record=txt.test,hello
"""

# Without root, vsftpd knows only the anonymous user, and with run_as_launching_user it confines
# this user to no directory. So the user must have a password, one of the "e-mail addresses". The
# two options "promiscuous" allow data connections from and to any address and port.
_VSFTPD_CONFIG = """\
{listen}
listen_port={port}
background=NO
run_as_launching_user=YES
secure_chroot_dir=.
anonymous_enable=YES
local_enable=NO
secure_email_list_enable=YES
email_password_file=passwords
delay_failed_login=0
anon_root={files}
anon_world_readable_only=NO
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_umask=022
port_promiscuous=YES
pasv_promiscuous=YES
xferlog_enable=YES
log_ftp_protocol=YES
vsftpd_log_file=vsftpd.log
"""

# The key of the certificate is one of an elliptic curve, and the default ciphers are for RSA only.
_VSFTPD_TLS_CONFIG = """\
ssl_enable=YES
ssl_ciphers=HIGH
allow_anon_ssl=YES
force_anon_logins_ssl=YES
force_anon_data_ssl=YES
require_ssl_reuse=NO
rsa_cert_file=certificate.pem
"""


@dataclass(frozen=True)
class FTPServer:
    """A running FTP server.

    Attributes:
        address: The address at which it listens.
        directory: The directory of its files, those that a client has sent included.
        user: The only user that it knows, who may read and write.
        password: The password of the user.
        ca: The authority that has issued its certificate, if it has TLS.
    """

    address: Address
    directory: Path
    user: str
    password: str
    ca: trustme.CA

    def trust(self) -> ssl.SSLContext:
        """Return a new context for clients, which trusts this server and nobody else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        return context


def missing() -> list[str]:
    """Return which of the programs of these servers this machine does not have."""
    return real_servers.missing(["dnsmasq", "vsftpd"])


@contextmanager
def name_server(directory: Path, host: str = "127.0.0.1") -> Iterator[Address]:
    """Run dnsmasq on one port for UDP and TCP, and yield its address.

    It answers NXDOMAIN to every name but these:
        a.test      A 192.0.2.1
        aaaa.test   AAAA 2001:db8::1
        both.test   A 192.0.2.2, AAAA 2001:db8::2
        txt.test    TXT "hello"
        big.test    TXT, those in `BIG`: by UDP the answer is truncated
    """

    def prepare(home: Path, port: int) -> list[str]:
        user = pwd.getpwuid(os.geteuid()).pw_name
        config = _DNSMASQ_CONFIG.format(host=host, port=port, user=user)
        config += "".join(f"txt-record=big.test,{text}\n" for text in BIG)
        (home / "dnsmasq.conf").write_text(config)
        return [path_of("dnsmasq"), "--keep-in-foreground", "--conf-file=dnsmasq.conf"]

    # dnsmasq opens the port for datagrams before it listens for connections.
    with running(directory, "dnsmasq", host, prepare) as address:
        yield address


@contextmanager
def vsftpd(directory: Path, host: str = "127.0.0.1", *, tls: bool = False) -> Iterator[FTPServer]:
    """Run vsftpd. With `tls`, it insists on AUTH TLS and PROT P."""
    files = _new_directory(directory, "vsftpd-files-")
    password = secrets.token_hex()
    ca = trustme.CA()

    def prepare(home: Path, port: int) -> list[str]:
        listen = f"listen_ipv6=YES\nlisten_address6={host}"
        if ":" not in host:
            listen = f"listen=YES\nlisten_address={host}"
        config = _VSFTPD_CONFIG.format(listen=listen, port=port, files=files)
        if tls:
            _write_certificate(ca, home)
            config += _VSFTPD_TLS_CONFIG
        (home / "passwords").write_text(f"{password}\n")
        (home / "vsftpd.conf").write_text(config)
        return [path_of("vsftpd"), "vsftpd.conf"]

    with running(directory, "vsftpd", host, prepare) as address:
        yield FTPServer(address, files, "anonymous", password, ca)


@contextmanager
def pyftpdlib(
    directory: Path, host: str = "127.0.0.1", *, tls: bool = False
) -> Iterator[FTPServer]:
    """Run pyftpdlib in a process of its own. With `tls`, it insists on AUTH TLS and PROT P."""
    files = _new_directory(directory, "pyftpdlib-files-")
    password = secrets.token_hex()
    ca = trustme.CA()

    def prepare(home: Path, port: int) -> list[str]:
        command = [sys.executable, "-m", "pyftpdlib", "-i", host, "-p", str(port)]
        command += ["-d", str(files), "--write", "-u", "user", "-P", password]
        command += ["--permit-foreign-addresses", "--permit-privileged-ports"]
        if tls:
            _write_certificate(ca, home)
            command += ["--tls", "--keyfile=certificate.pem", "--certfile=certificate.pem"]
            command += ["--tls-control-required", "--tls-data-required"]
        return command

    with running(directory, "pyftpdlib", host, prepare) as address:
        yield FTPServer(address, files, "user", password, ca)


def _new_directory(parent: Path, prefix: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent.resolve()))


def _write_certificate(ca: trustme.CA, home: Path) -> None:
    certificate = ca.issue_cert("localhost", "127.0.0.1", "::1")
    certificate.private_key_and_cert_chain_pem.write_to_path(home / "certificate.pem")
