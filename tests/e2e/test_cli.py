"""The command line in a shell: from a checkpoint to a mix, and every type of refusal."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pico
import pytest

from registry.home import open_registry

if TYPE_CHECKING:
    from conftest import Shell


def test_a_seed_and_an_expert_go_in_and_are_found_again(
    shell: Shell, pico_seed: Path, pico_expert: Path, tmp_path: Path
) -> None:
    seed = shell.json("seed", "add", "pico", pico_seed, "--license", "Apache-2.0", "--description", "Tiny.")
    assert (seed["seed"], seed["license"], seed["model_type"]) == ("pico", "Apache-2.0", "llama")
    assert [row["seed"] for row in shell.json("seed", "list")] == ["pico"]
    assert shell.json("seed", "show", "pico") == seed

    text = pico.write_documents(tmp_path / "code.jsonl", "code")
    expert = shell.json(
        "contribute", "code", pico_expert, "--seed", "pico", "--license", "MIT", "--data", text
    )
    assert expert["expert"] == "code@1"
    assert (expert["seed"], expert["license"], expert["anchored"]) == ("pico", "MIT", False)
    assert expert["ffn"].startswith("sha256:") and expert["trunk"] != seed["trunk"]
    assert shell.json("show", "code") == {**expert, "mixes": [], "readme": ""}
    assert shell.json("verify", "code@1") == {"ok": True, "problems": []}


def test_contributing_again_makes_the_next_version_and_an_equal_trunk_is_anchored(
    stocked: Shell, pico_anchored: Path, tmp_path: Path
) -> None:
    text = pico.write_documents(tmp_path / "math.jsonl", "math")
    arguments = ("contribute", "math", pico_anchored, "--seed", "pico", "--license", "MIT", "--data", text)
    assert [stocked.json(*arguments)["expert"] for _ in range(2)] == ["math@1", "math@2"]
    math = stocked.json("show", "math")
    assert math["anchored"] is True
    assert math["trunk"] == stocked.json("seed", "show", "pico")["trunk"]


def test_search_puts_the_expert_of_the_same_words_first(stocked: Shell, tmp_path: Path) -> None:
    hits = stocked.json("search", "plaintiff court statute")
    assert hits[0]["expert"] == "law@1"
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    sample = pico.write_documents(tmp_path / "sample.jsonl", "cooking", seed=9)
    (nearest,) = stocked.json("search", "--like", sample, "--limit", 1)
    assert nearest["expert"] == "cooking@1"


def test_tables_go_to_standard_output_and_messages_to_standard_error(stocked: Shell) -> None:
    listed = stocked.cold.run("list")
    assert listed.returncode == 0
    assert "law@1" in listed.stdout and "Speaks law." in listed.stdout
    assert listed.stderr == ""
    part = stocked.run("list", "--limit", 1)
    assert "code@1" in part.stdout and part.stderr.startswith("1 of ")
    following = stocked.run("list", "--limit", 1, "--cursor", part.stderr.split()[-1])
    assert "code@1" not in following.stdout and "cooking@1" in following.stdout
    shown = stocked.run("verify", "law")
    assert shown.stdout == ""
    assert "every blob of law matches its digest" in shown.stderr


def test_private_text_stays_at_home_and_its_embedding_is_enough(
    stocked: Shell, pico_expert: Path, tmp_path: Path
) -> None:
    text = pico.write_documents(tmp_path / "private.jsonl", "math")
    file = tmp_path / "private.json"
    embedded = stocked.json("embed", text, "--out", file)
    assert embedded["chunks"] > 0 and "theorem" not in file.read_text()
    expert = stocked.json(
        "contribute", "private", pico_expert, "--seed", "pico", "--license", "MIT", "--embedding", file
    )
    assert expert["sample"] is None and expert["held_out"] is None
    assert expert["sample_sha256"] == embedded["sample_sha256"]
    assert embedded["token_profile"] is None
    unknown = stocked.run("embed", text, "--seed", "nobody", "--out", tmp_path / "no.json")
    assert unknown.returncode == 3 and not (tmp_path / "no.json").exists()
    assert stocked.json("embed", text, "--seed", "pico", "--out", file)["token_profile"] == "pico"
    assert "theorem" not in file.read_text()


def test_a_mix_is_composed_extended_evaluated_run_and_reduced(stocked: Shell) -> None:
    options = ("--seed", "pico", "--experts", "code,law", "--tokens", "1k", "--no-warm-start")
    composed = stocked.run("compose", "team", *options, "--preset", "merged", "--json")
    assert composed.stderr.startswith("memory of the fine-tune: about "), composed.stderr
    mix = json.loads(composed.stdout)
    assert (mix["mix"], mix["parent"], mix["experts"]) == ("team@1", None, ["code@1", "law@1"])
    assert mix["lock"].startswith("sha256:") and mix["bytes_written"] > 0

    refused = stocked.run("extend", "team", "cooking", "--train", "magic")
    assert refused.returncode != 0 and "train: Input should be 'router'" in refused.stderr
    how = ("--tokens", "1k", "--train", "trunk", "--freeze-router", "--learning-rate", 1e-4)
    done = stocked.run("extend", "team", "cooking", *how, "--no-warm-start", "--json")
    assert done.stderr.startswith("memory of the fine-tune: about "), done.stderr
    extended = json.loads(done.stdout)
    assert (extended["mix"], extended["parent"]) == ("team@2", "team@1")
    assert extended["training"]["tokens"] == 1000
    blobs = open_registry(stocked.home).blobs
    lock = json.loads(blobs.read_bytes(extended["lock"]))["settings"]["training"]
    assert (lock["train"], lock["train_router"], lock["learning_rate"]) == ("trunk", False, 1e-4)

    measured = stocked.json("evaluate", "team", "--against", "team@1", "--max-bytes", 500)
    assert set(measured["bits_per_byte"]) == {"code", "law", "cooking"}
    assert {"seed", "expert", "mix", "team@1"} <= set(measured["bits_per_byte"]["law"])
    assert sum(measured["routing"]["law"].values()) == pytest.approx(1)

    said = stocked.json("generate", "team", "the", "--max-new-tokens", 3, "--temperature", 0)
    assert len(said["tokens"]) <= 3

    reduced = stocked.json("remove", "team", "law")
    assert (reduced["mix"], reduced["experts"]) == ("team@3", ["code@1", "cooking@1"])
    assert [row["mix"] for row in stocked.json("mixes")] == ["team@1", "team@2", "team@3"]
    assert stocked.json("mixes", "team@2")["evaluation"] == measured


def test_a_withdrawn_expert_leaves_the_list_with_its_reason_on_record(copied: Shell) -> None:
    copied.json("withdraw", "code", "--reason", "asked by its author")
    assert [row["expert"] for row in copied.json("list")] == ["cooking@1", "law@1"]
    (row,) = [row for row in copied.json("list", "--withdrawn") if row["expert"] == "code@1"]
    assert row["withdrawn"] == "asked by its author"
    assert copied.run("withdraw", "code@1", "--reason", "again").returncode == 5


def test_a_mix_of_a_withdrawn_expert_warns_and_of_a_purged_one_refuses_until_it_is_composed_without(
    copied: Shell, tmp_path: Path
) -> None:
    options = ("--seed", "pico", "--experts", "code,law", "--tokens", "0", "--no-warm-start")
    copied.json("compose", "team", *options, "--preset", "merged")
    copied.json("withdraw", "law", "--reason", "asked by its author")
    generate = ("generate", "team", "the", "--max-new-tokens", "1")
    said = copied.run(*generate)
    assert said.returncode == 0 and "team@1 contains law@1, withdrawn" in said.stderr
    assert "law@1, withdrawn" in copied.run("show", "team").stdout
    assert copied.json("show", "law@1")["mixes"] == ["team@1"]
    assert copied.json("purge", "law@1")["mixes"] == ["team@1"]
    assert copied.json("gc", "--grace", "0")["bytes"] > 0
    for refused in (generate, ("export", "team", tmp_path / "out"), ("extend", "team", "cooking")):
        done = copied.run(*refused)
        assert (done.returncode, "nexusmix remove" in done.stderr) == (4, True), done.stderr
    assert copied.json("remove", "team", "law")["experts"] == ["code@1"]
    assert copied.run(*generate).returncode == 0
    assert copied.json("verify")["ok"] is True


@pytest.mark.parametrize(
    ("code", "arguments", "said"),
    [
        (2, ("contribute", "new"), "Missing argument 'PATH'"),
        (2, ("search",), "either TEXT or --like"),
        (2, ("compose", "team", "--seed", "pico"), "--experts"),
        (2, ("compose", "team", "--seed", "pico", "--experts", "code", "--router", "magic"), "router"),
        (2, ("show", "not/a/name"), "name"),
        (3, ("show", "nobody"), "no expert 'nobody'"),
        (3, ("seed", "show", "nobody"), "no seed 'nobody'"),
        (3, ("compose", "team", "--seed", "pico", "--experts", "code,nobody"), "nobody"),
        (3, ("search", "--like", "/no/such/file"), "/no/such/file"),
        (3, ("verify", "nobody"), "nobody"),
        (3, ("evaluate", "nobody"), "nobody"),
    ],
)
def test_a_refusal_is_one_line_with_the_exit_code_of_its_kind(
    stocked: Shell, code: int, arguments: tuple[str, ...], said: str
) -> None:
    done = stocked.run(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and said in line


def test_a_taken_name_is_a_conflict(stocked: Shell, pico_seed: Path) -> None:
    done = stocked.run("seed", "add", "pico", pico_seed, "--license", "MIT")
    assert done.returncode == 5
    assert "'pico' already exists" in done.stderr


def test_an_expert_of_another_shape_is_incompatible_and_publishes_nothing(
    stocked: Shell, tmp_path: Path
) -> None:
    stranger = pico.write_pico(tmp_path / "stranger", hidden_size=64)
    text = pico.write_documents(tmp_path / "math.jsonl", "math")
    done = stocked.run(
        "contribute", "stranger", stranger, "--seed", "pico", "--license", "MIT", "--data", text
    )
    assert done.returncode == 4
    assert "hidden_size" in done.stderr and "Traceback" not in done.stderr
    assert stocked.run("show", "stranger").returncode == 3


def test_a_pickle_in_disguise_is_refused_before_it_is_read(
    stocked: Shell, pico_expert: Path, tmp_path: Path
) -> None:
    import pickle
    import shutil

    folder = Path(shutil.copytree(pico_expert, tmp_path / "disguised"))
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weights": [1.0] * 1000}))
    text = pico.write_documents(tmp_path / "math.jsonl", "math")
    done = stocked.run(
        "contribute", "disguised", folder, "--seed", "pico", "--license", "MIT", "--data", text
    )
    assert done.returncode == 4
    assert "model.safetensors" in done.stderr


def test_verify_finds_one_flipped_byte(copied: Shell) -> None:
    digest = copied.json("seed", "show", "pico")["ffn"].removeprefix("sha256:")
    path = copied.home / "blobs" / "sha256" / digest[:2] / digest
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = copied.run("verify")
    assert done.returncode == 4
    assert "seed pico" in done.stdout and digest in done.stdout


def test_debug_adds_the_traceback_and_version_says_which_one(stocked: Shell) -> None:
    done = stocked.cold.run("--debug", "show", "nobody")
    assert done.returncode == 3
    assert done.stderr.startswith("Traceback") and "NotFoundError" in done.stderr
    assert stocked.cold.run("--version").stdout.startswith("nexusmix ")


def test_garbage_collection_keeps_all_that_is_referred_to(stocked: Shell) -> None:
    assert stocked.json("gc", "--dry-run", "--grace", 0)["dry_run"] is True
    stocked.json("gc", "--grace", 0)
    assert stocked.json("verify")["ok"] is True


def test_the_doctor_finds_a_healthy_registry_healthy(stocked: Shell) -> None:
    found = stocked.json("doctor")
    checks = {check["check"]: check for check in found["checks"]}
    assert found["ok"] is True
    assert {"versions", "threads", "database", "blob store", "disk space", "embedder"} <= set(checks)
    assert "1 seed" in checks["database"]["detail"]


def test_the_doctor_names_what_is_wrong(shell: Shell) -> None:
    shell.home.mkdir()
    (shell.home / "config.toml").write_text("embeder = 'typo'\n")
    done = shell.run("doctor", "--json")
    assert done.returncode == 1
    assert "embeder" in done.stdout


def test_a_reader_that_had_enough_is_no_error(stocked: Shell) -> None:
    process = stocked.start("list", "--json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()


def test_an_interrupt_ends_a_composition_cleanly(stocked: Shell) -> None:
    process = stocked.start(
        "compose",
        "endless",
        *("--seed", "pico", "--experts", "code,law", "--tokens", "500M", "--preset", "merged"),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("merging"):
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 130
    assert rest.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in rest
    assert stocked.run("mixes", "endless").returncode == 3


def test_whole_experts_are_the_default_from_composing_to_the_export(stocked: Shell, tmp_path: Path) -> None:
    mix = stocked.json("compose", "whole", "--seed", "pico", "--experts", "code,law")
    assert mix["training"].keys() == {"strengths"}
    refused = stocked.run("extend", "whole", "cooking", "--tokens", "1k", "--train", "ffn")
    assert refused.returncode != 0 and "leave out train, or choose" in " ".join(refused.stderr.split())
    assert stocked.json("extend", "whole", "cooking", "--queue")["state"] == "queued"
    extended = stocked.json("extend", "whole", "cooking")
    assert (extended["mix"], extended["parent"]) == ("whole@2", "whole@1")
    measured = stocked.json("evaluate", "whole", "--max-bytes", 500)
    assert {"seed", "expert", "btm", "mix"} <= set(measured["bits_per_byte"]["law"])
    refused = stocked.run("export", "whole", tmp_path / "stock", "--format", "qwen2_moe")
    assert refused.returncode != 0 and "use --format nexus" in refused.stderr
    stocked.run("export", "whole", tmp_path / "out", "--format", "nexus")
    assert (tmp_path / "out" / "modeling_nexus.py").exists()


def test_a_mix_is_shown_with_its_bill_of_materials(stocked: Shell) -> None:
    pytest.importorskip("cyclonedx", reason="the extra `bom` is not installed")
    options = ("--seed", "pico", "--experts", "code,law", "--tokens", "0", "--no-warm-start")
    stocked.json("compose", "listed", *options, "--preset", "merged")
    shown = stocked.json("show", "listed")
    assert (shown["mix"], shown["experts"]) == ("listed@1", ["code@1", "law@1"])
    assert "not measured: run the command evaluate" in stocked.run("show", "listed").stdout
    document = json.loads(stocked.run("show", "listed", "--bom", "cyclonedx").stdout)
    assert document["bomFormat"] == "CycloneDX" and document["metadata"]["component"]["name"] == "listed"
    refused = stocked.run("show", "listed", "--bom", "spdx")
    assert refused.returncode == 2 and "expected cyclonedx" in refused.stderr
    assert stocked.run("show", "nothing").returncode == 3


def test_a_signed_folder_is_verified_without_a_registry(shell: Shell, tmp_path: Path) -> None:
    pytest.importorskip(
        "model_signing.signing", reason="the extra `sign` is not installed", exc_type=ImportError
    )
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    cipher = form.BestAvailableEncryption(b"secret")
    pem, kind = form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    key, public, password = tmp_path / "key.pem", tmp_path / "key.pub", tmp_path / "password"
    key.write_bytes(private.private_bytes(pem, form.PrivateFormat.PKCS8, cipher))
    public.write_bytes(private.public_key().public_bytes(pem, kind))
    password.write_text("secret\n")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")

    assert shell.run("sign", folder, "--key", key).returncode == 2
    signed = shell.json("sign", folder, "--key", key, "--password-file", password)
    assert signed["signature"] == str(folder / "model.sig")
    assert shell.json("verify", folder, "--key", public) == {"ok": True, "problems": []}
    assert shell.run("verify", "--key", public).returncode == 2
    (folder / "config.json").write_text("{ }")
    refused = shell.run("verify", folder, "--key", public)
    assert refused.returncode == 4 and "config.json" in refused.stderr
    assert not shell.home.exists()
