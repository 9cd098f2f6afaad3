"""The servers that a run starts: on the loopback interface only, on a free port, with a token of their own, mortal."""

import socket
import subprocess
import sys
from pathlib import Path

from programs.lm.servers.loopback import HOST
from programs.lm.servers.recorded import RecordedServer
from tests.fakes.fake_process import ROOT
from tests.fakes.waiting import wait_until


def listening(port: int) -> set[str]:
    """The local addresses (as the kernel writes them, in hexadecimal) on which this port is open."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.rsplit(":", 1)[1], 16) == port:
                found.add(address.rsplit(":", 1)[0])
    return found


def test_two_servers_have_their_own_ports_and_tokens_on_the_loopback_interface_alone() -> None:
    with RecordedServer() as one, RecordedServer() as two:
        assert one.port != two.port
        assert one.token != two.token
        assert len(one.token) > 30
        assert listening(one.port) == listening(two.port) == {"0100007F"}
    assert listening(one.port) == set()


def test_a_token_that_is_no_text_is_refused_like_any_other() -> None:
    with RecordedServer() as server, socket.create_connection((HOST, server.port)) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n"
            b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_they_die_with_a_killed_process() -> None:
    code = (
        "from programs.lm.servers.recorded import RecordedServer\n"
        "with RecordedServer() as server: print(server.port, flush=True); input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    port = int(parent.stdout.readline())
    assert listening(port)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not listening(port))
