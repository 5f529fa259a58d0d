"""Runs that several tests copy, and a local server that speaks S3."""

from __future__ import annotations

import shutil

import pytest
from runs import make_runs


@pytest.fixture(scope="session")
def six_runs(tmp_path_factory):
    """Return a store of six runs on two days, to be copied."""
    root = tmp_path_factory.mktemp("six")
    make_runs(root, 6)
    return root


@pytest.fixture
def store(six_runs, tmp_path):
    """Return a store of six runs of the test's own."""
    from towerkit.packs.store import Store

    shutil.copytree(six_runs / "packs", tmp_path / "store" / "packs")
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def s3_server():
    """Return the URL of moto's server, on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch, request):
    """Return the URL of an empty bucket, and the environment that leads there."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server, "AWS_ALLOW_HTTP": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    name = f"bucket-{abs(hash(request.node.nodeid)):x}"
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}/some/prefix"
