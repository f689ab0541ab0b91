# Build a declared data set, or fetch it by DVC, and check it against data.dvc.
rule data:
    input:
        spec=ancient(WORK / "specs" / "{run}.json"),
        upstream=ancient(upstream),
    output:
        meta=RESULTS / "runs" / "data" / "{run}" / "meta.json",
    log:
        RESULTS / "logs" / "data" / "{run}.log",
    threads: threads_of
    resources:
        gpu=gpus_of,
    params:
        folders=FOLDERS,
    message:
        "data {wildcards.run}"
    shell:
        "python -m methods data {wildcards.run} {params.folders} --log {log}"
