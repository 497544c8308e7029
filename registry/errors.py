"""Everything the registry raises on purpose.

    RegistryError
    ├── InvalidInputError       a name, option or file that can never be right
    │   ├── UnsafeFileError     a checkpoint file that is malformed, hostile or not safetensors
    │   └── InvalidEmbeddingError
    ├── NotFoundError           no such seed, expert, mix, blob or file
    ├── ConflictError           the name is taken, or another writer came first
    ├── IncompatibleError       an expert that would not be the same function with the seed's configuration
    │   ├── UnsupportedFamilyError
    │   ├── UnmappedTensorError
    │   └── LicenseError        licences that are unknown or forbid each other
    ├── IntegrityError          stored bytes are not the bytes that were stored
    ├── StorageError            the disk or the database failed; old state is intact
    └── HubError                the Hugging Face Hub cannot be reached, or answers what it should not

A message says what, got, expected and remedy, in one line where it can.
"""


class RegistryError(Exception):
    """Base of every error that the registry raises on purpose."""


class InvalidInputError(RegistryError):
    """An argument or a file that can never be right."""


class UnsafeFileError(InvalidInputError):
    """A checkpoint file that is malformed, hostile or not safetensors."""


class InvalidEmbeddingError(InvalidInputError):
    """A vector of the wrong dimension or embedder, with NaN, or zero."""


class NotFoundError(RegistryError):
    """No such seed, expert, mix, blob or file."""


class ConflictError(RegistryError):
    """The name is taken, or another writer came first."""


class IncompatibleError(RegistryError):
    """An expert that does not fit its seed; `mismatches` lists every reason."""

    def __init__(self, message: str, mismatches: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.mismatches = mismatches


class UnsupportedFamilyError(IncompatibleError):
    """A model type that the families table does not hold."""


class UnmappedTensorError(IncompatibleError):
    """Tensors that the families table gives no role, or that it expects and that are absent."""


class LicenseError(IncompatibleError):
    """Licences that are unknown, or that forbid each other."""


class IntegrityError(RegistryError):
    """Stored bytes are not the bytes that were stored."""


class StorageError(RegistryError):
    """The disk or the database failed; old state is intact."""


class HubError(RegistryError):
    """The Hugging Face Hub cannot be reached, or answers what it should not."""
