"""A signature says who sealed a pack, which no digest can."""

from __future__ import annotations

import stat
import subprocess
import sys

import msgspec
import pytest

from tests.agents import make_tower, recorded
from towerkit.core.errors import PackError, UsageError
from towerkit.packs import signing
from towerkit.packs.digest import pack_root
from towerkit.packs.reader import open_pack
from towerkit.packs.signing import load_signer, make_key, public_key_of
from towerkit.packs.writer import manifest_bytes


@pytest.fixture
def key(tmp_path):
    """Return a private key file and its public key."""
    path = tmp_path / "key"
    return path, public_key_of(make_key(path))


def rewrite(folder, **changes):
    """Rewrite a manifest as somebody could who has no key: with a root that fits."""
    path = folder / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes()) | changes
    manifest = {k: v for k, v in manifest.items() if v is not None or k != "signature"}
    manifest["root"] = pack_root(manifest)
    path.write_bytes(manifest_bytes(manifest))


def test_a_signed_pack_is_checked_with_its_key(tmp_path, key):
    """The state says whether the signature was checked; another key is not that key."""
    pack = recorded(tmp_path / "store", signing_key=key[0])
    assert pack.verify().signature == "not checked"
    assert pack.verify([key[1]]).signature == "checked"
    other = public_key_of(make_key(tmp_path / "other"))
    assert pack.verify([other, key[1]]).signature == "checked"
    with pytest.raises(PackError, match="signed by another key"):
        pack.verify([other])


def test_the_signature_is_outside_of_the_root(tmp_path, key):
    """The same run has the same digest, signed or not; an unsigned pack says so."""
    signed = recorded(tmp_path / "a", signing_key=key[0])
    plain = recorded(tmp_path / "b")
    assert signed.digest == plain.digest
    assert plain.verify().signature == "none"
    with pytest.raises(PackError, match="not signed"):
        plain.verify([key[1]])


def test_a_manifest_written_anew_is_found_with_the_key(tmp_path, key):
    """The re-hash attack holds without a key where the signature is gone, and never with one."""
    folder = recorded(tmp_path / "store", signing_key=key[0]).folder
    rewrite(folder, status="failed")
    for keys in ([], [key[1]]):
        with pytest.raises(PackError, match="does not hold"):
            open_pack(folder).verify(keys)
    rewrite(folder, signature=None)
    assert open_pack(folder).verify().signature == "none"
    with pytest.raises(PackError, match="not signed"):
        open_pack(folder).verify([key[1]])


def test_a_signature_by_the_attackers_own_key_is_found(tmp_path, key):
    """Signed again with another key a pack holds by itself, and not under the key one trusts."""
    folder = recorded(tmp_path / "store", signing_key=key[0]).folder
    make_key(tmp_path / "attacker")
    forged = load_signer(tmp_path / "attacker", store=tmp_path / "store")
    rewrite(folder, status="failed")
    rewrite(folder, signature=forged.sign(open_pack(folder).digest))
    assert open_pack(folder).verify().signature == "not checked"
    with pytest.raises(PackError, match="another key"):
        open_pack(folder).verify([key[1]])


def test_a_signature_of_something_else_is_none(tmp_path, key):
    """What a key signed for another purpose is no signature of a pack."""
    folder = recorded(tmp_path / "store", signing_key=key[0]).folder
    signer = load_signer(key[0], store=tmp_path / "store")
    digest = open_pack(folder).digest
    rewrite(folder, signature=signer.sign(digest, domain=signing.REDACTION_DOMAIN))
    with pytest.raises(PackError, match="does not hold"):
        open_pack(folder).verify([key[1]])


@pytest.mark.parametrize("field", sorted(signing.FIELDS))
def test_each_field_of_a_signature_counts(tmp_path, key, field):
    """A changed field is found without any key, whatever field it is."""
    folder = recorded(tmp_path / "store", signing_key=key[0]).folder
    signature = dict(open_pack(folder).manifest["signature"])
    old = signature[field]
    signature[field] = ("0" if old[0] != "0" else "1") + old[1:]
    rewrite(folder, signature=signature)
    with pytest.raises(PackError, match="signature"):
        open_pack(folder).verify()


def test_the_key_comes_from_the_environment_too(tmp_path, key, monkeypatch):
    """As a file's name or as the PEM itself."""
    monkeypatch.setenv("TOWERKIT_SIGNING_KEY", str(key[0]))
    assert recorded(tmp_path / "a").verify([key[1]]).signature == "checked"
    monkeypatch.setenv("TOWERKIT_SIGNING_KEY", key[0].read_text())
    assert recorded(tmp_path / "b").verify([key[1]]).signature == "checked"


def test_a_key_file_is_its_owners_and_never_overwritten(tmp_path, key):
    """0600; a second key to the same place is refused."""
    assert stat.S_IMODE(key[0].stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="cannot write a key"):
        make_key(key[0])


def test_a_bad_key_is_one_sentence_when_the_tower_is_made(tmp_path, key):
    """Missing, readable by others, not a key, or inside the store: said at once, not at the end."""
    store = tmp_path / "store"
    with pytest.raises(UsageError, match="cannot read the signing key"):
        make_tower(store, signing_key=tmp_path / "none")
    key[0].chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        make_tower(store, signing_key=key[0])
    key[0].chmod(0o600)
    with pytest.raises(UsageError, match="outside the store"):
        make_tower(tmp_path, signing_key=key[0])
    key[0].write_text("-----BEGIN nothing")
    with pytest.raises(UsageError, match="towerkit pack keygen"):
        make_tower(store, signing_key=key[0])


@pytest.mark.parametrize("text", ["", "ff", "g" * 64, "/nonexistent", "\0"])
def test_a_public_key_that_is_none_is_one_sentence(text):
    """Neither 64 digits nor a file of them."""
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        public_key_of(text)


def test_without_the_library_a_signature_is_one_sentence(tmp_path, key, monkeypatch):
    """Making one names the extra; reading a signed pack says that it was not checked."""
    pack = recorded(tmp_path / "store", signing_key=key[0])
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    assert pack.verify().signature == "not checked"
    with pytest.raises(UsageError, match=r"install towerkit\[sign\]"):
        pack.verify([key[1]])
    with pytest.raises(UsageError, match=r"install towerkit\[sign\]"):
        make_key(tmp_path / "new")


def test_sealing_without_a_key_imports_no_cryptography():
    """The agent's process does not pay for what it does not use."""
    code = "import sys, towerkit; towerkit.Tower(); assert 'cryptography' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
