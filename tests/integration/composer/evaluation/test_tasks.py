"""lm-evaluation-harness on a pico mix, with a task file and its data in a folder, without a hub."""

import json

import pico
import pytest
import torch

from composer.composition import compose
from composer.errors import MissingExtraError, RecipeError
from composer.evaluation.evaluate import evaluate
from composer.evaluation.harness import evaluate_tasks
from composer.mix.opening import open_mix
from composer.mix.recipe import Recipe, Training
from registry.catalog import queries
from registry.intake.intake import add_seed, contribute
from ui.cli import main

TASK = """\
task: which_word
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: " "
metric_list:
  - metric: acc
"""
EXAMPLES = [
    {"question": "def return import", "choices": ["class", "butter"], "answer": 0},
    {"question": "flour oven garlic", "choices": ["yield", "onion"], "answer": 1},
    {"question": "theorem proof", "choices": ["lemma", "whisk"], "answer": 0},
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with one task."""
    evaluator = pytest.importorskip("lm_eval.evaluator", reason="the extra eval is not installed")
    # Several processes per model that list the machine's compilers and packages, which nothing here reads.
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)
    # The index of the harness's own tasks: a task of the user's folder must run without it.
    monkeypatch.delattr(evaluator, "TaskManager")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = folder / "words.jsonl"
    data.write_text("\n".join(map(json.dumps, EXAMPLES)))
    (folder / "words.yaml").write_text(TASK.format(data=data))
    return folder


@pytest.fixture
def mix(registry, pico_seed, tmp_path):
    """A mix of two experts that is not evaluated yet."""
    add_seed(registry, "pico", pico_seed, license="MIT")
    for number, name in enumerate(("code", "cooking"), 1):
        expert = pico.branch_pico(pico_seed, tmp_path / name, seed=number)
        data = pico.write_documents(tmp_path / f"{name}.jsonl", name)
        contribute(registry, name, expert, seed="pico", license="MIT", data=[data])
    experts, training = ["code", "cooking"], Training(tokens=0)
    recipe = Recipe(name="pair", seed="pico", experts=experts, trunk_merge="regmean", training=training)
    return compose(registry, recipe).manifest


def likeliest(registry, manifest):
    """Share of the examples whose correct choice has the highest likelihood after the question, computed directly."""
    opened = open_mix(registry, manifest)
    right = 0
    for example in EXAMPLES:
        scores = []
        for choice in example["choices"]:
            context = opened.tokenizer(example["question"])["input_ids"]
            ids = torch.tensor([opened.tokenizer(f"{example['question']} {choice}")["input_ids"]])
            with torch.inference_mode():
                logits = opened.model(ids).logits.log_softmax(-1)
            steps = range(len(context), ids.shape[1])
            scores.append(sum(logits[0, i - 1, ids[0, i]].item() for i in steps))
        right += scores.index(max(scores)) == example["answer"]
    return right / len(EXAMPLES)


def test_a_users_task_runs_on_every_model_and_is_recorded_with_bits_per_byte(registry, mix, folder):
    result = evaluate_tasks(registry, "pair", ["which_word"], task_path=folder)
    run = result["tasks"]["which_word"]
    assert list(run["metrics"]) == ["seed", "code@1", "cooking@1", "dense_merging", "mix"]
    assert run["limit"] is None
    assert run["metrics"]["mix"]["acc"] == pytest.approx(likeliest(registry, mix))
    assert queries.get_mix(registry, "pair").evaluation == result
    assert result["bits_per_byte"]["code"].keys() >= {"seed", "expert", "mix"}
    again = evaluate(registry, "pair", max_bytes=500)
    assert "tasks" not in again
    assert queries.get_mix(registry, "pair").evaluation == {**again, "tasks": result["tasks"]}


def test_the_command_shows_a_row_for_each_metric_and_a_column_for_each_model(
    registry, mix, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("NEXUSMIX_EMBEDDER", "hashing:16")
    options = ["--tasks", "which_word", "--task-path", str(folder), "--limit", "2", "--against", "pair"]
    assert main(["--home", str(tmp_path / "home"), "evaluate", "pair", *options]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == [
        "Task",
        "Metric",
        "seed",
        "code@1",
        "cooking@1",
        "dense",
        "merging",
        "mix",
        "pair@1",  # as in bits per byte: later, a name alone could mean another version
    ]
    row = next(line for line in printed if line.startswith("which_word")).split()
    assert row[1] == "acc"
    assert row[-1] == row[-2]


def test_an_unknown_task_is_named_before_any_model_is_opened(registry, mix, folder):
    with pytest.raises(RecipeError, match=r"unknown task: which_words; .*--task-path"):
        evaluate_tasks(registry, "pair", ["which_words"], task_path=folder)


def test_data_that_cannot_be_had_is_an_error_that_names_the_task(registry, mix, folder):
    (folder / "words.jsonl").unlink()
    with pytest.raises(RecipeError, match="the data of which_word cannot be loaded"):
        evaluate_tasks(registry, "pair", ["which_word"], task_path=folder)


def test_without_the_extra_the_error_says_what_to_install(registry, monkeypatch):
    monkeypatch.setattr("composer.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nexusmix\[eval\]'"):
        evaluate_tasks(registry, "pair", ["arc_easy"])
