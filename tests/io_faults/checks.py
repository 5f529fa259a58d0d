"""What a store must hold after an agent's I/O failed or its process was killed."""

from __future__ import annotations

from towerkit.packs.store import Store
from towerkit.packs.writer import clean_temporaries
from towerkit.telemetry.recover import recover

ANSWERS = ["hello", {"order": 7}, "It was sent.", "no such order"]


def recovered(folder):
    """Recover the store at `folder` and return its packs, each verified; at most one is there."""
    store = Store(folder)
    problems = [r.problem for r in recover(store, salt_seed=b"s" * 32, durable=False) if r.problem]
    clean_temporaries(folder, older_than_s=-1)
    packs = store.packs()
    for pack in packs:
        pack.verify()
    assert len(packs) <= 1
    assert not list(folder.glob("packs/*/.*"))
    return packs, problems


def check_killed(folder, done):
    """Hold that no pack is torn and every acknowledged span is there, ended as it was."""
    packs, problems = recovered(folder)
    assert all("holds no run" in problem for problem in problems), problems
    assert not list(folder.glob("journal/*"))
    if not done["acked"]:
        return
    (pack,) = packs
    spans = {s["seq"]: s["status"] for s in pack.frame("spans").to_dicts()}
    assert set(done["acked"]) <= set(spans)
    assert "aborted" not in {spans[seq] for seq in done["acked"]}
    counts = pack.manifest["spans"]
    assert counts["started"] == len(spans) == counts["ended"] + counts["aborted"]


def check_failed(folder, done):
    """Hold that the agent noticed nothing, and every span is in pack or journal or counted."""
    assert done["status"] == 0, done
    assert "raised" not in done
    assert done["answers"] == ANSWERS
    told = done["evidence"]
    assert told["started"] == 10 == told["in_pack"] + told["in_journal"] + told["dropped"]
    assert min(told["in_pack"], told["in_journal"], told["dropped"]) >= 0
    if done["pack"] is None or told["dropped"]:
        assert told["problems"], told
    packs, _ = recovered(folder)
    if told["in_pack"] or told["in_journal"]:
        (pack,) = packs
        assert pack.frame("spans").height == told["in_pack"] + told["in_journal"]
        assert done["pack"] in {None, pack.digest}
