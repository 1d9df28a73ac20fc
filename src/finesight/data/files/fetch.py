"""A picture from a web address that a row names (`data.allow_urls`), fetched so that the row's writer gains nothing.

Whoever wrote the rows chooses what this machine asks for. So:

- http and https alone, without a name or password in the address;
- the host's name is looked up once, **every** address found must be public, and the connection is made to one of the
  addresses that were looked at: a name that answers otherwise the second time (DNS rebinding) is not asked again;
- each of at most three redirects is looked at in the same way;
- nothing of this machine goes along: no proxy, cookie, credential or referrer;
- one limit of time for the whole fetch, name look-up and dripping servers included, and one of bytes;
- nothing is unpacked: an answer that is compressed though it was asked not to be is refused.

What no check here can tell: networks that use public addresses inside, behind a firewall. Nothing is kept either, so
an epoch asks for each picture again: `finesight convert` fetches them once.
"""

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BufferedReader, RawIOBase
from typing import Any, Final, NoReturn
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from finesight import __version__
from finesight.core.errors import DataError
from finesight.data.pictures.guard import PictureLimits

SECONDS: Final = 30.0
"""For the whole fetch of one picture, redirects and all."""
REDIRECTS: Final = 3

_CONNECT_SECONDS: Final = (
    10.0  # for one of several addresses, so that a silent one leaves time for the others
)
_ADDRESSES: Final = 8  # tried at most, of a name that has many
_CHUNK: Final = 1 << 16
_MOVED: Final = (301, 302, 303, 307, 308)
_NO_PICTURE: Final = re.compile(
    r"\s*((?:text|audio|video|font|multipart|message)/[\w.+-]*|application/(?:json|xml|xhtml|pdf|zip|gzip)[\w.+-]*)",
    re.ASCII | re.IGNORECASE,
)
_HEADERS: Final = {
    "User-Agent": f"finesight/{__version__} (reads training pictures)",
    "Accept": "image/*, application/octet-stream",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
_GET_IT: Final = "download the picture, and name it by its path, or leave the row out"
_LATER: Final = "try again later, download the picture and name it by its path, or leave the row out"


class _NotFetched(Exception):
    """What went wrong, and how to mend it."""

    def __init__(self, what: str, mend: str = _GET_IT) -> None:
        super().__init__(what, mend)
        self.what, self.mend = what, mend


def fetch_picture(
    url: str, where: str, limits: PictureLimits | None = None, seconds: float = SECONDS
) -> bytes:
    """Bytes of the file at a web address. `where` names file, row and column for the message.

    Raises DataError, and nothing else. The bytes are not looked at: `pictures.load.load_picture` does that.
    """
    room = (limits or PictureLimits()).file_bytes
    deadline = time.monotonic() + seconds
    here, shown = url.strip(), ""
    try:
        for _ in range(REDIRECTS + 1):
            parts = _parsed(here)
            shown = _shown(parts)
            answer = _ask(parts, room, deadline)
            if isinstance(answer, bytes):
                return answer
            here = urljoin(here, answer)
        raise _NotFetched(f"the server redirects more than {REDIRECTS} times")
    except _NotFetched as error:
        what, mend = error.what, error.mend
    except TimeoutError:
        what, mend = f"the server did not answer in time ({seconds:g} seconds for all of it)", _LATER
    except ssl.SSLCertVerificationError as error:
        what = f"the connection is not safe: {error.verify_message}"
        mend = "check the address, and this machine's certificates and clock"
    except (
        ValueError
    ) as error:  # of urlsplit, urljoin, the name's encoding and http.client's look at what is sent
        what, mend = f"the web address is no good: {error}"[:300], "correct the address"
    except OSError as error:
        what, mend = f"the connection failed: {error}"[:300], _LATER
    except Exception as error:  # its words may be the server's, and do not belong on a terminal
        what, mend = f"the server does not speak proper HTTP ({type(error).__name__})", _LATER
    raise DataError(what, f"{where}: {shown}" if shown else where, mend)


def _parsed(url: str) -> SplitResult:
    """The parts of an address; raises _NotFetched for one that is not plainly http or https."""
    if re.search(r"[\s\\\x00-\x1f\x7f-\x9f]", url):
        what = "the web address has a blank, a backslash or a control character in it"
        raise _NotFetched(what, "correct it; a blank is written %20")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise _NotFetched(
            f"an address of the kind `{parts.scheme[:20]}:` is not fetched", "use http or https"
        )
    if "@" in parts.netloc:
        raise _NotFetched("the web address has a name or password in it", "use an address without one")
    if not parts.hostname:
        raise _NotFetched("the web address names no host", "correct it")
    return parts


def _shown(parts: SplitResult) -> str:
    """The address without its query, which may hold a token, at a readable length."""
    return f"{parts.scheme}://{parts.netloc}{parts.path}"[:200] + ("?…" if parts.query else "")


def _ask(parts: SplitResult, room: int, deadline: float) -> bytes | str:
    """The body of the answer, at most `room` bytes; or where the server says to look instead."""
    connection = _Checked(parts, deadline)
    try:
        path = quote(parts.path or "/", safe="/%:;@!$&'()*+,=~-._")
        query = "?" + quote(parts.query, safe="/%:;@!$&'()*+,=~-._?[]{}|^`") if parts.query else ""
        connection.request("GET", path + query, headers=_HEADERS)
        response = connection.getresponse()
        if response.status in _MOVED:
            return _location(response)
        if response.status != 200:
            what = f"the server answers {response.status} {http.client.responses.get(response.status, '')}".rstrip()
            raise _NotFetched(what, _LATER if response.status in (429, *range(500, 600)) else _GET_IT)
        _check_headers(response, room)
        return _body(response, room)
    finally:
        connection.end()


def _location(response: http.client.HTTPResponse) -> str:
    """Where a redirect leads. Headers come as Latin-1, and most servers mean UTF-8."""
    location = response.headers.get("Location", "").encode("latin-1", "replace").decode(errors="replace")
    return location or _refuse("the server redirects to nowhere")


def _refuse(what: str) -> NoReturn:
    raise _NotFetched(what)


def _check_headers(response: http.client.HTTPResponse, room: int) -> None:
    kind = _NO_PICTURE.match(response.headers.get("Content-Type", ""))
    if kind:
        _refuse(f"what is there is no picture, but of the type {kind[1].lower()}")
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity"):
        _refuse("the server sends the picture compressed, though asked not to")
    if response.length is not None and response.length > room:
        _refuse(f"the picture file has {response.length} bytes; at most {room} are let in")


def _body(response: http.client.HTTPResponse, room: int) -> bytes:
    chunks, length = [], 0
    while chunk := response.read(_CHUNK):
        length += len(chunk)
        if length > room:
            _refuse(f"the picture file has more than {room} bytes")
        chunks.append(chunk)
    if response.length:  # of the length that was announced, so much is missing
        raise _NotFetched(f"the answer is cut short: {response.length} bytes are missing", _LATER)
    if not length:
        _refuse("the answer is empty")
    return b"".join(chunks)


class _Checked(http.client.HTTPConnection):
    """A connection to a host all of whose addresses are public; for https, to one that has proved its name."""

    def __init__(self, parts: SplitResult, deadline: float) -> None:
        host = parts.hostname or ""
        # the name as it goes over the wire; addresses and plain names stay as they are
        self._name = host if host.isascii() else host.encode("idna").decode()
        self._safe, self._deadline = parts.scheme == "https", deadline
        super().__init__(self._name, parts.port or (443 if self._safe else 80))
        self.default_port = 443 if self._safe else 80
        self._line: socket.socket | None = None

    def connect(self) -> None:
        """Look the name up, look at all of its addresses, and connect to the first of them that answers."""
        addresses = _look_up(self._name, self.port, self._deadline)
        for _, address in addresses:
            if not is_public(address[0]):
                what = f"the host `{self._name[:100]}` is not public: its address is {address[0]}"
                raise _NotFetched(
                    what, "use public addresses, or download the picture and name it by its path"
                )
        self._line = _connected(addresses[:_ADDRESSES], self._deadline)
        if self._safe:
            self._line.settimeout(_left(self._deadline))
            self._line = _tls().wrap_socket(self._line, server_hostname=self._name)
        self.sock: Any = _Timed(self._line, self._deadline)

    def end(self) -> None:
        """Close everything, also what `http.client` left open for the answer to be read from."""
        self.close()
        if self._line is not None:
            self._line.close()


_Address = tuple[socket.AddressFamily, tuple[Any, ...]]


def _left(deadline: float) -> float:
    """Seconds that are left; raises TimeoutError where none are."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _look_up(name: str, port: int, deadline: float) -> list[_Address]:
    """All addresses of a host. In a thread, because the system's own look-up takes as long as it likes."""
    found: list[_Address] = []
    failed: list[Exception] = []

    def ask() -> None:
        try:
            for family, _, _, _, address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
                found.append((family, address))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_left(deadline))
    if thread.is_alive():
        raise TimeoutError
    if failed or not found:
        reason = f": {getattr(failed[0], 'strerror', None) or failed[0]}" if failed else ""
        raise _NotFetched(
            f"the host `{name[:100]}` is not known{reason}", "correct the address, or try again later"
        )
    return found


def _connected(addresses: list[_Address], deadline: float) -> socket.socket:
    """A connection to the first address that answers; raises the last one's OSError where none does."""
    failure: OSError = OSError("no address")
    for family, address in addresses:
        found = socket.socket(family, socket.SOCK_STREAM)
        try:
            found.settimeout(min(_CONNECT_SECONDS, _left(deadline)))
            found.connect(address)
            return found
        except OSError as error:
            found.close()
            failure = error
    raise failure


@cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(frozen=True)
class _Timed:
    """A socket for `http.client` whose every wait ends at one deadline, however the server drips."""

    socket: socket.socket
    deadline: float

    def sendall(self, data: bytes) -> None:
        self.socket.settimeout(_left(self.deadline))
        self.socket.sendall(data)

    def makefile(self, mode: str) -> BufferedReader:
        assert mode == "rb"
        return BufferedReader(_TimedReader(self._read), _CHUNK)

    def _read(self, buffer: Any) -> int:
        self.socket.settimeout(_left(self.deadline))
        return self.socket.recv_into(buffer)

    def close(self) -> None:
        """Nothing yet: the answer is still to be read when `http.client` closes a connection that will not be kept."""


class _TimedReader(RawIOBase):
    def __init__(self, read: Callable[[Any], int]) -> None:
        self._read_into = read

    def readable(self) -> bool:
        """Yes: `BufferedReader` asks."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what there is, waiting no longer than the deadline."""
        return self._read_into(buffer)


_GLOBAL_V6: Final = ipaddress.ip_network("2000::/3")
_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(block)
    for block in (
        # IANA's special-purpose registry, written out: what Python knows of it depends on its version
        *(
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
        ),
        *(
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
        ),
        *("224.0.0.0/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
        "168.63.129.16/32",  # a public number, which is Azure's host to the machines on it
    )
)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and one alone: none with another address inside.

    IPv6 outside 2000::/3 is not: loopback, link-local, site-local, unique local and multicast, but also IPv4-mapped,
    IPv4-compatible and NAT64 addresses, which hold an IPv4 address that a translator may reach.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if found.version == 6 and (found not in _GLOBAL_V6 or found.scope_id is not None):
        return False
    return found.is_global and not any(found in block for block in _NOT_PUBLIC)
