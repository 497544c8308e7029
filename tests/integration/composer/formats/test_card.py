"""The model card of an export: complete, readable by the Hub's own library, and its snippet runs."""

import re
import subprocess
import sys

import pico
import pytest

from composer.composition import compose
from composer.evaluation.evaluate import evaluate
from composer.formats import export
from composer.mix.opening import find_mix
from composer.mix.recipe import Recipe, Training
from registry.catalog import queries
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A registry with the evaluated mix `team`."""
    root = tmp_path_factory.mktemp("carded")
    registry = open_registry(root / "home", embedder="hashing:16")
    add_seed(registry, "pico", pico.write_pico(root / "seed"), license="Apache-2.0")
    mix_of_noise(registry, root)
    evaluate(registry, "team", max_bytes=2000)
    return registry


def mix_of_noise(registry, root):
    """Compose the mix `team` of two noisy copies of the seed."""
    for number, name in enumerate(("code", "math"), 1):
        folder = pico.branch_pico(root / "seed", root / name, seed=number, scale=0.1)
        data = pico.write_documents(root / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    training = Training(warm_start=False, tokens=0)
    compose(
        registry,
        Recipe(name="team", seed="pico", experts=["code", "math"], training=training, trunk_merge="mean"),
    )


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    """A registry with the mix `team`, whose seed has a chat template."""
    root = tmp_path_factory.mktemp("chatting")
    registry = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed")
    (seed / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    )
    add_seed(registry, "pico", seed, license="Apache-2.0")
    mix_of_noise(registry, root)
    return registry


@pytest.fixture(scope="module")
def exported(evaluated, tmp_path_factory):
    """The mix in the format nexus."""
    folder = tmp_path_factory.mktemp("exports") / "out"
    export(evaluated, "team", folder)
    return folder


def test_a_card_gives_the_digest_of_every_part_of_the_mix(evaluated, exported):
    card = (exported / "README.md").read_text()
    record, manifest = find_mix(evaluated, "team")
    digests = [record.manifest, record.lock, manifest.router]
    digests += [manifest.seed.ffn, manifest.seed.trunk]
    for member in manifest.members:
        digests += [member.expert.ffn, member.expert.trunk, member.expert.sample]
    for digest in digests:
        assert f"| {digest.removeprefix('sha256:')} |" in card


def test_the_hubs_own_library_reads_the_measurements_in_the_front_matter(evaluated, exported):
    from huggingface_hub import ModelCard

    data = ModelCard.load(exported / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "other",
        "transformers",
        "text-generation",
    )
    assert data.license_name == find_mix(evaluated, "team")[1].license
    scores = queries.get_mix(evaluated, "team").evaluation["bits_per_byte"]
    found = {result.dataset_name: result.metric_value for result in data.eval_results}
    assert found == {domain: round(row["mix"], 4) for domain, row in scores.items()}


def test_a_card_says_how_much_of_its_experts_gain_the_mix_keeps(evaluated, tmp_path):
    scores = {"seed": 3.0, "expert": 2.0, "mix": 2.25}
    earlier = queries.get_mix(evaluated, "team").evaluation
    changed = {**earlier, "bits_per_byte": {"code": scores, "math": scores}, "mean": scores}
    queries.record_evaluation(evaluated, "team", changed)
    export(evaluated, "team", tmp_path / "out")
    queries.record_evaluation(evaluated, "team", earlier)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "keeps 75% of its experts' gain over the seed" in card and "![Share of each" in card


def test_a_card_lists_the_scores_of_tasks(evaluated, tmp_path):
    earlier = queries.get_mix(evaluated, "team").evaluation
    metrics = {"seed": {"acc": 0.25, "acc_stderr": 0.1}, "mix": {"acc": 0.5, "acc_stderr": 0.1}}
    queries.record_evaluation(
        evaluated, "team", {**earlier, "tasks": {"arc_easy": {"limit": None, "metrics": metrics}}}
    )
    export(evaluated, "team", tmp_path / "out")
    queries.record_evaluation(evaluated, "team", earlier)
    card = (tmp_path / "out" / "README.md").read_text()
    assert r"| arc\_easy | acc | 0.2500 | 0.5000 |" in card and "stderr" not in card


def python_of(folder):
    """The Python of a card, with the folder's path in it."""
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return [snippet.replace("path/to/this/folder", str(folder)) for snippet in snippets]


@pytest.mark.parametrize("format", ["nexus", "qwen2_moe"])
def test_the_python_of_a_card_generates_text_and_a_reply(chatting, tmp_path, format):
    export(chatting, "team", tmp_path / "out", format=format)
    completion, chat = python_of(tmp_path / "out")
    script = completion + "print('=====')\n" + chat
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text, reply = done.stdout.split("=====\n")
    assert text.strip() and "user: What is a matrix?" in reply


@pytest.mark.parametrize("format", ["nexus", "qwen2_moe", "gguf"])
def test_a_card_without_a_chat_template_explains_no_chat(evaluated, tmp_path, format):
    export(evaluated, "team", tmp_path / "out", format=format)
    assert "### Chat" not in (tmp_path / "out" / "README.md").read_text()


def test_the_card_of_a_gguf_file_explains_its_chat_template(chatting, tmp_path):
    export(chatting, "team", tmp_path / "out", format="gguf")
    assert "create_chat_completion" in python_of(tmp_path / "out")[1]
