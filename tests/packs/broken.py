"""Packs whose digests hold and which break one rule of admissibility each, and no other."""

from __future__ import annotations

import copy
from collections.abc import Callable

import msgspec

from towerkit.packs.store import Store
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.writer import Draft


class Open:
    """A pack's manifest and rows, to be changed and sealed again with digests that hold."""

    def __init__(self, pack):
        head = {k: v for k, v in pack.manifest.items() if k not in {"format", "tables", "root"}}
        self.manifest = copy.deepcopy(head)
        self.rows = {n: pack.frame(n).drop("salt").to_dicts() for n in PACK_TABLES}

    def first(self, kind, **where):
        """Return the first span of a kind."""
        return next(
            s for s in self.rows["spans"]
            if s["kind"] == kind and all(s[k] == v for k, v in where.items())
        )  # fmt: skip

    def sealed(self, folder):
        """Return the pack as it is now, in the store `folder`."""
        rows = {n: [PACK_TABLES[n].make(**row) for row in found] for n, found in self.rows.items()}
        draft = Draft(manifest=self.manifest, salt_seed=b"s", **rows)
        return Store(folder).commit(draft, durable=False)


def ended(p):
    p.manifest["status"] = p.first("run")["status"] = "aborted"
    p.manifest["spans"] |= {"ended": p.manifest["spans"]["ended"] - 1, "aborted": 1}


def counted(p):
    p.manifest["spans"] |= {"started": p.manifest["spans"]["started"] + 1, "dropped": 1}


def one_run(p):
    p.rows["costs"][0]["run_id"] = "01900000-0000-7000-8000-000000000001"


def numbered(p):
    p.rows["inputs"][-1]["seq"] += 1


def tree(p):
    call = p.first("call")
    call["parent_span_id"] = call["span_id"]


def referred(p):
    last = p.rows["costs"][-1]
    p.rows["costs"].append(last | {"span_id": "f" * 16, "seq": last["seq"] + 1})


def taped(p):
    row = next(r for r in p.rows["inputs"] if r["kind"] == "model" and r["response_digest"])
    row["response_digest"] = row["request_digest"]


def accounted(p):
    p.first("attempt", status="ok")["attempt"] += 1


def tokens(p):
    p.rows["costs"][-1]["input_tokens"] += 1


def inside(p):
    p.first("attempt", status="ok")["duration_ns"] += 1


def covered(p):
    p.manifest["duration_ns"] += p.manifest["duration_ns"] + 2 * 10**9


def ends(p):
    p.first("step")["error_class"] = "overloaded"


def content(p):
    request = p.first("attempt", gen_ai_operation_name="chat")["request_digest"]
    body = next(c["body"] for c in p.rows["content"] if c["digest"] == request)
    message = msgspec.json.decode(body)["messages"][0]
    p.rows["content"] = [c for c in p.rows["content"] if c["digest"] != message]


BREAKS: dict[str, Callable[[Open], None]] = {
    f.__name__: f
    for f in (ended, counted, one_run, numbered, tree, referred, taped, accounted, tokens, inside,
              covered, ends, content)
}  # fmt: skip
