# Import a base model into a plain safetensors directory.
rule base:
    input:
        spec=ancient(WORK / "specs" / "{run}.json"),
        upstream=ancient(upstream),
    output:
        meta=RESULTS / "runs" / "base" / "{run}" / "meta.json",
    log:
        RESULTS / "logs" / "base" / "{run}.log",
    benchmark:
        RESULTS / "benchmarks" / "base" / "{run}.tsv"
    threads: threads_of
    message:
        "base {wildcards.run}"
    shell:
        "python -m methods base {wildcards.run} {FOLDERS} --log {log}"
