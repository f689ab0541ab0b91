# Tables and figures of one study, from its finished runs.
rule table:
    input:
        runs=ancient(runs_of_study),
        study=ancient(study_file),
    output:
        stamp=RESULTS / "runs" / "table" / f"{{study}}-{TIER}-{{key}}.json",
    log:
        RESULTS / "logs" / "table" / f"{{study}}-{TIER}-{{key}}.log",
    params:
        tier=TIER,
        folders=FOLDERS,
    message:
        "table {wildcards.study}"
    shell:
        "python -m methods table {input.study} --tier {params.tier} {params.folders} --log {log}"
