"""Exceptions of the composer.

    ComposerError
    ├── RecipeError                 a recipe, an option or input data is invalid
    │   └── PromptTooLongError      a prompt that fills the model's context
    ├── IncompatibleExpertsError    experts that cannot be in one mix
    ├── MixFormatError              a manifest or lock that this version cannot read
    ├── MissingTextError            a step needs text of a domain that has only an embedding
    ├── TrainingDivergedError       the loss became NaN or infinite; the last good checkpoint is kept
    ├── ProcessLostError            another process of the same composition ended
    ├── DeviceError                 a device or a dtype that this machine cannot compute with
    ├── MissingExtraError           a package from an extra of nexusmix is not installed
    ├── ExportError                 a model that the target format cannot express
    ├── ChatTemplateError           a chat template that is missing, fails or exceeds its limits
    └── SignatureError              a signed folder that differs from its signature, or has none

Errors of the registry (not found, conflict, integrity …) are not wrapped.
"""


class ComposerError(Exception):
    """Base class of the composer's errors."""


class RecipeError(ComposerError):
    """A recipe, an option or input data is invalid."""


class PromptTooLongError(RecipeError):
    """A prompt that leaves no room for a reply in the model's context."""


class IncompatibleExpertsError(ComposerError):
    """Experts that cannot be in one mix; the message lists every reason."""


class MixFormatError(ComposerError):
    """A manifest or lock that this version cannot read."""


class MissingTextError(ComposerError):
    """A step needs text of a domain whose contributor shared only an embedding."""


class TrainingDivergedError(ComposerError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


class ProcessLostError(ComposerError):
    """Another process of the same composition ended; the training progress is kept."""


class DeviceError(ComposerError):
    """A device or a dtype that is unknown, or that this machine or this torch cannot compute with."""


class MissingExtraError(ComposerError):
    """A package that belongs to an extra of nexusmix is not installed."""


class ChatTemplateError(ComposerError):
    """A chat template that is missing, fails or exceeds its limits."""


class ExportError(ComposerError):
    """A model that the target format cannot express, or that the tool for its type did not convert."""


class SignatureError(ComposerError):
    """A folder that differs from its signature, has none, or was signed with another key."""
