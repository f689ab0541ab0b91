# Apply one step of a variant's chain to what is upstream.
rule apply:
    input:
        spec=ancient(WORK / "specs" / "{run}.json"),
        upstream=ancient(upstream),
    output:
        meta=RESULTS / "runs" / "method" / "{run}" / "meta.json",
    log:
        RESULTS / "logs" / "method" / "{run}.log",
    threads: threads_of
    resources:
        gpu=gpus_of,
    params:
        folders=FOLDERS,
    message:
        "apply {wildcards.run}"
    shell:
        "python -m methods apply {wildcards.run} {params.folders} --log {log}"
