# Retrofit: data → base → method → evaluate → tables → report.
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


include: "workflows/common.smk"
include: "workflows/data.smk"
include: "workflows/base.smk"
include: "workflows/method.smk"
include: "workflows/evaluate.smk"
include: "workflows/tables.smk"
include: "workflows/report.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        runs=ancient(every_run()),
        tables=ancient(every_table()),
        report=ancient(REPORT),


onstart:
    refuse_what_this_machine_lacks()


onsuccess:
    say_where_results_are()


onerror:
    say_what_failed()
