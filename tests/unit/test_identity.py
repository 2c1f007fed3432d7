"""Identity: made once, held by one process, and signatures that only its owner can make."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import base58
import pytest
from hypothesis import given, strategies as st

from node.errors import PlainError
from node.network.identity import Identity, IdentityFile, NameInUse, parse_peer_id, verify

ROOT = Path(__file__).resolve().parents[2]


def test_created_once_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "identity.key"
    first = IdentityFile(path)
    peer_id = first.acquire("me").peer_id
    first.release()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    second = IdentityFile(path)
    assert second.acquire("me").peer_id == peer_id
    second.release()


def test_another_process_with_the_same_name_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path\n"
            "from node.network.identity import IdentityFile\n"
            "held = IdentityFile(Path(sys.argv[1])); held.acquire('me')\n"
            "print('held', flush=True); sys.stdin.read()",
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(NameInUse) as refused:
            IdentityFile(path).acquire("me")
        assert "'me'" in refused.value.sentence
        assert "--name" in refused.value.next_step
    finally:
        holder.kill()  # the lock goes with the process, kill -9 included
        holder.communicate()
    after = IdentityFile(path)
    after.acquire("me")
    after.release()


@pytest.mark.parametrize("content", [b"", b"\0" * 36, b"not a key", os.urandom(4096)])
def test_a_damaged_file_is_named_and_the_lock_let_go(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    with pytest.raises(PlainError) as refused:
        IdentityFile(path).acquire("me")
    assert str(path) in refused.value.sentence
    assert refused.value.next_step
    path.unlink()
    mended = IdentityFile(path)
    mended.acquire("me")
    mended.release()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file stands where the folder should be: refused for every user, root included."""
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(PlainError) as refused:
        IdentityFile(tmp_path / "data" / "me" / "identity.key").acquire("me")
    assert str(tmp_path / "data" / "me") in refused.value.sentence
    assert "SWARMTUI_HOME" in refused.value.next_step


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_signature_fits_its_author_and_its_data_only(data: bytes, other: bytes) -> None:
    one, two = Identity.create(), Identity.create()
    signature = one.sign(data)
    assert verify(one.peer_id, data, signature)
    assert not verify(two.peer_id, data, signature)
    if other != data:
        assert not verify(one.peer_id, other, signature)


@given(st.text(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_verify_is_total_on_text(peer_id: str, data: bytes, signature: bytes) -> None:
    assert verify(peer_id, data, signature) is False


@given(st.binary(min_size=1, max_size=60), st.integers(0, 9))
def test_verify_is_total_on_forged_peer_ids(garbage: bytes, key_type: int) -> None:
    """Identity multihashes whose inside is no key: what a peer may well put into a record."""
    inner = bytes([8, key_type, 0x12, len(garbage)]) + garbage
    for body in (b"\0" + bytes([len(inner)]) + inner, b"\0" + bytes([len(garbage)]) + garbage):
        assert verify(base58.b58encode(body).decode(), b"data", b"s" * 64) is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 129,
        "0OIl",
        "nonsense",
        "QmShort",
        "1" * 46,
        "12D3/../x",
        "é" * 46,
        "12D3KooW\n",
        None,
        5,
    ],
)
def test_what_is_no_peer_id(text: object) -> None:
    with pytest.raises(ValueError, match="not a peer id"):
        parse_peer_id(text)  # type: ignore[arg-type]


def test_a_peer_id_is_read_back() -> None:
    identity = Identity.create()
    assert parse_peer_id(identity.peer_id) == identity.id
