"""lm-evaluation-harness on a pico mix, with a task file and its data in a folder, without a hub."""

import json
import shutil

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
ASK = """\
task: a_word
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 4
metric_list:
  - metric: exact_match
"""
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
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
    (folder / "word.yaml").write_text(ASK.format(data=data))
    return folder


@pytest.fixture
def mix(registry, pico_seed, tmp_path):
    """A mix of two experts that is not evaluated yet."""
    return mix_of(registry, pico_seed, tmp_path)


def mix_of(registry, seed, tmp_path):
    """Compose two noisy copies of a seed, and return the manifest."""
    add_seed(registry, "pico", seed, license="MIT")
    for number, name in enumerate(("code", "cooking"), 1):
        expert = pico.branch_pico(seed, tmp_path / name, seed=number)
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


@pytest.mark.parametrize("chat", [True, False])
def test_generation_tasks_ask_in_the_mixs_chat_template_and_other_tasks_in_plain_text(
    chat, registry, pico_seed, folder, tmp_path, monkeypatch
):
    from lm_eval.models.huggingface import HFLM

    seed = shutil.copytree(pico_seed, tmp_path / "seed")
    (seed / "chat_template.jinja").write_text(TEMPLATE)
    manifest = mix_of(registry, seed, tmp_path)
    asked, generate_until = [], HFLM.generate_until

    def spy(model, requests, **options):
        asked.extend((each.args[0], model.eot_token_id) for each in requests)
        return generate_until(model, requests, **options)

    monkeypatch.setattr(HFLM, "generate_until", spy)
    tasks = evaluate_tasks(registry, "pair", ["a_word", "which_word"], task_path=folder, chat=chat)["tasks"]
    question = EXAMPLES[0]["question"]
    expected = f"[user] {question}</s>[assistant] " if chat else question
    assert len(asked) == 5 * len(EXAMPLES) and asked[0] == (expected, 1)
    assert tasks["a_word"]["chat_template"] == ("seed pico" if chat else None)
    assert tasks["a_word"]["metrics"]["mix"]["exact_match"] == 0
    assert tasks["which_word"]["chat_template"] is None
    assert tasks["which_word"]["metrics"]["mix"]["acc"] == pytest.approx(likeliest(registry, manifest))


def test_a_mix_without_a_chat_template_generates_from_plain_text(registry, mix, folder):
    tasks = evaluate_tasks(registry, "pair", ["a_word"], task_path=folder)["tasks"]
    assert tasks["a_word"]["chat_template"] is None


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
