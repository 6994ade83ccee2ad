# The grid: preprocess → train (protocol × variant × fold × seed) → five-fold → ablation and report.
# Each job is one papermill call in a process of its own; a job is done when its record exists, and records are
# written last and atomically (papermill reports a killed kernel as completed). A job runs again when the digest
# of the params that shape it changes, not when a file is touched.
#
#   snakemake --cores 2 --config params=demo

import sys

sys.path.insert(0, workflow.basedir)
from foalkit import UserError, params as _params

try:
    P = _params.load(config.get("params", "demo"), config.get("overrides") or "")
except UserError as error:
    sys.exit(f"error: {error}")

OUT = P.folder
SEEDS = P.seeds
ROWS = [(protocol, variant) for protocol, variants in P.ablation.items() for variant in variants]
NOTEBOOK = (
    f"papermill {workflow.basedir}/notebooks/{{nb}}.ipynb {{{{output.notebook}}}} --log-level WARNING --no-progress-bar --start-timeout 180"
    f" -p params {config.get('params', 'demo')} -p overrides '{config.get('overrides') or ''}'"
)


def papermill(notebook, *names):
    """The shell line of one notebook with these wildcards as parameters; its output is kept in a log."""
    call = NOTEBOOK.format(nb=notebook) + "".join(f" -p {n} {{wildcards.{n}}}" for n in names)
    # the last line of a failed notebook says what is wrong; the whole of it is in the log
    return call + " > {log} 2>&1 < /dev/null || {{ tail -n 3 {log} >&2; exit 1; }}"


wildcard_constraints:
    protocol="honest|published",
    variant="[^/]+",
    fold=r"\d+",
    seed=r"\d+",


rule all:  # names every record, so that a deleted run is trained again
    default_target: True
    input:
        f"{OUT}/report.html",
        [
            f"{OUT}/runs/{protocol}/{variant}/fold{fold}-seed{seed}/record.json"
            for protocol, variant in ROWS
            for fold in P.fold_numbers(protocol)
            for seed in SEEDS
        ],


rule preprocess:
    output:
        record=f"{OUT}/preprocess.json",
        notebook=f"{OUT}/notebooks/01_preprocess.ipynb",
    log:
        f"{OUT}/logs/01_preprocess.log",
    params:
        digest=P.data_digest,
    threads: workflow.cores
    message:
        "preprocess: corpus, manifest, features"
    shell:
        papermill("01_preprocess")


rule train:
    input:
        f"{OUT}/preprocess.json",
        lambda w: [  # the runs whose weights it starts from
            f"{OUT}/runs/{w.protocol}/{start}/fold{w.fold}-seed{w.seed}/record.json"
            for start in P.variants[w.variant].starts_from
        ],
    output:
        record=f"{OUT}/runs/{{protocol}}/{{variant}}/fold{{fold}}-seed{{seed}}/record.json",
        notebook=f"{OUT}/notebooks/02_train-{{protocol}}-{{variant}}-fold{{fold}}-seed{{seed}}.ipynb",
    log:
        f"{OUT}/logs/02_train-{{protocol}}-{{variant}}-fold{{fold}}-seed{{seed}}.log",
    params:
        digest=lambda w: P.digest(w.variant),
    threads: P.training.threads * P.training.processes
    resources:
        gpu=P.training.processes if P.training.device != "cpu" else 0,
    message:
        "train {wildcards.variant}, fold {wildcards.fold}, seed {wildcards.seed} ({wildcards.protocol})"
    shell:
        papermill("02_train", "protocol", "variant", "fold", "seed")


rule five_fold:
    input:
        lambda w: expand(
            f"{OUT}/runs/{w.protocol}/{w.variant}/fold{{fold}}-seed{{seed}}/record.json",
            fold=P.fold_numbers(w.protocol),
            seed=SEEDS,
        ),
    output:
        record=f"{OUT}/five_fold/{{protocol}}-{{variant}}.json",
        notebook=f"{OUT}/notebooks/03_five_fold-{{protocol}}-{{variant}}.ipynb",
    log:
        f"{OUT}/logs/03_five_fold-{{protocol}}-{{variant}}.log",
    message:
        "five folds of {wildcards.variant} ({wildcards.protocol})"
    shell:
        papermill("03_five_fold", "protocol", "variant")


rule ablation:
    input:
        [f"{OUT}/five_fold/{protocol}-{variant}.json" for protocol, variant in ROWS],
    output:
        report=f"{OUT}/report.html",
        csv=f"{OUT}/tables/ablation.csv",
        tex=f"{OUT}/tables/ablation.tex",
        notebook=f"{OUT}/notebooks/04_ablation.ipynb",
    log:
        f"{OUT}/logs/04_ablation.log",
    message:
        "ablation tables and report"
    shell:
        papermill("04_ablation")


onsuccess:
    print(f"\nThe report is at {P.folder / 'report.html'}: open it in a browser.")


onerror:
    print(f"\nA job failed; what it said is above and in {OUT}/logs/. Running the same command again resumes.")
