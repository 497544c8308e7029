"""A registry whose blobs are in S3, on a server of its protocol on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pico
import pytest

from registry.catalog import queries
from registry.catalog.gc import collect
from registry.errors import ConflictError, IntegrityError, StorageError
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute

AT_ONCE = timedelta(days=-1)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A new bucket, which the environment's store URL names; and its client."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="models")
    monkeypatch.setenv("NEXUSMIX_STORE_URL", "s3://models/blobs")
    yield client
    boto3.resource("s3", endpoint_url=s3).Bucket("models").objects.all().delete()
    client.delete_bucket(Bucket="models")


def test_an_expert_is_contributed_read_elsewhere_verified_and_collected(
    bucket: Any, pico_seed: Path, pico_expert: Path, tmp_path: Path
) -> None:
    data = [pico.write_documents(tmp_path / "code.jsonl", "code")]
    with open_registry(tmp_path / "home", embedder="hashing:16") as registry:
        add_seed(registry, "pico", pico_seed, license="Apache-2.0")
        expert = contribute(registry, "code", pico_expert, seed="pico", license="MIT", data=data)
        garbage = registry.blobs.put_bytes(b"garbage")
        keys = [each["Key"] for each in bucket.list_objects_v2(Bucket="models")["Contents"]]
        assert f"blobs/sha256/{expert.ffn[7:9]}/{expert.ffn[7:]}" in keys
        shutil.rmtree(tmp_path / "home" / "cache")
        assert queries.verify(registry) == []
        assert collect(registry, dry_run=True).blobs == ()
        assert collect(registry, grace=AT_ONCE).blobs == (garbage,)
        assert registry.blobs.exists(expert.ffn) and not registry.blobs.exists(garbage)

        name = f"blobs/sha256/{expert.ffn[7:9]}/{expert.ffn[7:]}"
        bucket.put_object(Bucket="models", Key=name, Body=b"damaged")
        shutil.rmtree(tmp_path / "home" / "cache")
        with pytest.raises(IntegrityError):
            registry.blobs.path(expert.ffn)
        assert [problem.digest for problem in queries.verify(registry)] == [expert.ffn]


def test_another_empty_database_does_not_collect_the_bucket(bucket: Any, tmp_path: Path) -> None:
    with open_registry(tmp_path / "home") as registry:
        digest = registry.blobs.put_bytes(b"needed by nobody else")
    with open_registry(tmp_path / "other") as stranger:
        with pytest.raises(ConflictError, match="also keeps blobs of another database"):
            collect(stranger, grace=AT_ONCE)
        assert stranger.blobs.exists(digest)


def test_a_bucket_that_does_not_exist_is_a_storage_error(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXUSMIX_STORE_URL", "s3://absent/blobs")
    monkeypatch.setattr("registry.remote_blobs.FIRST_WAIT_SECONDS", 0.0)
    with open_registry(tmp_path / "home") as registry, pytest.raises(StorageError, match="absent"):
        registry.blobs.put_bytes(b"lost")
