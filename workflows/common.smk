# What the rules share: the plans of the chosen studies, and the paths that follow from them.
import os
import sys
from pathlib import Path

from methods.study.errors import RetrofitError
from methods.verbs.planning import all_studies, outdir, plan_all, tier_missing
from methods.verbs.publishing import drop_if_unpublished, report_stamp, table_stamp

# Jobs use the interpreter that runs Snakemake, whether or not its environment is activated.
shell.prefix(f"export PATH={os.path.dirname(sys.executable)}:$PATH; ")


container: None


TIER = str(config["tier"])
RESULTS = Path(config["results"])
WORK = Path(config["work"])
OUT = outdir(RESULTS, TIER)
FOLDERS = f"--results {RESULTS} --work {WORK}"


def chosen_studies():
    if "study" in config:
        return [str(config["study"])]
    studies = config["studies"]
    if studies == "all":
        return all_studies()
    return [studies] if isinstance(studies, str) else list(studies)


def make_plans():
    try:
        return plan_all(chosen_studies(), TIER, WORK)
    except RetrofitError as error:
        # One sentence for each problem instead of a traceback through Snakemake.
        sys.stderr.write(
            "".join(f"error: {line}\n" for line in str(error).splitlines())
        )
        os._exit(2)


PLANS = {plan.study.study: plan for plan in make_plans()}
RUNS = {name: run for plan in PLANS.values() for name, run in plan.runs().items()}
# Tables stand at fixed paths; these stamps carry their keys.
TABLES = {
    name: drop_if_unpublished(table_stamp(plan, RESULTS))
    for name, plan in PLANS.items()
}
REPORT = drop_if_unpublished(report_stamp(list(PLANS.values()), TIER, RESULTS))


wildcard_constraints:
    run="[a-z0-9.+_-]+-[0-9a-f]{12}",
    key="[0-9a-f]{12}",
    study="[a-z0-9.+_-]+",


def directory_of(name):
    return RESULTS / RUNS[name].directory


def runs_of(kind):
    return [name for name, run in RUNS.items() if run.kind == kind]


def meta(name):
    return str(directory_of(name) / "meta.json")


def upstream(wildcards):
    return [meta(run.name) for run in RUNS[wildcards.run].upstream.values()]


def threads_of(wildcards):
    return RUNS[wildcards.run].threads


def runs_of_study(wildcards):
    return [meta(name) for name in PLANS[wildcards.study].runs()]


def study_file(wildcards):
    return str(PLANS[wildcards.study].path)


def every_run():
    return [meta(name) for name in RUNS]


def every_table():
    return list(TABLES.values())


def refuse_what_this_machine_lacks():
    missing = [why for plan in PLANS.values() if (why := tier_missing(plan))]
    if missing:
        raise WorkflowError(missing[0])


def say_where_results_are():
    print(
        f"\nTables  {OUT / 'tables'}/\nClaims  {OUT / 'claims.md'}\nReport  {OUT / 'report' / 'index.html'}"
    )


def say_what_failed():
    print(
        f"\nSomething failed; the logs are in {RESULTS / 'logs'}/. Run snakemake again to resume: finished runs are kept."
    )
