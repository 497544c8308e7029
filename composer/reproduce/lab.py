"""The first phase: the seed, one expert per domain, and held-out text that none of them was trained on."""

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
from registry.domains.reading import read_documents
from registry.errors import NotFoundError
from registry.home import Registry
from registry.intake.intake import add_seed, contribute
from registry.records import ExpertRecord

GENERAL = "general"


@dataclass
class Lab:
    """The seed, its experts and their corpora. A missing expert is trained at the first request for it."""

    registry: Registry
    seed: LockedSeed
    corpora: Path
    work: Path
    settings: Settings
    progress: Progress = silent
    _texts: dict[str, HeldOut] = field(default_factory=dict)

    def expert(self, domain: str, *, anchored: bool = False) -> LockedExpert:
        """Return a domain's expert, trained and published first if the registry does not have it.

        Its name is the domain's name; the name of an anchored expert ends in `-anchored`. Raises RecipeError if the
        name belongs to an expert of another seed, or if an anchored expert is requested and it is not anchored.
        """
        name = f"{domain}-anchored" if anchored else domain
        try:
            record = queries.get_expert(self.registry, name)
        except NotFoundError:
            record = self._train(domain, name, anchored)
        if record.seed != self.seed.name or (anchored and not record.anchored):
            kind = "an anchored expert" if anchored else "an expert"
            raise RecipeError(
                f"{record.ref} is not {kind} of seed {self.seed.name}: "
                f"rename the corpus folder {domain}, or use another registry"
            )
        return lock_expert(record)

    def experts(self, domains: tuple[str, ...], *, anchored: bool = False) -> list[LockedExpert]:
        """Return the experts of several domains."""
        return [self.expert(domain, anchored=anchored) for domain in domains]

    def texts(self) -> dict[str, HeldOut]:
        """Return held-out text of every domain, and of the general corpus if it has a test file."""
        if not self._texts:
            for domain in self.settings.domains:
                held_out = queries.get_expert(self.registry, self.expert(domain).ref).held_out
                if held_out is None:
                    raise MissingTextError(
                        f"expert {domain} has no held-out text: contribute a version with --data, "
                        "or rename the corpus folder"
                    )
                self._texts[domain] = self._windows(documents.load_documents(self.registry.blobs, held_out))
            if self.settings.general is not None:
                _, test = corpus(self.corpora, self.settings.general)
                if test:
                    self._texts[GENERAL] = self._windows(list(read_documents(test)))
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
    """Return the registered seed; `seed` is its name or a folder, registered under the folder's name if needed.

    Raises NotFoundError, and RecipeError for a new folder without a licence.
    """
    folder = Path(seed)
    name = folder.name if folder.is_dir() else seed
    try:
        return lock_seed(queries.get_seed(registry, name))
    except NotFoundError:
        if not folder.is_dir():
            raise
    if license is None:
        raise RecipeError(f"{folder} is not a registered seed yet: give its licence with --license")
    text = corpus(corpora, general)[0] if general is not None else []
    return lock_seed(add_seed(registry, name, folder, license=license, data=text))


def find_domains(corpora: Path, general: str | None, newcomer: str | None) -> tuple[tuple[str, ...], str]:
    """Return the members' domains and the new domain, which are subfolders of `corpora`.

    The new domain is `newcomer`; the default is the last folder in alphabetical order. Raises RecipeError.
    """
    if not corpora.is_dir():
        raise RecipeError(f"{corpora} is not a folder; expected a folder with one subfolder per domain")
    found = sorted(p.name for p in corpora.iterdir() if p.is_dir() and not p.name.startswith("."))
    for asked in (general, newcomer):
        if asked is not None and asked not in found:
            raise RecipeError(f"{corpora} has no domain {asked}; it has {', '.join(found) or 'none'}")
    domains = [domain for domain in found if domain != general]
    if len(domains) < 3:
        raise RecipeError(
            f"{corpora} has {len(domains)} domains ({', '.join(domains) or 'none'}); at least three are needed"
        )
    new = newcomer if newcomer is not None else domains[-1]
    return tuple(domain for domain in domains if domain != new), new


def corpus(corpora: Path, domain: str) -> tuple[list[Path], list[Path]]:
    """Return a domain's training and test files.

    They are train.jsonl and test.jsonl, or the whole folder and no test file. Without a test file, the registry
    uses one document in twenty as held-out text.
    """
    train, test = corpora / domain / "train.jsonl", corpora / domain / "test.jsonl"
    if not train.is_file():
        return [corpora / domain], []
    return [train], [test] if test.is_file() else []
