# Import a base model into a plain safetensors directory.
rule base:
    input:
        spec=ancient(WORK / "specs" / "{run}.json"),
        upstream=ancient(upstream),
    output:
        meta=RESULTS / "runs" / "base" / "{run}" / "meta.json",
    log:
        RESULTS / "logs" / "base" / "{run}.log",
    threads: threads_of
    resources:
        gpu=gpus_of,
    params:
        folders=FOLDERS,
    message:
        "base {wildcards.run}"
    shell:
        "python -m methods base {wildcards.run} {params.folders} --log {log}"
