# Measure what a chain left behind.
rule evaluate:
    input:
        spec=ancient(WORK / "specs" / "{run}.json"),
        upstream=ancient(upstream),
    output:
        meta=RESULTS / "runs" / "evaluate" / "{run}" / "meta.json",
    log:
        RESULTS / "logs" / "evaluate" / "{run}.log",
    threads: threads_of
    resources:
        gpu=gpus_of,
    params:
        folders=FOLDERS,
    message:
        "evaluate {wildcards.run}"
    shell:
        "python -m methods evaluate {wildcards.run} {params.folders} --log {log}"
