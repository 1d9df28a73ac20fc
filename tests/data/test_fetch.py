"""Fetching pictures from web addresses: what comes back, and everything that must not be asked for or waited for."""

import contextlib
import gzip
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finesight.core.errors import DataError
from finesight.data.files import fetch
from finesight.data.files.fetch import fetch_picture, is_public
from finesight.data.pictures.guard import PictureLimits

WHERE = "rows.csv, row 3, column `image`"
REAL_LOOK_UP = socket.getaddrinfo
Answer = Callable[[socket.socket], None]


def answer(body: bytes = b"picture", status: str = "200 OK", **headers: str) -> bytes:
    lines = {
        "Content-Length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


class Server:
    """A server on this machine that answers by path, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | Answer] = {}
        self.asked: list[str] = []
        self.context: ssl.SSLContext | None = None
        self.names = {"pictures.example": ["127.0.0.1"]}
        self.looked_up: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def url(self, path: str, host: str = "pictures.example", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def look_up(self, name: str, port: int, **options: Any) -> list[Any]:
        """In the place of `socket.getaddrinfo`: names of this server, and numbers, but nothing of the network."""
        self.looked_up.append(name)
        if name in self.names:
            return [found for number in self.names[name] for found in REAL_LOOK_UP(number, port, **options)]
        return REAL_LOOK_UP(name, port, flags=socket.AI_NUMERICHOST, **options)

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(10)
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096) or b"\r\n\r\n"
            self.asked.append(request.decode("latin-1"))
            told = self.answers.get(self.asked[-1].split(" ")[1], answer(b"", "404 Not Found"))
            told(connection) if callable(told) else connection.sendall(told)
        except OSError:
            pass
        finally:
            connection.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setattr(socket, "getaddrinfo", server.look_up)
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    yield server
    server.close()


def refused(url: str, *words: str, limits: PictureLimits | None = None, seconds: float = 20) -> str:
    """The fetch ends in an error of three parts, soon, of which the first holds all `words`."""
    begin = time.monotonic()
    with pytest.raises(DataError) as caught:
        fetch_picture(url, WHERE, limits, seconds)
    assert time.monotonic() - begin < seconds + 2
    (fault,) = caught.value.faults
    assert fault.where.startswith(WHERE) and fault.mend
    assert all(word in fault.what for word in words), fault.what
    return str(fault)


def test_a_picture_comes_back_byte_for_byte(server: Server) -> None:
    body = bytes(range(256)) * 1000
    server.answers["/a.jpg"] = answer(body, Content_Type="image/jpeg")
    assert fetch_picture(server.url("/a.jpg"), WHERE) == body
    chunks = b"".join(
        b"%x;note=1\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:90000], body[90000:])
    )
    server.answers["/chunked"] = answer(
        chunks + b"0\r\nTrailer: 1\r\n\r\n", Transfer_Encoding="chunked", Content_Length=""
    )
    assert fetch_picture(server.url("/chunked"), WHERE) == body
    server.answers["/until-the-end"] = answer(
        body, Content_Length="", Content_Type="application/octet-stream"
    )
    assert fetch_picture(server.url("/until-the-end"), WHERE) == body


def test_what_is_asked_says_who_asks_and_no_more(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    (tmp_path / ".netrc").write_text("machine pictures.example login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    server.answers["/a%20b/%C3%BC.png?size=1&x=%C3%BC"] = answer(Set_Cookie="session=1")
    for _ in range(2):
        assert fetch_picture(server.url("/a%20b/ü.png?size=1&x=ü#part"), WHERE) == b"picture"
    lines = server.asked[1].split("\r\n")
    assert lines[0] == "GET /a%20b/%C3%BC.png?size=1&x=%C3%BC HTTP/1.1"
    names = {line.partition(":")[0] for line in lines[1:] if line}
    assert names == {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}
    assert f"Host: pictures.example:{server.port}" in lines and "Accept-Encoding: identity" in lines
    assert "finesight" in server.asked[1]


PRIVATE = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1
172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1
239.255.255.250 240.0.0.1 255.255.255.255 168.63.129.16
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1
100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:10::1 2001:db8::1 2002:7f00:1::1 2002:808:808::1 3fff::1
5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1 2606:4700::1%eth0 pictures.example 1.2.3
""".split()
PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.0.1 100.128.0.1 172.15.0.1 172.32.0.1 193.0.0.1
2606:4700:4700::1111 2a00:1450:4001:80b::200e 2001:4860:4860::8888
""".split()


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "localhost",
            "LOCALHOST",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.1",
            "0",
            "0x7f.1",
        ),
        *(
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:127.0.0.1]",
            "[::127.0.0.1]",
        ),
        *("[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "[fe80::1]", "[fd00:ec2::254]"),
        *(
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "0251.0376.0251.0376",
            "168.63.129.16",
            "100.100.100.200",
        ),
        *("192.168.1.1", "10.1", "172.16.0.1", "ⓛocalhost", "①②⑦.⓪.⓪.①", "127。0。0。1"),
    ],
)
def test_a_host_by_any_other_name_is_not_asked(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connected(*_: object) -> None:
        raise AssertionError("it was asked")

    monkeypatch.setattr(fetch, "_connected", connected)
    for scheme in ("http", "https"):
        for port in ("", ":8080"):
            refused(f"{scheme}://{host}{port}/latest/meta-data", "not public")


def test_every_address_of_a_name_must_be_public(server: Server) -> None:
    server.answers["/a"] = answer()
    for others in (["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "::1"]):
        server.names["mixed.example"] = others
        refused(server.url("/a", "mixed.example"), "mixed.example", "not public")
    assert not server.asked


def test_a_name_is_looked_up_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that turns private between the look and the connection gains nothing."""

    def rebound(name: str, port: int, **options: Any) -> list[Any]:
        server.looked_up.append(name)
        address = "127.0.0.1" if server.looked_up.count(name) == 1 else "10.0.0.1"
        return REAL_LOOK_UP(address, port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    server.answers["/a"] = answer()
    assert fetch_picture(server.url("/a", "rebind.example"), WHERE) == b"picture"
    assert server.looked_up == ["rebind.example"]
    assert f"Host: rebind.example:{server.port}" in server.asked[0]


def test_an_address_that_does_not_answer_is_not_the_last(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "is_public", lambda address: True)
    server.names["two.example"] = ["127.255.255.254", "127.0.0.1"]  # nobody listens at the first
    server.answers["/a"] = answer()
    assert fetch_picture(server.url("/a", "two.example"), WHERE) == b"picture"


def test_redirects_are_followed_three_times(server: Server) -> None:
    server.answers["/4"] = answer()
    for step in range(4):
        server.answers[f"/{step}"] = answer(
            b"", f"{(301, 302, 307, 308)[step]} Moved", Location=f"/{step + 1}"
        )
    assert fetch_picture(server.url("/1"), WHERE) == b"picture"
    refused(server.url("/0"), "redirects more than 3 times")
    server.answers["/umlaut"] = answer(b"", "302 Found", Location="/ü".encode().decode("latin-1"))
    server.answers["/%C3%BC"] = answer()
    assert fetch_picture(server.url("/umlaut"), WHERE) == b"picture"
    server.answers["/nowhere"] = answer(b"", "302 Found")
    refused(server.url("/nowhere"), "redirects to nowhere")


@pytest.mark.parametrize(
    ("location", "word"),
    [
        ("http://10.0.0.1/secret", "not public"),
        ("http://[::ffff:169.254.169.254]/", "not public"),
        ("//localhost/", "not known"),  # the fixture knows numbers and its own names alone
        ("http://inside.example/", "not public"),
        ("file:///etc/passwd", "`file:`"),
        ("ftp://pictures.example/", "`ftp:`"),
        ("gopher://pictures.example/", "`gopher:`"),
        ("data:image/png;base64,AAAA", "`data:`"),
        ("http://user:word@pictures.example/", "password"),
        ("http://pictures.example:99999/", "Port"),
        ("http://[::1/", "no good"),
    ],
)
def test_a_redirect_is_looked_at_like_the_first_address(server: Server, location: str, word: str) -> None:
    server.names["inside.example"] = ["192.168.1.1"]
    server.answers["/a"] = answer(b"", "302 Found", Location=location)
    refused(server.url("/a"), word)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("ftp://pictures.example/a", "`ftp:`"),
        ("file:///etc/passwd", "`file:`"),
        ("pictures.example/a", "kind"),
        ("http://pictures.example/a b", "blank"),
        ("http://pictures.example\\@10.0.0.1/", "backslash"),
        ("http://pictures.example/\r\nX: 1", "control"),
        ("http://pictures.example/\x1b[2J", "control"),
        ("http://me:secret@pictures.example/", "password"),
        ("http://me@pictures.example/", "password"),
        ("http://", "no host"),
        ("http://:80/", "no host"),
        ("http://pictures.example:port/", "no good"),
        ("http://" + "a" * 70 + ".example/", "not known"),
        ("http://[not-an-address]/", "no good"),
    ],
)
def test_addresses_that_are_refused_at_once(server: Server, url: str, word: str) -> None:
    assert "secret" not in refused(url, word)
    assert not server.asked


def test_a_token_in_the_query_is_not_told(server: Server) -> None:
    assert "token" not in refused(server.url("/a?token=1234"), "404")


def test_answers_that_are_no_picture(server: Server) -> None:
    answers = {
        "404": answer(b"<html>", "404 \x1b[2Jown words"),
        "503": answer(b"", "503 Busy"),
        "206": answer(b"part", "206 Partial Content"),
        "text/html": answer(b"<html>", Content_Type="text/html; charset=utf-8"),
        "application/json": answer(b"{}", Content_Type="application/json"),
        "video/mp4": answer(Content_Type="Video/MP4"),
        "compressed": answer(gzip.compress(bytes(10_000_000)), Content_Encoding="gzip"),
        "3 bytes are missing": answer(b"1234", Content_Length="7"),
        "empty": answer(b""),
        "IncompleteRead": answer(b"5\r\n12", Transfer_Encoding="chunked", Content_Length=""),
        "RemoteDisconnected": b"",
        "BadStatusLine": b"SSH-2.0-OpenSSH\r\n",
        "LineTooLong": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
        "proper HTTP": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    }
    for word, told in answers.items():
        server.answers["/a"] = told
        assert "\x1b" not in refused(server.url("/a"), word if word != "RemoteDisconnected" else "connection")


def test_too_many_bytes(server: Server) -> None:
    limits = PictureLimits(file_bytes=1 << 20)
    sent = []

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(1000):
            connection.sendall(bytes(1 << 16))
            sent.append(1 << 16)

    server.answers["/endless"] = endless
    refused(server.url("/endless"), "more than 1048576 bytes", limits=limits)
    assert sum(sent) < 16 << 20  # what the system's buffers hold
    chunk = b"fffff\r\n" + bytes(0xFFFFF) + b"\r\n"
    server.answers["/chunks"] = answer(chunk * 3, Transfer_Encoding="chunked", Content_Length="")
    refused(server.url("/chunks"), "more than 1048576 bytes", limits=limits)
    server.answers["/announced"] = answer(Content_Length=str(1 << 40))
    refused(server.url("/announced"), str(1 << 40), limits=limits)
    server.answers["/all"] = answer(bytes(1 << 20))
    assert len(fetch_picture(server.url("/all"), WHERE, limits)) == 1 << 20


@pytest.mark.parametrize("where", ["status", "header", "continue", "body", "chunk", "trailer", "silence"])
def test_a_dripping_server_is_left(server: Server, where: str) -> None:
    begin = {
        "status": b"",
        "header": b"HTTP/1.1 200 OK\r\n",
        "continue": b"",
        "body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        "silence": b"",
    }
    drip = {
        "status": b"HTTP/1.1 200 OK                                              ",
        "header": b"A: b\r\n",
        "continue": b"HTTP/1.1 100 Continue\r\n\r\n",
        "trailer": b"A: b\r\n",
        "silence": b"",
    }

    def dripping(connection: socket.socket) -> None:
        connection.sendall(begin[where])
        drops = drip.get(where, b"1") * 200
        for place in range(200):
            connection.sendall(drops[place : place + 1])
            time.sleep(0.02)

    server.answers["/a"] = dripping
    refused(server.url("/a"), "did not answer in time", seconds=0.4)


def test_a_name_that_takes_long_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    refused("http://slow.example/", "did not answer in time", seconds=0.2)


def test_redirects_share_the_time(server: Server) -> None:
    def late(connection: socket.socket) -> None:
        time.sleep(0.3)
        connection.sendall(answer(b"", "302 Found", Location="/a"))

    server.answers["/a"] = late
    refused(server.url("/a"), "did not answer in time", seconds=0.7)


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for a host that it signs itself, and its key."""
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
    ]
    command += ["2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-out", str(paths[0])]
    try:
        subprocess.run([*command, "-keyout", str(paths[1])], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no certificate can be made: {error}")
    return paths


def test_https_proves_the_name(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = certificate(tmp_path, "pictures.example")
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(*paths)
    server.names["other.example"] = ["127.0.0.1"]
    server.answers["/a"] = answer()
    url = server.url("/a", scheme="https")
    refused(url, "not safe", "self")  # a certificate that nobody knows
    trusting = ssl.create_default_context(cafile=str(paths[0]))
    monkeypatch.setattr(fetch, "_tls", lambda: trusting)
    assert fetch_picture(url, WHERE) == b"picture"
    assert server.asked[-1].startswith("GET /a HTTP/1.1")
    refused(server.url("/a", "other.example", "https"), "not safe", "other.example")
    refused(server.url("/a"), "")  # plain, to a port that speaks TLS


@given(st.text() | st.builds("http{}://{}/{}".format, st.sampled_from(["", "s"]), st.text(), st.text()))
def test_any_text_is_an_address_or_a_data_error(text: str) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", unknown)
        refused(text)


def test_any_answer_is_a_picture_or_a_data_error(server: Server) -> None:
    @given(
        st.binary()
        | st.builds(
            lambda head, body: b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body, st.binary(), st.binary()
        )
    )
    def holds(told: bytes) -> None:
        server.answers["/a"] = told
        with contextlib.suppress(DataError):
            assert isinstance(fetch_picture(server.url("/a"), WHERE, seconds=10), bytes)

    holds()


def test_nothing_stays_open(server: Server, recwarn: pytest.WarningsRecorder) -> None:
    import gc

    server.answers["/a"] = answer()
    server.answers["/html"] = answer(Content_Type="text/html")
    threads = threading.active_count()
    for _ in range(3):
        fetch_picture(server.url("/a"), WHERE)
        refused(server.url("/html"), "text/html")
    gc.collect()
    assert not [warning for warning in recwarn if warning.category is ResourceWarning]
    time.sleep(0.2)
    assert threading.active_count() <= threads
