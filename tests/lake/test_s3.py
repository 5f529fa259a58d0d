"""Packs and lakes on an object store: a local server that speaks S3."""

from __future__ import annotations

import shutil
import threading

import polars as pl
import pytest
from runs import make_runs

from towerkit.core.errors import StoreError
from towerkit.lake import Lake, compact, compact_published, open_store, publish, scan
from towerkit.lake.place import Place
from towerkit.lake.published import published_runs
from towerkit.packs.redaction import Removal, redact
from towerkit.packs.store import Store


@pytest.fixture
def store(six_runs, tmp_path):
    """Return a store of two runs on two days: every request to the server takes its time."""
    every = Store(six_runs).folders()
    for folder in (every[0], every[-1]):
        shutil.copytree(folder, tmp_path / "store" / folder.relative_to(six_runs))
    return Store(tmp_path / "store")


def removal(value="order 7"):
    return Removal(value=value, at_unix_ns=5, salts=lambda n: b"\7" * n)


def test_a_lake_in_a_bucket(store, bucket, monkeypatch):
    """Compaction, idempotence, verification, the scan and dropping, as on a disk."""
    packs = store.packs()
    lake = f"{bucket}/lake"
    assert len(compact(store, lake).added) == 2
    again = compact(store, lake, drop=True)
    assert (again.added, again.already, len(again.dropped)) == ((), 2, 2)
    assert all(Lake(lake).pack(p.run_id).verify() for p in packs)
    monkeypatch.setenv("TOWERKIT_LAKE", lake)
    (fresh,) = make_runs(store.root, 1, first=30)
    spans = scan("spans", store=store).group_by("run_id").len().collect()
    assert sorted(spans["run_id"]) == sorted(p.run_id for p in [*packs, fresh])
    assert len(open_store(store.root).packs()) == 3
    assert pl.read_delta(f"{lake}/runs").height == 2


def test_two_compactions_of_a_bucket_at_once(store, bucket):
    """The log's put-if-absent is the lock there too: every run once."""
    lake, broken = f"{bucket}/lake", []
    barrier = threading.Barrier(2)

    def work():
        barrier.wait()
        try:
            compact(Store(store.root), lake)
        except Exception as error:
            broken.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert broken == []
    assert sorted(pl.read_delta(f"{lake}/runs")["run_id"]) == [
        f.name for f in sorted_by_name(store)
    ]
    assert pl.read_delta(f"{lake}/spans").height == sum(
        p.manifest["tables"]["spans"]["rows"] for p in store.packs()
    )


def sorted_by_name(store):
    return sorted(store.folders(), key=lambda f: f.name)


def test_packs_are_published_whole_and_never_over_another(store, bucket, tmp_path):
    """Again changes nothing; a redacted one takes its own place; another is refused."""
    packs = store.packs()
    done = publish(packs, bucket)
    assert (len(done.published), done.problems) == (2, {})
    assert publish(packs, bucket).already == 2
    place = Place(bucket)
    assert sorted(published_runs(place)) == sorted(p.run_id for p in packs)
    before = len(place.keys("packs"))
    redact(packs[0].folder, removal())
    assert publish(store.packs(), bucket).replaced == (packs[0].run_id,)
    assert len(place.keys("packs")) == before
    assert not any(
        b"order 7" in place.get(k)
        for k in place.keys(f"packs/{packs[0].folder.parent.name}/{packs[0].run_id}")
    )
    shutil.rmtree(store.root)
    other = make_runs(store.root, 1, first=0, said="Something else")[0]
    if other.run_id == packs[0].run_id:
        assert "other content" in publish([other], bucket).problems[str(other.folder)]


def test_published_packs_are_compacted_in_a_bucket(store, bucket):
    """From a bucket into a bucket; afterwards nothing is published and every run verifies."""
    packs = store.packs()
    publish(packs, bucket)
    place, lake = Place(bucket), f"{bucket}/lake"
    key = next(k for k in place.keys("packs") if "costs" in k)
    good = place.get(key)
    place.replace(key, b"PAR1")
    done = compact_published(place, lake, drop=True)
    assert (len(done.added), len(done.dropped), len(done.problems)) == (1, 1, 1)
    place.replace(key, good)
    done = compact_published(place, lake, drop=True)
    assert (len(done.added), done.problems, place.keys("packs")) == (1, {}, [])
    assert all(Lake(lake).pack(p.run_id).verify() for p in packs)


def test_a_bucket_that_is_not_there(store, bucket):
    """One sentence, and no credentials in it."""
    with pytest.raises(StoreError, match=r"cannot .* s3://not-there/lake") as caught:
        compact(store, "s3://not-there/lake")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
