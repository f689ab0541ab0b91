# Retrofit: data → base → method → evaluate → table → report.
#
#   snakemake                                   every study, quick tier
#   snakemake --config tier=full                what the committed tables show
#   snakemake --config study=my-study.yaml      one study, yours
#   snakemake -n                                what would run
#
# Every rule is a short call of `python -m methods VERB`, so each job can be repeated by hand from its log line.
from snakemake.utils import min_version

min_version("9.27.1")


configfile: "configs/config.yaml"


# Used with `--software-deployment-method apptainer` only; workflows/Dockerfile says how to build it.
container: "retrofit.sif"


include: "workflows/common.smk"
include: "workflows/data.smk"
include: "workflows/base.smk"
include: "workflows/method.smk"
include: "workflows/evaluate.smk"
include: "workflows/tables.smk"
include: "workflows/report.smk"


localrules:
    all,
    data,
    table,
    report,


rule all:
    default_target: True
    input:
        runs=ancient(every_run()),
        tables=ancient(every_table()),
        report=ancient(REPORT),
    message:
        "everything is made"


onstart:
    begin()


onsuccess:
    say_where_results_are_at_the_end()


onerror:
    say_what_failed_at_the_end()
