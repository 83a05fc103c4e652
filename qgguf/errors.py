"""The errors of qgguf, as a tree. A message names what we saw, what we need and what to do next.

QgError
├── ModelNotFoundError    no such model name, path or repository, or no network to fetch it
├── ModelFileError        not a GGUF, cut short, or not an embedding model
├── ChecksumError         a downloaded file is not the published one
├── CheckpointError       a Hugging Face checkpoint that cannot be converted
├── OutputError           the file to write cannot be written: no folder, no room
│   └── OutputExistsError it is there already
├── TextError             a text that cannot be embedded (not a str, lone surrogate, bad vector)
│   └── TextTooLongError  a text over the token limit, with truncate="error"
├── DimensionError        dims outside the range of the model
├── PromptError           an unknown prompt name, or an instruction for a model without a template
├── OptionError           an option value that makes no sense
├── DeviceError           the device asked for is not there
│   └── DeviceMemoryError it has less free memory than the model takes
├── BudgetError           no settings fit the memory given
├── ForkError             a model that was opened before the process was forked
└── NativeError           a llama.cpp call failed; its code and log line are kept
"""

__all__ = [
    "BudgetError",
    "CheckpointError",
    "ChecksumError",
    "DeviceError",
    "DeviceMemoryError",
    "DimensionError",
    "ForkError",
    "ModelFileError",
    "ModelNotFoundError",
    "NativeError",
    "OptionError",
    "OutputError",
    "OutputExistsError",
    "PromptError",
    "QgError",
    "TextError",
    "TextTooLongError",
]


class QgError(Exception):
    """Root of every error that qgguf raises on purpose."""


class ModelNotFoundError(QgError):
    """No such model name, path or repository, or no network to fetch it."""


class ModelFileError(QgError):
    """The file is not a GGUF, is cut short, or holds no embedding model."""


class ChecksumError(QgError):
    """A downloaded file is not the published one."""


class CheckpointError(QgError):
    """A Hugging Face checkpoint that cannot be converted."""


class OutputError(QgError):
    """The file to write cannot be written."""


class OutputExistsError(OutputError):
    """The file to write is there already."""


class TextError(QgError):
    """A text that cannot be embedded."""


class TextTooLongError(TextError):
    """A text has more tokens than the limit, and truncation was refused."""


class DimensionError(QgError):
    """Dims outside the range of the model."""


class PromptError(QgError):
    """An unknown prompt name, or an instruction for a model that takes none."""


class OptionError(QgError):
    """An option value that makes no sense."""


class DeviceError(QgError):
    """The device asked for is not there."""


class DeviceMemoryError(DeviceError):
    """The device has less free memory than the model takes."""


class BudgetError(QgError):
    """No settings fit the memory given."""


class ForkError(QgError):
    """A forked process uses a model that its parent opened."""


class NativeError(QgError):
    """A llama.cpp call failed.

    code  what the native call returned, or None when it returned nothing
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code
