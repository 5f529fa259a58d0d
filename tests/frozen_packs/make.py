"""Make the frozen packs of the current format version: `python tests/frozen_packs/make.py`.

They are a store, `v<format>/`, and `v<format>/expected.json`, which says what was true of each pack
when it was made. A folder that is there is never written again: its packs were released, and a
change that cannot read them breaks somebody's evidence. A new format version gets a new folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.frozen_packs.agents_v1 import RUNS
from towerkit.packs.admissible import reasons
from towerkit.packs.reader import Pack, open_pack
from towerkit.packs.signing import make_key, public_key_of
from towerkit.packs.tables import FORMAT_VERSION, PACK_TABLES

HERE = Path(__file__).resolve().parent


def said_of(pack: Pack, keys: list[bytes], *, replays: bool) -> dict[str, Any]:
    """Return what must stay true of a pack for as long as it can be read."""
    signed = keys if pack.manifest.get("signature") else []
    verified = pack.verify(signed, allow_unsigned_redactions=True)
    return {
        "run_id": pack.run_id,
        "root": pack.digest,
        "status": pack.manifest["status"],
        "signature": verified.signature,
        "redaction": verified.redaction,
        "redacted": [[r.table, r.row] for r in verified.redacted],
        "broken_rules": [reason.partition(":")[0] for reason in reasons(pack)],
        "replays": replays,
        "files": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(pack.folder.iterdir())
        },
        "values": {name: values_digest(pack, name) for name in PACK_TABLES},
    }


def values_digest(pack: Pack, name: str) -> str:
    """Return a digest over every value of a table, by nothing that towerkit computes."""
    rows = [[[c, repr(v)] for c, v in row.items()] for row in pack.frame(name).to_dicts()]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def main() -> int:
    """Make them, or refuse."""
    target = HERE / f"v{FORMAT_VERSION}"
    if target.exists():
        print(f"{target.name} is there: its packs were released and stay as they are; raise "
              "FORMAT_VERSION to make others", file=sys.stderr)  # fmt: skip
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        key, store = Path(scratch) / "key", Path(scratch) / "store"
        public = make_key(key)  # the private key goes when the packs are made
        folders = {name: how(store, key) for name, (how, _) in RUNS.items()}
        (store / "journal").rmdir()
        packs = {
            name: said_of(open_pack(f), [public_key_of(public)], replays=RUNS[name][1] is not None)
            for name, f in folders.items()
        }
        text = json.dumps({"public_key": public, "packs": packs}, indent=1, sort_keys=True)
        (store / "expected.json").write_text(text + "\n")
        shutil.copytree(store, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
