"""Every error that the registry raises deliberately.

    RegistryError
    ├── InvalidInputError       a name, option or file that is invalid in any state of the registry
    │   ├── UnsafeFileError     a checkpoint file that is malformed, hostile or not safetensors
    │   └── InvalidEmbeddingError
    ├── NotFoundError           no such seed, expert, mix, blob or file
    ├── ConflictError           the name is taken, or another writer was first
    ├── IncompatibleError       an expert that does not fit its seed
    │   ├── UnsupportedFamilyError
    │   ├── UnmappedTensorError
    │   └── LicenseError        licences that are unknown or forbid each other
    ├── IntegrityError          stored bytes have changed or are missing
    ├── AccessError             the actor's role does not permit the action, or the token is wrong
    ├── StorageError            the disk or the database failed; the previous state is intact
    └── HubError                the Hugging Face Hub cannot be reached, or its answer is invalid

A message says what is wrong, what was found, what was expected and the remedy, in one line if possible.
"""


class RegistryError(Exception):
    """Base class of every error that the registry raises deliberately."""


class InvalidInputError(RegistryError):
    """An argument or a file that is invalid in any state of the registry."""


class UnsafeFileError(InvalidInputError):
    """A checkpoint file that is malformed, hostile or not safetensors."""


class InvalidEmbeddingError(InvalidInputError):
    """A vector that has the wrong dimension or embedder, contains NaN, or is zero."""


class NotFoundError(RegistryError):
    """No such seed, expert, mix, blob or file."""


class ConflictError(RegistryError):
    """The name is taken, or another writer was first."""


class IncompatibleError(RegistryError):
    """An expert that does not fit its seed; `mismatches` lists every reason."""

    def __init__(self, message: str, mismatches: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.mismatches = mismatches


class UnsupportedFamilyError(IncompatibleError):
    """A model type that is not in the families table."""


class UnmappedTensorError(IncompatibleError):
    """Tensors that have no role in the families table, or that it expects and that are missing."""


class LicenseError(IncompatibleError):
    """Licences that are unknown, or that forbid each other."""


class IntegrityError(RegistryError):
    """Stored bytes have changed or are missing."""


class AccessError(RegistryError):
    """The actor's role does not permit the action, or the token is wrong."""


class StorageError(RegistryError):
    """The disk or the database failed; the previous state is intact."""


class HubError(RegistryError):
    """The Hugging Face Hub cannot be reached, or its answer is invalid."""
