# The front page: every claim with its verdict, and one static page with everything.
rule report:
    input:
        tables=ancient(every_table()),
    output:
        stamp=REPORT,
    log:
        RESULTS / "logs" / "report" / f"{TIER}.log",
    params:
        studies=[str(plan.path) for plan in REPORTED],
        tier=TIER,
        folders=FOLDERS,
    message:
        "report"
    shell:
        "python -m methods report {params.studies} --tier {params.tier} {params.folders} --log {log}"
