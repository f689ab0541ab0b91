# What the rules share: the plans of the chosen studies, and the paths that follow from them.
import atexit
import os
import re
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout
from methods.study.errors import RetrofitError, choices
from methods.verbs.mending import set_damaged_aside
from methods.verbs.planning import all_studies, outdir, plan_all, tier_missing
from methods.verbs.publishing import (
    drop_if_unpublished,
    file_of_table,
    report_stamp,
    table_stamp,
)
from methods.verbs.serving import start

# Jobs use the interpreter that runs Snakemake, whether or not its environment is activated.
shell.prefix(f"export PATH={os.path.dirname(sys.executable)}:$PATH; ")

STARTED = time.time()
SETTINGS = ("tier", "study", "studies", "results", "work")


def stop(message):
    """One sentence for each problem instead of a traceback through Snakemake."""
    sys.stderr.write("".join(f"error: {line}\n" for line in str(message).splitlines()))
    raise SystemExit(2)


def checked_config():
    for name in config:
        if name not in SETTINGS:
            stop(f"--config: unknown setting '{name}'; {choices(name, SETTINGS)}")
    return config


def only_looks():
    """A dry run or a lint; Snakemake itself knows only after it has read this file."""
    return any(
        word in ("--dry-run", "--dryrun", "--lint")
        or re.fullmatch("-[A-Za-z]*n[A-Za-z]*", word)
        for word in sys.argv[1:]
    )


def chosen_studies():
    chosen = checked_config().get("study", config["studies"])
    if chosen == "all":
        return all_studies()
    return [str(one) for one in (chosen if isinstance(chosen, list) else [chosen])]


TIER = str(config["tier"])
RESULTS = Path(config["results"])
WORK = Path(config["work"])
OUT = outdir(RESULTS, TIER)
FOLDERS = f"--results {RESULTS} --work {WORK}"


def make_plans():
    plans = {}
    try:
        for plan in plan_all(chosen_studies(), TIER, WORK):
            name = plan.study.study
            if name in plans and plans[name].path != plan.path:
                stop(f"{plans[name].path} and {plan.path} are both called '{name}'")
            plans[name] = plan
    except RetrofitError as error:
        stop(error)
    return plans


def reported_plans():
    """The chosen studies and those whose tables stand already: one study never empties the front page."""
    tables = sorted((OUT / "tables").glob("*.json"))
    published = [file_of_table(table) for table in tables if table.stem not in PLANS]
    published = [path for path in published if path.is_file()]
    try:
        return PLANS | {
            plan.study.study: plan for plan in plan_all(published, TIER, WORK)
        }
    except RetrofitError as error:
        stop(error)


PLANS = make_plans()
RUNS = {name: run for plan in PLANS.values() for name, run in plan.runs().items()}
# Tables stand at fixed paths; these stamps carry their keys.
TABLES = {
    name: drop_if_unpublished(table_stamp(plan, RESULTS))
    for name, plan in PLANS.items()
}
# Before the graph is made: what is set aside here is missing from it, and so made again.
if workflow.is_main_process and not only_looks():
    set_damaged_aside(
        RUNS,
        RESULTS,
        shown=[
            name
            for study, plan in PLANS.items()
            if not TABLES[study].is_file()
            for name in plan.runs()
        ],
    )
REPORTED = [plan for _, plan in sorted(reported_plans().items())]
REPORT = drop_if_unpublished(report_stamp(REPORTED, TIER, RESULTS))


wildcard_constraints:
    run="[a-z0-9.+_-]+-[0-9a-f]{12}",
    key="[0-9a-f]{12}",
    study="[a-z0-9.+_-]+",


def meta(name):
    return str(RESULTS / RUNS[name].directory / "meta.json")


def log_of(name):
    return RESULTS / "logs" / RUNS[name].kind / f"{name}.log"


def upstream(wildcards):
    return [meta(run.name) for run in RUNS[wildcards.run].upstream.values()]


def threads_of(wildcards):
    return RUNS[wildcards.run].threads


def gpus_of(wildcards):
    return RUNS[wildcards.run].spec.get("params", {}).get("gpus", 0)


def runs_of_study(wildcards):
    return [meta(name) for name in PLANS[wildcards.study].runs()]


def study_file(wildcards):
    return str(PLANS[wildcards.study].path)


def every_run():
    return [meta(name) for name in RUNS]


def every_table():
    return list(TABLES.values())


def held(lock):
    """Does another process hold this lock?  The kernel frees it when its holder dies, however it dies."""
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def begin():
    """Refuse, before the first job, what could not end well; then hold the results folder until this process ends."""
    missing = [why for plan in PLANS.values() if (why := tier_missing(plan))]
    if missing:
        stop(missing[0])
    global only_one_workflow
    folder = RESULTS / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    only_one_workflow = FileLock(folder / ".lock", timeout=0)
    try:
        only_one_workflow.acquire()
    except Timeout:
        stop(f"another snakemake is making {RESULTS}/; wait until it is done")
    for name in RUNS:
        lock = WORK / "locks" / f"{name}.lock"
        if lock.is_file() and not Path(meta(name)).is_file() and held(lock):
            stop(
                f"a job of an earlier snakemake still makes {name}; wait until it is done"
            )
    missing = [
        run.implementation
        for name, run in RUNS.items()
        if not Path(meta(name)).is_file()
    ]
    # Jobs on other machines could not reach it.
    server = start(missing) if workflow.local_exec else None
    if server:
        atexit.register(server.stop)


# Printed when the process ends, so that these are the last lines and nothing of Snakemake's comes after them.
def say_where_results_are():
    print(
        f"\nTables  {OUT / 'tables'}/\nClaims  {OUT / 'claims.md'}\nReport  {OUT / 'report' / 'index.html'}"
    )


def say_where_results_are_at_the_end():
    atexit.register(say_where_results_are)


def outputs_and_logs():
    for name in RUNS:
        yield Path(meta(name)), log_of(name)
    for stamp in TABLES.values():
        yield stamp, RESULTS / "logs" / "table" / f"{stamp.stem}.log"
    yield REPORT, RESULTS / "logs" / "report" / f"{TIER}.log"


def say_what_failed():
    failed = [
        log
        for output, log in outputs_and_logs()
        if not output.is_file() and log.is_file() and log.stat().st_mtime >= STARTED
    ]
    print(
        "\nSome jobs failed."
        + "".join(f"\nLog     {log}" for log in failed)
        + "\nFinished runs are kept: the same command goes on from here."
    )


def say_what_failed_at_the_end():
    atexit.register(say_what_failed)


# Snakemake calls no hook where nothing is to be done.
if (
    workflow.is_main_process
    and "--lint" not in sys.argv
    and all(Path(path).is_file() for path in (*every_run(), *every_table(), REPORT))
):
    say_where_results_are_at_the_end()
