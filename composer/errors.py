"""Everything the composer raises on purpose.

    ComposerError
    ├── RecipeError                 a recipe, an option or a piece of data that can never be right
    ├── IncompatibleExpertsError    experts that cannot stand in one mix
    ├── MixFormatError              a manifest or lock that this version cannot read
    ├── MissingTextError            a step that needs text of a domain that gave only its embedding
    ├── TrainingDivergedError       the loss became NaN or infinite; the last good checkpoint is kept
    ├── MissingExtraError           a package that only an extra of nexusmix brings
    └── ExportError                 a model that the target format cannot express

Errors of the registry (not found, conflict, integrity …) pass through as they are.
"""


class ComposerError(Exception):
    """Base of every error that the composer raises on purpose."""


class RecipeError(ComposerError):
    """A recipe, an option or a piece of data that can never be right."""


class IncompatibleExpertsError(ComposerError):
    """Experts that cannot stand in one mix; the message lists every reason."""


class MixFormatError(ComposerError):
    """A manifest or lock that this version cannot read."""


class MissingTextError(ComposerError):
    """A step needs text of a domain whose contributor gave only an embedding."""


class TrainingDivergedError(ComposerError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


class MissingExtraError(ComposerError):
    """A package that only an extra of nexusmix brings is not installed."""


class ExportError(ComposerError):
    """A model that the target format cannot express."""
