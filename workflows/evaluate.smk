# Measure what a chain left behind.
rule evaluate:
    input:
        spec=ancient(WORK / "specs" / "{run}.json"),
        upstream=ancient(upstream),
    output:
        meta=RESULTS / "runs" / "evaluate" / "{run}" / "meta.json",
    log:
        RESULTS / "logs" / "evaluate" / "{run}.log",
    benchmark:
        RESULTS / "benchmarks" / "evaluate" / "{run}.tsv"
    threads: threads_of
    message:
        "evaluate {wildcards.run}"
    shell:
        "python -m methods evaluate {wildcards.run} {FOLDERS} --log {log}"
