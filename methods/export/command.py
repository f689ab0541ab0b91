"""`python -m methods export RUN --format FORMAT --to DIRECTORY`."""

from __future__ import annotations

from pathlib import Path


def export(run_directory: Path | str, format: str, out: Path | str) -> str:
    """Export the language model of a run and return one line that says how it was proved.

    Raises RetrofitError as `methods.export.formats.export` and `methods.models.language.load` do.
    """
    from methods.export import formats
    from methods.models import language

    formats.find(format)  # before the model is loaded
    model = language.load(Path(run_directory))
    return str(formats.export(model, Path(out), format))


def matrix(run_directory: Path | str) -> str:
    """A Markdown table of every format tried on the language model of a run; writes nothing that stays.

    Raises RetrofitError as `methods.models.language.load` does.
    """
    import tempfile

    from methods.export import formats
    from methods.models import language

    model = language.load(Path(run_directory))
    with tempfile.TemporaryDirectory(prefix="exports-") as scratch:
        rows = formats.matrix(model, Path(scratch))
    head = ["format", "reader", "logits' distance", "MB"]
    lines = [head, ["---", "---", "---", "--:"], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
