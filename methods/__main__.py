"""`python -m methods VERB …`: every step of the workflow, callable by hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

KIND_OF_VERB = {"data": "data", "base": "base", "apply": "method", "evaluate": "evaluate"}


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="python -m methods", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str, *, results: bool = True) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if results:
            one.add_argument(
                "--results",
                type=Path,
                default=Path("results"),
                metavar="DIR",
                help="results folder",
            )
            one.add_argument(
                "--work", type=Path, default=Path("work"), metavar="DIR", help="scratch folder"
            )
        return one

    def tier(one: argparse.ArgumentParser, default: str = "full") -> None:
        one.add_argument(
            "--tier", default=default, help="quick, full or paper (default: %(default)s)"
        )

    one = verb("plan", "list the runs of studies: cached or missing, with their time")
    one.add_argument("studies", nargs="*", metavar="STUDY", help="name or file; none: all")
    tier(one, "quick")

    one = verb("data", "build data sets by name, or do one data run of the workflow")
    one.add_argument("names", nargs="*", metavar="NAME", help="data sets, or one run; none: all")
    one.add_argument("--refresh", action="store_true", help="build again from the sources")
    one.add_argument("--lock", action="store_true", help="write what was built into data.dvc")
    one.add_argument("--log", type=Path, help="write messages and tracebacks to this file")
    for name, text in (
        ("base", "import or train one base model run"),
        ("apply", "do one method run"),
        ("evaluate", "do one evaluation run"),
    ):
        one = verb(name, text)
        one.add_argument("run", metavar="RUN", help="<slug>-<key>, as `plan` lists it")
        one.add_argument("--log", type=Path, help="write messages and tracebacks to this file")

    one = verb("table", "write the tables and figures of one study from finished runs")
    one.add_argument("study", metavar="STUDY")
    tier(one)
    one.add_argument("--log", type=Path, help="write messages and tracebacks to this file")

    one = verb("report", "write claims.md and the report page from the tables")
    one.add_argument("studies", nargs="*", metavar="STUDY")
    tier(one)
    one.add_argument("--log", type=Path, help="write messages and tracebacks to this file")

    one = verb("verify", "say which committed tables are stale, without training")
    one.add_argument("studies", nargs="*", metavar="STUDY")
    tier(one)
    one.add_argument(
        "--deep", action="store_true", help="also check the checksums of all artifacts"
    )

    one = verb("explain", "walk from a table's cell to its runs, settings, code and data")
    one.add_argument("study", metavar="STUDY")
    one.add_argument("row", metavar="ROW", help="variant, or setting/variant")
    one.add_argument("column", metavar="COLUMN", help="metric")
    tier(one)

    one = verb(
        "compare", "compare tables with the committed expectation; fail on drift", results=False
    )
    one.add_argument("expected", type=Path, metavar="EXPECTED", help="JSON file or folder")
    one.add_argument("new", type=Path, metavar="NEW", help="JSON file or folder")

    one = verb("rekey", "record that an edit of code left all numbers as they were")
    one.add_argument("studies", nargs="*", metavar="STUDY")

    one = verb(
        "gc", "delete runs that no tier of any study asks for any more; shows them and asks first"
    )
    one.add_argument(
        "studies", nargs="*", metavar="STUDY", help="files elsewhere whose runs are to stay"
    )
    one.add_argument("--yes", action="store_true", help="do not ask")

    one = verb("export", "write a run's model in a deployment format, and load it back to prove it")
    one.add_argument("run", metavar="RUN", help="directory of a finished run")
    one.add_argument("--format", help="dense, compressed-tensors, awq-gemm, gptq-v1 or gptq-v2")
    one.add_argument("--to", type=Path, metavar="DIR")
    one.add_argument(
        "--matrix", action="store_true", help="try every format and print how each loads back"
    )

    one = verb("new-study", "write a commented study file to start from", results=False)
    one.add_argument("name", metavar="NAME")
    one.add_argument("--to", type=Path, help="file to write (default: configs/studies/NAME.yaml)")
    one.add_argument(
        "--model", help="a declared name, a directory, or organisation/name of the hub"
    )
    one.add_argument("--text", type=Path, help="your own text to calibrate and measure on (UTF-8)")

    one = verb("schema", "write or check the JSON schema of study files", results=False)
    group = one.add_mutually_exclusive_group(required=True)
    group.add_argument("--write", action="store_true")
    group.add_argument("--check", action="store_true")
    return top


def _run(arguments: argparse.Namespace) -> int:
    from methods.verbs.planning import read_spec
    from methods.verbs.serving import handed_over, pin_threads

    name = arguments.names[0] if arguments.verb == "data" else arguments.run
    spec = read_spec(name, arguments.work)
    status = handed_over(spec, arguments.words)
    if status is not None:
        return status
    # Before anything imports torch: it reads these when it is loaded.
    pin_threads(spec["threads"])
    from methods.verbs.execution import execute

    directory = execute(name, KIND_OF_VERB[arguments.verb], arguments.results, arguments.work)
    print(directory)
    return 0


def _data(arguments: argparse.Namespace) -> int:
    if (
        len(arguments.names) == 1
        and (arguments.work / "specs" / f"{arguments.names[0]}.json").is_file()
    ):
        return _run(arguments)
    from methods.data.command import build_many

    build_many(arguments.names, Path("data"), refresh=arguments.refresh, lock=arguments.lock)
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from methods.verbs import planning

    plans = planning.plan_all(
        arguments.studies or planning.all_studies(), arguments.tier, arguments.work
    )
    print(planning.show(plans, arguments.results))
    return 0


def _table(arguments: argparse.Namespace) -> int:
    from methods.verbs.publishing import publish_table

    for path in publish_table(arguments.study, arguments.tier, arguments.results, arguments.work):
        print(path)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from methods.verbs.publishing import publish_report

    for path in publish_report(
        arguments.studies, arguments.tier, arguments.results, arguments.work
    ):
        print(path)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from methods.verbs.verification import verify

    return verify(arguments.studies, arguments.tier, arguments.results, arguments.deep)


def _explain(arguments: argparse.Namespace) -> int:
    from methods.report.command import explain
    from methods.verbs.planning import check_tier, find_study, outdir, study_name

    check_tier(arguments.tier)
    study = study_name(find_study(arguments.study))
    table = outdir(arguments.results, arguments.tier) / "tables" / f"{study}.json"
    print(explain(table, arguments.row, arguments.column))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from methods.verbs.verification import compare

    return compare(arguments.expected, arguments.new)


def _rekey(arguments: argparse.Namespace) -> int:
    from methods.verbs.verification import rekey

    return rekey(arguments.studies, arguments.results)


def _gc(arguments: argparse.Namespace) -> int:
    from methods.verbs.collecting import collect

    return collect(arguments.studies, arguments.results, arguments.work, arguments.yes)


def _export(arguments: argparse.Namespace) -> int:
    from methods.export.command import export, matrix
    from methods.study.errors import RetrofitError

    if arguments.matrix:
        print(matrix(Path(arguments.run)))
        return 0
    if not arguments.format or not arguments.to:
        raise RetrofitError("export needs --format and --to, or --matrix")
    print(export(Path(arguments.run), arguments.format, arguments.to))
    return 0


def _new_study(arguments: argparse.Namespace) -> int:
    from methods.verbs.new_study import write

    files = write(arguments.name, arguments.to, arguments.model, arguments.text)
    print("\n".join(map(str, files)))
    print(f"run it: snakemake --config study={files[0]}")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from methods.verbs.schema import check, write

    return write() if arguments.write else check()


HANDLERS: dict[str, Callable[[argparse.Namespace], int]] = {
    "plan": _plan,
    "data": _data,
    "base": _run,
    "apply": _run,
    "evaluate": _run,
    "table": _table,
    "report": _report,
    "verify": _verify,
    "explain": _explain,
    "compare": _compare,
    "rekey": _rekey,
    "gc": _gc,
    "export": _export,
    "new-study": _new_study,
    "schema": _schema,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; errors that a user can act on are one message and exit status 2."""
    words = sys.argv[1:] if arguments is None else arguments
    parsed = parser().parse_args(words)
    parsed.words = words
    from methods.run.logs import to_file
    from methods.study.errors import RetrofitError

    log = getattr(parsed, "log", None)
    with to_file(log):
        try:
            return HANDLERS[parsed.verb](parsed)
        except RetrofitError as error:
            message = str(error)
        except BrokenPipeError:
            return 0
        except KeyboardInterrupt:
            message = (
                "interrupted; finished runs are kept, unfinished ones resume from their checkpoint"
            )
        for line in message.splitlines():
            print(f"error: {line}", file=sys.stderr)
        if log:
            with open(log, "a", encoding="utf-8") as handle:
                handle.write(f"error: {message}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
