"""Files that rows name: what lies below the root is read, what leads out of it is not, however it is written."""

import contextlib
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finesight.core.errors import DataError
from finesight.data.files.store import Store, _below, fetch_file, find_table

SECRET = b"this must not be read"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of pictures; beside it a secret, and inside links that lead to it."""
    (tmp_path / "secret.png").write_bytes(SECRET)
    (tmp_path / "pictures-of-others").mkdir()
    (tmp_path / "pictures-of-others" / "a.png").write_bytes(SECRET)
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"a")
    (folder / "deep" / "b c é.png").write_bytes(b"b")
    (folder / "inner.png").symlink_to("deep/b c é.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pipe(
        {"/pics/a.png": b"a", "/pics/deep/b.png": b"b", "/secret.png": SECRET, "/pics2/a.png": SECRET}
    )
    yield system
    system.store.clear()


INSIDE = {"a.png": b"a", "deep/b c é.png": b"b", "inner.png": b"b", "./a.png": b"a", "deep/../a.png": b"a"}
OUTSIDE = [
    "../secret.png",
    "link.png",
    "up/secret.png",
    "deep/../../secret.png",
    "../pictures-of-others/a.png",
]


def test_files_below_a_folder(root: Path) -> None:
    store = pickle.loads(pickle.dumps(Store(str(root))))
    for name, data in INSIDE.items():
        assert store.read(name, "here") == data
    assert store.read(str(root / "a.png"), "here") == b"a"
    assert Store(f"{root}/deep/..").read("a.png", "here") == b"a"


def test_nothing_leads_out_of_a_folder(root: Path) -> None:
    store = Store(str(root))
    for name in [*OUTSIDE, str(root.parent / "secret.png")]:
        with pytest.raises(DataError, match="leads out of the folder") as caught:
            store.read(name, "rows.csv, row 3")
        assert caught.value.faults[0].where == "rows.csv, row 3"
        assert "allow_outside" in caught.value.faults[0].mend
        assert store.read(name, "here", allow_outside=True) == SECRET


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("none.png", "there is no file"),
        ("deep", "there is no file"),
        ("", "there is no file"),
        ("pipe", "there is no file"),
        ("circle", "cannot be read"),
        ("a\0.png", "cannot be read"),
        ("a" * 5000, "cannot be read"),
        ("\ud800.png", r"\\ud800"),
        ("s3://bucket/a.png", "is an address"),
        ("https://example.org/a.png", "is an address"),
        ("simplecache::file:///etc/passwd", "is an address"),
        ("file:///etc/passwd", "there is no file"),
    ],
)
@pytest.mark.parametrize("outside", [False, True])
def test_names_that_are_no_files(root: Path, name: str, what: str, outside: bool) -> None:
    with pytest.raises(DataError, match=what) as caught:
        Store(str(root)).read(name, "here", allow_outside=outside)
    assert len(caught.value.faults[0].what.encode()) < 700


@given(
    st.lists(
        st.sampled_from(
            ["..", ".", "/", "deep", "up", "a.png", "secret.png", "~", "%2e%2e", "\\", "link.png"]
        )
    )
)
def test_any_path_reads_nothing_outside(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        folder.mkdir()
        (folder / "secret.png").write_bytes(SECRET)
        (folder / "root" / "deep").mkdir(parents=True)
        (folder / "root" / "a.png").write_bytes(b"a")
        (folder / "root" / "up").symlink_to("..")
        (folder / "root" / "link.png").symlink_to("../secret.png")
    system = fsspec.filesystem("memory")
    system.pipe({"/any/secret.png": SECRET, "/any/root/a.png": b"a"})
    for place in (str(folder / "root"), "memory://any/root"):
        with contextlib.suppress(DataError):
            assert Store(place).read("/".join(parts), "here") == b"a"


def test_files_that_are_too_large(root: Path, memory: fsspec.AbstractFileSystem) -> None:
    with open(root / "large.png", "wb") as stream:
        stream.truncate((64 << 20) + 1)
    began = time.process_time()
    with pytest.raises(DataError, match="larger than 64 MiB"):
        Store(str(root)).read("large.png", "here")
    assert time.process_time() - began < 0.5  # it is not read
    memory.pipe("/pics/large.png", b"x" * 2048)
    for store in (Store(str(root)), Store("memory://pics")):
        assert store.read("a.png", "here", limit=1) == b"a"
        with pytest.raises(DataError, match="larger than"):
            store.read("large.png", "here", limit=2047)


def test_files_at_an_address(memory: fsspec.AbstractFileSystem) -> None:
    for place in ("memory://pics", "memory://pics/", "memory:///pics"):
        store = pickle.loads(pickle.dumps(Store(place)))
        assert store.read("a.png", "here") == b"a"
        assert store.read("deep/b.png", "here") == b"b"
        assert store.read(f"{place.rstrip('/')}/deep/b.png", "here") == b"b"
        assert store.read("/pics/a.png", "here") == b"a"
    assert Store("memory://").read("pics/a.png", "here") == b"a"


LEADING_OUT = (
    *("../secret.png", "deep/../../secret.png", "/secret.png", "memory://secret.png", "memory://pics2/a.png"),
    *("%2e%2e/secret.png", "%252e%252e/secret.png", "..\\secret.png", "memory://pics/../secret.png"),
    *("file:///etc/passwd", "local:///etc/passwd", "https://example.org/a.png", "s3://bucket/a.png"),
    *("simplecache::memory://secret.png", "", ".", "/", "a\0.png", "/pics2/a.png", "/pics/../secret.png"),
)


@pytest.mark.parametrize("name", LEADING_OUT)
def test_nothing_leads_out_of_an_address(memory: fsspec.AbstractFileSystem, name: str) -> None:
    with pytest.raises(DataError):
        Store("memory://pics").read(name, "here")
    if not name.startswith(("file", "local")):  # those are names of files in memory that are not there
        assert _below("/pics", "memory://pics", name, allow_outside=False) is None


@pytest.mark.parametrize("name", ["a?x=../b", "a#b", "..%2fsecret", "a%5cb", "a/%2E%2E/b", "//other.org/a"])
def test_nothing_leads_out_of_a_server(name: str) -> None:
    assert _below("https://host/pics", "https://host/pics", name, allow_outside=False) is None
    assert (
        _below("https://host/pics", "https://host/pics", "a b/c.png", False) == "https://host/pics/a b/c.png"
    )


def test_outside_an_address(memory: fsspec.AbstractFileSystem) -> None:
    store = Store("memory://pics")
    assert store.read("memory://secret.png", "here", allow_outside=True) == SECRET
    for name in ("file:///etc/passwd", "s3://bucket/a.png", "simplecache::memory://secret.png"):
        with pytest.raises(DataError):
            store.read(name, "here", allow_outside=True)


def test_missing_remote_files(memory: fsspec.AbstractFileSystem) -> None:
    for store, name in (
        (Store("memory://pics"), "none.png"),
        (Store("memory://pics"), "deep"),
        (Store("nix://x"), "a"),
    ):
        with pytest.raises(DataError, match=r"cannot be read|there is no"):
            store.read(name, "here")


def test_a_remote_file_is_fetched_once(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "cache"))
    memory.pipe("/tables/rows.csv", b"a,b\n1,2\n")
    path, notes = fetch_file("memory://tables/rows.csv")
    assert path.read_bytes() == b"a,b\n1,2\n"
    assert notes == (("fetched", "memory://tables/rows.csv is read from a copy in the cache folder"),)
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "open", None)
        assert fetch_file("memory://tables/rows.csv") == (path, ())
    memory.pipe("/tables/rows.csv", b"a,b\n3,4\n")
    assert fetch_file("memory://tables/rows.csv")[0].read_bytes() == b"a,b\n3,4\n"


def test_a_remote_file_without_a_cache(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "file"))
    path, notes = fetch_file("memory://pics/a.png")
    assert path.read_bytes() == b"a"
    assert "fetched anew at each start" in notes[0][1]


class Torn:
    """A file system that breaks in the midst, gives less than it said, or tells nothing but sizes."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def info(self, path: str) -> dict[str, object]:
        return {"size": 10, "type": "file"}

    def open(self, path: str, mode: str) -> "Torn":
        return self

    def __enter__(self) -> "Torn":
        self.pieces = [b"12345", b"67890"] if self.kind == "fine" else [b"12345"]
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self, size: int) -> bytes:
        if not self.pieces and self.kind == "broken":
            raise ConnectionError("reset by peer")
        return self.pieces.pop(0) if self.pieces else b""


@pytest.mark.parametrize(
    ("kind", "what"),
    [("broken", "ConnectionError: reset by peer"), ("short", "5 of 10 bytes came"), ("fine", "")],
)
def test_a_transfer_that_breaks(
    kind: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("finesight.data.files.store._system", lambda address: (Torn(kind), "path"))
    if what:
        with pytest.raises(DataError, match=what) as caught:
            fetch_file("torn://rows.csv")
        assert caught.value.faults[0].where == "torn://rows.csv"
        assert not list((tmp_path / "cache").rglob("file"))
    else:
        notes = fetch_file("torn://rows.csv")[1]
        assert "a new file of equal size is not noticed" in notes[1][1]


def test_what_cannot_be_fetched(memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    for address, what in (
        ("memory://none.csv", "FileNotFoundError"),
        ("memory://pics", "this is not a file"),
        ("nosuch://x/rows.csv", "cannot be fetched"),
    ):
        with pytest.raises(DataError, match=what) as caught:
            fetch_file(address)
        assert caught.value.faults[0].where == address
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Disk", (), {"free": 0}))
    memory.pipe("/tables/new.csv", b"a\n1\n")
    with pytest.raises(DataError, match="4 bytes, and 0 are free"):
        fetch_file("memory://tables/new.csv")


def test_what_gives_access_is_not_shown(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setattr("finesight.data.files.store._system", lambda address: (Torn("fine"), "path"))
    address = "torn://me:hunter2@host/data/rows.csv?signature=hunter2"
    table = find_table(address)
    assert "hunter2" not in table.name + str(table.notes) and table.name == "torn://host/data/rows.csv"
    assert not any(b"hunter2" in file.read_bytes() for file in own_cache.rglob("fetched/*/*"))
    monkeypatch.setattr("finesight.data.files.store._system", lambda address: (Torn("broken"), "path"))
    with pytest.raises(DataError) as caught:
        find_table(address + "2")
    assert "hunter2" not in str(caught.value)


def test_tables_and_their_roots(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    memory.pipe("/tables/sub/rows.TSV", b"a\n1\n")
    table = find_table("memory://tables/sub/rows.TSV")
    assert (table.name, table.root, table.suffix) == (
        "memory://tables/sub/rows.TSV",
        "memory://tables/sub",
        ".tsv",
    )
    assert find_table("memory://tables/sub/rows.TSV", "memory://pics").root == "memory://pics"
    assert find_table("memory://tables/sub/rows.TSV", str(tmp_path)).root == str(tmp_path)
    memory.pipe("/rows.csv", b"a\n1\n")
    assert find_table("memory://rows.csv").root == "memory://"
    (tmp_path / "rows.csv").write_text("a\n1\n")
    for path in (str(tmp_path / "rows.csv"), f"file://{tmp_path}/rows.csv"):
        table = find_table(path)
        assert (table.path, table.name, table.root) == (
            tmp_path / "rows.csv",
            f"{tmp_path}/rows.csv",
            str(tmp_path),
        )
    with pytest.raises(DataError, match="root, seen from"):
        find_table(str(tmp_path / "rows.csv"), "none")
