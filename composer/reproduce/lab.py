"""The first phase: the seed, one expert for each domain, and the text that none of them was trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from composer.bits_per_byte import HeldOut, windows
from composer.errors import MissingTextError, RecipeError
from composer.evaluation.evaluate import WINDOW
from composer.experts.train import train_expert
from composer.mix.lock import LockedExpert, LockedSeed, lock_expert, lock_seed
from composer.mix.opening import open_tokenizer, seed_config
from composer.progress import Progress, silent
from composer.reproduce.plan import Settings
from registry.catalog import queries
from registry.domains import documents
from registry.errors import NotFoundError
from registry.home import Registry
from registry.intake.intake import add_seed, contribute
from registry.records import ExpertRecord

GENERAL = "general"


@dataclass
class Lab:
    """The seed, its experts and their corpora. An expert that the registry lacks is trained when first asked for."""

    registry: Registry
    seed: LockedSeed
    corpora: Path
    work: Path
    settings: Settings
    progress: Progress = silent
    _texts: dict[str, HeldOut] = field(default_factory=dict)

    def expert(self, domain: str, *, anchored: bool = False) -> LockedExpert:
        """A domain's expert: published under the domain's name, with `-anchored` after it if its trunk is the seed's.

        Raises RecipeError when the name belongs to an expert of another seed, or to one that is not anchored.
        """
        name = f"{domain}-anchored" if anchored else domain
        try:
            record = queries.get_expert(self.registry, name)
        except NotFoundError:
            record = self._train(domain, name, anchored)
        if record.seed != self.seed.name or (anchored and not record.anchored):
            kind = "an anchored expert" if anchored else "an expert"
            raise RecipeError(
                f"{record.ref} is not {kind} of the seed {self.seed.name}: "
                f"rename the corpus {domain}, or use another registry"
            )
        return lock_expert(record)

    def experts(self, domains: tuple[str, ...], *, anchored: bool = False) -> list[LockedExpert]:
        """The experts of several domains."""
        return [self.expert(domain, anchored=anchored) for domain in domains]

    def texts(self) -> dict[str, HeldOut]:
        """Unseen text of every domain, and of the general corpus if it has a test file."""
        if not self._texts:
            for domain in self.settings.domains:
                held_out = queries.get_expert(self.registry, self.expert(domain).ref).held_out
                if held_out is None:
                    raise MissingTextError(
                        f"the expert {domain} has no held-out text: contribute it with --data, or under another name"
                    )
                self._texts[domain] = self._windows(documents.load_documents(self.registry.blobs, held_out))
            if self.settings.general is not None:
                _, test = corpus(self.corpora, self.settings.general)
                if test:
                    self._texts[GENERAL] = self._windows(list(documents.read_documents(test)))
        return self._texts

    def _windows(self, text: list[str]) -> HeldOut:
        tokenizer = open_tokenizer(self.registry.blobs, self.seed.files)
        limit = seed_config(self.registry.blobs, self.seed).get("max_position_embeddings") or WINDOW
        return windows(tokenizer, text, max_bytes=self.settings.max_bytes, length=min(WINDOW, limit))

    def _train(self, domain: str, name: str, anchored: bool) -> ExpertRecord:
        train, test = corpus(self.corpora, domain)
        folder = self.work / name
        training = self.settings.training
        if not folder.exists():
            train_expert(
                self.registry,
                self.seed.name,
                train,
                folder,
                tokens=self.settings.expert_tokens,
                freeze_trunk=anchored,
                progress=self.progress,
                **{k: training[k] for k in ("sequence_length", "batch_tokens") if k in training},
            )
        return contribute(
            self.registry,
            name,
            folder,
            seed=self.seed.name,
            license=self.seed.license,
            data=train,
            held_out=test,
            progress=self.progress,
        )


def find_seed(
    registry: Registry, seed: str, license: str | None, corpora: Path, general: str | None
) -> LockedSeed:
    """The registered seed of this name, or the folder of one, registered under the folder's name.

    Raises NotFoundError, RecipeError when a folder comes without a licence.
    """
    folder = Path(seed)
    name = folder.name if folder.is_dir() else seed
    try:
        return lock_seed(queries.get_seed(registry, name))
    except NotFoundError:
        if not folder.is_dir():
            raise
    if license is None:
        raise RecipeError(f"{folder} is no registered seed yet: say its licence with --license")
    text = corpus(corpora, general)[0] if general is not None else []
    return lock_seed(add_seed(registry, name, folder, license=license, data=text))


def find_domains(corpora: Path, general: str | None, newcomer: str | None) -> tuple[tuple[str, ...], str]:
    """The members' domains and the newcomer's: the corpora's subfolders, the last of them the newcomer by default.

    Raises RecipeError.
    """
    if not corpora.is_dir():
        raise RecipeError(f"{corpora} is no folder; expected one that holds a folder for each domain")
    found = sorted(p.name for p in corpora.iterdir() if p.is_dir() and not p.name.startswith("."))
    for asked in (general, newcomer):
        if asked is not None and asked not in found:
            raise RecipeError(f"{corpora} has no domain {asked}; it has {', '.join(found) or 'none'}")
    domains = [domain for domain in found if domain != general]
    if len(domains) < 3:
        raise RecipeError(
            f"{corpora} has the domains {', '.join(domains) or 'none'}; the paper's phases need three"
        )
    new = newcomer if newcomer is not None else domains[-1]
    return tuple(domain for domain in domains if domain != new), new


def corpus(corpora: Path, domain: str) -> tuple[list[Path], list[Path]]:
    """A domain's training and test files: train.jsonl and test.jsonl, or everything in its folder and no test.

    Without a test file, the registry holds out one document in twenty.
    """
    train, test = corpora / domain / "train.jsonl", corpora / domain / "test.jsonl"
    if not train.is_file():
        return [corpora / domain], []
    return [train], [test] if test.is_file() else []
