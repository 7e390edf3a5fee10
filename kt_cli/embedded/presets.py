"""Where the shipped rules lie."""

from __future__ import annotations

from pathlib import Path

import kt_cli

_GENERAL = "general"


def rules_directory() -> Path:
    """Inside the package once installed, beside it in a source tree."""
    package = Path(kt_cli.__file__).parent
    installed = package / "presets" / "rules"
    return installed if installed.is_dir() else package.parent / "presets" / "rules"


def rules_for(model_type: str | None) -> Path:
    """The fast rules of a family where there are any, the general rules otherwise."""
    file = rules_directory() / f"{model_type}.yaml"
    return file if file.is_file() else rules_directory() / f"{_GENERAL}.yaml"
