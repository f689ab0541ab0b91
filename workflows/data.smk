# Build a declared data set, or fetch it by DVC, and check it against data.dvc.
rule data:
    input:
        spec=ancient(WORK / "specs" / "{run}.json"),
        upstream=ancient(upstream),
    output:
        meta=RESULTS / "runs" / "data" / "{run}" / "meta.json",
    log:
        RESULTS / "logs" / "data" / "{run}.log",
    benchmark:
        RESULTS / "benchmarks" / "data" / "{run}.tsv"
    threads: threads_of
    message:
        "data {wildcards.run}"
    shell:
        "python -m methods data {wildcards.run} {FOLDERS} --log {log}"
